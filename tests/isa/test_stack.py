"""PUSHA, POPA, ENTER: against the oracles; faults and exits in the middle."""

from __future__ import annotations

import random
from typing import Any

import pytest

from jitvm.isa import state
from jitvm.isa.stack import enter, popa, pusha
from jitvm.isa.state import EXIT, FAULT
from tests.isa.on_window import Function, call, compare, result_of
from tests.isa.plain_cpu import SS, PlainMemory, fault_of, make_cpu, page_tables, protect, run, run_outside
from tests.oracle.bare_cpu import BareCpu
from tests.oracle.case import Case, Layout, Result

OK, PF_FAULT, SS_FAULT = (int(n) for n in (state.OK, state.PF_FAULT, state.SS_FAULT))
RSP, RBP = 4, 5


def stack_case(mode: int, code: bytes, rng: random.Random) -> Case:
    """Random registers; the stack pointer is sometimes near an end of the window."""
    regs = [rng.getrandbits(32) for _ in range(8)]
    upper = rng.getrandbits(16) << 16 if mode == 16 else 0
    edge = rng.choice((0, 2, 4, 16, 30, 0xFFF0, 0xFFFE, 0x1000))
    regs[RSP] = upper | rng.choice((0x8100, 0x8100, rng.randrange(0x7800, 0xFFF0), edge))
    regs[RBP] = rng.getrandbits(16) << 16 & upper | rng.randrange(0x7800, 0xFFF0)
    return Case(mode, code, tuple(regs), layout=Layout.WINDOW)


def prefix(mode: int, size: int) -> bytes:
    """The operand-size prefix, if `size` needs it."""
    return b"" if size == mode // 8 else b"\x66"


@pytest.mark.parametrize("mode", [16, 32])
@pytest.mark.parametrize("size", [2, 4])
def test_pusha_and_popa_against_the_oracles(mode: int, size: int) -> None:
    rng = random.Random(f"{mode}{size}")
    for function, opcode in ((pusha, b"\x60"), (popa, b"\x61")):
        cases = [stack_case(mode, prefix(mode, size) + opcode, rng) for _ in range(100)]
        compare((case, result_of(case, function, size)) for case in cases)


@pytest.mark.parametrize("mode", [16, 32])
@pytest.mark.parametrize("size", [2, 4])
def test_enter_against_the_oracles(mode: int, size: int) -> None:
    rng = random.Random(f"{mode}{size}")
    trials: list[tuple[Case, Result]] = []
    for _ in range(200):
        allocate, level = rng.choice((0, 1, 16, 300, 0x6000)), rng.choice((0, 0, 1, 2, 3, 7, 31, 33, 0xE2))
        code = prefix(mode, size) + b"\xc8" + allocate.to_bytes(2, "little") + bytes([level])
        case = stack_case(mode, code, rng)
        trials.append((case, result_of(case, enter, size, allocate, level)))
    compare(trials)


@pytest.mark.parametrize("engine", ["plain", "handlers", "stencils", "regions"])
def test_a_frame_pointer_at_the_end_of_a_16_bit_stack(engine: str) -> None:
    """Its upper half is ESP's, as behind the push (SDM volume 2, ENTER; an 80386, by the ROM test386)."""
    case = Case(16, b"\x66\xc8\x08\x00\x01", (0, 0, 0, 0, 0x1_0000, 0x2_8000, 0, 0), layout=Layout.WINDOW)
    result = BareCpu(engine).run_one(case, 1)
    assert isinstance(result, Result) and result.fault is None
    assert (result.regs[RBP], result.regs[RSP]) == (0x1_FFFC, 0x1_FFF0)
    frame = case.offset("ss", -8)
    assert [result.memory.get(frame + k, case.image()[frame + k]) for k in range(4)] == [0xFC, 0xFF, 0x01, 0x00]


def call_faults(function: Function, c: Any, memory: PlainMemory, *words: int) -> tuple[int, int | None]:
    """The fault of a call, which changes neither registers nor the memory below the page tables."""
    before, stored = c.gpr.tolist(), memory.read(0, 0x80000)
    assert call(function, c, *words) == FAULT
    assert (c.gpr.tolist(), memory.read(0, 0x80000)) == (before, stored)
    return fault_of(c)


def test_pusha_checks_all_slots_before_it_stores() -> None:
    c, memory = make_cpu()
    protect(c, memory)
    page_tables(c, memory, absent=(0xF000,))
    c.gpr[RSP] = 0x10010
    assert call_faults(pusha, c, memory, 4) == (PF_FAULT, 2)
    assert c.cr2 == 0xFFFC


def test_popa_does_not_read_the_slot_of_sp() -> None:
    c, memory = make_cpu()
    protect(c, memory)
    c.gpr[RSP] = (1 << 20) - 12
    memory.put((1 << 20) - 12, "III", 7, 6, 5)
    reads = {(1 << 20) + 4 * k: 100 + k for k in range(1, 5)}
    assert run_outside(popa, c, memory, 4, reads=reads) == (OK, [])
    assert c.gpr[:8].tolist() == [104, 103, 102, 101, (1 << 20) + 20, 5, 6, 7]


def test_pusha_to_mmio_stores_every_slot_once() -> None:
    c, memory = make_cpu()
    protect(c, memory)
    c.gpr[:8] = range(1, 9)
    c.gpr[RSP] = 0x200020
    status, writes = run_outside(pusha, c, memory, 4, reads={})
    values = [1, 2, 3, 4, 0x200020, 6, 7, 8]
    assert status == OK
    assert writes == [(0x20001C - 4 * k, 4, v) for k, v in enumerate(values)]
    assert c.gpr[RSP] == 0x200000


def test_enter_faults_when_the_new_stack_top_is_not_writable() -> None:
    c, memory = make_cpu()
    protect(c, memory)
    page_tables(c, memory, read_only=(0xE000,))
    c.gpr[RSP] = 0x10000
    assert call_faults(enter, c, memory, 4, 0x1800, 0) == (PF_FAULT, 3)


def test_enter_finds_a_missing_frame_before_it_stores() -> None:
    c, memory = make_cpu()
    protect(c, memory)
    page_tables(c, memory, absent=(0x9000,))
    c.gpr[RSP], c.gpr[RBP] = 0x10000, 0xA004
    assert call_faults(enter, c, memory, 4, 0, 3) == (PF_FAULT, 0)
    assert c.cr2 == 0x9FFC


def test_enter_over_the_stack_limit() -> None:
    c, memory = make_cpu()
    protect(c, memory)
    c.limit[SS] = c.read_limit[SS] = c.write_limit[SS] = 0xFFFF
    c.gpr[RSP] = 8
    assert call_faults(enter, c, memory, 4, 0x10, 0) == (SS_FAULT, 0)


def test_an_exit_of_a_push_is_an_exit_of_enter() -> None:
    c, memory = make_cpu()
    protect(c, memory)
    c.gpr[RSP] = 0x200004
    assert run(enter, c, memory, 4, 0, 0) == EXIT
    assert c.io_address == 0x200000
