"""What a debugger writes into a CPU record: watched memory, caught events, a range to step over.

Only while the vCPU stands.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import numpy as np

from jitvm.engine.accel import VcpuEngine
from jitvm.errors import ConfigError
from jitvm.isa.debug import count_watches
from jitvm.isa.state import N_WATCH
from jitvm.isa.words import u64

GUEST_ENTRIES = 4
"""Entries of the watch tables that belong to the guest's debug registers."""
MOST_WATCHES = N_WATCH - GUEST_ENTRIES
NONE = (1 << 64) - 1


class Point(NamedTuple):
    """One watched range: WATCH_* bits, first and last address."""

    kind: int
    first: int
    last: int


class Hit(NamedTuple):
    """`point`: index of the watched range; `address`: the first byte of the access that is watched."""

    point: int
    address: int


def set_watches(engine: VcpuEngine, points: Sequence[Point]) -> None:
    """Watch these ranges and no others."""
    if len(points) > MOST_WATCHES:
        raise ConfigError(f"{len(points)} watchpoints are too many; there is room for {MOST_WATCHES}")
    c = engine.c
    for n, point in enumerate(points, GUEST_ENTRIES):
        c.watch_kind[n], c.watch_first[n], c.watch_last[n] = point
    c.n_points, c.n_hits, c.n_told = len(points), 0, 0
    count_watches(c, u64(np.any(c.watch_kind[:GUEST_ENTRIES] != 0)))
    engine.accel.flush(engine.address)


def hits(c: Any) -> list[Hit]:
    """What the instruction hit behind which the vCPU stopped (STOP_WATCH)."""
    return [Hit(int(c.hit_entry[k]) - GUEST_ENTRIES, int(c.hit_address[k])) for k in range(int(c.n_told))]


def set_catches(engine: VcpuEngine, vectors: Collection[int], others: int = 0, msr: int | None = None) -> None:
    """Catch these vectors, the CATCH_* events in `others`, and of MSRs `msr` (None: any)."""
    c = engine.c
    c.catch[:] = [*(sum(1 << v % 64 for v in vectors if v // 64 == n) for n in range(4)), others]
    c.n_catch = len(vectors) + others
    c.catch_number = NONE if msr is None else msr


def set_range(engine: VcpuEngine, first: int, size: int) -> None:
    """Stop (STOP_RANGE) before the first instruction outside of `size` linear addresses; 0: wherever it is.

    Blocks end where the range ends, so all translations go when it is another one.
    """
    c = engine.c
    if (int(c.range_on), int(c.range_first), int(c.range_size)) != (int(size > 0), first, size):
        c.range_on, c.range_first, c.range_size = int(size > 0), first, size
        engine.accel.forget(engine.address)
