"""The regions of one vCPU: which blocks asked, what is being compiled, what is installed.

All of it happens on the vCPU's thread while its code stands still, but `_arrived`, which the compiler's thread calls.
"""

from __future__ import annotations

import contextlib
import weakref
from collections import deque
from typing import TYPE_CHECKING

import numpy as np

from jitvm.engine.grow import Grown, ask_later, grow, still_true, table_of

if TYPE_CHECKING:
    from jitvm.engine.accel import VcpuEngine
    from jitvm.engine.compiler import Made

ASK_AGAIN = 3
"""Times that a block must ask for a region of its own while it belongs to another."""


class Regions:
    """Regions of `engine`, which owns this.  `sync`: compiled at once, on the vCPU's thread.  `modes`: how they are made."""

    def __init__(self, engine: VcpuEngine, *, sync: bool, modes: tuple[str, ...] = ()) -> None:
        self._engine, self._sync, self._modes = weakref.proxy(engine), sync, modes
        self._members: dict[int, int] = {}
        """Blocks of regions that are installed or on their way, and how often each asked."""
        self._generation = -1
        self._tables: list[np.ndarray] = []
        self.ready: deque[tuple[Grown, Made]] = deque()
        """Compiled and not installed yet."""
        self.asked = self.installed = 0

    def ask(self) -> None:
        """The block `hot_block` has run so often that a region which begins with it may pay."""
        c = self._engine.c
        block = int(c.hot_block)
        if self._generation != int(c.generation):
            self._generation = int(c.generation)
            self._members.clear()
            self._tables.clear()
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
        name = code.find_region(grown.nodes, self._modes)
        if name:
            self._install(grown, code.address[name])
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
            self._install(grown, self._engine.accel.code.link_region(made))

    def _install(self, grown: Grown, address: int) -> None:
        """Let the region's first block lead to it, unless code changed since it was read."""
        engine = self._engine
        if not still_true(engine, grown):
            return
        words = table_of(engine, grown)
        self._tables.append(words)
        engine.accel.enter_region(engine.address, grown.blocks[0][0], address, int(words.ctypes.data))
        self.installed += 1
