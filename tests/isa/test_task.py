"""Random hardware task switches, as on unicorn; directed tests for all engines are in tests/engine/test_tasks.py.

What unicorn 2.1.4 (QEMU's translator) has otherwise, so that random states avoid it:

* it looks for the selectors of a 16-bit TSS at 22h, 26h, 2Ah and 2Eh (SDM vol. 3, figure 7-10: 22h to 28h);
* EIP behind the limit of the code segment, and a limit of the current TSS, are not looked at where the manual asks;
* accessed bits stay clear;
* the order of checks is CS, SS, then data segments, where table 7-1 of the manual has the DPL of CS, SS, CS: one error
  at a time; and the privilege of a data segment goes before its presence, where the table has presence first (#NP).
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from jitvm.isa import far, iret, mode
from jitvm.isa.state import FAULT, JUMP, NP, TS
from tests.fast_set import share
from tests.isa.plain_cpu import (
    CODE,
    CODE0,
    CODE1,
    CODE3,
    DATA0,
    DATA1,
    DATA3,
    FREE,
    LDT,
    SEL_LDT,
    descriptor,
    make_cpu,
    protect,
    run,
    set_descriptor,
)
from tests.isa.plain_cpu import (
    TSS as OLD,
)
from tests.isa.unicorn_system import UnicornSystem, random_selector, state_of

NEW, NEW_SEL = 0x8000, FREE
LEVELS = {0: (CODE0, DATA0), 1: (CODE1, DATA1), 3: (CODE3, DATA3)}


def random_tss(rng: random.Random, memory: Any) -> None:
    """A new task at a random level, often with one wrong selector."""
    code, data = LEVELS[rng.choice((0, 0, 1, 3))]
    values = [rng.choice((data, DATA3, 0)), code, data, data, 0, data]
    if rng.random() < 0.4:
        values[rng.randrange(6)] = random_selector(rng)
    registers = [rng.getrandbits(32) for _ in range(8)]
    memory.put(NEW + 0x20, "10I", rng.randrange(0x8000), rng.getrandbits(32) & 0x47ED5 | 2, *registers)
    memory.put(NEW + 0x48, "6I", *(v | rng.getrandbits(16) << 16 for v in values))
    memory.put(NEW + 0x60, "H", rng.choice((0, SEL_LDT, SEL_LDT, SEL_LDT, random_selector(rng))))


def random_state(rng: random.Random) -> tuple[Any, Any, bool]:
    """The CPU at a random level, a new TSS (busy: for IRET) at NEW_SEL, descriptors without a wrong order of checks."""
    c, memory = make_cpu()
    protect(c, memory, rng.choice((0, 0, 3)))
    for selector in range(NEW_SEL + 8, NEW_SEL + 0x80, 8):
        kind = rng.choice((0xF3, 0x93, 0xFB, 0x9B, 0x9F, 0x99, 0x91, 0x82, 0x89, 0x84, 0x13, 0x1B))
        set_descriptor(memory, selector, descriptor(0, 0xFFFFFFFF, 0xC000 | kind))
        set_descriptor(memory, selector - NEW_SEL & 0x1F8 | 4, descriptor(0x10, 0xFFFFF, 0x4000 | kind))
    back = rng.random() < 0.3
    attr = 0xE9 | 2 * back
    if rng.random() < 0.1:
        attr ^= rng.choice((2, 0x80))
    set_descriptor(memory, NEW_SEL, descriptor(NEW, rng.choice((0x67, 0x67, 0x67, 0x66)), attr))
    random_tss(rng, memory)
    if rng.random() < 0.3:
        memory.put(LDT + 8 * 3, "Q", descriptor(0, 0xFFFFFFFF, 0xC0F3))
    for k in (0, 1, 2, 3, 5, 6, 7):
        c.gpr[k] = rng.getrandbits(32)
    c.rflags = 2 | rng.getrandbits(2) << 12
    if back:
        c.rflags = int(c.rflags) | 0x4000
        memory.put(OLD, "H", NEW_SEL)
    return c, memory, back


@pytest.mark.parametrize("n", share([60, 3000], 1))
def test_random_switches_as_on_unicorn(seed: int, n: int) -> None:
    rng, unicorn = random.Random(seed), UnicornSystem()
    faults, good = 0, 0
    for _ in range(n):
        c, memory, back = random_state(rng)
        function: Callable[..., Any] = iret.iret
        code, args = b"\xcf", [4]
        if not back:
            call = rng.random() < 0.5
            function = far.far_call if call else far.far_jmp
            code = (b"\x9a" if call else b"\xea") + bytes(4) + NEW_SEL.to_bytes(2, "little")
            args = [4, 0, NEW_SEL]
        c.next_rip = CODE + len(code)
        mode.update_mode(c)
        unicorn.load(c, memory)
        result = run(function, c, memory, *args)
        expected = unicorn.run(CODE, code)
        what = (
            f"{code.hex()}: {result} {c.vector} {c.error:#x}, unicorn {expected if isinstance(expected, int) else ''}"
        )
        if result == FAULT:
            faults += 1
            assert c.vector == expected or (c.vector, expected) == (NP, TS), what
            continue
        good += 1
        assert result == JUMP and isinstance(expected, dict), what
        assert state_of(c, memory) == expected, what
    assert min(faults, good) > n // 6
