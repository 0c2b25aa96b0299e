"""Random loops with flags over their edges (tests/engine/flag_programs.py) end as on the plain engine, cut anywhere."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest

from jitvm.bare import ENGINES
from jitvm.engine.accel import Options
from tests.engine.flag_programs import FlagLoops
from tests.engine.guest import Guest, same
from tests.engine.programs import CALLS, loaded
from tests.engine.test_counts import LIMIT, Restart
from tests.engine.test_interrupts import is_open, take
from tests.engine.test_regions import SOON
from tests.fast_set import share

WAYS = {
    "regions": SOON,
    "later": replace(SOON, hot=3, region_hot=7),
    "no joins": replace(SOON, joins=False),
    "no copies": replace(SOON, copies=False),
    "no lazy flags": replace(SOON, lazy_flags=False),
    "no dead flags": replace(SOON, dead_flags=False),
    "pinned": ENGINES["pinned"],
}
X87 = ("fsw", "fcw", "fpu_used", "fip", "fdp", "fcs", "fds", "fop", "mxcsr")
Plan = list[tuple[int, int]]
"""How many instructions at once, and the interrupt that comes then."""


def start(engine: str, source: str, bits: int, options: Options | None = None) -> Guest:
    """A guest about to run the program, with all that its CPU could have."""
    guest = loaded(engine, source, bits, options)
    guest.bare.vcpu.set_cpu("max")
    guest.registers(cr4=int(guest.c.cr4) | 0x600)
    return guest


def states(guest: Guest, plan: Plan, *, plain: bool) -> list[dict[str, Any]]:
    """The state at each cut, to the end."""
    out = []
    for n, vector in plan:
        why = guest.go(n)
        found = guest.state() | {name: int(getattr(guest.c, name)) for name in X87}
        out.append(found | {"xmm": guest.c.xmm.tolist(), "fpr": guest.c.fpr.tolist()})
        if why != "limit":
            return out
        if is_open(guest):
            take(guest, vector, plain=plain)
    raise AssertionError("the program does not end")


def compare(seed: int, bits: int, ways: list[str]) -> int:
    """One program; how many regions it made."""
    rng = random.Random(seed)
    source = FlagLoops(seed, bits, rng.randrange(2, 6), extra=seed % 3 == 0).text
    cut: Plan = [(rng.randrange(1, 90), CALLS[k % 3]) for k in range(12)]
    plans: list[Plan] = [[(LIMIT, 0)], [*cut, (LIMIT, 0)]]
    ends = [states(start("plain", source, bits), plan, plain=True) for plan in plans]
    made = 0
    for way in ways:
        guest = start("handlers", source, bits, WAYS[way])
        again = Restart(guest)
        for k in (0, 1, 0):
            for n, (a, b) in enumerate(zip(states(guest, plans[k], plain=False), ends[k], strict=True)):
                same(a, b, f"{way}, cut {n} of {plans[k]}\n{source}\n")
            again()
        made += guest.bare.vcpu.regions.installed
    return made


@pytest.mark.parametrize("seed", share(range(6), 1))
def test_random(seed: int) -> None:
    names = list(WAYS)
    made = [compare(seed, bits, [names[0], names[1 + (seed * 3 + bits) % (len(names) - 1)]]) for bits in (32, 16, 64)]
    assert any(made)
