"""How each instruction form is proved, collected from the tests themselves: `python -m tests.isa.proofs` (`make isa`) writes
the file that `jitvm isa` reads.

silicon, unicorn: what the generators of cases make, whose cases run on this host's CPU and on unicorn.
ROM: what the test ROMs execute that QEMU and Bochs run, too.
manual: units that a test imports or names, to call them with operands of its own, and code of two tests of the bare form.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

import iced_x86 as ix

from jitvm.engine import inventory
from jitvm.engine.forms import operand_kinds, row_name, shortest, x87_row_name
from jitvm.isa.table import ROWS
from jitvm.isa.x87_table import X87_ROWS
from jitvm.machine import Machine
from tests.boot.guests import GUESTS, config
from tests.isa import cases, simd_cases, test_bmi_on_silicon, test_xsave, x87_cases, xsave_cases
from tests.oracle.case import Case
from tests.oracle.known_errors import fatal, known_error
from tests.oracle.test_oracles_agree import CASES, SEED

NAME = {v: k for k, v in vars(ix.Code).items() if isinstance(v, int)}
X87_CASES, XSAVE_CASES = 4000, 200
ROMS = ("tasks", "long_mode")
"""Run by jitvm, QEMU and Bochs in tests/firmware: test_tasks_rom.py, test_long_mode.py."""
TESTS = Path(__file__).resolve().parents[1]
UNIT = re.compile(r"[a-z_0-9]+\.[a-z_0-9]+")


def names_of(found: Iterator[Case]) -> set[str]:
    """The forms of cases, those of all their instructions."""
    return {NAME[ins.code] for case in found for ins in ix.Decoder(case.mode, case.code)}


def on_silicon() -> set[str]:
    """Forms that are compared with this host's CPU."""
    found: set[str] = set()
    for mode in inventory.MODES:
        found |= {NAME[form.code] for form in cases.forms(mode)}
        found |= {NAME[form.code] for form in simd_cases.forms(mode)}
        found |= names_of(x87_cases.generate(mode, X87_CASES, 1))
        found |= names_of(xsave_cases.generate(mode, XSAVE_CASES, 1))
        if mode > 16:
            found |= names_of(test_bmi_on_silicon.cases(mode))
    return found


def on_unicorn() -> set[str]:
    """Forms of which unicorn is asked, but for those where it errs."""
    found: set[str] = set()
    for mode in inventory.MODES:
        asked = (c for c in cases.generate(mode, CASES, SEED) if fatal(c) is None and known_error(c, None) is None)
        found |= names_of(asked)
    return found


def in_roms() -> set[str]:
    """Forms that the ROMs execute, as the engine learns them."""
    found: set[str] = set()
    for name in ROMS:
        with Machine(config(GUESTS / f"{name}.bin", cpu="max", no_reboot=True)) as machine:
            engine = machine.vcpus[0].engine
            engine.c.form_key[:] = 0  # it shall learn all of them again
            engine.c.n_forms = 0
            learn = engine.accel.learn

            def note(key: int, data: bytes, mode: int) -> None:
                bits = 64 if mode & 2 else 32 if mode & 1 else 16
                found.add(NAME[ix.Decoder(bits, shortest(data, bits)).decode().code])
                learn(key, data, mode)  # noqa: B023  called in this round alone

            engine.accel.learn = note  # type: ignore[method-assign]
            machine.run(2_000_000)
            engine.accel.learn = learn  # type: ignore[method-assign]
    return found


def tested_units() -> set[str]:
    """Names "module.function" of semantics that a test imports or writes."""
    found: set[str] = set()
    for path in TESTS.rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("jitvm.isa."):
                module = (node.module or "").rpartition(".")[2]
                found |= {f"{module}.{alias.name}" for alias in node.names}
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                found.add(f"{node.value.id}.{node.attr}")
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and UNIT.fullmatch(node.value):
                found.add(node.value)
    return found


def by_the_manual() -> set[str]:
    """Forms whose unit a test calls."""
    units = tested_units()
    found = set()
    for name, form in inventory.forms().items():
        ins = ix.Instruction()
        ins.code = getattr(ix.Code, name)
        info = ix.OpCodeInfo(ins.code)
        kinds = operand_kinds(info)
        if form.feature.startswith("fpu"):
            row = X87_ROWS[x87_row_name(ins.mnemonic, info.memory_size, kinds)]
        else:
            row = ROWS.get(row_name(ins, kinds)) or ROWS["UD" if name.startswith("UD") else "NOP"]
        if row.unit in units:
            found.add(name)
    for code in (*test_xsave.TRIED, *test_bmi_on_silicon.RANDOM):
        found |= {NAME[ix.Decoder(bits, bytes.fromhex(code)).decode().code] for bits in (32, 64)}
    return found


def collect() -> dict[str, list[str]]:
    """All of it, by the ways of `inventory.KINDS`."""
    found = dict(zip(inventory.KINDS, (on_silicon(), on_unicorn(), in_roms(), by_the_manual()), strict=True))
    return {kind: sorted(names & inventory.forms().keys()) for kind, names in found.items()}


def text(found: dict[str, list[str]]) -> str:
    """The file."""
    return json.dumps(found, indent=0) + "\n"


if __name__ == "__main__":
    inventory.PROOFS.write_text(text(collect()), encoding="utf-8")
