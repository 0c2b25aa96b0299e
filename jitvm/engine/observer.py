"""Who wants to know what an engine makes: a perf map, a trace for a viewer.  Without one nothing is collected."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jitvm.engine.accel import VcpuEngine
    from jitvm.engine.grow import Grown

COPIED_WORDS, COPIED_ROOM = 4, 4096
"""Words of what is noted of a copied block, and how many there is room for between two looks."""


@dataclass(frozen=True)
class Copied:
    """A block that was copied: executable address and size of its code, linear address and EIP of the block."""

    address: int
    size: int
    linear: int
    rip: int


class Observer:
    """Told on the thread on which something happens; seconds are `time.perf_counter`'s.  Does nothing by itself."""

    addresses = False
    """The addresses of code must stay unique: what is forgotten or evicted is not used again."""

    def compiled(self, tier: str, names: Sequence[str], start: float, seconds: float, size: int) -> None:
        """Units, handlers, stencils or a region were compiled, to `size` bytes."""

    def linked(self, functions: Sequence[tuple[str, int, int]]) -> None:
        """Functions are there: symbol, address, bytes."""

    def described(self, symbol: str, text: str) -> None:
        """What a handler's symbol stands for."""

    def copied(self, engine: VcpuEngine, blocks: Sequence[Copied]) -> None:
        """Blocks got machine code."""

    def installed(self, engine: VcpuEngine, grown: Grown, symbol: str) -> None:
        """A vCPU's code leads to a region now."""

    def forgot(self, engine: VcpuEngine) -> None:
        """A vCPU forgot all of its translations for want of room for machine code."""


class CopiedLog:
    """Room in which the native copier notes what it copied, for a vCPU that is observed."""

    def __init__(self, engine: VcpuEngine) -> None:
        self._words = np.zeros((COPIED_ROOM, COPIED_WORDS), np.uint64)
        c = engine.c
        c.log_start = c.log_next = self._words.ctypes.data
        c.log_end = int(c.log_start) + self._words.nbytes
        self._c = c

    def drain(self) -> list[Copied]:
        """What was noted since the last call."""
        n = (int(self._c.log_next) - int(self._c.log_start)) // self._words[0].nbytes
        self._c.log_next = self._c.log_start
        return [Copied(*row) for row in self._words[:n].tolist()]
