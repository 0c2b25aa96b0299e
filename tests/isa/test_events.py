"""Exceptions and interrupts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from jitvm.isa import events, iret, mode
from jitvm.isa.state import (
    EXIT,
    EXIT_SHUTDOWN,
    FAULT,
    GP,
    JUMP,
    MODE_STACK32,
    MODE_VM,
    NP,
    OK,
    PF_FAULT,
    SS_FAULT,
    TS,
    UD,
    fault,
    fault0,
)
from jitvm.memory import PAGE
from tests.isa.plain_cpu import (
    CODE,
    CODE0,
    CODE1,
    CODE3,
    CS,
    DATA0,
    DATA1,
    DATA3,
    DS,
    ES,
    FREE,
    FS,
    GDT,
    GS,
    PAGING,
    SEL_TSS,
    SS,
    STACKS,
    TR,
    TSS,
    descriptor,
    enter_v86,
    fault_of,
    flags,
    gate,
    make_cpu,
    page_tables,
    protect,
    run,
    run_outside,
    set_descriptor,
    set_gate,
)

IF, TF, NT, RF, AC = 1 << 9, 1 << 8, 1 << 14, 1 << 16, 1 << 18
INT32, TRAP32, INT16, TRAP16, TASK = 0x8E, 0x8F, 0x86, 0x87, 0x85
HANDLER = 0x7654


def protected(cpl: int = 0) -> tuple[Any, Any]:
    c, memory = make_cpu()
    protect(c, memory, cpl)
    mode.write_eflags(c, mode.u64(IF | 2 | 0x41))
    return c, memory


def raised(c: Any, memory: Any, vector: int, error: int | None = None) -> int:
    """Record a fault and deliver it."""

    def raise_and_deliver(c: Any, vector: Any, error: Any) -> Any:
        if error == mode.u64(2**32):
            fault0(c, vector)
        else:
            fault(c, vector, error)
        return events.deliver(c)

    return run(raise_and_deliver, c, memory, vector, 2**32 if error is None else error)


# ---- real mode ------------------------------------------------------------------------------------------------------
def real(vector: int = 0x21) -> tuple[Any, Any]:
    c, memory = make_cpu()
    memory.put(4 * vector, "HH", HANDLER, 0x1000)
    c.sel[CS], c.base[CS], c.rip, c.next_rip = 0x200, 0x2000, 0x100, 0x102
    c.sel[SS], c.base[SS], c.gpr[4] = 0x300, 0x3000, 0xABCD0100
    mode.write_eflags(c, mode.u64(IF | TF | AC | 0xAD7))
    mode.update_mode(c)
    return c, memory


def test_int_in_real_mode() -> None:
    c, memory = real()
    assert run(events.interrupt, c, memory, 0x21) == JUMP
    assert memory.get(0x30FA, "HHH") == (0x102, 0x200, IF | TF | 0xAD7)
    assert (c.gpr[4], c.sel[CS], c.base[CS], c.rip) == (0xABCD00FA, 0x1000, 0x10000, HANDLER)
    assert flags(c) == 0x8D7 | 0x400 & 0xAD7
    assert c.left == 1000


@pytest.mark.parametrize("sp", [0x0100, 0x0000, 0x0002])
def test_stack_wraps_in_real_mode(sp: int) -> None:
    c, memory = real()
    c.gpr[4] = sp
    assert run(events.interrupt, c, memory, 0x21) == JUMP
    assert memory.get(0x3000 + (sp - 2 & 0xFFFF), "H") == (IF | TF | 0xAD7,)
    assert memory.get(0x3000 + (sp - 6 & 0xFFFF), "H") == (0x102,)
    assert c.gpr[4] == (sp - 6 & 0xFFFF)


def test_relocated_and_short_vector_table() -> None:
    c, memory = real()
    c.idt_base, c.idt_limit = 0x8000, 0x21 * 4 + 3
    memory.put(0x8000 + 0x84, "HH", 0x11, 0x22)
    assert run(events.interrupt, c, memory, 0x21) == JUMP
    assert (c.rip, c.sel[CS]) == (0x11, 0x22)
    c.idt_limit = 0x21 * 4 + 2
    assert run(events.interrupt, c, memory, 0x21) == FAULT
    assert c.vector == GP


def test_fault_in_real_mode_pushes_no_error_code() -> None:
    c, memory = real(13)
    c.halted, c.io_n = 1, 5
    assert raised(c, memory, int(GP), 0x55) == JUMP
    assert memory.get(0x30FA, "HH") == (0x100, 0x200)
    assert (c.left, c.halted, c.io_n, c.delivering, c.status) == (999, 0, 0, 0, OK)


def test_triple_fault_in_real_mode() -> None:
    c, memory = real()
    c.idt_limit = 0
    assert raised(c, memory, int(UD)) == EXIT
    assert (c.exit_reason, c.delivering) == (EXIT_SHUTDOWN, 0)


def test_odd_stack_pointer_is_a_stack_fault() -> None:
    c, memory = real()
    memory.put(12 * 4, "HH", 0, 0)
    c.gpr[4] = 1
    assert run(events.interrupt, c, memory, 0x21) == FAULT
    assert c.vector == SS_FAULT
    assert raised(c, memory, int(SS_FAULT), 0) == EXIT
    assert c.exit_reason == EXIT_SHUTDOWN


# ---- protected mode, same level -------------------------------------------------------------------------------------
@pytest.mark.parametrize(("attr", "size", "keeps_if"), [(INT32, 4, 0), (TRAP32, 4, 1), (INT16, 2, 0), (TRAP16, 2, 1)])
@pytest.mark.parametrize("error", [None, 0x1238])
def test_same_level(attr: int, size: int, keeps_if: int, error: int | None) -> None:
    c, memory = protected()
    set_gate(memory, 13, gate(CODE0, 0x12345678, attr))
    c.rflags = int(c.rflags) | NT | TF
    old = flags(c)
    mode.update_mode(c)
    assert raised(c, memory, 13, error) == JUMP
    words = [CODE, CODE0, (old | RF) & (1 << 8 * size) - 1]
    if error is not None:
        words.insert(0, error)
    sp = STACKS[0] - 0x400 - size * len(words)
    assert memory.get(sp, f"{len(words)}{'I' if size == 4 else 'H'}") == tuple(words)
    assert (c.gpr[4], c.rip) == (sp, 0x12345678 if size == 4 else 0x5678)
    assert flags(c) == old & ~(NT | TF | (0 if keeps_if else IF))


def test_debug_trap_has_no_rf() -> None:
    c, memory = protected()
    set_gate(memory, 1, gate(CODE0, HANDLER, INT32))
    assert raised(c, memory, 1) == JUMP
    assert not memory.get(int(c.gpr[4]) + 8, "I")[0] & RF


GATES = [
    # gate attributes, target, its attributes, software, expected
    (INT32, CODE0, None, 1, None),
    (0x0E, CODE0, None, 1, (NP, 0x40 * 8 + 2)),
    (0x0E, CODE0, None, 0, (NP, 0x40 * 8 + 3)),
    (0x8C, CODE0, None, 1, (GP, 0x40 * 8 + 2)),
    (0x9E, CODE0, None, 0, (GP, 0x40 * 8 + 3)),
    (INT32, 0, None, 1, (GP, 0)),
    (INT32, 2, None, 0, (GP, 1)),
    (INT32, DATA0, None, 1, (GP, DATA0)),
    (INT32, CODE3, None, 0, (GP, (CODE3 & ~3) + 1)),
    (INT32, 0x3F8, None, 1, (GP, 0x3F8)),
    (INT32, 0x7F8, None, 0, (GP, 0x7F9)),
    (INT32, FREE, 0x1B, 1, (NP, FREE)),
    (INT32, FREE, 0x1B, 0, (NP, FREE + 1)),
    (INT32, FREE, 0x9E, 0, None),
]


@pytest.mark.parametrize(("attr", "selector", "target", "soft", "expected"), GATES)
def test_checks_of_gate_and_target(attr: int, selector: int, target: int | None, soft: int, expected: Any) -> None:
    c, memory = protected()
    set_gate(memory, 0x40, gate(selector, HANDLER, attr))
    if target is not None:
        set_descriptor(memory, selector, descriptor(0, 0xFFFFFFFF, 0xC000 | target))
    result = run(events.interrupt if soft else events.external_interrupt, c, memory, 0x40)
    if expected is None:
        assert result == JUMP
        assert memory.get(int(c.gpr[4]), "I") == (CODE + 2 * soft,)
    else:
        assert fault_of(c) == expected


def test_vector_outside_the_idt() -> None:
    c, memory = protected()
    c.idt_limit = 0x41 * 8 + 6
    run(events.interrupt, c, memory, 0x41)
    assert fault_of(c) == (GP, 0x41 * 8 + 2)
    run(events.external_interrupt, c, memory, 0x41)
    assert fault_of(c) == (GP, 0x41 * 8 + 3)


def test_handler_outside_its_segment() -> None:
    c, memory = protected()
    set_descriptor(memory, FREE, descriptor(0, 0x1000, 0x409B))
    set_gate(memory, 0x40, gate(FREE, 0x1001, INT32))
    run(events.external_interrupt, c, memory, 0x40)
    assert fault_of(c) == (GP, 1)


def test_no_room_on_the_current_stack() -> None:
    c, memory = protected()
    set_gate(memory, 0x40, gate(CODE0, HANDLER, INT32))
    c.attr[SS], c.limit[SS], c.gpr[4] = 0xC097, 0xFFF, 0x1008
    mode.update_mode(c)
    run(events.external_interrupt, c, memory, 0x40)
    assert fault_of(c) == (SS_FAULT, 1)
    run(events.interrupt, c, memory, 0x40)
    assert fault_of(c) == (SS_FAULT, 0)


# ---- change of privilege --------------------------------------------------------------------------------------------
@pytest.mark.parametrize("error", [None, 0x77])
@pytest.mark.parametrize("wide_tss", [False, True])
@pytest.mark.parametrize("attr", [INT32 | 0x60, TRAP16 | 0x60])
def test_to_an_inner_level(attr: int, *, wide_tss: bool, error: int | None) -> None:
    c, memory = protected(3)
    set_gate(memory, 14, gate(CODE1, HANDLER, attr))
    if not wide_tss:
        c.attr[TR] = 0x83
        memory.put(TSS + 6, "HH", STACKS[1] & 0xFFFF, DATA1)
    top = STACKS[1] & (0xFFFFFFFF if wide_tss else 0xFFFF)
    old, sp = flags(c), int(c.gpr[4])
    assert raised(c, memory, 14, error) == JUMP
    size, letter = (4, "I") if attr & 8 else (2, "H")
    words = [CODE, CODE3, old | RF, sp, DATA3]
    if error is not None:
        words.insert(0, error)
    cut = (1 << 8 * size) - 1
    assert c.gpr[4] == top - size * len(words)
    assert memory.get(int(c.gpr[4]), f"{len(words)}{letter}") == tuple(w & cut for w in words)
    assert (c.cpl, c.sel[CS], c.sel[SS], c.rip) == (1, CODE1, DATA1, HANDLER)
    assert c.tlb_off == 0


def test_sixteen_bit_inner_stack_keeps_the_upper_half_of_esp() -> None:
    c, memory = protected(3)
    set_gate(memory, 0x30, gate(CODE0, HANDLER, INT32))
    set_descriptor(memory, FREE, descriptor(0x10000, 0xFFFF, 0x93))
    memory.put(TSS + 4, "II", 0x99990008, FREE)
    c.gpr[4] = 0x12345678
    assert run(events.external_interrupt, c, memory, 0x30) == JUMP
    assert c.gpr[4] == 0x1234FFF4
    assert memory.get(0x1FFF4, "III") == (CODE, CODE3, flags(c) | IF)
    assert memory.get(0x10000, "II") == (0x12345678, DATA3)
    assert not c.mode & MODE_STACK32


STACK_FAULTS = [
    # SS of the TSS, attributes of FREE, limit of the TSS, expected
    (0, None, 0x67, (TS, 1)),
    (3, None, 0x67, (TS, 1)),
    (0x3F8, None, 0x67, (TS, 0x3F9)),
    (DATA1, None, 0x67, (TS, (DATA1 & ~3) + 1)),
    (DATA0 + 1, None, 0x67, (TS, DATA0 + 1)),
    (FREE, 0x91, 0x67, (TS, FREE + 1)),
    (FREE, 0x9B, 0x67, (TS, FREE + 1)),
    (FREE, 0xB3, 0x67, (TS, FREE + 1)),
    (FREE, 0x13, 0x67, (SS_FAULT, FREE + 1)),
    (DATA0, None, 8, (TS, SEL_TSS + 1)),
]


@pytest.mark.parametrize(("ss", "attr", "tss_limit", "expected"), STACK_FAULTS)
def test_checks_of_the_inner_stack(ss: int, attr: int | None, tss_limit: int, expected: Any) -> None:
    c, memory = protected(3)
    set_gate(memory, 0x30, gate(CODE0, HANDLER, INT32))
    memory.put(TSS + 8, "I", ss)
    c.limit[TR] = tss_limit
    if attr is not None:
        set_descriptor(memory, FREE, descriptor(0, 0xFFFFFFFF, 0xC000 | attr))
    run(events.external_interrupt, c, memory, 0x30)
    assert fault_of(c) == expected


def test_tss_limit_that_just_holds_the_stack() -> None:
    c, memory = protected(3)
    set_gate(memory, 0x30, gate(CODE0, HANDLER, INT32))
    c.limit[TR] = 9
    assert run(events.external_interrupt, c, memory, 0x30) == JUMP


@pytest.mark.parametrize(("limit", "good"), [(0x7FFF, False), (0xFFFF, True)])
def test_room_on_the_inner_stack(limit: int, *, good: bool) -> None:
    c, memory = protected(3)
    set_gate(memory, 0x30, gate(CODE0, HANDLER, INT32))
    set_descriptor(memory, FREE, descriptor(0x10000, limit, 0x4093))
    memory.put(TSS + 4, "II", 0x8010, FREE)
    result = run(events.external_interrupt, c, memory, 0x30)
    if good:
        assert result == JUMP
    else:
        assert fault_of(c) == (SS_FAULT, FREE + 1)


@pytest.mark.parametrize("page", [GDT, 0x3000, TSS, STACKS[0] - 0x1000])
def test_absent_page_on_the_way(page: int) -> None:
    c, memory = protected(3)
    set_gate(memory, 0x30, gate(CODE0, HANDLER, INT32))
    page_tables(c, memory, absent=(page,))
    run(events.external_interrupt, c, memory, 0x30)
    assert fault_of(c) == (PF_FAULT, 2 if page > TSS else 0)
    assert int(c.cr2) & ~0xFFF == page


def test_frame_over_an_absent_page_changes_nothing() -> None:
    c, memory = protected(3)
    set_gate(memory, 0x30, gate(CODE0, HANDLER, INT32))
    memory.put(TSS + 4, "I", 0x10008)
    page_tables(c, memory, absent=(0xF000,))
    run(events.external_interrupt, c, memory, 0x30)
    assert fault_of(c) == (PF_FAULT, 2)


def test_frame_outside_of_memory_is_pushed_once() -> None:
    c, memory = protected(3)
    set_gate(memory, 0x30, gate(CODE0, HANDLER, INT32))
    memory.map(0xF000, 0x1000, None)
    result, writes = run_outside(events.external_interrupt, c, memory, 0x30, reads={})
    assert result == JUMP
    words = [DATA3, STACKS[3] - 0x400, flags(c) | IF, CODE3, CODE]
    assert writes == [(STACKS[0] - 4 * k - 4, 4, word) for k, word in enumerate(words)]


# ---- virtual-8086 mode ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("attr", "size"), [(INT32 | 0x60, 4), (INT16 | 0x60, 2)])
def test_from_v86_mode(attr: int, size: int) -> None:
    c, memory = protected()
    enter_v86(c, 3)
    c.rflags = int(c.rflags) | IF
    set_gate(memory, 0x30, gate(CODE0, HANDLER, attr))
    old, sp, sel = flags(c), int(c.gpr[4]), c.sel.tolist()
    assert run(events.interrupt, c, memory, 0x30) == JUMP
    words = [0x22, sel[CS], old, sp, sel[SS], sel[ES], sel[DS], sel[FS], sel[GS]]
    cut = (1 << 8 * size) - 1
    assert c.gpr[4] == STACKS[0] - 9 * size
    assert memory.get(int(c.gpr[4]), "9I" if size == 4 else "9H") == tuple(w & cut for w in words)
    assert c.sel[:6].tolist() == [0, CODE0, DATA0, 0, 0, 0]
    assert c.attr[[ES, DS, FS, GS]].tolist() == [0] * 4
    assert flags(c) == 0x3043
    assert not c.mode & MODE_VM
    assert c.cpl == 0
    if size == 4:
        assert run(iret.iret, c, memory, 4) == JUMP
        assert (flags(c), c.rip, c.gpr[4], c.sel[:6].tolist()) == (old, 0x22, sp, sel[:6])
        assert (c.cpl, c.base[GS], c.limit[GS], c.attr[GS]) == (3, sel[GS] << 4, 0xFFFF, 0xF3)
        assert c.mode & MODE_VM


@pytest.mark.parametrize(
    ("iopl", "target", "attr", "expected"),
    [
        (0, CODE0, None, (GP, 0)),
        (2, CODE0, None, (GP, 0)),
        (3, CODE1, None, (GP, CODE1 & ~3)),
        (3, CODE3, None, (GP, CODE3 & ~3)),
        (3, FREE, 0x9E, (GP, FREE)),
    ],
)
def test_int_that_v86_mode_refuses(iopl: int, target: int, attr: int | None, expected: Any) -> None:
    c, memory = protected()
    enter_v86(c, iopl)
    set_gate(memory, 0x30, gate(target, HANDLER, INT32 | 0x60))
    if attr is not None:
        set_descriptor(memory, FREE, descriptor(0, 0xFFFFFFFF, 0xC000 | attr))
    run(events.interrupt, c, memory, 0x30)
    assert fault_of(c) == expected


def test_int3_in_v86_mode_does_not_look_at_iopl() -> None:
    c, memory = protected()
    enter_v86(c, 0)
    set_gate(memory, 3, gate(CODE0, HANDLER, INT32 | 0x60))
    assert run(events.int3, c, memory) == JUMP


# ---- INT n, INT3, INTO, INT1, NMI -----------------------------------------------------------------------------------
def test_software_interrupts_look_at_the_gates_privilege() -> None:
    c, memory = protected(3)
    for vector in (1, 3, 4, 0x30):
        set_gate(memory, vector, gate(CODE0, HANDLER, INT32))
    for function, args, vector in ((events.interrupt, (0x30,), 0x30), (events.int3, (), 3), (events.into, (), 4)):
        mode.write_eflags(c, mode.u64(0x802))
        run(function, c, memory, *args)
        assert fault_of(c) == (GP, vector * 8 + 2)
    assert run(events.int1, c, memory) == JUMP
    assert memory.get(int(c.gpr[4]), "I") == (CODE + 2,)


@pytest.mark.parametrize(("function", "args", "left"), [(events.int1, (), 0x400), (events.interrupt, (1,), 0x2400)])
def test_the_handler_of_int1_finds_the_debug_registers_open(
    function: Callable[..., int], args: tuple[int, ...], left: int
) -> None:
    """INT1 raises #DB, whose delivery clears DR7.GD and leaves DR6 (SDM vol. 3, 17.2.4); INT 1 is no exception."""
    c, memory = protected()
    set_gate(memory, 1, gate(CODE0, HANDLER, INT32))
    c.dr[6], c.dr[7] = 0xFFFF0FF0, 0x2400
    assert run(function, c, memory, *args) == JUMP
    assert (c.dr[6], c.dr[7]) == (0xFFFF0FF0, left)


def test_into_without_overflow() -> None:
    c, memory = protected()
    assert run(events.into, c, memory) == OK


def test_nmi_blocks_further_ones_until_iret() -> None:
    c, memory = protected()
    set_gate(memory, 2, gate(CODE0, HANDLER, INT32))
    assert run(events.nmi, c, memory) == JUMP
    assert c.nmi_blocked == 1
    assert run(iret.iret, c, memory, 4) == JUMP
    assert (c.nmi_blocked, c.rip) == (0, CODE)


# ---- double and triple faults ---------------------------------------------------------------------------------------
def test_fault_in_the_delivery_of_a_contributory_fault_is_a_double_fault() -> None:
    c, memory = protected()
    set_gate(memory, 8, gate(CODE0, HANDLER, INT32))
    for vector in (0, 10, 11, 12, 13):
        c.rip, c.gpr[4] = CODE, STACKS[0]
        assert raised(c, memory, vector, 0x10) == JUMP
        assert memory.get(int(c.gpr[4]), "III") == (0, CODE, CODE0)
        assert c.rip == HANDLER


@pytest.mark.parametrize("vector", [1, 6, 7, 16, 17])
def test_fault_in_the_delivery_of_a_benign_one_is_delivered_instead(vector: int) -> None:
    c, memory = protected()
    set_gate(memory, 13, gate(CODE0, HANDLER, INT32))
    assert raised(c, memory, vector) == JUMP
    assert memory.get(int(c.gpr[4]), "II") == (vector * 8 + 3, CODE)
    assert c.left == 999


def test_page_fault_after_a_contributory_one_is_serial() -> None:
    c, memory = protected()
    set_gate(memory, 14, gate(CODE0, HANDLER, INT32))
    set_gate(memory, 13, gate(FREE & ~0xFFF | 0x78, HANDLER, INT32))
    page_tables(c, memory)
    c.gdt_base, c.gdt_limit = 0x20000 - 0x78, 0xFF
    memory.put(0x20000 - 0x78 + CODE0, "Q", descriptor(0, 0xFFFFFFFF, 0xC09B))
    memory.put(PAGING + PAGE + 4 * 0x20, "I", 0)
    c.cr2 = 0
    assert raised(c, memory, 13, 0) == JUMP
    assert memory.get(int(c.gpr[4]), "II") == (0, CODE)
    assert c.cr2 == 0x20000


@pytest.mark.parametrize("second", ["missing gate", "page fault"])
def test_fault_in_the_delivery_of_a_page_fault_is_a_double_fault(second: str) -> None:
    c, memory = protected()
    set_gate(memory, 8, gate(CODE0, HANDLER, INT32))
    if second == "page fault":
        c.idt_base = 0x20000 - 14 * 8
        memory.put(0x20000 - 6 * 8, "Q", gate(CODE0, HANDLER, INT32))
        page_tables(c, memory, absent=(0x20000,))
    assert raised(c, memory, 14, 2) == JUMP
    assert memory.get(int(c.gpr[4]), "II") == (0, CODE)
    if second == "page fault":
        assert c.cr2 == 0x20000


def test_triple_fault() -> None:
    c, memory = protected(3)
    assert raised(c, memory, 14, 0) == EXIT
    assert (c.exit_reason, c.delivering, c.left) == (EXIT_SHUTDOWN, 0, 1000)


# ---- RF and the debug registers (SDM vol. 3, 17.3.1.1, 17.2.4) ------------------------------------------------------
@pytest.mark.parametrize("between", [False, True])
@pytest.mark.parametrize("function", [events.external_interrupt, events.nmi])
def test_rf_is_set_between_two_iterations(function: Any, between: bool) -> None:
    c, memory = protected()
    for vector in (2, 0x30):
        set_gate(memory, vector, gate(CODE0, HANDLER, INT32))
    before = flags(c)
    c.again_at = int(c.horizon) - int(c.left) + (not between)
    assert run(function, c, memory, *([0x30] if function is events.external_interrupt else [])) == JUMP
    image = memory.get(int(c.gpr[4]), "III")[2]
    assert image == before | (RF if between else 0)
    assert c.again_at == ~mode.u64(0), "the handler's first instruction is no iteration"


@pytest.mark.parametrize("rf", [0, RF])
def test_the_handler_of_db_finds_general_detect_off(rf: int) -> None:
    c, memory = protected()
    set_gate(memory, 1, gate(CODE0, HANDLER, INT32))
    c.dr[7], c.trap_rf = 0x2400, rf
    assert raised(c, memory, 1) == JUMP
    assert c.dr[7] == 0x400 and memory.get(int(c.gpr[4]), "III")[2] & RF == rf
