"""Interrupts at random instruction counts: every engine delivers them at the same boundary, with the same state.

Random programs (tests/engine/programs.py), whose interrupt handlers change registers and flags, so that one that came a
single instruction early or late would show.
"""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest

from jitvm.engine.accel import Options
from jitvm.isa.events import injected_event
from jitvm.isa.flags import IF
from jitvm.isa.state import JUMP, OK
from tests.engine.guest import Guest, same
from tests.engine.programs import CALLS, loaded, looping, program
from tests.engine.test_counts import LIMIT, to_the_end
from tests.engine.test_regions import SOON
from tests.engine.test_regions_beside import BESIDE
from tests.fast_set import share

WAYS = {
    "handlers": Options(),
    "stencils": Options(hot=1, regions=False),
    "groups": Options(stencils=False, group_hot=1),
    "regions": SOON,
    "regions beside": BESIDE,
    "regions, no pads": replace(SOON, pads=False),
}


def is_open(guest: Guest) -> bool:
    """Whether an interrupt may come before the next instruction (`Vcpu.interrupts_open`, `is_half_done`)."""
    c = guest.c
    held = int(c.shadow) == guest.bare.vcpu.retired() or int(c.step_armed) or int(c.io_n)
    return bool(int(c.rflags) & int(IF)) and not held


def take(guest: Guest, vector: int, *, plain: bool) -> None:
    """An external interrupt; the plain engine has no loop around its instructions that would deliver it."""
    guest.bare.vcpu.inject(vector)
    if plain:
        with np.errstate(over="ignore"):
            assert injected_event(guest.c) == JUMP
        guest.c.status = OK


def interrupted(
    engine: str, source: str, bits: int, counts: list[int], options: Options | None = None
) -> tuple[Guest, int]:
    """A run to the end with interrupts at these counts, where they are let in; how many came."""
    guest, n = loaded(engine, source, bits, options), 0
    for k, count in enumerate(counts):
        if count > guest.retired and guest.go(count - guest.retired) != "limit":
            return guest, n
        if is_open(guest):
            take(guest, CALLS[k % len(CALLS)], plain=engine == "plain")
            n += 1
    to_the_end(guest, LIMIT)
    return guest, n


def check(source: str, bits: int, seed: int) -> int:
    """All engines; the number of interrupts."""
    length = loaded("plain", source, bits)
    to_the_end(length, LIMIT)
    chance = random.Random(seed)
    counts = sorted({chance.randrange(1, length.retired + 40) for _ in range(12)})
    plain, n = interrupted("plain", source, bits, counts)
    for name, options in WAYS.items():
        guest, came = interrupted("handlers", source, bits, counts, options)
        assert came == n
        same(guest.state(), plain.state(), f"{name}, at {counts}\n{source}\n")
    return n


@pytest.mark.parametrize("bits", [32, 16, 64])
@pytest.mark.parametrize("seed", share(range(300, 303), 1))
def test_random(seed: int, bits: int) -> None:
    assert sum(check(source, bits, seed) for source in (looping(seed, bits), program(seed, bits))) > 0


@pytest.mark.slow
@pytest.mark.parametrize("bits", [32, 16, 64])
@pytest.mark.parametrize("seed", range(320, 335))
def test_random_long(seed: int, bits: int) -> None:
    check(looping(seed, bits, 16), bits, seed)
