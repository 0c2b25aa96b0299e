"""`jitvm isa`: the inventory is what the engine knows, its proofs are what the tests do, README shows its sums."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import iced_x86 as ix
import pytest

from jitvm.cli import main
from jitvm.engine import inventory
from jitvm.engine.forms import HINT_NOPS, UNDEFINED, operand_kinds
from tests.engine.native_decoder import Decoder
from tests.isa import proofs

README = Path(__file__).resolve().parents[2] / "README.md"
PREFIX = {ix.MandatoryPrefix.P66: b"\x66", ix.MandatoryPrefix.PF3: b"\xf3", ix.MandatoryPrefix.PF2: b"\xf2"}
ESCAPE = {
    ix.OpCodeTableKind.NORMAL: b"", ix.OpCodeTableKind.T0F: b"\x0f",
    ix.OpCodeTableKind.T0F38: b"\x0f\x38", ix.OpCodeTableKind.T0F3A: b"\x0f\x3a",
}  # fmt: skip
IN_MODRM = ("_OR_MEM", "_REG", "_RM", "MEM")
BASE = 3
"""[BP + DI], [EBX], [RBX]."""
OSFXSR = 1 << 9
DIFFERENT = {"XCHG_R16_AX", "XCHG_R32_EAX", "XCHG_R64_RAX"}
"""With register 0 they are NOP."""


def vex(info: ix.OpCodeInfo, tail: bytes) -> bytes:
    """A VEX instruction of three prefix bytes, VEX.vvvv 1111b or, when it names a register, 0."""
    pp = {ix.MandatoryPrefix.P66: 1, ix.MandatoryPrefix.PF3: 2, ix.MandatoryPrefix.PF2: 3}.get(info.mandatory_prefix, 0)
    named = any(kind.endswith("_VVVV") for kind in operand_kinds(info))
    return bytes([0xC4, 0xE0 | info.table, info.w << 7 | (0 if named else 15) << 3 | info.l << 2 | pp]) + tail


def encoded(name: str, mode: int) -> Iterator[bytes]:
    """Instances of a form with registers number 0, memory at [EBX] and constants 0; what is none is left out."""
    info = ix.OpCodeInfo(getattr(ix.Code, name))
    kinds = operand_kinds(info)
    opcode = info.op_code.to_bytes(info.op_code_len, "big")
    memory = "MEM" in kinds
    tail = opcode
    has_modrm = info.is_group or info.is_rm_group or any(kind.endswith(IN_MODRM) for kind in kinds)
    if has_modrm and (info.op_code_len == 1 or info.is_group):
        reg, rm = max(info.group_index, 0), max(info.rm_group_index, 0)
        tail += bytes([reg << 3 | BASE if memory else 0xC0 | reg << 3 | rm])
    tail += bytes(16)
    for head in (b"", b"\x66", b"\x67", b"\x66\x67", b"\x48", b"\x67\x48"):
        code = vex(info, tail) if info.encoding == ix.EncodingKind.VEX else b""
        if not code:
            legacy, rex = head.replace(b"\x48", b""), head[-1:] if head.endswith(b"\x48") else b""
            code = legacy + PREFIX.get(info.mandatory_prefix, b"") + rex + ESCAPE[info.table] + tail
        ins = ix.Decoder(mode, code).decode()
        if ins.code == getattr(ix.Code, name):
            yield code[: ins.len]


@pytest.fixture(scope="module")
def decoder() -> Decoder:
    made = Decoder()
    made.bare.set_registers({"cr4": OSFXSR})
    return made


@pytest.mark.parametrize("mode", inventory.MODES)
def test_the_engine_knows_what_is_listed_and_nothing_else(decoder: Decoder, mode: int) -> None:
    """Every code of iced-x86 that can be encoded: its form is #UD if and only if the inventory lacks it."""
    wrong, tried, listed = [], 0, inventory.forms()
    for name, code in vars(ix.Code).items():
        if not isinstance(code, int) or not ix.OpCodeInfo(code).is_instruction:  # type: ignore[arg-type]  # an int
            continue
        if ix.OpCodeInfo(code).encoding not in (ix.EncodingKind.LEGACY, ix.EncodingKind.VEX):  # type: ignore[arg-type]
            continue
        there = name in listed and mode in listed[name].modes
        for data in encoded(name, mode):
            decoder(data, mode, 0x1000)
            known = decoder.shape() != UNDEFINED
            tried += there
            bare = data.lstrip(b"\x66\x67\xf2\xf3\x48") + b"\0"
            hint = bare[0] == 0x0F and 0x100 | bare[1] in HINT_NOPS  # whatever a later CPU does with it
            if known != (there and not name.startswith("UD")) and not hint:
                wrong.append(f"{name} {data.hex()} {'known' if known else 'undefined'}")
            break
        else:
            if there and name not in DIFFERENT:
                wrong.append(f"{name} could not be encoded")
    assert not wrong, "\n".join(wrong)
    assert tried >= sum(mode in form.modes for form in listed.values()) - len(DIFFERENT)


def test_every_form_is_proved() -> None:
    assert not list(inventory.unproved())


@pytest.mark.slow
def test_what_silicon_and_the_manual_prove() -> None:
    """Nothing is claimed that no test does; `make isa` writes the file anew, with what has come since."""
    kept = inventory.proofs()
    assert kept["silicon"] <= proofs.on_silicon()
    assert kept["manual"] <= proofs.by_the_manual()


@pytest.mark.slow
def test_what_unicorn_and_roms_prove() -> None:
    kept = inventory.proofs()
    assert kept["unicorn"] <= proofs.on_unicorn()
    assert kept["ROM"] <= proofs.in_roms()


def test_sums() -> None:
    rows = inventory.entries()
    whole = inventory.total(rows)
    assert whole.forms == len(inventory.forms())
    assert whole.forms == sum(row.forms for row in rows)
    assert all(max(row.by_mode.values()) <= row.forms <= sum(row.by_mode.values()) for row in rows)
    assert all(n <= row.forms for row in rows for n in row.proofs.values())
    assert {row.feature for row in rows if row.models == "max"} >= {"xsave", "adx", "rdseed", "fsgsbase", "bmi2"}


def test_readme_shows_the_summary() -> None:
    shown = "".join(f"    {line}\n" for line in inventory.summary().splitlines())
    assert shown in README.read_text(encoding="utf-8"), f"README should have\n{shown}"


def test_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["isa", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == inventory.as_json()
    assert main(["isa", "--forms"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == told["forms"]
    assert "adx\tADCX_R32_RM32\t16,32,64\tsilicon" in {line.partition(",manual")[0] for line in lines}
    assert main(["isa", "--json", "--summary"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.slow
def test_table_in_a_pipe() -> None:
    """No line is cut, and numba is not needed."""
    code = "import sys; from jitvm.cli import main; main(['isa']); assert 'numba' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    rows = {line.split()[0]: line for line in done.stdout.splitlines() if line}
    assert rows["bmi1"].split()[1:] == ["max", "13", "7", "7", "13", "13", "-", "-", "-"]
    assert done.stdout.endswith(inventory.summary())
