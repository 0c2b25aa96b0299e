"""IRET in every mode; the returns of interrupts from virtual-8086 mode and of NMIs are in `test_events.py`."""

from __future__ import annotations

from typing import Any

import pytest

from jitvm.isa import iret, mode
from jitvm.isa.flags import VM
from jitvm.isa.state import (
    FAULT,
    GP,
    JUMP,
    NP,
    SS_FAULT,
)
from tests.isa.plain_cpu import (
    CODE,
    CODE0,
    CODE3,
    CS,
    DATA0,
    DATA3,
    FREE,
    FS,
    GS,
    SS,
    STACKS,
    descriptor,
    enter_v86,
    fault_of,
    flags,
    make_cpu,
    protect,
    run,
    set_descriptor,
)

IF, TF, NT, RF, AC = 1 << 9, 1 << 8, 1 << 14, 1 << 16, 1 << 18
HANDLER = 0x7654


def protected(cpl: int = 0) -> tuple[Any, Any]:
    c, memory = make_cpu()
    protect(c, memory, cpl)
    mode.write_eflags(c, mode.u64(IF | 2 | 0x41))
    return c, memory


def real(vector: int = 0x21) -> tuple[Any, Any]:
    c, memory = make_cpu()
    memory.put(4 * vector, "HH", HANDLER, 0x1000)
    c.sel[CS], c.base[CS], c.rip, c.next_rip = 0x200, 0x2000, 0x100, 0x102
    c.sel[SS], c.base[SS], c.gpr[4] = 0x300, 0x3000, 0xABCD0100
    mode.write_eflags(c, mode.u64(IF | TF | AC | 0xAD7))
    mode.update_mode(c)
    return c, memory


def put_frame(c: Any, memory: Any, *words: int, size: int = 4) -> None:
    memory.put(int(c.gpr[4]) + int(c.base[SS]), f"{len(words)}{'I' if size == 4 else 'H'}", *words)


@pytest.mark.parametrize("size", [2, 4])
def test_iret_in_real_mode(size: int) -> None:
    c, memory = real()
    c.gpr[4] = 0x200
    put_frame(c, memory, 0x1234, 0x5678, 0xFFFFFFFF >> (32 - 8 * size), size=size)
    assert run(iret.iret, c, memory, size) == JUMP
    assert (c.rip, c.sel[CS], c.base[CS], c.gpr[4]) == (0x1234, 0x5678, 0x56780, 0x200 + 3 * size)
    assert flags(c) == (0x47FD7 if size == 2 else 0x247FD7)
    c.gpr[4] = 0x200
    put_frame(c, memory, 0x10000, 0, 2)
    assert run(iret.iret, c, memory, 4) == FAULT
    assert fault_of(c) == (GP, 0)


@pytest.mark.parametrize(
    ("cpl", "iopl", "changed"),
    [(0, 0, 0x247FD5), (1, 0, 0x244DD5), (1, 1, 0x244FD5), (3, 0, 0x244DD5), (3, 3, 0x244FD5)],
)
@pytest.mark.parametrize("size", [2, 4])
def test_flags_that_iret_may_change(cpl: int, iopl: int, changed: int, size: int) -> None:
    c, memory = protected(cpl)
    c.rflags = 2 | iopl << 12
    old = flags(c)
    put_frame(
        c, memory, 0x1000, int(c.sel[CS]), (0xFFFDFFFF if cpl == 0 else 0xFFFFFFFF) & (1 << 8 * size) - 1, size=size
    )
    assert run(iret.iret, c, memory, size) == JUMP
    assert flags(c) == old & ~changed | changed & (0xFFFF if size == 2 else 0xFFFFFFFF)


def test_rf_is_kept_for_armed_breakpoints_alone() -> None:
    c, memory = protected()
    put_frame(c, memory, CODE, CODE0, RF | 2)
    assert run(iret.iret, c, memory, 4) == JUMP
    assert not flags(c) & RF
    c.dr[7], c.gpr[4] = 0x401, int(c.gpr[4]) - 12
    assert run(iret.iret, c, memory, 4) == JUMP
    assert flags(c) & RF


def test_iret_to_an_outer_level_hides_inner_segments() -> None:
    c, memory = protected()
    set_descriptor(memory, FREE, descriptor(0, 0xFFFFFFFF, 0xC09F))
    c.sel[FS], c.attr[FS] = FREE, 0xC09F
    c.sel[GS], c.attr[GS] = DATA3, 0xC0F3
    mode.update_mode(c)
    put_frame(c, memory, CODE, CODE3, IF | 2, 0x15000, DATA3)
    assert run(iret.iret, c, memory, 4) == JUMP
    assert c.sel[:6].tolist() == [0, CODE3, DATA3, 0, FREE, DATA3]
    assert (c.cpl, c.gpr[4], c.rip, flags(c)) == (3, 0x15000, CODE, IF | 2)


def test_iret_to_a_sixteen_bit_stack_takes_sp_alone() -> None:
    c, memory = protected()
    set_descriptor(memory, FREE, descriptor(0, 0xFFFF, 0xF3))
    put_frame(c, memory, CODE, CODE3, 2, 0x55551234, FREE | 3)
    assert run(iret.iret, c, memory, 4) == JUMP
    assert c.gpr[4] == STACKS[0] & 0xFFFF0000 - 0x10000 | 0x1234


RETURNS = [
    # CS, SS, attributes of FREE, expected
    (0, DATA3, 0, (GP, 0)),
    (3, DATA3, 0, (GP, 0)),
    (DATA0, DATA0, 0, (GP, DATA0)),
    (0x3FB, DATA3, 0, (GP, 0x3F8)),
    (CODE3 & ~3, DATA3, 0, (GP, CODE3 & ~3)),
    (CODE0 | 3, DATA3, 0, (GP, CODE0)),
    (FREE | 3, DATA3, 0x7B, (NP, FREE)),
    (FREE, DATA0, 0xFF, (GP, FREE)),
    (CODE3, 0, 0, (GP, 0)),
    (CODE3, 3, 0, (GP, 0)),
    (CODE3, DATA0, 0, (GP, DATA0)),
    (CODE3, DATA3 & ~3, 0, (GP, DATA3 & ~3)),
    (CODE3, DATA0 | 3, 0, (GP, DATA0)),
    (CODE3, FREE | 3, 0xF1, (GP, FREE)),
    (CODE3, FREE | 3, 0x73, (SS_FAULT, FREE)),
]


@pytest.mark.parametrize(("cs", "ss", "attr", "expected"), RETURNS)
def test_checks_of_a_return(cs: int, ss: int, attr: int, expected: Any) -> None:
    c, memory = protected()
    set_descriptor(memory, FREE, descriptor(0, 0xFFFFFFFF, 0xC000 | attr))
    put_frame(c, memory, CODE, cs, 2, 0x15000, ss)
    run(iret.iret, c, memory, 4)
    assert fault_of(c) == expected


def test_return_outside_the_limit() -> None:
    c, memory = protected()
    set_descriptor(memory, FREE, descriptor(0, 0xFFF, 0x40FB))
    put_frame(c, memory, 0x1000, FREE | 3, 2, 0x15000, DATA3)
    run(iret.iret, c, memory, 4)
    assert fault_of(c) == (GP, 0)


@pytest.mark.parametrize("iopl", [0, 3])
def test_iret_in_v86_mode(iopl: int) -> None:
    c, memory = protected()
    enter_v86(c, iopl)
    c.gpr[4] = 0x100
    put_frame(c, memory, 0x1111, 0x2222, 0xFFFF, size=2)
    if iopl < 3:
        run(iret.iret, c, memory, 2)
        assert fault_of(c) == (GP, 0)
        return
    assert run(iret.iret, c, memory, 2) == JUMP
    assert (c.rip, c.sel[CS], c.base[CS], c.gpr[4]) == (0x1111, 0x2222, 0x22220, 0x106)
    assert flags(c) == 0x7FD7 | int(VM)
