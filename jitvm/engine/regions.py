"""The regions of one vCPU: which blocks asked, what is being compiled, what is installed.

All of it happens on the vCPU's thread while its code stands still, but `_arrived`, which the compiler's thread calls.
"""

from __future__ import annotations

import contextlib
import time
import weakref
from collections import deque
from typing import TYPE_CHECKING

import numpy as np

from jitvm.engine.block_reader import BlockReader
from jitvm.engine.grow import Grown, ask_later, grow, still_true, table_of

if TYPE_CHECKING:
    from jitvm.engine.accel import VcpuEngine
    from jitvm.engine.compiler import Made

SHARE, IN_ADVANCE = 0.1, 0.1
"""How much of its thread's CPU time, and seconds more, a vCPU may look for regions: when it did, who asks must run much more
often first.  A kernel that starts has hundreds of blocks that are warm and in no loop, and each look takes a millisecond."""
ASK_AGAIN = 3
"""Times that a block must ask for a region of its own while it belongs to another."""


class Regions:
    """Regions of `engine`, which owns this.  `sync`: compiled at once, on the vCPU's thread.  `modes`: how they are made."""

    def __init__(self, engine: VcpuEngine, *, sync: bool, modes: tuple[str, ...] = ()) -> None:
        self._engine, self._sync, self._modes = weakref.proxy(engine), sync, modes
        self.blocks = BlockReader(engine)
        self._members: dict[int, int] = {}
        """Blocks of regions that are installed or on their way, and how often each asked."""
        self._generation = -1
        self._tables: dict[int, np.ndarray] = {}
        """By their first block."""
        self._number = engine.accel.regions.join(self, engine.options.region_bytes())
        self.ready: deque[tuple[Grown, Made]] = deque()
        """Compiled and not installed yet."""
        self.asked = self.installed = self.generations = 0
        self._spent = 0.0

    def ask(self) -> None:
        """The block `hot_block` has run so often that a region which begins with it may pay."""
        self._new_generation()
        start = time.thread_time()
        if self._sync or self._spent < IN_ADVANCE + SHARE * start:
            self._look()
            self._spent += time.thread_time() - start
        else:
            ask_later(self._engine, int(self._engine.c.hot_block))

    def _look(self) -> None:
        """Find its region, and have it made."""
        block = int(self._engine.c.hot_block)
        asked = self._members.get(block, 0)
        if 0 < asked < ASK_AGAIN:
            self._members[block] = asked + 1
            ask_later(self._engine, block)
            return
        grown = grow(self._engine)
        if grown is None:
            return
        self.asked += 1
        for b, _ in grown.blocks:
            self._members.setdefault(b, 1)
        code = self._engine.accel.code
        made = code.find_region(grown.nodes, self._modes)
        if made is not None:
            self._install(grown, made)
        elif self._sync:
            self._install(grown, code.region(grown.nodes, self._modes))
        else:
            self._engine.accel.compiler.submit(grown.nodes, lambda made: self._arrived(grown, made), self._modes)

    def _arrived(self, grown: Grown, made: Made) -> None:
        self.ready.append((grown, made))
        with contextlib.suppress(ReferenceError):  # the machine is gone
            self._engine.wake()

    def install_ready(self) -> None:
        """Link and install what was compiled meanwhile."""
        while self.ready:
            grown, made = self.ready.popleft()
            self._engine.accel.code.remember(made)
            self._install(grown, made)

    def _install(self, grown: Grown, made: Made) -> None:
        """Let the region's first block lead to it, unless code changed since it was read.

        Where there is no room for it all translations are forgotten; what is hot will ask again.
        """
        engine = self._engine
        self._new_generation()
        if not still_true(engine, grown):
            return
        address = engine.accel.regions.take(self._number, made)
        if address is None:
            engine.forget()
            self.generations += 1
            self._new_generation()
            return
        block = grown.blocks[0][0]
        words = self._tables[block] = table_of(engine, grown)
        engine.accel.enter_region(engine.address, block, address, int(words.ctypes.data))
        self.installed += 1
        for observer in engine.accel.code.observers:
            observer.installed(engine, grown, made.name)

    def _new_generation(self) -> None:
        """When all translations were forgotten: nothing leads to a region."""
        generation = int(self._engine.c.generation)
        if self._generation != generation:
            self._generation = generation
            self._members.clear()
            self._tables.clear()
            self._engine.accel.regions.release(self._number)
