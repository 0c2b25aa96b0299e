"""Segment registers, LDTR, TR and the instructions that look at descriptors."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from jitvm.isa import mode, segment, verify
from jitvm.isa.state import EXIT, FAULT, GP, JUMP, NP, OK, PF_FAULT, SS_FAULT, UD
from jitvm.isa.table import CHECKED_BY
from tests.fast_set import share
from tests.isa.plain_cpu import (
    CODE,
    CODE0,
    DATA0,
    DATA3,
    DS,
    ES,
    FREE,
    FS,
    GDT,
    GDT_SIZE,
    LDTR,
    SEL_LDT,
    SEL_TSS,
    SS,
    TR,
    descriptor,
    enter_v86,
    fault_of,
    flags,
    gate,
    make_cpu,
    page_tables,
    protect,
    run,
    set_descriptor,
)
from tests.isa.unicorn_system import UnicornSystem, random_selector, random_system, state_of

ZF = 0x40
SEL = FREE
"""The selector whose descriptor a test sets (RPL 0)."""


def protected(cpl: int = 0) -> tuple[Any, Any]:
    c, memory = make_cpu()
    protect(c, memory, cpl)
    return c, memory


# ---- real and virtual-8086 mode -------------------------------------------------------------------------------------
def test_real_mode_load_keeps_limit_and_attributes() -> None:
    c, memory = make_cpu()
    c.limit[DS], c.attr[DS] = 0xFFFFFFFF, 0x8093
    mode.update_mode(c)
    assert run(segment.load_segment, c, memory, DS, 0x1234) == OK
    assert (c.sel[DS], c.base[DS], c.limit[DS], c.attr[DS]) == (0x1234, 0x12340, 0xFFFFFFFF, 0x8093)
    assert c.write_limit[DS] == 0xFFFFFFFF


def test_real_mode_load_revives_a_null_segment() -> None:
    c, memory = protected()
    assert run(segment.load_segment, c, memory, FS, 0) == OK
    c.cr0 = 0x10
    mode.update_mode(c)
    assert run(segment.load_segment, c, memory, FS, 0x40) == OK
    assert (c.base[FS], c.limit[FS], c.attr[FS]) == (0x400, 0xFFFF, 0x93)


def test_v86_load_sets_limit_and_rights() -> None:
    c, memory = protected()
    enter_v86(c)
    c.limit[ES] = 5
    assert run(segment.load_segment, c, memory, ES, 0xABCD) == OK
    assert (c.base[ES], c.limit[ES], c.attr[ES]) == (0xABCD0, 0xFFFF, 0xF3)


@pytest.mark.parametrize("reg", [1, 6, 7])
def test_cs_and_absent_registers_are_undefined(reg: int) -> None:
    c, memory = protected()
    assert run(segment.load_segment, c, memory, reg, DATA0) == FAULT
    assert fault_of(c) == (UD, None)


# ---- protected mode -------------------------------------------------------------------------------------------------
def test_load_fills_the_register_and_sets_the_accessed_bit() -> None:
    c, memory = protected()
    set_descriptor(memory, SEL, descriptor(0x12345678, 0xABCDE000, 0xC092))
    assert run(segment.load_segment, c, memory, DS, 0xFFFF0000 | SEL | 3) == FAULT
    assert run(segment.load_segment, c, memory, DS, 0xFFFF0000 | SEL) == JUMP  # no longer flat: another context
    assert c.rip == CODE + 2
    assert (c.sel[DS], c.base[DS], c.limit[DS], c.attr[DS]) == (SEL, 0x12345678, 0xABCDEFFF, 0xC093)
    assert memory.get(GDT + SEL + 5, "B") == (0x93,)


def test_same_context_goes_on() -> None:
    c, memory = protected()
    assert run(segment.load_segment, c, memory, DS, DATA0) == OK
    assert c.rip == CODE


def test_null_selector_makes_every_access_fault() -> None:
    c, memory = protected()
    assert run(segment.load_segment, c, memory, DS, 3) == JUMP
    assert (c.sel[DS], c.attr[DS], c.read_limit[DS], c.write_limit[DS]) == (3, 0, -1, -1)


LOADS = [
    # register, attributes, RPL, CPL, expected vector or OK
    (DS, 0xF3, 0, 0, OK),
    (DS, 0x93, 3, 0, GP),
    (DS, 0x93, 0, 3, GP),
    (DS, 0xF1, 3, 3, OK),
    (DS, 0xF5, 3, 3, OK),
    (DS, 0x9A, 0, 0, OK),
    (DS, 0x98, 0, 0, GP),
    (DS, 0x9C, 0, 0, GP),
    (DS, 0x9E, 3, 3, OK),
    (DS, 0x9E, 0, 3, OK),
    (DS, 0x9A, 0, 3, GP),
    (DS, 0x13, 0, 0, NP),
    (DS, 0x82, 0, 0, GP),
    (DS, 0x89, 0, 0, GP),
    (SS, 0x93, 0, 0, OK),
    (SS, 0x97, 0, 0, OK),
    (SS, 0x93, 3, 0, GP),
    (SS, 0xF3, 0, 0, GP),
    (SS, 0xF3, 3, 3, OK),
    (SS, 0x91, 0, 0, GP),
    (SS, 0x9B, 0, 0, GP),
    (SS, 0x13, 0, 0, SS_FAULT),
    (SS, 0x11, 0, 0, GP),
]


@pytest.mark.parametrize("table", [0, 4])
@pytest.mark.parametrize(("reg", "attr", "rpl", "cpl", "expected"), LOADS)
def test_checks_of_a_load(reg: int, attr: int, rpl: int, cpl: int, expected: int, table: int) -> None:
    c, memory = protected(cpl)
    selector = SEL | table | rpl
    set_descriptor(memory, selector, descriptor(0x100, 0xFFFF, attr))
    result = run(segment.load_segment, c, memory, reg, selector)
    if expected == OK:
        assert result == JUMP
        assert c.sel[reg] == selector
        assert c.attr[reg] == attr | 1
    else:
        assert fault_of(c) == (expected, selector & ~3)


def test_selectors_outside_their_table() -> None:
    c, memory = protected()
    for selector in (GDT_SIZE, 0x204, 0xFFFC):
        run(segment.load_segment, c, memory, DS, selector)
        assert fault_of(c) == (GP, selector & ~3)
    c.gdt_limit = DATA0 + 6
    run(segment.load_segment, c, memory, DS, DATA0)
    assert fault_of(c) == (GP, DATA0)
    c.attr[LDTR] = 0
    run(segment.load_segment, c, memory, DS, 0xC)
    assert fault_of(c) == (GP, 0xC)


def test_null_stack_segment() -> None:
    c, memory = protected()
    run(segment.load_segment, c, memory, SS, 0)
    assert fault_of(c) == (GP, 0)


def test_stack_segment_load_holds_interrupts_off() -> None:
    c, memory = protected()
    c.left = 900
    assert run(segment.load_segment, c, memory, DS, DATA0) == OK
    assert c.shadow == 2**64 - 1
    assert run(segment.load_segment, c, memory, SS, DATA0) == OK
    assert c.shadow == 101


def test_descriptor_on_an_absent_page() -> None:
    c, memory = protected(3)
    page_tables(c, memory, absent=(GDT,))
    run(segment.load_segment, c, memory, DS, DATA3)
    assert fault_of(c) == (PF_FAULT, 0)
    assert c.cr2 == GDT + (DATA3 & ~7)


def test_accessed_bit_on_a_read_only_page() -> None:
    c, memory = protected(3)
    set_descriptor(memory, SEL, descriptor(0, 0xFFFF, 0xF2))
    page_tables(c, memory, read_only=(GDT,))
    assert run(segment.load_segment, c, memory, DS, DATA3) == OK
    run(segment.load_segment, c, memory, DS, SEL)
    assert fault_of(c) == (PF_FAULT, 3)


# ---- POP, LES -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("size", [2, 4])
def test_pop_of_the_stack_segment_moves_the_old_stack_pointer(size: int) -> None:
    c, memory = protected()
    set_descriptor(memory, SEL, descriptor(0, 0xFFFF, 0x93))
    memory.put(0x1FFFC, "I", SEL)
    c.gpr[4] = 0x1FFFC
    assert run(segment.pop_segment, c, memory, size, SS) == JUMP
    assert c.gpr[4] == 0x1FFFC + size
    c.gpr[4] = 0x1FFFC
    memory.put(0xFFFC, "I", DATA0)
    assert run(segment.pop_segment, c, memory, size, SS) == JUMP
    assert c.gpr[4] == 0x10000 | (0xFFFC + size) & 0xFFFF


def test_far_pointer_that_wraps_in_its_address_size() -> None:
    c, memory = make_cpu()
    memory.put(0xFFFE, "H", 0x1111)
    memory.put(0, "H", 0x2222)
    assert run(segment.load_far_pointer, c, memory, 2, 2, 3, DS, 0xFFFE, ES) == OK
    assert (c.gpr[3], c.sel[ES]) == (0x1111, 0x2222)


def test_far_pointer_to_a_bad_segment_changes_nothing() -> None:
    c, memory = protected(3)
    memory.put(0x100, "IH", 0x12345678, DATA0)
    run(segment.load_far_pointer, c, memory, 4, 4, 0, DS, 0x100, SS)
    assert fault_of(c) == (GP, DATA0)


# ---- LDTR, TR -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("function", "attr", "selector", "expected"),
    [
        (segment.lldt, 0x82, SEL, None),
        (segment.lldt, 0x82, SEL | 4, (GP, SEL | 4)),
        (segment.lldt, 0x02, SEL, (NP, SEL)),
        (segment.lldt, 0x92, SEL, (GP, SEL)),
        (segment.ltr, 0x89, SEL, None),
        (segment.ltr, 0x81, SEL, None),
        (segment.ltr, 0x8B, SEL, (GP, SEL)),
        (segment.ltr, 0x09, SEL, (NP, SEL)),
        (segment.ltr, 0x89, SEL | 4, (GP, SEL | 4)),
        (segment.ltr, 0x89, 0, (GP, 0)),
    ],
)
def test_system_registers(function: Callable[..., int], attr: int, selector: int, expected: Any) -> None:
    c, memory = protected()
    set_descriptor(memory, selector or SEL, descriptor(0x7000, 0x1FF, attr))
    assert run(function, c, memory, selector) == (FAULT if expected else OK)
    if expected:
        assert fault_of(c) == expected
        return
    reg, busy = (LDTR, 0) if function is segment.lldt else (TR, 2)
    assert (c.sel[reg], c.base[reg], c.limit[reg], c.attr[reg]) == (SEL, 0x7000, 0x1FF, attr | busy)
    assert memory.get(GDT + SEL + 5, "B") == (attr | busy,)


def test_null_ldt() -> None:
    c, memory = protected()
    assert run(segment.lldt, c, memory, 2) == OK
    assert (c.sel[LDTR], c.attr[LDTR]) == (2, 0)


def test_privilege_of_system_registers() -> None:
    c, memory = protected(3)
    for unit in ("segment.lldt", "segment.ltr"):
        assert CHECKED_BY[unit] == "segment.need_supervisor"
    run(segment.need_supervisor, c, memory)
    assert fault_of(c) == (GP, 0)
    assert run(segment.sldt, c, memory) == SEL_LDT
    assert run(segment.str_, c, memory) == SEL_TSS


@pytest.mark.parametrize("v86", [False, True])
def test_undefined_outside_protected_mode(*, v86: bool) -> None:
    c, memory = make_cpu()
    if v86:
        protect(c, memory)
        enter_v86(c, 3)
    functions: list[Callable[..., Any]] = [
        segment.need_supervisor, segment.need_protected, segment.sldt, segment.str_
    ]  # fmt: skip
    for function in functions:
        run(function, c, memory)
        assert fault_of(c) == (UD, None)
    for unit in ("verify.verr", "verify.verw", "verify.lar", "verify.lsl"):
        assert CHECKED_BY[unit] == "segment.need_protected"


# ---- LAR, LSL, VERR, VERW, ARPL -------------------------------------------------------------------------------------
def test_lar_and_lsl() -> None:
    c, memory = protected()
    set_descriptor(memory, SEL, descriptor(0x100, 0xFFFFF, 0xC0F3))
    assert run(verify.lar, c, memory, 4, 1, SEL) == OK
    assert c.gpr[1] == 0xC0F300
    assert flags(c) & ZF
    c.gpr[1] = 0x55555555
    assert run(verify.lar, c, memory, 2, 1, SEL) == OK
    assert c.gpr[1] == 0x5555F300
    assert run(verify.lsl, c, memory, 4, 1, SEL) == OK
    assert c.gpr[1] == 0xFFFFF
    assert run(verify.lsl, c, memory, 4, 1, 0) == OK
    assert c.gpr[1] == 0xFFFFF
    assert not flags(c) & ZF


def test_system_types_that_lar_and_lsl_know() -> None:
    c, memory = protected()
    known: dict[Any, set[int]] = {verify.lar: set(), verify.lsl: set()}
    for kind in range(16):
        set_descriptor(memory, SEL, gate(CODE0, 0, 0x80 | kind))
        for function, types in known.items():
            run(function, c, memory, 4, 1, SEL)
            if flags(c) & ZF:
                types.add(kind)
    assert known[verify.lar] == {1, 2, 3, 4, 5, 9, 11, 12}
    assert known[verify.lsl] == {1, 2, 3, 9, 11}


def test_arpl() -> None:
    c, _ = make_cpu()
    assert verify.arpl(c.lazy, segment.u64(0x11), segment.u64(0x23)) == 0x13
    assert flags(c) & ZF
    assert verify.arpl(c.lazy, segment.u64(0x12), segment.u64(0x21)) == 0x12
    assert not flags(c) & ZF


# ---- against unicorn ------------------------------------------------------------------------------------------------
def random_case(rng: random.Random, c: Any, memory: Any) -> tuple[bytes, Callable[..., int], tuple[int, ...]]:
    """Code, function and arguments of one instruction; its operands are placed."""
    wide = rng.random() < 0.7
    size, prefix = (4, b"") if wide else (2, b"\x66")
    selector, sp = random_selector(rng), int(c.gpr[4])
    c.gpr[0] = selector | rng.getrandbits(16) << 16
    kind = rng.choice(("mov", "mov", "pop", "les", "lar", "lsl", "verr", "verw", "lldt", "ltr"))
    if kind == "mov":
        reg = rng.choice((ES, SS, DS, FS, 5))
        return bytes([0x8E, 0xC0 | reg << 3]), segment.load_segment, (reg, int(c.gpr[0]))
    if kind == "pop":
        reg, opcode = rng.choice(((ES, 0x07), (SS, 0x17), (DS, 0x1F)))
        memory.put(sp, "H", selector)
        return prefix + bytes([opcode]), segment.pop_segment, (size, reg)
    if kind == "les":
        memory.put(sp + size, "H", selector)
        return prefix + b"\xc4\x0c\x24", segment.load_far_pointer, (size, 4, 1, SS, sp, ES)
    if kind in ("lar", "lsl"):
        code = prefix + bytes([0x0F, 2 + (kind == "lsl"), 0xC8])
        return code, getattr(verify, kind), (size, 1, selector)
    if kind == "ltr" and selector & ~3 == 0:
        kind = "lldt"
    modrm = {"verr": 0xE0, "verw": 0xE8, "lldt": 0xD0, "ltr": 0xD8}[kind]
    return bytes([0x0F, 0, modrm]), getattr(segment if kind[0] == "l" else verify, kind), (selector,)


def perform(function: Callable[..., Any], c: Any, memory: Any, *args: int) -> int:
    """One instruction: what is asked first, then its unit."""
    first = CHECKED_BY.get(f"{function.__module__.rpartition('.')[2]}.{function.__name__}", "")
    if first:
        result = run(getattr(segment, first.removeprefix("segment.")), c, memory)
        if result != OK:
            return result
    return run(function, c, memory, *args)


@pytest.mark.parametrize("n", share([50, 1000], 1))
def test_random_instructions_as_on_unicorn(seed: int, n: int) -> None:
    rng, unicorn = random.Random(seed + n), UnicornSystem()
    faults, good = 0, 0
    for _ in range(n):
        c, memory = random_system(rng)
        code, function, args = random_case(rng, c, memory)
        c.next_rip = CODE + len(code)
        unicorn.load(c, memory)
        result = perform(function, c, memory, *args)
        assert c.status != EXIT
        expected = unicorn.run(CODE, code)
        what = f"{code.hex()} at CPL {c.cpl}, {[hex(a) for a in args]}"
        if result == FAULT:
            faults += 1
            assert c.vector == expected, what
        else:
            good += 1
            if result == OK:
                c.rip = c.next_rip
            assert state_of(c, memory) == expected, what
    assert min(faults, good) > n // 12
