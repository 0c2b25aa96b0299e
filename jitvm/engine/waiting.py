"""Blocks of one vCPU that run on with handlers while their stencils are being made beside the guest.

All of it happens on the vCPU's thread while its code stands still, but `arrive`, which the compiler's thread calls.
"""

from __future__ import annotations

import contextlib
import ctypes
import weakref
from typing import TYPE_CHECKING

from jitvm.engine.block_reader import word_at
from jitvm.engine.layout import UOP_IMM

if TYPE_CHECKING:
    from jitvm.engine.accel import VcpuEngine

ALL = (1 << 64) - 1
PATIENCE = 1 << 16
"""Executions after which a block asks again by itself; they take much longer than to ask."""


class Waiting:
    """Blocks of `engine`, which owns this."""

    def __init__(self, engine: VcpuEngine) -> None:
        self._engine = weakref.proxy(engine)
        self._blocks: set[int] = set()
        self.arrived = False
        """Something was made since `try_again`."""

    def arrive(self) -> None:
        """Stencils were made, or will not be."""
        self.arrived = True
        with contextlib.suppress(ReferenceError):  # the machine is gone
            self._engine.wake()

    def add(self, block: int) -> None:
        """A block that has just asked waits."""
        self._blocks.add(block)
        self._count(block, PATIENCE)

    def try_again(self) -> None:
        """Take what was made, and let all blocks ask again at their next execution."""
        self.arrived = False
        self._engine.accel.stencils.fetch()
        for block in self._blocks:
            if self._counts(block):
                self._count(block, 1)
        self._blocks.clear()

    def _counts(self, block: int) -> bool:
        """Whether a block's entry record still counts to machine code: there may be another one in the block's place, or
        none, and whose machine code leads to regions has something else there."""
        c = self._engine.c
        leads_to = word_at(int(c.block_uop[block]))
        if leads_to == int(c.h_count):
            return True
        own = int(c.block_code[block]) + int(c.code_shift) & ALL
        return bool(c.pin_hot) and int(c.block_code[block]) != 0 and leads_to == own

    def _count(self, block: int, n: int) -> None:
        ctypes.c_uint64.from_address(int(self._engine.c.block_uop[block]) + UOP_IMM).value = n
