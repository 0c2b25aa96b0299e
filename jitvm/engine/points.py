"""What a debugger writes into a CPU record: watched memory, caught events, a range to step over.

Only while the vCPU stands.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from jitvm.engine.accel import VcpuEngine
from jitvm.isa.catch import OTHERS as OTHERS_WORD
from jitvm.isa.debug import count_watches
from jitvm.isa.state import CATCH_TRACED_MSR, STOP_CATCH
from jitvm.isa.state import N_WATCH as GUEST_ENTRIES
from jitvm.isa.words import u64

NONE = (1 << 64) - 1
OTHERS, TRACED = int(OTHERS_WORD), int(CATCH_TRACED_MSR)
FIRST_ROWS = 16


class Point(NamedTuple):
    """One watched range: WATCH_* bits, first and last address."""

    kind: int
    first: int
    last: int


class Hit(NamedTuple):
    """`point`: index of the watched range; `address`: the first byte of the access that is watched."""

    point: int
    address: int


class Points:
    """Watched ranges, any number, as a table that the vCPUs of a machine share."""

    def __init__(self, points: Sequence[Point] = ()) -> None:
        self._rows = np.array([*points, *[(0, 0, 0)] * FIRST_ROWS], np.uint64)
        self._n = len(points)

    def __len__(self) -> int:
        return self._n

    def add(self, point: Point) -> None:
        """One more, with the next number."""
        if self._n == len(self._rows):
            self._rows = np.concatenate([self._rows, np.zeros_like(self._rows)])
        self._rows[self._n] = point
        self._n += 1

    def remove(self, n: int) -> None:
        """The point with this number goes; the last one gets its number."""
        self._n -= 1
        self._rows[n] = self._rows[self._n]

    def watch(self, engine: VcpuEngine) -> None:
        """These ranges are what a vCPU watches, and no others."""
        c = engine.c
        engine.set_watches(self._rows, self._n)
        c.n_hits, c.n_told = 0, 0
        count_watches(c, u64(np.any(c.watch_kind != 0)))
        engine.accel.flush(engine.address)


def hits(c: Any) -> list[Hit]:
    """What the instruction hit behind which the vCPU stopped (STOP_WATCH)."""
    return [Hit(int(c.hit_entry[k]) - GUEST_ENTRIES, int(c.hit_address[k])) for k in range(int(c.n_told))]


def set_catches(engine: VcpuEngine, vectors: Collection[int], others: int = 0, msr: int | None = None) -> None:
    """Catch these vectors, the CATCH_* events in `others`, and of MSRs `msr` (None: any)."""
    c = engine.c
    others |= int(c.catch[OTHERS]) & TRACED
    c.catch[:] = [*(sum(1 << v % 64 for v in vectors if v // 64 == n) for n in range(4)), others]
    c.n_catch = len(vectors) + others
    c.catch_number = NONE if msr is None else msr


def trace_msrs(engine: VcpuEngine, on: bool) -> None:
    """Leave with STOP_CATCH before each RDMSR and WRMSR, for the trace (`traced_msr`)."""
    c = engine.c
    was = int(c.catch[OTHERS]) & TRACED
    if bool(was) != on:
        c.catch[OTHERS] = int(c.catch[OTHERS]) ^ TRACED
        c.n_catch = int(c.n_catch) - was + on * TRACED


@dataclass(frozen=True)
class MsrAccess:
    """RDMSR or WRMSR (`write`): the number, the value, and whether this CPU has such a register."""

    index: int
    value: int
    write: bool
    known: bool


def traced_msr(engine: VcpuEngine) -> MsrAccess | None:
    """The access for which the vCPU left with EXIT_DEBUG, if it left for the trace."""
    c = engine.c
    if int(c.stop_why) != STOP_CATCH or int(c.caught_kind) != TRACED:
        return None
    return MsrAccess(int(c.caught_vector), int(c.caught_value), bool(c.caught_error), bool(c.caught_soft))


def set_range(engine: VcpuEngine, first: int, size: int) -> None:
    """Stop (STOP_RANGE) before the first instruction outside of `size` linear addresses; 0: wherever it is.

    Blocks end where the range ends, so all translations go when it is another one.
    """
    c = engine.c
    if (int(c.range_on), int(c.range_first), int(c.range_size)) != (int(size > 0), first, size):
        c.range_on, c.range_first, c.range_size = int(size > 0), first, size
        engine.accel.forget(engine.address)
