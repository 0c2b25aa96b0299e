"""The x87 state of a case by its fields."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from tests.oracle.fx import image, st_of

Real = tuple[int, int]
"""Significand; sign and exponent."""


@dataclass(frozen=True)
class Fx:
    """`used`: the abridged tag word, by physical registers; `st`: ST(0) to ST(7)."""

    fcw: int = 0x037F
    fsw: int = 0
    used: int = 0
    fop: int = 0
    fip: int = 0
    fdp: int = 0
    st: Sequence[Real] = ((0, 0),) * 8

    def pack(self) -> bytes:
        """The image."""
        st = [se << 64 | significand for significand, se in self.st]
        return image(st=st, fcw=self.fcw, fsw=self.fsw, used=self.used, last=(self.fop, self.fip, self.fdp))


def unpack(data: bytes) -> Fx:
    """The fields of an image."""
    st = [(v & (1 << 64) - 1, v >> 64) for v in (st_of(data, k) for k in range(8))]
    fcw, fsw, used, fop, fip, fdp = struct.unpack_from("<HHBxHQQ", data)
    return Fx(fcw, fsw, used, fop, fip, fdp, st)
