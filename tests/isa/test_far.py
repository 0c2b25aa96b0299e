"""Far JMP, CALL and RET; every semantic function of segments, events and transfers as a unit."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from jitvm.isa import far, iret, mode, segment
from jitvm.isa.state import EXIT, FAULT, GP, JUMP, NP, PF_FAULT, SS_FAULT, TS
from tests.fast_set import share
from tests.isa.plain_cpu import (
    CODE,
    CODE0,
    CODE1,
    CODE2,
    CODE3,
    CS,
    DATA0,
    DATA1,
    DATA3,
    DS,
    FREE,
    GDT,
    SS,
    STACKS,
    TSS,
    descriptor,
    enter_v86,
    fault_of,
    gate,
    make_cpu,
    page_tables,
    protect,
    run,
    run_outside,
    set_descriptor,
)
from tests.isa.unicorn_system import UnicornSystem, random_selector, random_system, state_of

TARGET = 0x6000
CALL16, CALL32 = 0x84, 0x8C
SEL = FREE + 8
"""A second selector without a descriptor."""


def protected(cpl: int = 0) -> tuple[Any, Any]:
    c, memory = make_cpu()
    protect(c, memory, cpl)
    return c, memory


# ---- real and virtual-8086 mode -------------------------------------------------------------------------------------
@pytest.mark.parametrize("v86", [False, True])
@pytest.mark.parametrize("size", [2, 4])
def test_call_and_return_without_protection(size: int, *, v86: bool) -> None:
    c, memory = make_cpu()
    if v86:
        protect(c, memory)
        enter_v86(c)
    c.sel[CS], c.base[CS], c.next_rip, c.gpr[4] = 0x777, 0x7770, 0x1234, 0x55550010
    mode.update_mode(c)
    bottom = int(c.base[SS]) + (0x10 - 2 * size)
    assert run(far.far_call, c, memory, size, 0x4321, 0x0ABC) == JUMP
    assert memory.get(bottom, "HH" if size == 2 else "II") == (0x1234, 0x777)
    assert (c.sel[CS], c.base[CS], c.rip, c.gpr[4]) == (0xABC, 0xABC0, 0x4321, 0x55550010 - 2 * size)
    assert run(far.far_ret, c, memory, size, 6) == JUMP
    assert (c.sel[CS], c.base[CS], c.rip, c.gpr[4]) == (0x777, 0x7770, 0x1234, 0x55550016)
    assert c.limit[CS] == 0xFFFF


def test_offsets_outside_the_limit_without_protection() -> None:
    c, memory = make_cpu()
    c.gpr[4] = 0x1000
    memory.put(0x1000, "II", 0x10000, 0)
    for function, args in ((far.far_jmp, (4, 0x10000, 0)), (far.far_call, (4, 0x10000, 0)), (far.far_ret, (4, 0))):
        run(function, c, memory, *args)
        assert fault_of(c) == (GP, 0)
    assert run(far.far_jmp, c, memory, 2, 0x10000, 0x10) == JUMP
    assert (c.rip, c.base[CS]) == (0, 0x100)


def test_big_real_code_segment_stays_big() -> None:
    c, memory = make_cpu()
    c.limit[CS], c.attr[CS] = 0xFFFFFFFF, 0xC09B
    mode.update_mode(c)
    assert run(far.far_jmp, c, memory, 4, 0x123456, 0x10) == JUMP
    assert (c.limit[CS], c.attr[CS], c.rip, c.ctx) == (0xFFFFFFFF, 0xC09B, 0x123456, 0x100 << 32 | 1)


@pytest.mark.parametrize("function", [far.far_jmp_mem, far.far_call_mem])
def test_pointer_that_wraps_in_its_address_size(function: Callable[..., int]) -> None:
    c, memory = make_cpu()
    c.gpr[4] = 0x1000
    memory.put(0xFFFE, "H", 0x1111)
    memory.put(0, "H", 0x2222)
    assert run(function, c, memory, 2, 2, DS, 0xFFFE) == JUMP
    assert (c.rip, c.sel[CS]) == (0x1111, 0x2222)


# ---- the same privilege level ---------------------------------------------------------------------------------------
DIRECT = [
    # attributes of FREE, its RPL, CPL, expected
    (0x9A, 0, 0, None),
    (0x9A, 3, 0, GP),
    (0xFA, 0, 3, None),
    (0xFA, 3, 3, None),
    (0xFA, 0, 0, GP),
    (0x9A, 0, 3, GP),
    (0x9E, 0, 3, None),
    (0x9E, 3, 0, None),
    (0xFE, 0, 0, GP),
    (0x1A, 0, 0, NP),
    (0x92, 0, 0, GP),
    (0x82, 0, 0, GP),
    (0x8E, 0, 0, GP),
]


@pytest.mark.parametrize("function", [far.far_jmp, far.far_call])
@pytest.mark.parametrize(("attr", "rpl", "cpl", "expected"), DIRECT)
def test_direct_transfers(attr: int, rpl: int, cpl: int, expected: Any, function: Callable[..., int]) -> None:
    c, memory = protected(cpl)
    set_descriptor(memory, FREE, descriptor(0, 0xFFFFFFFF, 0xC000 | attr))
    result = run(function, c, memory, 4, TARGET, FREE | rpl)
    if expected is not None:
        assert fault_of(c) == (expected, FREE)
        return
    assert result == JUMP
    assert (c.sel[CS], c.rip, c.cpl) == (FREE | cpl, TARGET, cpl)
    assert memory.get(GDT + FREE + 5, "B") == (attr | 1,)
    if function is far.far_call:
        assert memory.get(STACKS[cpl] - 0x408, "II") == (CODE + 2, CODE0 + 0x11 * cpl)
        assert c.gpr[4] == STACKS[cpl] - 0x408


@pytest.mark.parametrize("function", [far.far_jmp, far.far_call])
def test_other_targets(function: Callable[..., int]) -> None:
    c, memory = protected()
    set_descriptor(memory, FREE, descriptor(0, 0xFFF, 0x409B))
    cases = ((2, (GP, 0)), (0x400, (GP, 0x400)), (0x3FC, (GP, 0x3FC)), (FREE, (GP, 0)))
    for selector, expected in cases:
        run(function, c, memory, 4, 0x1000, selector)
        assert fault_of(c) == expected


def test_call_without_room_on_the_stack() -> None:
    c, memory = protected()
    c.attr[SS], c.limit[SS], c.gpr[4] = 0xC097, 0xFFF, 0x1004
    mode.update_mode(c)
    run(far.far_call, c, memory, 4, TARGET, CODE0)
    assert fault_of(c) == (SS_FAULT, 0)


# ---- call gates -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("attr", "size"), [(CALL32, 4), (CALL16, 2)])
@pytest.mark.parametrize("params", [0, 1, 31])
def test_call_to_an_inner_level_and_back(attr: int, size: int, params: int) -> None:
    c, memory = protected(3)
    set_descriptor(memory, FREE, gate(CODE1 & ~3, TARGET, attr | 0x60, params))
    values = list(range(0x1111, 0x1111 + params))
    letter = "I" if size == 4 else "H"
    memory.put(int(c.gpr[4]), f"{params}{letter}", *values)
    sp = int(c.gpr[4])
    assert run(far.far_call, c, memory, 4, 0x99999999, FREE | 3) == JUMP
    frame = [CODE + 2, CODE3, *values, sp & (1 << 8 * size) - 1, DATA3]
    assert c.gpr[4] == STACKS[1] - size * len(frame)
    assert memory.get(int(c.gpr[4]), f"{len(frame)}{letter}") == tuple(frame)
    assert (c.cpl, c.sel[CS], c.sel[SS], c.rip) == (1, CODE1, DATA1, TARGET)
    c.sel[DS], c.attr[DS] = DATA1, 0xC0B3
    mode.update_mode(c)
    if size == 4:
        assert run(far.far_ret, c, memory, 4, 4 * params) == JUMP
        assert (c.cpl, c.sel[CS], c.sel[SS], c.rip, c.gpr[4]) == (3, CODE3, DATA3, CODE + 2, sp + 4 * params)
        assert (c.sel[DS], c.attr[DS]) == (0, 0)


GATES = [
    # gate DPL and P, RPL, target, attributes of SEL, JMP (else CALL), expected
    (0xEC, 3, CODE3, 0, 1, None),
    (0xEC, 3, CODE3, 0, 0, None),
    (0xEC, 3, CODE0, 0, 1, (GP, CODE0)),
    (0xEC, 3, SEL, 0x9F, 1, None),
    (0xEC, 3, SEL, 0x9F, 0, None),
    (0x8C, 0, CODE3, 0, 0, (GP, FREE)),
    (0xCC, 3, CODE3, 0, 0, (GP, FREE)),
    (0x6C, 3, CODE3, 0, 0, (NP, FREE)),
    (0xEC, 3, 0, 0, 0, (GP, 0)),
    (0xEC, 3, 0x3F8, 0, 0, (GP, 0x3F8)),
    (0xEC, 3, DATA3, 0, 0, (GP, DATA3 & ~3)),
    (0xEC, 3, SEL, 0x1B, 0, (NP, SEL)),
    (0xEC, 3, SEL, 0x7B, 1, (NP, SEL)),
]


@pytest.mark.parametrize(("gate_attr", "rpl", "target", "attr", "jump", "expected"), GATES)
def test_checks_of_a_call_gate(gate_attr: int, rpl: int, target: int, attr: int, jump: int, expected: Any) -> None:
    c, memory = protected(3)
    set_descriptor(memory, FREE, gate(target, TARGET, gate_attr))
    set_descriptor(memory, SEL, descriptor(0, 0xFFFFFFFF, 0xC000 | attr))
    result = run(far.far_jmp if jump else far.far_call, c, memory, 2, 0, FREE | rpl)
    if expected is not None:
        assert fault_of(c) == expected
        return
    assert result == JUMP
    assert (c.rip, c.cpl, c.sel[CS]) == (TARGET, 3, target | 3)
    assert c.gpr[4] == STACKS[3] - 0x400 - (0 if jump else 8)


def test_gate_to_an_outer_level_is_refused() -> None:
    c, memory = protected(0)
    set_descriptor(memory, FREE, gate(CODE3, TARGET, CALL32))
    run(far.far_call, c, memory, 4, 0, FREE)
    assert fault_of(c) == (GP, CODE3 & ~3)


def test_stack_of_an_inner_call() -> None:
    c, memory = protected(3)
    set_descriptor(memory, FREE, gate(CODE2, TARGET, CALL32 | 0x60, 2))
    set_descriptor(memory, SEL, descriptor(0x10000, 0xFFF, 0x40D3))
    for esp, ss, expected in (
        (0x1000, 0, (TS, 0)),
        (0x1000, DATA1, (TS, DATA1 & ~3)),
        (0x14, SEL | 2, (SS_FAULT, SEL)),
        (0x1004, SEL | 2, (SS_FAULT, SEL)),
    ):
        memory.put(TSS + 20, "II", esp, ss)
        run(far.far_call, c, memory, 4, 0, FREE | 3)
        assert fault_of(c) == expected
    memory.put(TSS + 20, "II", 0x18, SEL | 2)
    assert run(far.far_call, c, memory, 4, 0, FREE | 3) == JUMP
    assert (c.gpr[4], c.base[SS]) == (0, 0x10000)


def test_parameters_on_an_absent_page() -> None:
    c, memory = protected(3)
    set_descriptor(memory, FREE, gate(CODE0, TARGET, CALL32 | 0x60, 4))
    c.gpr[4] = STACKS[3] - 8
    page_tables(c, memory, absent=(STACKS[3],))
    run(far.far_call, c, memory, 4, 0, FREE | 3)
    assert fault_of(c) == (PF_FAULT, 4)


def test_parameters_from_outside_of_memory_are_read_once() -> None:
    c, memory = protected(3)
    set_descriptor(memory, FREE, gate(CODE0, TARGET, CALL32 | 0x60, 2))
    c.gpr[4] = STACKS[3]
    memory.map(STACKS[3], 0x1000, None)
    memory.map(STACKS[0] - 0x1000, 0x1000, None)
    reads = {STACKS[3]: 0xAAAA, STACKS[3] + 4: 0xBBBB}
    result, writes = run_outside(far.far_call, c, memory, 4, 0, FREE | 3, reads=reads)
    assert result == JUMP
    frame = (DATA3, STACKS[3], 0xBBBB, 0xAAAA, CODE3, CODE + 2)
    assert writes == [(STACKS[0] - 4 * k - 4, 4, word) for k, word in enumerate(frame)]
    assert c.io_n == 8


# ---- RET ------------------------------------------------------------------------------------------------------------
RETURNS = [
    # CS, SS, attributes of FREE, expected
    (0, DATA3, 0, (GP, 0)),
    (DATA0, DATA0, 0, (GP, DATA0)),
    (0x3FB, DATA3, 0, (GP, 0x3F8)),
    (CODE0 | 3, DATA3, 0, (GP, CODE0)),
    (FREE | 3, DATA3, 0x7B, (NP, FREE)),
    (CODE3, 0, 0, (GP, 0)),
    (CODE3, DATA0, 0, (GP, DATA0)),
    (CODE3, FREE | 3, 0xF1, (GP, FREE)),
    (CODE3, FREE | 3, 0x73, (SS_FAULT, FREE)),
]


@pytest.mark.parametrize(("cs", "ss", "attr", "expected"), RETURNS)
def test_checks_of_a_return(cs: int, ss: int, attr: int, expected: Any) -> None:
    c, memory = protected()
    set_descriptor(memory, FREE, descriptor(0, 0xFFFFFFFF, 0xC000 | attr))
    memory.put(int(c.gpr[4]), "IIIII", CODE, cs, 0, 0x15000, ss)
    run(far.far_ret, c, memory, 4, 4)
    assert fault_of(c) == expected


def test_return_to_an_inner_level_is_refused() -> None:
    c, memory = protected(3)
    memory.put(int(c.gpr[4]), "II", CODE, CODE0)
    run(far.far_ret, c, memory, 4, 0)
    assert fault_of(c) == (GP, CODE0)


def test_return_to_a_conforming_segment_of_the_callers_level() -> None:
    c, memory = protected(3)
    set_descriptor(memory, FREE, descriptor(0, 0xFFFFFFFF, 0xC09F))
    memory.put(int(c.gpr[4]), "II", TARGET, FREE | 3)
    assert run(far.far_ret, c, memory, 4, 0) == JUMP
    assert (c.cpl, c.sel[CS], c.rip) == (3, FREE | 3, TARGET)


@pytest.mark.parametrize("outer", [False, True])
def test_return_outside_the_limit(*, outer: bool) -> None:
    c, memory = protected()
    set_descriptor(memory, FREE, descriptor(0, 0xFFF, 0x40FB if outer else 0x409B))
    memory.put(int(c.gpr[4]), "IIII", 0x1000, FREE | 3 * outer, 0x15000, DATA3)
    run(far.far_ret, c, memory, 4, 0)
    assert fault_of(c) == (GP, 0)


# ---- against unicorn ------------------------------------------------------------------------------------------------
def random_return(rng: random.Random, memory: Any, sp: int, size: int, gap: int) -> None:
    """A return frame; `gap` bytes lie between CS and the outer stack pointer."""
    letter = "H" if size == 2 else "I"
    cs = rng.choice((CODE0, CODE1, CODE2, CODE3))
    ss = rng.choice((cs + 8, cs + 8, DATA0, DATA3, random_selector(rng)))
    if rng.random() < 0.5:
        cs = random_selector(rng)
    memory.put(sp, letter * 2, rng.choice((TARGET, 0x7000)), cs)
    memory.put(sp + 2 * size + gap, letter * 2, 0x4320, ss)


def random_case(rng: random.Random, c: Any, memory: Any) -> tuple[bytes, Callable[..., int], tuple[int, ...]]:
    """Code, function and arguments of one instruction; its operands are placed."""
    size, prefix = (4, b"") if rng.random() < 0.7 else (2, b"\x66")
    selector, offset, sp = random_selector(rng), rng.choice((TARGET, 0x7000)), int(c.gpr[4])
    kind = rng.choice(("jmp", "call", "ret", "iret"))
    if kind in ("jmp", "call"):
        opcode = b"\xea" if kind == "jmp" else b"\x9a"
        code = prefix + opcode + offset.to_bytes(size, "little") + selector.to_bytes(2, "little")
        return code, getattr(far, f"far_{kind}"), (size, offset, selector)
    if kind == "ret":
        imm = rng.choice((0, 4, 8))
        random_return(rng, memory, sp, size, imm)
        return prefix + b"\xca" + imm.to_bytes(2, "little"), far.far_ret, (size, imm)
    random_return(rng, memory, sp, size, size)
    # neither VM, NT (a task) nor TF (unicorn would trap)
    memory.put(sp + 2 * size, "H" if size == 2 else "I", rng.getrandbits(8 * size) & ~0x24100 | 2)
    c.rflags = 2 | rng.randrange(4) << 12
    return prefix + b"\xcf", iret.iret, (size,)


def unicorn_is_wrong(c: Any, memory: Any, code: bytes, selector: int) -> bool:
    """Known errors that random states can't avoid (`unicorn_system.py`): JMP through a gate to what is not present; a
    TSS in the LDT."""
    if c.vector == NP and code.lstrip(b"\x66")[0] == 0xEA:
        return True
    at = int(segment.descriptor_address(c, mode.u64(selector))) if selector else 0
    return c.vector == GP and bool(selector & 4) and memory.get(at + 5, "B")[0] & 0x17 == 1


def keep_cpl(code: bytes, cpl: int, attr: int, theirs: dict[str, Any]) -> None:
    """Another one: unicorn's CALL through a gate takes the RPL in CS from a conforming segment's DPL."""
    if code.lstrip(b"\x66")[0] == 0x9A and attr & 0x1C == 0x1C:
        theirs["sel"][CS] = theirs["sel"][CS] & ~3 | cpl


@pytest.mark.parametrize("n", share([60, 1000], 1))
def test_random_transfers_as_on_unicorn(seed: int, n: int) -> None:
    rng, unicorn = random.Random(seed + n), UnicornSystem()
    faults, good = 0, 0
    for _ in range(n):
        c, memory = random_system(rng)
        code, function, args = random_case(rng, c, memory)
        c.next_rip = CODE + len(code)
        mode.update_mode(c)
        unicorn.load(c, memory)
        cpl = int(c.cpl)
        result = run(function, c, memory, *args)
        if c.status == EXIT:
            continue
        expected = unicorn.run(CODE, code)
        what = f"{code.hex()} at CPL {c.cpl}, {[hex(a) for a in args]}"
        if result == FAULT:
            faults += 1
            if c.vector != expected:
                assert unicorn_is_wrong(c, memory, code, args[-1]), what
        else:
            good += 1
            assert isinstance(expected, dict), what
            keep_cpl(code, cpl, int(c.attr[CS]), expected)
            assert state_of(c, memory) == expected, what
    assert min(faults, good) > n // 12
