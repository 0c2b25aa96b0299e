"""A program on the plain engine and in every other way: in pieces, with something done to it behind each, and compared."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from jitvm.bare import ENGINES
from jitvm.engine.accel import Options
from jitvm.engine.points import Points, hits, set_range
from jitvm.isa.state import CS, MODE_CODE64
from tests.engine.guest import IDT, Guest, same
from tests.engine.programs import loaded
from tests.engine.test_counts import Restart
from tests.engine.test_interrupts import is_open, take
from tests.engine.test_regions import SOON

WAYS = {
    "regions": SOON,
    "later": replace(SOON, hot=3, region_hot=7),
    "no joins": replace(SOON, joins=False),
    "no copies": replace(SOON, copies=False),
    "no lazy flags": replace(SOON, lazy_flags=False),
    "no dead flags": replace(SOON, dead_flags=False),
    "pinned": ENGINES["pinned"],
}
MORE_WAYS = WAYS | {
    "handlers": ENGINES["handlers"],
    "groups": ENGINES["groups"],
    "stencils": ENGINES["stencils"],
    "pinned later": Options(regions=False, hot=2, drops=4, pin_hot=5),
    "no fusing": replace(SOON, fuse=False),
    "no shared look-ups": replace(SOON, shared_lookups=False),
    "no grouped look-ups": replace(SOON, grouped_lookups=False),
    "no returns": replace(SOON, returns=False),
    "no targets": replace(SOON, targets=False),
    "no pads": replace(SOON, pads=False),
    "no chain": replace(SOON, chain=False),
    "no jump cache": replace(SOON, jump_cache=False),
}
X87 = ("fsw", "fcw", "fpu_used", "fip", "fdp", "fcs", "fds", "fop", "mxcsr")
Act = Callable[[Guest], None]
Plan = Sequence[tuple[int, Act | None]]
"""How many instructions at once, and what is done then."""
ENOUGH = 8000
"""Instructions of a last piece: programs that jump wildly may not end."""
Make = Callable[[str, Options | None], Guest]
"""A guest about to run the program, by the engine's name and its options."""


def start(engine: str, options: Options | None, *, source: str, bits: int) -> Guest:
    """A guest of `loaded` with all that its CPU could have."""
    guest = loaded(engine, source, bits, options)
    guest.bare.vcpu.set_cpu("max")
    guest.registers(cr4=int(guest.c.cr4) | 0x600)
    return guest


def set_vector(guest: Guest, bits: int, vector: int, at: int) -> None:
    """Lead an interrupt gate of a guest of `loaded` to a handler."""
    if bits == 16:
        guest.bare.write(4 * vector, struct.pack("<HH", at, 0))
    else:
        gate = struct.pack("<HHHH", at, 8, 0x8E00, 0) + bytes(8 * (bits == 64))
        guest.bare.write(IDT + len(gate) * vector, gate)


def interrupt(vector: int) -> Act:
    """An external interrupt, if it is let in."""

    def act(guest: Guest) -> None:
        if is_open(guest):
            take(guest, vector, plain=guest.engine == "plain")

    return act


def linear_pc(guest: Guest) -> int:
    """Where it is."""
    c = guest.c
    return int(c.rip) if int(c.mode) & int(MODE_CODE64) else (int(c.rip) + int(c.base[CS])) & 0xFFFF_FFFF


def look(guest: Guest) -> dict[str, Any]:
    """All that is compared."""
    found = guest.state() | {name: int(getattr(guest.c, name)) for name in X87}
    return found | {"xmm": guest.c.xmm.tolist(), "fpr": guest.c.fpr.tolist()}


def states(guest: Guest, plan: Plan) -> list[dict[str, Any]]:
    """The state behind each piece and at each stop, to the end or that of the plan."""
    out, c = [], guest.c
    for n, act in plan:
        goal = guest.retired + n
        while (why := guest.go(goal - guest.retired)) == "debug":
            out.append(look(guest) | {"stop": int(c.stop_why), "hits": [*map(tuple, hits(c))]})
            c.resume_at, c.resume_lin = guest.bare.vcpu.retired(), linear_pc(guest)
            set_range(guest.bare.vcpu, 0, 0)
        out.append(look(guest))
        if why != "limit":
            return out
        if act:
            act(guest)
    return out


def compare(make: Make, plans: Sequence[Plan], ways: Iterable[str], source: str) -> int:
    """Each plan cold, the first once more when all is warm; how many regions were made."""
    ends = [states(make("plain", None), plan) for plan in plans]
    made = 0
    for way in ways:
        guest = make("handlers", MORE_WAYS[way])
        again = Restart(guest)
        for k in (*range(len(plans)), 0):
            found = states(guest, plans[k])
            for n, (a, b) in enumerate(zip(found, ends[k], strict=False)):
                same(a, b, f"{way}, plan {k}, state {n} of {len(ends[k])}\n{source}\n")
            assert len(found) == len(ends[k])
            Points().watch(guest.bare.vcpu)
            set_range(guest.bare.vcpu, 0, 0)
            guest.bare.vcpu.set_breakpoints(())
            again()
        made += guest.bare.vcpu.regions.installed
    return made
