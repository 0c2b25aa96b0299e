"""Triple faults in words: the chain, what the CPU saw, the way to it."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from jitvm import crash, faults
from jitvm.config import MachineConfig
from jitvm.faults import error_words, fault_words
from jitvm.machine import Machine
from jitvm.replay import last_blocks
from jitvm.symbols import Symbols
from tests.boot.guests import GUESTS, config, rom

PE_ON = "66b8 01000000 0f22c0"
PG_ON = "66b8 01000080 0f22c0"
HELLO = "ba f803 b0 48 ee b0 69 ee b0 0a ee"
"""Hi and a line end to COM1."""


def crashed(image: Path, symbols: Symbols | None = None, *, whole: bool = True, n: int = 1) -> list[list[str]]:
    """The reports of a run that ends with a triple fault."""
    found: list[list[str]] = []
    with Machine(config(image, no_reboot=True)) as m:
        m.on_shutdown = lambda vcpu: found.append(crash.report(m, vcpu, symbols, whole=whole))
        assert m.run().reason == "shutdown"
    assert len(found) == n
    return found


def test_real_mode_without_a_vector_table() -> None:
    symbols = Symbols(GUESTS / "triple_fault.elf", 0xF0000)
    (lines,) = crashed(GUESTS / "triple_fault.bin", symbols)
    assert "guest_main+0x" in lines[0] and "real16" in lines[0]
    assert lines[1].startswith("1. #UD invalid opcode, at f000:") and "guest_main+0x" in lines[1]
    assert lines[2:4] == ["2. #GP general protection, when #UD was to be delivered",
                          "   IDT entry 06 lies behind the IDT's limit 0000"]  # fmt: skip
    assert lines[6] == "4. #GP general protection, when #DF was to be delivered"
    assert lines[-2:] == ["the last lines of COM1:", "   triple fault now"]
    assert any(line.startswith("EAX=") for line in lines)


def test_error_codes_of_selectors(tmp_path: Path) -> None:
    (lines,) = crashed(rom(tmp_path, f"{HELLO} {PE_ON} cd21"))
    assert lines[1].startswith("1. #GP general protection, error 010a (IDT entry 21), at f000:")
    assert lines[2].startswith("   IDT entry 21: null")
    assert (
        lines[3] == "2. #GP general protection, error 006b (IDT entry 0d, external event), when #GP was to be delivered"
    )
    assert lines[5].startswith("3. #GP general protection, error 0043 (IDT entry 08") and "#DF was" in lines[5]
    assert lines[-1] == "   Hi"


def test_a_page_fault_whose_table_is_not_mapped(tmp_path: Path) -> None:
    (lines,) = crashed(rom(tmp_path, PG_ON), whole=False)
    assert lines[1].startswith(
        "1. #PF page fault, error 0000 (page not present, read, supervisor), CR2 000f0009, at f000:"
    )
    assert lines[2] == "   linear 000f0009, PDE at 00000000: 00000000 not present, not mapped"
    assert "CR2 00000070, when #PF was to be delivered" in lines[3]
    assert lines[4] == "   IDT entry 0e at 00000070 can't be read"
    assert "CR2 00000040, when #DF was to be delivered" in lines[6] and len(lines) == 9


def test_each_crash_of_a_machine_that_resets_is_told() -> None:
    found: list[str] = []
    with Machine(config(GUESTS / "triple_fault.bin")) as m:
        m.on_shutdown = lambda vcpu: found.append(crash.report(m, vcpu)[0])
        assert m.run().reason == "debug-exit"
    assert len(found) == 1 and "triple fault of vCPU 0" in found[0]


def test_the_log_holds_the_latest_faults_in_their_order(tmp_path: Path) -> None:
    # INT 6's vector leads to F000:0020, which adds 2 to the return address; 40 invalid opcodes from 30h on
    start, handler = "c7061800 2000 c7061a00 00f0 eb22", "5b 83c302 53 cf"
    image = rom(tmp_path, start + "90" * 18 + handler + "90" * 10 + "0f0b" * 40)
    with Machine(config(image)) as m:
        m.run(400)
        found = crash.faults(m.vcpus[0].engine.c)
    assert [fault.ip for fault in found] == list(range(0x30 + 24 * 2, 0x30 + 80, 2))
    assert all((f.vector, f.error, f.during) == (6, None, None) for f in found)
    assert [b.retired - a.retired for a, b in pairwise(found)] == [5] * 15


# ---- words ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("vector", "error", "words"), [
    (14, 0x07, "protection, write, user"), (14, 0x1A, "page not present, write, supervisor, reserved bit set, instruction"),
    (13, 0x2B, "IDT entry 05, external event"), (11, 0x14, "LDT selector 0014"), (10, 0x10, "GDT selector 0010"),
    (13, 0, "no selector"), (13, 1, "no selector, external event"), (8, 0, ""), (17, 0, ""),
])  # fmt: skip
def test_error_words(vector: int, error: int, words: str) -> None:
    assert error_words(vector, error).startswith(words) and bool(error_words(vector, error)) == bool(words)


def test_fault_words() -> None:
    assert fault_words(6, None) == "#UD invalid opcode"
    assert fault_words(8, 0) == "#DF double fault, error 0000"
    assert fault_words(14, 2, 0x1234).endswith("(page not present, write, supervisor), CR2 00001234")
    assert fault_words(0x21, None) == "interrupt 21" and faults.vector_name(13) == "#GP"
    assert faults.SHORT["pf"] == 14


# ---- the way --------------------------------------------------------------------------------------------------------
def way(image: Path) -> tuple[MachineConfig, int, dict[str, int]]:
    """A crash's config, count and registers."""
    made = config(image, no_reboot=True)
    with Machine(made) as m:
        assert m.run().reason == "shutdown"
        return made, m.vcpus[0].retired, m.registers()


def test_the_last_blocks(tmp_path: Path) -> None:
    # mov cx,3; loop $; jmp +1; nop; lidt [cs:20h] (zeros); rep stosb (cx 3); ud2
    image = rom(tmp_path, "b9 0300 e2fe eb01 90 2e0f011e2000 b9 0300 f3aa 0f0b" + "00" * 24)
    made, retired, registers = way(image)
    blocks = last_blocks(made, retired, registers)
    assert [(b.ip, b.n) for b in blocks] == [(0xFFF0, 1), (0, 2), (3, 1), (3, 2), (8, 6)]
    assert blocks[1].address == 0xF0000 and last_blocks(made, retired, registers, 2) == blocks[-2:]


def test_a_second_run_that_ends_otherwise_says_nothing(tmp_path: Path) -> None:
    made, retired, registers = way(rom(tmp_path, "2e0f011e2000 0f0b" + "00" * 40))
    assert last_blocks(made, retired, registers)
    assert last_blocks(made, retired + 1, registers) == []
    assert last_blocks(made, retired, registers | {"eax": 77}) == []
    (tmp_path / "rom.bin").unlink()
    assert last_blocks(made, retired, registers) == []


# ---- the command line -----------------------------------------------------------------------------------------------
def boot(*options: str) -> tuple[int, str, str]:
    """A run: its status, standard output and standard error."""
    command = [sys.executable, "-m", "jitvm", "boot", str(GUESTS / "triple_fault.bin"), "--timeout", "60", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, stdin=subprocess.DEVNULL)
    return done.returncode, done.stdout, done.stderr


def test_the_command_line_tells_all_under_no_reboot() -> None:
    elf = f"{GUESTS / 'triple_fault.elf'},offset=0xf0000"
    status, out, err = boot("--no-reboot", "--symbols", elf)
    assert status == 4 and out.endswith("triple fault now\n")
    lines = err.splitlines()
    assert lines[0].startswith("jitvm: triple fault of vCPU 0 at f000:") and "  4. #GP" in err and "EAX=" in err
    way = next(k for k, line in enumerate(lines) if "the last 16 blocks before it" in line)
    assert lines[way - 1].endswith("(--no-reboot)") and len(lines) == way + 17
    assert "guest_main+0x18), 2 instructions" in lines[-1]


def test_the_command_line_is_short_when_the_machine_resets() -> None:
    status, out, err = boot("--device", "isa-debug-exit,iobase=0xf4")
    assert status == 1 and out.endswith("reset by triple fault\n")
    assert err.startswith("jitvm: triple fault of vCPU 0") and "EAX=" not in err and "blocks" not in err
