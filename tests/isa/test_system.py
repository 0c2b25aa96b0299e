"""System instructions: privileges, reserved bits, what is flushed, flags by level."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from jitvm.bare import ENGINES, Bare
from jitvm.isa import control, mode, smm, state, system
from jitvm.isa.cpuid import FEATURE_DE, FEATURE_PGE, FEATURE_PSE, FEATURE_TSC, cpuid_table, feature_words
from jitvm.isa.mode import PERMITTED_TLB
from jitvm.isa.state import EXIT_HLT, FAULT, JUMP, MODE_PE, MODE_TF, MODE_TS, STOP
from jitvm.isa.table import CHECKED_BY
from jitvm.isa.words import u64
from tests.isa.on_window import Function, call
from tests.isa.plain_cpu import DS, STACKS, PlainMemory, enter_v86, fault_of, flags, make_cpu, page_tables, protect, run

DB, GP, OK, PF_FAULT, UD = (int(n) for n in (state.DB, state.GP, state.OK, state.PF_FAULT, state.UD))
RBX, RSP = 3, 4
CF, TF, IF, DF, IOPL, NT, RF, VM, AC, ID = (1 << n for n in (0, 8, 9, 10, 12, 14, 16, 17, 18, 21))
IOPL3 = 3 * IOPL


def flat(cpl: int = 0) -> tuple[Any, PlainMemory]:
    """A flat protected-mode record."""
    c, memory = make_cpu()
    protect(c, memory, cpl)
    return c, memory


def fill_tlb(c: Any) -> None:
    """One entry in each half, for linear page 5000h."""
    for user in (0, 1):
        slot = (user * 3 << 10) | 5 << 1
        c.tlb[slot] = 0x5000


def is_flushed(c: Any) -> bool:
    """Whether no translation is left."""
    return bool((c.tlb[::2] == ~u64(0)).all())


# ---- privileges ------------------------------------------------------------------------------------------------------

PRIVILEGED: list[tuple[Function, tuple[int, ...]]] = [
    (control.mov_to_cr, (0, RBX)),
    (control.mov_to_cr, (3, RBX)),
    (control.mov_from_cr, (4, RBX)),
    (system.mov_to_dr, (7, RBX)),
    (system.mov_from_dr, (0, RBX)),
    (mode.check_privilege, ()),
    (control.clts, ()),
    (system.lgdt, (4, DS, 0x8000)),
    (system.lidt, (4, DS, 0x8000)),
    (system.invlpg, (DS, 0x8000)),
    (system.invd, ()),
    (system.wbinvd, ()),
    (system.hlt, ()),
]


def test_lmsw_asks_for_its_privilege_before_it_reads() -> None:
    assert CHECKED_BY["control.lmsw"] == "mode.check_privilege"


@pytest.mark.parametrize(("function", "words"), PRIVILEGED)
def test_only_level_0_may(function: Function, words: tuple[int, ...]) -> None:
    for cpl in (1, 2, 3):
        c, memory = flat(cpl)
        assert run(function, c, memory, *words) == FAULT
        assert fault_of(c) == (GP, 0)
    c, memory = flat()
    enter_v86(c, iopl=3)
    assert run(function, c, memory, *words) == FAULT
    assert fault_of(c) == (GP, 0)
    c, memory = flat()
    assert run(function, c, memory, *words) in (OK, JUMP, STOP)
    c, memory = make_cpu()
    assert run(function, c, memory, *words) in (OK, JUMP, STOP)


def test_rsm_is_undefined() -> None:
    c, memory = flat()
    assert run(smm.rsm, c, memory) == FAULT
    assert fault_of(c) == (UD, None)


# ---- control registers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reg", [1, 5, 6, 7, 8, 15])
def test_control_registers_that_do_not_exist(reg: int) -> None:
    c, memory = flat()
    for function in (control.mov_to_cr, control.mov_from_cr):
        assert run(function, c, memory, reg, RBX) == FAULT
        assert fault_of(c) == (UD, None)


@pytest.mark.parametrize("value", [0x80000000, 0x20000001, 0xA0000011])
def test_cr0_refuses_paging_without_protection_and_nw_without_cd(value: int) -> None:
    c, memory = flat()
    c.gpr[RBX] = value
    assert run(control.mov_to_cr, c, memory, 0, RBX) == FAULT
    assert fault_of(c) == (GP, 0)


def test_cr0_keeps_et_and_drops_reserved_bits() -> None:
    c, memory = flat()
    c.gpr[RBX] = 0x7FFFFFFF
    assert run(control.mov_to_cr, c, memory, 0, RBX) == JUMP
    assert c.cr0 == 0x6005003F
    assert c.rip == c.next_rip
    assert run(control.mov_from_cr, c, memory, 0, 1) == OK
    assert c.gpr[1] == 0x6005003F


@pytest.mark.parametrize(("bit", "flushes"), [(0, False), (16, True), (31, True), (1, False), (3, False), (18, False)])
def test_cr0_flushes_when_paging_changes(bit: int, flushes: bool) -> None:
    c, memory = flat()
    fill_tlb(c)
    c.gpr[RBX] = int(c.cr0) ^ 1 << bit
    assert run(control.mov_to_cr, c, memory, 0, RBX) == JUMP
    assert is_flushed(c) == flushes


def test_protected_mode_comes_and_goes() -> None:
    c, memory = make_cpu()
    c.gpr[RBX] = 0x11
    assert run(control.mov_to_cr, c, memory, 0, RBX) == JUMP
    assert c.mode & MODE_PE
    c.gpr[RBX] = 0x10
    assert run(control.mov_to_cr, c, memory, 0, RBX) == JUMP
    assert not c.mode & MODE_PE


def test_lmsw_sets_pe_but_does_not_clear_it() -> None:
    c, memory = make_cpu()
    assert run(control.lmsw, c, memory, 0xFFF9) == JUMP
    assert c.cr0 == 0x19
    assert c.mode & MODE_PE
    assert c.mode & MODE_TS
    assert run(control.lmsw, c, memory, 0) == JUMP
    assert c.cr0 == 0x11
    assert run(control.smsw, c, memory) == 0x11


def test_clts() -> None:
    c, memory = flat()
    c.gpr[RBX] = 0x19
    run(control.mov_to_cr, c, memory, 0, RBX)
    assert c.mode & MODE_TS
    assert run(control.clts, c, memory) == JUMP
    assert c.cr0 == 0x11
    assert not c.mode & MODE_TS


def test_cr2_and_cr3() -> None:
    c, memory = flat()
    fill_tlb(c)
    c.gpr[RBX] = 0xFFFFFFFF12345018
    assert run(control.mov_to_cr, c, memory, 2, RBX) == OK
    assert c.cr2 == 0x12345018
    assert not is_flushed(c)
    assert run(control.mov_to_cr, c, memory, 3, RBX) == JUMP
    assert c.cr3 == 0x12345018
    assert is_flushed(c)
    for reg in (2, 3):
        c.gpr[1] = 0
        assert run(control.mov_from_cr, c, memory, reg, 1) == OK
        assert c.gpr[1] == 0x12345018


def test_cr4_takes_what_is_announced() -> None:
    c, memory = flat()
    for k, (feature, bit) in enumerate(((FEATURE_TSC, 2), (FEATURE_PSE, 4), (FEATURE_PGE, 7))):
        c.features[0], c.cr4, c.gpr[RBX] = 0, 0, 1 << bit
        assert run(control.mov_to_cr, c, memory, 4, RBX) == FAULT
        assert fault_of(c) == (GP, 0)
        c.features[0] = feature
        fill_tlb(c)
        assert run(control.mov_to_cr, c, memory, 4, RBX) == JUMP
        assert c.cr4 == 1 << bit
        assert is_flushed(c) == (k > 0)


@pytest.mark.parametrize("model", ["pentium", "pentiumpro", "max"])
def test_cr4_pce_came_with_the_p6_family(model: str) -> None:
    """SDM vol. 3, 2.5; there is no bit of CPUID."""
    c, memory = flat()
    c.features[:] = feature_words(cpuid_table(model))
    c.cr4, c.gpr[RBX] = 0, 1 << 8
    assert run(control.mov_to_cr, c, memory, 4, RBX) == (FAULT if model == "pentium" else JUMP)
    assert c.cr4 == (0 if model == "pentium" else 1 << 8)


# ---- debug registers -------------------------------------------------------------------------------------------------


def test_fixed_bits_of_dr6_and_dr7() -> None:
    c, memory = flat()
    for value, dr6, dr7 in ((0, 0xFFFF0FF0, 0x400), (0xFFFFFFFF, 0xFFFFEFFF, 0xFFFF27FF)):
        c.gpr[RBX], c.dr[7] = value, 0x400
        assert run(system.mov_to_dr, c, memory, 6, RBX) == JUMP
        assert run(system.mov_to_dr, c, memory, 7, RBX) == JUMP
        assert (c.dr[6], c.dr[7]) == (dr6, dr7)


def test_dr4_and_dr5_are_aliases_unless_cr4_de() -> None:
    c, memory = flat()
    c.dr[6], c.dr[7] = 0xFFFF0FF1, 0x401
    for reg, value in ((4, 0xFFFF0FF1), (5, 0x401)):
        assert run(system.mov_from_dr, c, memory, reg, RBX) == OK
        assert c.gpr[RBX] == value
    c.features[0], c.gpr[RBX] = FEATURE_DE, 8
    assert run(control.mov_to_cr, c, memory, 4, RBX) == JUMP
    assert run(system.mov_from_dr, c, memory, 4, RBX) == FAULT
    assert fault_of(c) == (UD, None)


def test_general_detect() -> None:
    c, _ = flat()
    c.dr[7] = 0x2400
    assert call(system.mov_from_dr, c, 0, RBX) == FAULT
    assert fault_of(c) == (DB, None)
    assert (c.dr[6], c.dr[7], c.trap_rf) == (0xFFFF2FF0, 0x2400, RF), "the delivery clears GD"


# ---- descriptor tables -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "base"), [(2, 0x345678), (4, 0x12345678)])
def test_lgdt_and_lidt_by_operand_size(size: int, base: int) -> None:
    c, memory = flat()
    memory.put(0x8000, "HI", 0x7FF, 0x12345678)
    assert run(system.lgdt, c, memory, size, DS, 0x8000) == OK
    assert run(system.lidt, c, memory, size, DS, 0x8000) == OK
    assert (c.gdt_limit, c.gdt_base) == (c.idt_limit, c.idt_base) == (0x7FF, base)


def test_sgdt_and_sidt_at_every_level() -> None:
    c, memory = flat(3)
    c.gdt_base = c.idt_base = 0x12345678
    memory.write(0x8000, b"\xff" * 16)
    assert run(system.sgdt, c, memory, DS, 0x8000) == OK
    assert run(system.sidt, c, memory, DS, 0x8008) == OK
    assert memory.get(0x8000, "HI") == (c.gdt_limit, 0x12345678)
    assert memory.get(0x8008, "HI") == (c.idt_limit, 0x12345678)
    assert memory.read(0x8006, 2) == b"\xff\xff"


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("mode", "prefix"), [("real", ""), ("prot16", ""), ("prot32", "66")])
def test_sgdt_with_an_operand_size_of_16_bits_stores_the_whole_base(mode: str, prefix: str, engine: str) -> None:
    cpu = Bare(engine)
    cpu.set_mode(mode)
    code, asize = prefix + "0f0107" + prefix + "0f014f10", "edi" if mode == "prot32" else "ebx"
    cpu.write(0x1000, bytes.fromhex(code))
    cpu.set_registers({"eip": 0x1000, asize: 0x2000})
    cpu.c.gdt_base, cpu.c.gdt_limit, cpu.c.idt_base, cpu.c.idt_limit = 0x12345678, 0x77, 0xFEDCBA98, 0x3FF
    assert cpu.run(2).reason == "limit"
    assert cpu.read(0x2000, 6) + cpu.read(0x2010, 6) == bytes.fromhex("7700 78563412 ff03 98badcfe")


def test_sgdt_stores_nothing_when_its_second_part_faults() -> None:
    c, memory = flat()
    page_tables(c, memory, absent=(0x9000,))
    assert call(system.sgdt, c, DS, 0x8FFE) == FAULT
    assert fault_of(c) == (PF_FAULT, 2)
    assert memory.read(0x8FFE, 2) == b"\0\0"


def test_lgdt_over_the_end_of_a_real_mode_segment() -> None:
    c, memory = make_cpu()
    assert run(system.lgdt, c, memory, 2, DS, 0xFFFE) == FAULT
    assert fault_of(c) == (GP, 0)


def test_invlpg_forgets_one_page_for_every_level() -> None:
    c, memory = flat()
    fill_tlb(c)
    c.tlb[6 << 1] = 0x6000
    assert run(system.invlpg, c, memory, DS, 0x5FFF) == JUMP
    assert c.tlb[6 << 1] == 0x6000
    c.tlb[6 << 1] = ~u64(0)
    assert is_flushed(c)


# ---- HLT, CLI, STI ---------------------------------------------------------------------------------------------------


def test_hlt_stops_behind_itself() -> None:
    c, memory = flat()
    assert run(system.hlt, c, memory) == STOP
    assert (c.halted, c.exit_reason, c.rip) == (1, EXIT_HLT, c.next_rip)


@pytest.mark.parametrize(("cpl", "iopl"), list(itertools.product(range(4), range(4))))
def test_cli_and_sti_need_iopl(cpl: int, iopl: int) -> None:
    for function, before, after in ((system.cli, IF, 0), (system.sti, 0, IF)):
        c, memory = flat(cpl)
        c.rflags |= iopl * IOPL | before
        if cpl <= iopl:
            assert run(function, c, memory) == OK
            assert c.rflags & IF == after
        else:
            assert run(function, c, memory) == FAULT
            assert fault_of(c) == (GP, 0)


def test_sti_holds_interrupts_off_for_one_instruction_if_it_opened_them() -> None:
    c, memory = flat()
    c.left = 900
    assert run(system.sti, c, memory) == OK
    assert c.shadow == 101
    c.shadow, c.left = ~u64(0), 899
    assert run(system.sti, c, memory) == OK
    assert c.shadow == ~u64(0)


def test_stac_and_clac_are_for_level_0() -> None:
    """AC follows; above privilege level 0 it is #UD, not #GP (SDM vol. 2, CLAC, STAC)."""
    c, memory = make_cpu()
    protect(c, memory)
    c.cr4 = state.CR4_SMAP
    for function, ac, part in ((system.stac, AC, PERMITTED_TLB), (system.clac, 0, 0), (system.clac, 0, 0)):
        run(function, c, memory)
        assert int(c.rflags) & AC == ac
        assert c.tlb_off == part
    c, memory = make_cpu()
    protect(c, memory, 3)
    for function in (system.stac, system.clac):
        assert run(function, c, memory) == FAULT
        assert fault_of(c) == (UD, None)


def test_direction_flag() -> None:
    c, memory = flat(3)
    assert run(system.std, c, memory) == OK
    assert c.rflags & DF
    assert run(system.cld, c, memory) == OK
    assert not c.rflags & DF


# ---- PUSHF and POPF --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [2, 4])
def test_pushf_shows_all_flags_but_rf_and_vm(size: int) -> None:
    c, memory = flat()
    c.rflags = 2 | IF | IOPL3 | RF | ID
    top = int(c.gpr[RSP])
    assert run(system.pushf, c, memory, size) == OK
    assert c.gpr[RSP] == top - size
    image = 2 | IF | IOPL3 | ID | flags(c) & 0x8D5
    assert memory.get(top - size, "H" if size == 2 else "I")[0] == image & (1 << 8 * size) - 1


def popf_result(cpl: int, iopl: int, size: int, old: int, new: int) -> int:
    """Flags after POPF of `new`."""
    c, memory = flat(cpl)
    c.rflags = 2 | iopl * IOPL | old
    top = STACKS[cpl] - 0x400
    memory.put(top, "I", new)
    assert run(system.popf, c, memory, size) in (OK, JUMP)
    assert c.gpr[RSP] == top + size
    return flags(c)


def test_popf_by_level() -> None:
    everything = 0xFFFFFFFF
    free = 2 | 0x8D5 | TF | DF | NT | AC | ID
    assert popf_result(0, 0, 4, 0, everything) == free | IF | IOPL3
    assert popf_result(1, 1, 4, 0, everything) == free | IF | IOPL
    assert popf_result(3, 2, 4, 0, everything) == free | 2 * IOPL
    assert popf_result(3, 2, 4, IF, 0) == 2 | 2 * IOPL | IF
    assert popf_result(0, 3, 2, AC | ID, 0) == 2 | AC | ID
    assert popf_result(0, 0, 2, 0, everything) == 2 | 0x8D5 | TF | DF | NT | IF | IOPL3
    assert popf_result(0, 0, 4, RF, 0) == 2


def test_popf_of_tf_changes_the_mode() -> None:
    c, memory = flat()
    memory.put(int(c.gpr[RSP]), "I", TF)
    assert run(system.popf, c, memory, 4) == JUMP
    assert c.mode & MODE_TF


@pytest.mark.parametrize("function", [system.pushf, system.popf])
def test_stack_flags_in_v86_mode_need_iopl_3(function: Function) -> None:
    c, memory = flat()
    enter_v86(c, iopl=2)
    assert run(function, c, memory, 2) == FAULT
    assert fault_of(c) == (GP, 0)
    enter_v86(c, iopl=3)
    memory.put(0x16100, "H", 2 | CF | IF)
    assert run(function, c, memory, 2) == OK
    if function is system.popf:
        assert flags(c) == 2 | CF | IF | IOPL3 | VM


def test_popf_page_fault_leaves_everything() -> None:
    c, memory = flat()
    page_tables(c, memory, absent=(0xF000,))
    before = int(c.gpr[RSP])
    assert call(system.popf, c, 4) == FAULT
    assert fault_of(c) == (PF_FAULT, 0)
    assert c.gpr[RSP] == before
