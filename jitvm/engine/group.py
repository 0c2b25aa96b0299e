"""Groups: several instructions of a block as one handler, so that hot blocks make fewer indirect jumps.

Predicted as well as may be, an indirect jump takes about three cycles of a host of today, which is as long as the work of
most handlers.  `jitvm/engine/gather.py` gives the micro-ops of hot blocks such handlers, where there are no stencils, which
do without the jumps altogether.

A group's handler is that of its first member's micro-op, and reads the others' behind it.  They keep their own handlers: on
them goes on what had to go out of line, as the block may have been dropped there.
"""

from __future__ import annotations

from collections.abc import Sequence

from jitvm.engine import layout as lay
from jitvm.engine.compose import compose
from jitvm.engine.forms import Shape
from jitvm.engine.layout import GROUP_BIT, MEMBER_BITS, MEMBERS
from jitvm.engine.stitch import HandlerBuilder, handler
from jitvm.engine.units import Units


def members(key: int) -> list[int]:
    """Keys of the instructions of a handler, 0 for an entry record."""
    if not key >> GROUP_BIT:
        return [key]
    found = [key >> MEMBER_BITS * k & (1 << MEMBER_BITS) - 1 for k in range(MEMBERS)]
    return found if found[-1] else found[:-1]


class GroupBuilder(HandlerBuilder):
    """Puts instructions together one behind the other."""

    def __init__(self, units: Units, name: str) -> None:
        super().__init__(units, name)
        self._slow, self._last = "false", False
        """i1: the member was done out of line."""

    def build(self, shapes: Sequence[Shape], keys: Sequence[int]) -> None:
        """All members; an entry record is passed."""
        for k, key in enumerate(keys):
            if k:
                self.u = self.gep(self.u, lay.UOP_SIZE)
            self._last = k == len(keys) - 1
            self._published = False
            if key:
                self.member(shapes[key & 0xFFFF], key >> 16)

    def member(self, shape: Shape, variant: int) -> None:
        """One instruction."""
        self.long = shape.long
        compose(self, shape, variant)

    def _join_budget(self, fast: str, slow: str, left: str) -> None:
        super()._join_budget(fast, slow, left)
        self._slow = self.new(f"phi i1 [ {self._slow}, %{fast} ], [ true, %{slow} ]")

    def next(self) -> None:
        if self._last:
            super().next()
            return
        if self._slow != "false":
            alone, on = self.label(), self.label()
            self.cond_branch(self._slow, alone, on, False)
            self.place(alone)
            super().next()
            self.place(on)
            self._slow = "false"


def build(units: Units, shapes: Sequence[Shape], key: int, name: str) -> HandlerBuilder:
    """The handler of a key."""
    if not key >> GROUP_BIT:
        return handler(units, shapes, key, name)
    b = GroupBuilder(units, name)
    b.build(shapes, members(key))
    return b
