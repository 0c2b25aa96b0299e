"""The native decoder, called for single instructions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from jitvm.bare import Bare
from jitvm.engine import decode as dec
from jitvm.engine.forms import Shape
from jitvm.isa.state import MODE_CODE32, MODE_CODE64, MODE_FLAT, MODE_STACK32
from tests.engine.guest import CODE

MODES = {16: int(MODE_STACK32), 32: int(MODE_CODE32 | MODE_STACK32), 64: int(MODE_CODE64 | MODE_FLAT)}


class Decoder:
    """The native `decode` on the record of a `Bare`, with forms learned as the engine does."""

    def __init__(self, model: str = "max") -> None:
        self.bare = Bare("handlers", memory=0x10000)
        self.bare.vcpu.set_cpu(model)
        self.bare.set_mode("prot32")
        self.c: Any = self.bare.c
        self.forms = self.bare.vcpu.accel.forms
        native = self.bare.vcpu.accel.code.function("decode.decode", 5)
        self._native: Callable[..., int] = lambda *args: int(native(self.bare.vcpu.address, *args))

    def __call__(self, data: bytes, bits: int, rip: int, avail: int = 64) -> int:
        """Length, or one of decode's other results; the fields are in `c.t`."""
        self.bare.ram[CODE : CODE + 64] = 0
        self.bare.ram[CODE : CODE + len(data)] = np.frombuffer(data, np.uint8)
        mode = int(self.c.mode) & ~int(MODE_CODE32 | MODE_CODE64 | MODE_STACK32) | MODES[bits]
        self.c.mode = mode
        while True:
            n = self._native(self.bare.memory.host + CODE, avail, rip, mode, 0)
            if n != dec.UNKNOWN:
                return n
            self.bare.vcpu._learn()

    def field(self, which: Any) -> int:
        """A decoded word."""
        return int(self.c.t[int(which)])

    def shape(self) -> Shape:
        """What the stitcher is told."""
        return self.forms.shapes[self.field(dec.T_SHAPE)]
