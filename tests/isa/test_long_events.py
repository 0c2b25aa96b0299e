"""Long mode: events, IRET and far transfers, as the manual has them, in plain Python."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from jitvm.isa import events, far, iret, mode, segment
from jitvm.isa.flags import IF, IOPL, NT, RF, TF
from jitvm.isa.state import ES, EXIT, EXIT_SHUTDOWN, FAULT, FS, GS, JUMP
from tests.isa.long_cpu import (
    CODE32_0,
    CODE32_3,
    CODE64_0,
    CODE64_1,
    CODE64_3,
    DATA_0,
    DATA_3,
    FREE,
    GDT_SIZE,
    HIGH,
    IST_STACK,
    SEL_TSS,
    enter_level,
    frame,
    gate64,
    long_mode,
    set_gate64,
    set_system,
)
from tests.isa.plain_cpu import (
    CODE,
    CS,
    DS,
    GDT,
    SS,
    STACKS,
    TR,
    TSS,
    descriptor,
    fault_of,
    flags,
    run,
    set_descriptor,
)

GP, NP, SS_FAULT, TS, PF = 13, 11, 12, 10, 14
RSP = 4
HANDLER = 0x5800


def deliver(c: Any, memory: Any, vector: int, error: int | None = None) -> int:
    """Deliver a fault."""
    c.vector, c.error, c.has_error = vector, error or 0, int(error is not None)
    with np.errstate(over="ignore"):
        return int(events.deliver(c))


# ---- events ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("compat", [False, True])
def test_frame_at_the_same_level(compat: bool) -> None:
    """SS and RSP are pushed always; the stack is aligned to 16 bytes (SDM vol. 3, 6.14.2)."""
    c, memory = long_mode(compat=compat)
    set_gate64(memory, 13, CODE64_0, HIGH | HANDLER)
    c.gpr[RSP] = 0x9007
    c.rflags = int(c.rflags) | IF | TF
    old = flags(c)
    assert deliver(c, memory, 13, 0x1234) == JUMP
    assert (c.rip, c.cpl, c.sel[CS]) == (HIGH | HANDLER, 0, CODE64_0)
    assert c.gpr[RSP] == 0x9000 - 48
    code = CODE32_0 if compat else CODE64_0
    assert frame(c, memory, 6) == (0x1234, CODE, code, old | RF, 0x9007, DATA_0)
    assert c.sel[SS] == DATA_0
    assert flags(c) == old & ~(IF | TF)
    assert int(c.mode) & 2


def test_frame_to_an_inner_level() -> None:
    """RSP0 of the TSS; SS becomes a null selector with the new privilege level (SDM vol. 3, 6.14.4)."""
    c, memory = long_mode(3)
    set_gate64(memory, 0x80, CODE64_0, HANDLER, 0xEF)
    c.rflags = int(c.rflags) | IF
    assert run(events.interrupt, c, memory, 0x80) == JUMP
    assert (c.rip, c.cpl, c.sel[CS], c.sel[SS], c.attr[SS]) == (HANDLER, 0, CODE64_0, 0, 0)
    assert c.gpr[RSP] == STACKS[0] - 40
    assert frame(c, memory) == (CODE + 2, CODE64_3, flags(c), STACKS[3] - 0x400, DATA_3)
    assert int(c.rflags) & IF, "a trap gate"
    c, memory = long_mode(3, compat=True)
    set_gate64(memory, 0x80, CODE64_1, HANDLER, 0xEE)
    assert run(events.interrupt, c, memory, 0x80) == JUMP
    assert (c.cpl, c.sel[SS], c.sel[CS]) == (1, 1, CODE64_1)
    assert c.gpr[RSP] == STACKS[1] - 40


@pytest.mark.parametrize("cpl", [0, 3])
@pytest.mark.parametrize("ist", range(1, 8))
def test_interrupt_stack_table(cpl: int, ist: int) -> None:
    """An IST stack is taken also where the level stays; SS stays then (SDM vol. 3, 6.14.5)."""
    c, memory = long_mode(cpl)
    set_gate64(memory, 8, CODE64_0, HANDLER, 0x8E, ist)
    ss = int(c.sel[SS])
    assert deliver(c, memory, 8, 0) == JUMP
    assert c.gpr[RSP] == IST_STACK + 0x1000 * (ist - 1) - 48
    assert c.sel[SS] == (0 if cpl else ss)


def test_faults_of_gates() -> None:
    code = 0x80 << 3 | 2
    for kind in range(32):
        if kind in (14, 15):
            continue
        c, memory = long_mode(3)
        set_gate64(memory, 0x80, CODE64_0, HANDLER, 0xE0 | kind)
        assert run(events.interrupt, c, memory, 0x80) == FAULT
        assert fault_of(c) == (GP, code), kind
    for attr, vector in ((0x8E, GP), (0x6E, NP), (0x0E, GP)):
        c, memory = long_mode(3)
        set_gate64(memory, 0x80, CODE64_0, HANDLER, attr)
        assert run(events.interrupt, c, memory, 0x80) == FAULT
        assert fault_of(c) == (vector, code)
    c, memory = long_mode(3)
    set_gate64(memory, 0x80, CODE64_0, HANDLER, 0xEE)
    c.idt_limit = 0x80 * 16 + 14
    assert run(events.interrupt, c, memory, 0x80) == FAULT
    assert fault_of(c) == (GP, code)


@pytest.mark.parametrize(
    ("selector", "vector", "error"),
    [
        (0, GP, 0),
        (3, GP, 0),
        (DATA_0, GP, DATA_0),
        (CODE32_0, GP, CODE32_0),
        (FREE, GP, FREE),
        (GDT_SIZE, GP, GDT_SIZE),
    ],
)
def test_faults_of_targets(selector: int, vector: int, error: int) -> None:
    """A handler is 64-bit code: L set and D clear (SDM vol. 3, 6.14.1)."""
    c, memory = long_mode()
    set_gate64(memory, 0x80, selector, HANDLER)
    assert run(events.interrupt, c, memory, 0x80) == FAULT
    assert fault_of(c) == (vector, error)


def test_more_faults_of_targets() -> None:
    for attr, vector in ((CODE_LD := 0xE09B, GP), (0xA01B, NP), (0xA0FB, GP)):
        c, memory = long_mode()
        set_descriptor(memory, FREE, descriptor(0, 0xFFFFFFFF, attr))
        set_gate64(memory, 0x80, FREE, HANDLER)
        assert run(events.interrupt, c, memory, 0x80) == FAULT
        assert fault_of(c) == (vector, FREE), hex(attr)
    assert CODE_LD
    c, memory = long_mode()
    set_gate64(memory, 0x80, CODE64_0, 1 << 47)
    assert run(events.interrupt, c, memory, 0x80) == FAULT
    assert fault_of(c) == (GP, 0)


def test_faults_of_stacks() -> None:
    """A TSS that is too short: #TS with its selector; a stack pointer that is not canonical: #SS(0)."""
    c, memory = long_mode(3)
    set_gate64(memory, 0x80, CODE64_0, HANDLER, 0xEE)
    c.limit[TR] = 10
    assert run(events.interrupt, c, memory, 0x80) == FAULT
    assert fault_of(c) == (TS, SEL_TSS)
    set_gate64(memory, 0x80, CODE64_0, HANDLER, 0xEE, 3)
    c.limit[TR] = 0x24 + 16 + 6
    assert run(events.interrupt, c, memory, 0x80) == FAULT
    assert fault_of(c) == (TS, SEL_TSS)
    c.limit[TR] = 0x67
    memory.put(TSS + 0x24 + 16, "Q", 1 << 47)
    assert run(events.interrupt, c, memory, 0x80) == FAULT
    assert fault_of(c) == (SS_FAULT, 0)
    c, memory = long_mode()
    set_gate64(memory, 0x80, CODE64_0, HANDLER, 0xEE)
    c.gpr[RSP] = HIGH + 8
    assert run(events.interrupt, c, memory, 0x80) == FAULT
    assert fault_of(c) == (SS_FAULT, 0)
    c.gpr[RSP] = 0x40_0000
    assert run(events.interrupt, c, memory, 0x80) == FAULT
    assert fault_of(c) == (PF, 2)
    assert c.cr2 == 0x40_0000 - 8


def test_double_and_triple_fault() -> None:
    c, memory = long_mode()
    set_gate64(memory, 8, CODE64_0, HANDLER, 0x8E, 1)
    c.gpr[RSP] = 0x40_0000
    set_gate64(memory, 14, CODE64_0, HANDLER)
    assert deliver(c, memory, 14, 2) == JUMP
    assert c.gpr[RSP] == IST_STACK - 48
    assert frame(c, memory, 6)[0] == 0
    c, memory = long_mode()
    c.gpr[RSP] = 0x40_0000
    assert deliver(c, memory, 14, 2) == EXIT
    assert c.exit_reason == EXIT_SHUTDOWN


def test_external_interrupt_and_nmi() -> None:
    for function, args in ((events.external_interrupt, (0x40,)), (events.nmi, ())):
        c, memory = long_mode(3)
        set_gate64(memory, args[0] if args else 2, CODE64_0, HANDLER)
        assert run(function, c, memory, *args) == JUMP
        assert frame(c, memory)[:2] == (CODE, CODE64_3)
        assert c.nmi_blocked == (not args)


# ---- IRET ------------------------------------------------------------------------------------------------------------
def push(c: Any, memory: Any, size: int, *words: int) -> None:
    """Put words on the stack, the last one deepest."""
    c.gpr[RSP] = 0x9000
    for k, word in enumerate(words):
        memory.write(0x9000 + k * size, (word & (1 << 8 * size) - 1).to_bytes(size, "little"))


@pytest.mark.parametrize("size", [2, 4, 8])
def test_iret_always_pops_the_stack_in_64_bit_mode(size: int) -> None:
    c, memory = long_mode()
    push(c, memory, size, 0x1234, CODE64_0, 0x246 | 0x200, 0xA010, DATA_0)
    assert run(iret.iret, c, memory, size) == JUMP
    assert (c.rip, c.gpr[RSP], c.sel[SS], flags(c)) == (0x1234, 0xA010, DATA_0, 0x246 | IF)
    push(c, memory, size, 0x1234, CODE64_0, 2, 0xA010, 0)
    assert run(iret.iret, c, memory, size) == JUMP
    assert (c.gpr[RSP], c.sel[SS], c.attr[SS]) == (0xA010, 0, 0)


def test_iret_to_user_code() -> None:
    c, memory = long_mode()
    c.rflags = int(c.rflags) | IOPL
    c.msr_kernel_gs_base = 0x1234
    push(c, memory, 8, HIGH | 5, CODE64_3, 0x202, 0xFFFF_FFFF_FFFF_FFF0, DATA_3)
    assert run(iret.iret, c, memory, 8) == JUMP
    assert (c.rip, c.gpr[RSP], c.cpl, c.sel[SS], flags(c)) == (HIGH | 5, 0xFFFF_FFFF_FFFF_FFF0, 3, DATA_3, 0x202)
    assert (c.attr[DS], c.sel[DS]) == (0, 0), "what level 3 may not use becomes null"
    c, memory = long_mode()
    push(c, memory, 8, 1 << 47 | 0x1_2345, CODE32_3, 0x202, 0x1_0000_9000, DATA_3)
    assert run(iret.iret, c, memory, 8) == JUMP
    assert (c.rip, c.gpr[RSP], c.cpl) == (0x12345, 0x9000, 3)
    assert int(c.mode) & 3 == 1, "32-bit code"


def test_what_a_return_to_user_code_leaves_of_data_segments() -> None:
    """As on silicon: null selectors lose their RPL, and the bases stay, also of a segment that level 3 may not use."""
    c, memory = long_mode()
    with np.errstate(over="ignore"):
        for seg, selector in ((ES, 3), (FS, 2)):
            segment.set_null(c, seg, np.uint64(selector))
        mode.update_mode(c)
    c.base[FS], c.sel[GS], c.base[GS] = HIGH | 0x77, DATA_0, HIGH | 0x99
    assert c.attr[GS]
    push(c, memory, 8, 5, CODE64_3, 0x202, 0x9000, DATA_3)
    assert run(iret.iret, c, memory, 8) == JUMP
    assert [int(c.sel[k]) for k in (ES, DS, FS, GS)] == [0] * 4
    assert (c.base[FS], c.base[GS], c.attr[GS]) == (HIGH | 0x77, HIGH | 0x99, 0)


def test_iret_in_compatibility_mode() -> None:
    c, memory = long_mode(compat=True)
    push(c, memory, 4, 0x1234, CODE32_0, 2)
    assert run(iret.iret, c, memory, 4) == JUMP
    assert (c.rip, c.gpr[RSP]) == (0x1234, 0x900C), "at the same level SS and ESP stay"
    push(c, memory, 4, 0x1234, CODE64_3, 2, 0x9008, DATA_3)
    assert run(iret.iret, c, memory, 4) == JUMP
    assert (c.cpl, c.gpr[RSP], int(c.mode) & 2) == (3, 0x9008, 2)


@pytest.mark.parametrize(
    ("words", "vector", "error"),
    [
        ((1 << 47, CODE64_0, 2, 0x9000, DATA_0), GP, 0),
        ((0, 0, 2, 0x9000, DATA_0), GP, 0),
        ((0, CODE64_3, 2, 0x9000, 0), GP, 0),
        ((0, CODE64_3, 2, 0x9000, 3), GP, 0),
        ((0, CODE32_0, 2, 0x9000, 0), GP, 0),
        ((0, CODE64_1, 2, 0x9000, 0), GP, 0),
        ((0, CODE64_3, 2, 0x9000, DATA_0), GP, DATA_0),
        ((0, CODE64_0, 2, 0x9000, CODE64_0), GP, CODE64_0),
        ((0, FREE, 2, 0x9000, DATA_0), GP, FREE),
    ],
)
def test_faults_of_iret(words: tuple[int, ...], vector: int, error: int) -> None:
    c, memory = long_mode()
    push(c, memory, 8, *words)
    assert run(iret.iret, c, memory, 8) == FAULT
    assert fault_of(c) == (vector, error)


def test_iret_to_a_null_stack_segment_of_level_1() -> None:
    c, memory = long_mode()
    push(c, memory, 8, 0, CODE64_1, 2, 0x9000, 1)
    assert run(iret.iret, c, memory, 8) == JUMP
    assert (c.cpl, c.sel[SS]) == (1, 1)


def test_iret_with_nt_and_code_that_is_both() -> None:
    c, memory = long_mode()
    c.rflags = int(c.rflags) | NT
    push(c, memory, 8, 0, CODE64_0, 2, 0x9000, DATA_0)
    assert run(iret.iret, c, memory, 8) == FAULT
    assert fault_of(c) == (GP, 0)
    c.rflags = 2
    set_descriptor(memory, FREE, descriptor(0, 0xFFFFFFFF, 0xE09B))
    push(c, memory, 8, 0, FREE, 2, 0x9000, DATA_0)
    assert run(iret.iret, c, memory, 8) == FAULT
    assert fault_of(c) == (GP, FREE)


# ---- far transfers ---------------------------------------------------------------------------------------------------
def test_jumps_between_the_two_modes() -> None:
    c, memory = long_mode(compat=True)
    assert run(far.far_jmp, c, memory, 4, 0x1000, CODE64_0) == JUMP
    assert (c.rip, int(c.mode) & 3) == (0x1000, 2)
    memory.put(0x9000, "QH", 1 << 47 | 0x2000, CODE32_0)
    c.gpr[RSP] = HIGH | 0x1234
    assert run(far.far_jmp_mem, c, memory, 8, 8, DS, 0x9000) == JUMP
    assert (c.rip, int(c.mode) & 3, c.gpr[RSP]) == (0x2000, 1, 0x1234), "32 bits of RIP and RSP, as on silicon"
    enter_level(c, 0)
    for size, rip, selector, error in (
        (8, 1 << 47, CODE64_0, 0),
        (4, 0, SEL_TSS, SEL_TSS),
        (4, 0, DATA_0, DATA_0),
        (4, 0, CODE64_3, CODE64_3 & ~3),
    ):
        memory.put(0x9000, "QH" if size == 8 else "IH", rip, selector)
        assert run(far.far_jmp_mem, c, memory, size, 8, DS, 0x9000) == FAULT
        assert fault_of(c) == (GP, error)


@pytest.mark.parametrize("size", [2, 4, 8])
def test_far_call_and_return(size: int) -> None:
    c, memory = long_mode()
    memory.write(0x9000, (0x6000).to_bytes(size, "little") + CODE32_0.to_bytes(2, "little"))
    sp = int(c.gpr[RSP])
    assert run(far.far_call_mem, c, memory, size, 8, DS, 0x9000) == JUMP
    assert (c.rip, c.gpr[RSP], c.sel[CS]) == (0x6000, sp - 2 * size, CODE32_0)
    enter_level(c, 0)
    c.gpr[RSP] = sp - 2 * size
    assert run(far.far_ret, c, memory, size, 8) == JUMP
    assert (c.rip, c.gpr[RSP], c.sel[CS], int(c.mode) & 2) == (CODE + 2, sp + 8, CODE64_0, 2)


def test_far_return_to_an_outer_level() -> None:
    c, memory = long_mode()
    push(c, memory, 8, HIGH | 0x1234, CODE64_3, 0, 0xA000, DATA_3)
    assert run(far.far_ret, c, memory, 8, 8) == JUMP
    assert (c.rip, c.cpl, c.gpr[RSP], c.sel[SS]) == (HIGH | 0x1234, 3, 0xA008, DATA_3)
    c, memory = long_mode()
    push(c, memory, 8, 0x1234, CODE64_1, 0xA000, 1)
    assert run(far.far_ret, c, memory, 8, 0) == JUMP
    assert (c.cpl, c.sel[SS], c.attr[SS]) == (1, 1, 0)


def test_call_gates() -> None:
    """64-bit call gates push 8-byte words, copy nothing, align nothing (SDM vol. 3, 5.8.3.1, 5.8.5.1)."""
    c, memory = long_mode(3)
    set_system(memory, FREE, *gate64(CODE64_0, HIGH | HANDLER, 0xEC))
    memory.put(TSS + 4, "Q", 0xA008)
    memory.put(0x9000, "IH", 0, FREE | 3)
    assert run(far.far_call_mem, c, memory, 4, 8, DS, 0x9000) == JUMP
    assert (c.rip, c.cpl, c.sel[CS], c.sel[SS]) == (HIGH | HANDLER, 0, CODE64_0, 0)
    assert c.gpr[RSP] == 0xA008 - 32
    assert frame(c, memory, 4) == (CODE + 2, CODE64_3, STACKS[3] - 0x400, DATA_3)
    for compat in (False, True):
        c, memory = long_mode(compat=compat)
        set_system(memory, FREE, *gate64(CODE64_0, HANDLER, 0xEC))
        sp = int(c.gpr[RSP])
        assert run(far.far_call, c, memory, 4, 0, FREE) == JUMP
        assert (c.rip, c.gpr[RSP], int(c.mode) & 2) == (HANDLER, sp - 16, 2)
        assert frame(c, memory, 2) == (CODE + 2, CODE32_0 if compat else CODE64_0)
        enter_level(c, 0, compat=compat)
        assert run(far.far_jmp, c, memory, 4, 0, FREE) == JUMP
        assert (c.rip, c.gpr[RSP]) == (HANDLER, STACKS[0] - 0x400)


@pytest.mark.parametrize(
    ("low_high", "error"),
    [
        ((*gate64(CODE64_0, HANDLER, 0x84),), FREE),  # a 16-bit gate
        ((*gate64(CODE64_0, HANDLER, 0x85),), FREE),  # a task gate
        ((gate64(CODE64_0, HANDLER, 0x8C)[0], 0x1F << 40), FREE),
        ((gate64(CODE64_0, HANDLER, 0x8C)[0], 1 << 40), FREE),
        ((*gate64(CODE32_0, HANDLER, 0x8C),), CODE32_0),
        ((*gate64(DATA_0, HANDLER, 0x8C),), DATA_0),
        ((*gate64(0, HANDLER, 0x8C),), 0),
        ((*gate64(CODE64_0, 1 << 50, 0x8C),), 0),
    ],
)
def test_faults_of_call_gates(low_high: tuple[int, int], error: int) -> None:
    for function in (far.far_call, far.far_jmp):
        c, memory = long_mode()
        set_system(memory, FREE, *low_high)
        assert run(function, c, memory, 4, 0, FREE) == FAULT
        assert fault_of(c) == (GP, error)
    c, memory = long_mode()
    last = GDT_SIZE - 8
    memory.put(GDT + last, "Q", gate64(CODE64_0, HANDLER, 0x8C)[0])
    assert run(far.far_call, c, memory, 4, 0, last) == FAULT
    assert fault_of(c) == (GP, last), "the second half is outside the table"
