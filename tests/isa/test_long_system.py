"""Long mode: segment loads, system calls, MSRs and control registers, as the manual has them, in plain Python."""

from __future__ import annotations

from typing import Any

from jitvm.isa import control, events, mode, msr, segment, syscall, system, verify
from jitvm.isa.flags import IF, IOPL, TF
from jitvm.isa.state import FAULT, JUMP, OK
from tests.isa.long_cpu import (
    CODE64_0,
    FREE,
    GDT_SIZE,
    HIGH,
    enter_level,
    long_mode,
    set_gate64,
    set_system,
)
from tests.isa.plain_cpu import (
    CODE,
    CS,
    DS,
    FS,
    GDT,
    GS,
    IDT,
    LDTR,
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

GP, NP, UD = 13, 11, 6
RSP, RCX, RDX, R11 = 4, 1, 2, 11
HANDLER = 0x5800


# ---- segments --------------------------------------------------------------------------------------------------------
def test_null_stack_segment() -> None:
    """64-bit mode takes one below level 3, with RPL = CPL."""
    for cpl, compat, selector, good in (
        (0, False, 0, True), (0, False, 3, False), (3, False, 3, False), (0, True, 0, False), (1, False, 1, True),
    ):  # fmt: skip
        c, memory = long_mode(cpl, compat=compat)
        s = run(segment.load_segment, c, memory, SS, selector)
        assert (s == FAULT) != good
        if good:
            assert (c.sel[SS], c.attr[SS]) == (selector, 0)
        else:
            assert fault_of(c) == (GP, 0)


def test_bases_of_fs_and_gs() -> None:
    c, memory = long_mode()
    set_descriptor(memory, FREE, descriptor(0x8765_4321, 0xFFFF, 0x93))
    c.base[GS] = HIGH
    run(segment.load_segment, c, memory, GS, FREE)
    assert c.base[GS] == 0x8765_4321
    c.base[FS] = HIGH
    run(segment.load_segment, c, memory, FS, 0)
    assert c.base[FS] == 0


def test_16_byte_descriptors() -> None:
    c, memory = long_mode()
    for function, kind, seg in ((segment.ltr, 0x89, TR), (segment.lldt, 0x82, LDTR)):
        set_system(memory, FREE, descriptor(0x8765_4321, 0x67, kind), 0xFFFF_8001)
        assert run(function, c, memory, FREE) in (OK, JUMP)
        assert c.base[seg] == 0xFFFF_8001_8765_4321
        assert memory.get(GDT + FREE + 5, "B") == (0x8B if seg == TR else 0x82,)
        for low, high, selector in (
            (descriptor(0, 0x67, kind), 0x100 << 32, FREE),
            (descriptor(0, 0x67, kind), 0x8000, FREE),  # not canonical
            (descriptor(0, 0x67, 0x81), 0, FREE),
            (descriptor(0, 0x67, 0x83), 0, FREE),
            (descriptor(0, 0x67, kind), 0, GDT_SIZE - 8),
        ):
            set_system(memory, FREE, low, high)
            memory.put(GDT + GDT_SIZE - 8, "Q", low)
            assert run(function, c, memory, selector) == FAULT
            assert fault_of(c) == (GP, selector)
        set_system(memory, FREE, descriptor(0, 0x67, kind & 0x7F), 0)
        assert run(function, c, memory, FREE) == FAULT
        assert fault_of(c) == (NP, FREE)


def test_system_descriptors_have_8_bytes_in_compatibility_mode() -> None:
    """LLDT and LTR take the second half in 64-bit mode alone: whatever lies there is another descriptor (vol. 2, LTR)."""
    c, memory = long_mode(compat=True)
    for function, kind, seg in ((segment.ltr, 0x89, TR), (segment.lldt, 0x82, LDTR)):
        set_system(memory, FREE, descriptor(0x8765_4321, 0x67, kind), descriptor(0xFFFF_FFFF, 0xFFFF, 0x93))
        assert run(function, c, memory, FREE) in (OK, JUMP)
        assert c.base[seg] == 0x8765_4321
        set_system(memory, FREE, descriptor(0, 0x67, kind), 0)
        memory.put(GDT + GDT_SIZE - 8, "Q", descriptor(0x1234, 0x67, kind))
        assert run(function, c, memory, GDT_SIZE - 8) in (OK, JUMP)
        assert c.base[seg] == 0x1234


def test_types_that_lar_and_lsl_know() -> None:
    c, memory = long_mode()
    known: dict[Any, set[int]] = {verify.lar: set(), verify.lsl: set()}
    for kind in range(16):
        set_system(memory, FREE, descriptor(0, 0x67, 0x80 | kind), 0)
        for function, types in known.items():
            run(function, c, memory, 8, 1, FREE)
            if flags(c) & 0x40:
                types.add(kind)
    assert known == {verify.lar: {2, 9, 11, 12}, verify.lsl: {2, 9, 11}}


def test_table_registers_have_ten_bytes() -> None:
    c, memory = long_mode()
    memory.put(0x9000, "HQ", 0x1FF, HIGH | GDT)
    assert run(system.lgdt, c, memory, 8, DS, 0x9000) == OK
    assert (c.gdt_base, c.gdt_limit) == (HIGH | GDT, 0x1FF)
    assert run(system.sgdt, c, memory, DS, 0x9100) == OK
    assert memory.get(0x9100, "HQ") == (0x1FF, HIGH | GDT)
    for value in (1 << 47, 0x7FFF << 48):
        memory.put(0x9000, "HQ", 0x1FF, value)
        assert run(system.lidt, c, memory, 8, DS, 0x9000) == FAULT
        assert fault_of(c) == (GP, 0)
    assert c.idt_base == IDT


def test_tables_in_the_upper_half_also_in_compatibility_mode() -> None:
    c, memory = long_mode(3, compat=True)
    c.gdt_base, c.idt_base, c.base[TR] = HIGH | GDT, HIGH | IDT, HIGH | TSS
    set_gate64(memory, 0x80, CODE64_0, HANDLER, 0xEE)
    assert run(events.interrupt, c, memory, 0x80) == JUMP
    assert c.gpr[RSP] == STACKS[0] - 40


# ---- system calls ----------------------------------------------------------------------------------------------------
def with_star(cpl: int = 3, *, compat: bool = False) -> tuple[Any, Any]:
    c, memory = long_mode(cpl, compat=compat)
    c.msr_star = 0x23 << 48 | 0x0B << 32 | 0x1234
    c.msr_lstar, c.msr_fmask = HIGH | HANDLER, 0x47700
    return c, memory


def test_syscall() -> None:
    c, memory = with_star()
    c.rflags = int(c.rflags) | IF | TF | IOPL
    old = flags(c)
    assert run(syscall.syscall, c, memory) == JUMP
    assert (c.rip, c.cpl, c.sel[CS], c.sel[SS]) == (HIGH | HANDLER, 0, 8, 16)
    assert (c.gpr[RCX], c.gpr[R11], flags(c)) == (CODE + 2, old, old & ~0x47700)
    assert (c.attr[CS], c.attr[SS], c.gpr[RSP]) == (0xA09B, 0xC093, STACKS[3] - 0x400)


def test_sysret() -> None:
    c, memory = with_star(0)
    c.gpr[RCX], c.gpr[R11] = 0x7FFF_FFFF_F000, 0xFFFF_FFFF_FFFF_FFFF
    assert run(syscall.sysret, c, memory, 8) == JUMP
    assert (c.rip, c.cpl, c.sel[CS], c.sel[SS]) == (0x7FFF_FFFF_F000, 3, 0x33, 0x2B)
    assert flags(c) & ~0x180000 == 0x3C_7FD7 & ~0x180000
    assert (c.attr[CS], c.attr[SS]) == (0xA0FB, 0xC0F3)
    c, memory = with_star(0)
    c.gpr[RCX], c.gpr[R11] = 0x1234_5678_9ABC, 2
    assert run(syscall.sysret, c, memory, 4) == JUMP
    assert (c.rip, c.sel[CS], c.attr[CS], int(c.mode) & 3) == (0x5678_9ABC, 0x23, 0xC0FB, 1)
    c, memory = with_star(0)
    c.gpr[RCX] = 1 << 47
    assert run(syscall.sysret, c, memory, 8) == FAULT
    assert (fault_of(c), c.cpl) == ((GP, 0), 0)


def test_where_syscall_is_undefined() -> None:
    for function, args in ((syscall.syscall, ()), (syscall.sysret, (8,))):
        for compat, efer in ((True, 0xD01), (False, 0xD00)):
            c, memory = with_star(0, compat=compat)
            c.efer = efer
            assert run(function, c, memory, *args) == FAULT
            assert fault_of(c) == (UD, None)
    c, memory = with_star()
    assert run(syscall.sysret, c, memory, 8) == FAULT
    assert fault_of(c) == (GP, 0)


def test_sysenter_and_sysexit() -> None:
    for compat in (False, True):
        c, memory = long_mode(3, compat=compat)
        c.msr_sysenter_cs, c.msr_sysenter_esp, c.msr_sysenter_eip = 0x103, HIGH | 0x9000, HIGH | HANDLER
        assert run(syscall.sysenter, c, memory) == JUMP
        assert (c.rip, c.gpr[RSP], c.sel[CS], c.sel[SS], c.cpl) == (HIGH | HANDLER, HIGH | 0x9000, 0x100, 0x108, 0)
        assert (c.attr[CS], int(c.mode) & 2) == (0xA09B, 2)
        c.gpr[RDX], c.gpr[RCX] = 0x1_0000_1234, 0x1_0000_9000
        if compat:
            assert run(syscall.sysexit, c, memory, 4) == JUMP
            assert (c.rip, c.gpr[RSP], c.sel[CS], c.attr[CS]) == (0x1234, 0x9000, 0x113, 0xC0FB)
        else:
            assert run(syscall.sysexit, c, memory, 8) == JUMP
            assert (c.rip, c.gpr[RSP], c.sel[CS], c.sel[SS]) == (0x1_0000_1234, 0x1_0000_9000, 0x123, 0x12B)
    for register in (RDX, RCX):
        c, memory = long_mode()
        c.msr_sysenter_cs = 8
        c.gpr[register] = 1 << 63
        assert run(syscall.sysexit, c, memory, 8) == FAULT
        assert fault_of(c) == (GP, 0)


def test_swapgs() -> None:
    c, memory = long_mode()
    c.base[GS], c.msr_kernel_gs_base = 0x1234, HIGH
    assert run(syscall.swapgs, c, memory) == JUMP
    assert (c.base[GS], c.msr_kernel_gs_base) == (HIGH, 0x1234)
    for cpl, compat, what in ((3, False, (GP, 0)), (0, True, (UD, None)), (3, True, (UD, None))):
        c, memory = long_mode(cpl, compat=compat)
        assert run(syscall.swapgs, c, memory) == FAULT
        assert fault_of(c) == what


# ---- MSRs and control registers --------------------------------------------------------------------------------------
def wrmsr(c: Any, memory: Any, n: int, v: int) -> bool:
    c.gpr[RCX], c.gpr[0], c.gpr[RDX] = n, v & 0xFFFFFFFF, v >> 32
    return run(msr.wrmsr, c, memory) != FAULT


def test_msrs_of_long_mode() -> None:
    c, memory = long_mode()
    for n in (0xC0000082, 0xC0000083, 0xC0000100, 0xC0000101, 0xC0000102, 0x175, 0x176):
        assert wrmsr(c, memory, n, HIGH | n)
        c.gpr[RCX] = n
        assert run(msr.rdmsr, c, memory) == OK
        assert int(c.gpr[RDX]) << 32 | int(c.gpr[0]) == HIGH | n
        assert not wrmsr(c, memory, n, 1 << 47)
    assert (c.base[FS], c.base[GS]) == (HIGH | 0xC0000100, HIGH | 0xC0000101)
    assert not wrmsr(c, memory, 0xC0000084, 1 << 32)
    assert not wrmsr(c, memory, 0xC0000080, 0xC01), "LME can't change while paging is on"
    assert wrmsr(c, memory, 0xC0000080, 0x101)
    assert c.efer == 0x501, "LMA is not written"


def set_cr(c: Any, memory: Any, n: int, v: int) -> int:
    c.gpr[3] = v
    return run(control.mov_to_cr, c, memory, n, 3)


def test_long_mode_begins_with_paging() -> None:
    """SDM vol. 3, 9.8.5: PAE, LME, then PG; what is missing or wrong is #GP(0)."""
    c, memory = long_mode()
    c.efer, c.cr0, c.cr4 = 0x100, 0x11, 0x20
    enter_level(c, 0, compat=True)
    assert set_cr(c, memory, 0, 0x80000011) == JUMP
    assert (c.efer, int(c.mode) & 3) == (0x500, 1)
    assert set_cr(c, memory, 4, 0) == FAULT, "PAE stays in long mode"
    assert set_cr(c, memory, 0, 0x11) == JUMP
    assert c.efer == 0x100
    for cr4, attr, tr in ((0, 0xC09B, 0x8B), (0x20, 0xA09B, 0x8B), (0x20, 0xC09B, 0x83)):
        c.cr4, c.attr[CS], c.attr[TR] = cr4, attr, tr
        mode.update_mode(c)
        assert set_cr(c, memory, 0, 0x80000011) == FAULT
        assert fault_of(c) == (GP, 0)
    c, memory = long_mode()
    assert set_cr(c, memory, 0, 0x11) == FAULT, "paging can't be left in 64-bit mode"


def test_wide_values_of_control_registers() -> None:
    c, memory = long_mode()
    for n, v in ((0, 1 << 32 | 0x80010011), (3, 1 << 36), (3, 1 << 63), (4, 1 << 32 | 0x20), (8, 16), (8, 1 << 40)):
        assert set_cr(c, memory, n, v) == FAULT, (n, v)
        assert fault_of(c) == (GP, 0)
    for n, v in ((2, 1 << 62 | 5), (8, 9), (3, 0xF_0008_0000)):
        assert set_cr(c, memory, n, v) != FAULT
        assert run(control.mov_from_cr, c, memory, n, 0) == OK
        assert c.gpr[0] == v
    for n in (6, 7):
        c.gpr[3] = 1 << 32
        assert run(system.mov_to_dr, c, memory, n, 3) == FAULT
        assert fault_of(c) == (GP, 0)
    c.gpr[3] = 1 << 47
    assert run(system.mov_to_dr, c, memory, 0, 3) == JUMP
    assert c.dr[0] == 1 << 47


def test_pushf_and_popf_with_64_bits() -> None:
    c, memory = long_mode()
    c.rflags = int(c.rflags) | IF
    sp = int(c.gpr[RSP])
    assert run(system.pushf, c, memory, 8) == OK
    assert (c.gpr[RSP], memory.get(sp - 8, "Q")[0]) == (sp - 8, flags(c))
    memory.put(sp - 8, "Q", 0xFFFF_FFFF_0000_0046)
    assert run(system.popf, c, memory, 8) == OK
    assert (c.gpr[RSP], flags(c)) == (sp, 0x46)
