"""BOUND, CMPXCHG8B, #UD, and the opcodes of an FPU that is not there."""

from __future__ import annotations

from typing import Any

import pytest

from jitvm.isa import state
from jitvm.isa.cpuid import FEATURE_CX8
from jitvm.isa.misc import bound, cmpxchg8b, no_fpu, nop, ud
from jitvm.isa.mode import update_mode
from jitvm.isa.state import FAULT
from jitvm.isa.x87 import wait_
from tests.isa.on_window import Function, call
from tests.isa.plain_cpu import DS, PlainMemory, fault_of, flags, make_cpu, page_tables, protect, run, run_outside

BR, GP, NM, OK, PF_FAULT, UD = (int(n) for n in (state.BR, state.GP, state.NM, state.OK, state.PF_FAULT, state.UD))
RAX, RCX, RDX, RBX = range(4)
ZF = 1 << 6


def flat() -> tuple[Any, PlainMemory]:
    """A flat protected-mode record."""
    c, memory = make_cpu()
    protect(c, memory)
    c.features[0] = FEATURE_CX8
    return c, memory


@pytest.mark.parametrize(
    ("size", "index", "inside"),
    [
        (2, 0xFFFE, True),
        (2, 0xFFFD, False),
        (2, 5, True),
        (2, 6, False),
        (4, 0xFFFFFFFE, True),
        (4, 0x80000000, False),
        (4, 5, True),
        (4, 0x7FFFFFFF, False),
    ],
)
def test_bound_is_signed_and_inclusive(size: int, index: int, inside: bool) -> None:
    c, memory = flat()
    memory.put(0x8000, "hh" if size == 2 else "ii", -2, 5)
    assert run(bound, c, memory, size, index, DS, 0x8000, 4) == (OK if inside else FAULT)
    if not inside:
        assert fault_of(c) == (BR, None)


def test_bound_whose_upper_bound_lies_behind_64_kib() -> None:
    """With 16-bit addresses its offset wraps, as on silicon."""
    c, memory = make_cpu()
    base = int(c.base[DS])
    memory.put(base + 0xFFFE, "h", -2)
    memory.put(base, "h", 5)
    assert run(bound, c, memory, 2, 4, DS, 0xFFFE, 2) == OK
    assert run(bound, c, memory, 2, 4, DS, 0xFFFE, 4) == FAULT
    assert fault_of(c) == (GP, 0)


def test_cmpxchg8b_equal_and_not() -> None:
    c, memory = flat()
    memory.put(0x8000, "Q", 0x1122334455667788)
    c.gpr[RAX], c.gpr[RDX], c.gpr[RBX], c.gpr[RCX] = 0x55667788, 0x11223344, 0xBBBBBBBB, 0xCCCCCCCC
    others = flags(c) & ~ZF
    assert run(cmpxchg8b, c, memory, DS, 0x8000) == OK
    assert memory.get(0x8000, "Q")[0] == 0xCCCCCCCCBBBBBBBB
    assert flags(c) == others | ZF
    assert run(cmpxchg8b, c, memory, DS, 0x8000) == OK
    assert (c.gpr[RAX], c.gpr[RDX]) == (0xBBBBBBBB, 0xCCCCCCCC)
    assert flags(c) == others


def test_cmpxchg8b_needs_a_writable_operand_even_if_not_equal() -> None:
    c, memory = flat()
    page_tables(c, memory, read_only=(0x8000,))
    c.gpr[RAX] = 1
    assert call(cmpxchg8b, c, DS, 0x8000) == FAULT
    assert fault_of(c) == (PF_FAULT, 3)


def test_cmpxchg8b_on_mmio_reads_and_writes_once() -> None:
    c, memory = flat()
    c.gpr[RAX], c.gpr[RBX] = 7, 9
    assert run_outside(cmpxchg8b, c, memory, DS, 0x400000, reads={0x400000: 7}) == (OK, [(0x400000, 8, 9)])
    assert flags(c) & ZF


def test_cmpxchg8b_is_undefined_where_it_is_not_announced() -> None:
    c, memory = flat()
    c.features[0] = 0
    assert run(cmpxchg8b, c, memory, DS, 0x8000) == FAULT
    assert fault_of(c) == (UD, None)


def test_ud_and_nop() -> None:
    c, memory = flat()
    assert run(nop, c, memory) == OK
    assert run(ud, c, memory) == FAULT
    assert fault_of(c) == (UD, None)


@pytest.mark.parametrize(
    ("function", "cr0", "faults"),
    [
        (no_fpu, 0, False),
        (no_fpu, 2, False),
        (no_fpu, 4, True),
        (no_fpu, 8, True),
        (wait_, 0, False),
        (wait_, 2, False),
        (wait_, 4, False),
        (wait_, 8, False),
        (wait_, 10, True),
    ],
)
def test_opcodes_of_the_missing_fpu(function: Function, cr0: int, faults: bool) -> None:
    c, memory = flat()
    c.cr0 = int(c.cr0) | cr0
    update_mode(c)
    assert run(function, c, memory) == (FAULT if faults else OK)
    if faults:
        assert fault_of(c) == (NM, None)
