"""System management mode under a debugger: steps into its handler and out of it, breakpoints in it, its threads' name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from gdbstub.stop import BreakpointHit, BreakpointKind, Stepped, WatchKind, WatchpointHit
from jitvm.gdb_registers import mode_name
from tests.gdb.bench import Bench, bench
from tests.gdb.programs import Program, assembler_program
from tests.needs import needs

pytestmark = needs("gcc")
HANDLER, COUNTER = 0x38000, 0x500
"""Where SMBASE, as reset leaves it, has the handler; a word that it counts in."""
GUEST = """
        .code16
        .section .text.start, "ax"
        .globl start16, go, after, last
        .macro config at, value
        mov $0x80000b00 + (\\at & ~3), %eax
        mov $0xcf8, %dx
        outl %eax, %dx
        mov $0xcfc, %dx
        mov $\\value, %eax
        outl %eax, %dx
        .endm
start16: cli
        xor %ax, %ax
        mov %ax, %ss
        mov $0x3000, %ax
        mov %ax, %es
        mov %cs, %ax
        mov %ax, %ds
        mov $handler - start16, %si
        mov $0x8000, %di
        mov $last - handler, %cx
        rep movsb
        config 0x58, 0x02000000     # DEVACTB: APMC_EN
        config 0x40, 0xb001         # the power management block's ports
        config 0x80, 1              # are decoded
        mov $0xb028, %dx
        mov $1, %eax                # GLBCTL: SMI_EN
        outl %eax, %dx
go:     out %al, $0xb2
after:  inc %bx
        jmp go
handler: nop
        incw 0x500
        rsm
last:
"""


@pytest.fixture
def program(tmp_path: Path) -> Program:
    return assembler_program(tmp_path, GUEST)


@pytest.fixture
def debugged(program: Program) -> Iterator[Bench]:
    with bench(program.image) as b:
        b.target.insert_breakpoint(BreakpointKind.SOFTWARE, program.symbols["go"], 1)
        assert b.run() == BreakpointHit(1)
        b.target.remove_breakpoint(BreakpointKind.SOFTWARE, program.symbols["go"], 1)
        yield b


def test_steps_into_the_handler_and_back(debugged: Bench, program: Program) -> None:
    b, (go, after) = debugged, (program.symbols[name] for name in ("go", "after"))
    seen = []
    for _ in range(7):
        assert b.step() == Stepped(1)
        seen.append((b.pc, mode_name(b.machine.vcpus[0].engine.c)))
    inside = [(HANDLER + at, "real16 smm") for at in (0, 1, 5)]
    assert seen == [(after, "real16"), *inside, (after, "real16"), (after + 1, "real16"), (go, "real16")]
    assert b.read("rbx") == 1


def test_breakpoints_and_watchpoints_in_the_handler(debugged: Bench) -> None:
    b = debugged
    for n in range(1, 4):
        for at in (HANDLER, HANDLER + 5):
            b.target.insert_breakpoint(BreakpointKind.SOFTWARE, at, 1)
            assert b.run() == BreakpointHit(1) and b.pc == at
            b.target.remove_breakpoint(BreakpointKind.SOFTWARE, at, 1)
        assert b.target.read_memory(1, COUNTER, 2) == n.to_bytes(2, "little")
    b.target.insert_watchpoint(WatchKind.WRITE, COUNTER, 2)
    assert b.run() == WatchpointHit(1, WatchKind.WRITE, COUNTER) and b.pc == HANDLER + 5
    assert b.target.threads()[0].name == "CPU0 real16 smm"
