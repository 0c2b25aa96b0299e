"""The stencils of a process: kept by name, found in the cache, or stamped: at once, or beside the guest.

Whoever waits for none of them (`--jit sync`, tests) has what is missing stamped on its own thread.  Otherwise the compiler
process stamps, in batches, while the guest runs on with handlers: what is wanted while one batch is under way goes into the
next, and each stencil is ordered once, however many vCPUs want it.  The process writes the batch to the cache, and the
vCPUs that wait are woken (`jitvm.engine.waiting`): the first one to come by enters the batch, and orders the next.

When the process ends over a batch, its instructions stay with handlers in this run; the next run tries again.  Where there
is no process any more, which the user was told (`Compiler`), and where the cache keeps nothing, so that a process would
have to begin with Numba, stencils are stamped at once.
"""

from __future__ import annotations

import time
import weakref
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from jitvm.engine import pinned, stencil, stencil_key
from jitvm.engine.code import NEIGHBOURS, Code, handler_symbol, tier_of
from jitvm.engine.compiler import Compiler, Made
from jitvm.engine.forms import Shape
from jitvm.engine.units import Units

if TYPE_CHECKING:
    from jitvm.engine.waiting import Waiting

UNCUTTABLE = 1
"""In place of a blob's address: there is no such stencil."""
SHAPE = 0xFFFF
"""Of a key: the number of its shape."""


def compile_stencils(units: Units, names: Sequence[str], shapes: Sequence[Shape], keys: Sequence[int]) -> Made:
    """Stamp stencils by key, plain and pinned; what can't be cut is empty."""
    start = time.perf_counter()
    cut: dict[int, stencil.Stencil | None] = {}
    for tier, its in ((stencil, stencil_key.is_plain), (pinned, stencil_key.is_pinned)):
        possible = [key for key in keys if its(key) and tier.possible(shapes[key & SHAPE])]
        cut |= tier.stamp(units, shapes, possible) if possible else {}
    blobs = [one.blob() if (one := cut.get(key)) else b"" for key in keys]
    return Made(tuple(names), stencil.join(blobs), (), time.perf_counter() - start, start)


class StencilStore:
    """Stencils for the vCPUs of a process, whose shapes are numbered as in `shapes`.

    All of it happens under the accelerator's lock, but `_arrive`, which the compiler's thread calls.
    """

    def __init__(self, code: Code, shapes: Sequence[Shape], compiler: Compiler) -> None:
        self.cache = code.cache
        self._code, self._shapes, self._compiler = code, shapes, compiler
        self.address: dict[str, int] = {}
        """Of a stencil's blob by its name; UNCUTTABLE for one that can't be cut."""
        self._blobs: list[np.ndarray] = []
        self._known: dict[int, tuple[str, int]] = {}
        """By key: its name, and the key without what its shape does not use."""
        self._wanted: dict[str, int] = {}
        """The next batch: keys by name."""
        self._under_way: set[str] = set()
        self._arrived: deque[tuple[Sequence[str], Made | bool]] = deque()
        """Names, and what was made of them; else whether the process ended over them."""
        self._waiting: list[weakref.ref[Waiting]] = []

    # ---- what there is --------------------------------------------------------------------------------------------------
    def _name(self, key: int) -> tuple[str, int]:
        found = self._known.get(key)
        if found is None:
            plain = pinned.normal(self._shapes, stencil.normal(self._shapes, key))
            shape = handler_symbol(self._shapes[plain & SHAPE], plain >> 16 & 0xFF)
            found = self._known[key] = f"{shape}.{pinned.instance(plain)}", plain
        return found

    def _find(self, name: str) -> bool:
        """A stencil that an earlier run cut, with its neighbours in the cache; False when there is none."""
        while name not in self.address:
            entry = self.cache.find(name)
            if entry is None:
                return False
            for kept in self.cache.read([entry, *self.cache.following(entry, NEIGHBOURS)]):
                if kept is None or tier_of(kept.exports[0]) != "stencils":
                    continue
                blobs = zip(kept.exports, stencil.split(kept.code), strict=True)
                self._code.tallies["stencils"].from_cache += sum(self._add(one, blob) for one, blob in blobs)
        return True

    def _add(self, name: str, blob: bytes) -> bool:
        """Keep a blob in memory, and its address for good; an empty one says that there is no stencil."""
        if name in self.address:
            return False
        data = np.frombuffer(blob + bytes(8), np.uint8)
        self._blobs.append(data)
        self._code.tallies["stencils"].bytes += len(blob)
        self.address[name] = int(data.ctypes.data) if blob else UNCUTTABLE
        self._code.news.append(name)
        return True

    def _enter(self, made: Made) -> None:
        """A batch that was stamped."""
        blobs = stencil.split(made.code)
        for name, blob in zip(made.exports, blobs, strict=True):
            self._add(name, blob)
        self._code.note("stencils", made.exports, made.start, sum(map(len, blobs)), made.seconds)
        if made.entry is not None:
            self.cache.add(made.entry)

    # ---- what is wanted -------------------------------------------------------------------------------------------------
    def take(self, keys: Iterable[int], waiting: Waiting | None) -> dict[int, str]:
        """Names by key of the stencils that are there; `waiting` is told when there are more, None: all are made now."""
        beside = waiting is not None and self.cache.writable and not self._compiler.broken
        self.fetch()
        known = {key: self._name(key) for key in keys}
        self._code.wanted.update(dict.fromkeys(name for name, _ in known.values()))
        under_way = self._wanted.keys() | self._under_way if beside else set()
        missing = {name: plain for name, plain in known.values() if name not in under_way and not self._find(name)}
        if waiting is None or not beside:
            self._stamp(missing)
        else:
            self._wanted |= missing
            self._tell_later(waiting)
            self.order()
        return {key: name for key, (name, _) in known.items() if name in self.address}

    def _batch(self, wanted: Mapping[str, int]) -> tuple[list[str], list[Shape], list[int]]:
        """Names, shapes, and keys whose shapes are numbered as in the list before."""
        numbers = {number: k for k, number in enumerate(dict.fromkeys(key & SHAPE for key in wanted.values()))}
        keys = [key & ~SHAPE | numbers[key & SHAPE] for key in wanted.values()]
        return [*wanted], [self._shapes[number] for number in numbers], keys

    def _stamp(self, wanted: Mapping[str, int]) -> None:
        if wanted:
            self._code.on_progress(f"{len(wanted)} stencils")
            self._enter(compile_stencils(self._code.units, *self._batch(wanted)).kept(self.cache))

    def order(self, *, the_last: bool = False) -> None:
        """Give the next batch to the compiler process, when it has none; `the_last` in any case."""
        if self._wanted and (the_last or not self._under_way):
            if not the_last:
                self._code.on_progress(f"{len(self._wanted)} stencils")
            names, shapes, keys = self._batch(self._wanted)
            self._under_way |= self._wanted.keys()
            self._wanted = {}
            arrive = partial(self._arrive, names)
            self._compiler.stamp(names, shapes, keys, arrive, arrive)

    # ---- what was made beside the guest ---------------------------------------------------------------------------------
    def _tell_later(self, waiting: Waiting) -> None:
        """Let a vCPU know when something arrives, which may just have happened."""
        self._waiting = [one for one in self._waiting if one() not in (None, waiting)] + [weakref.ref(waiting)]
        if self._arrived:
            waiting.arrive()

    def _arrive(self, names: Sequence[str], made: Made | bool) -> None:
        self._arrived.append((names, made))
        for one in self._waiting:
            if (waiting := one()) is not None:
                waiting.arrive()

    def fetch(self) -> None:
        """Enter what has arrived, and order the next batch."""
        while self._arrived:
            names, made = self._arrived.popleft()
            self._under_way.difference_update(names)
            if isinstance(made, Made):
                self._enter(made)
            elif made:
                for name in names:
                    self._add(name, b"")
        self.order()
