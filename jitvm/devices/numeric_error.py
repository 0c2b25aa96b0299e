"""The latch between the processor's FERR# and IRQ 13, and ports F0h and F1h that clear it.

FERR# sets the latch, whose output is IRQ 13.  A write to either port clears it and asserts IGNNE#, which lets the handler
use the x87; IGNNE# goes away with the error, as the processor itself does here (jitvm/isa/x87.py).

Source: Intel 82371SB (PIIX3) datasheet, 2.5.8 "Coprocessor Error Register" (F0h); IBM PC AT Technical Reference,
"Coprocessor" (F0h, F1h).

Not modelled: the reset of an 80287 by F1h.  Both ports read all ones.
"""

from __future__ import annotations

from collections.abc import Callable

from jitvm.devices.base import Snapshot
from jitvm.irq import IrqLine


class NumericError:
    """A region of 2 ports.  `on_ignne` is called when a write clears an error that the processor has reported."""

    name = "numeric-error"

    def __init__(self, line: IrqLine, on_ignne: Callable[[], None]) -> None:
        self._line, self._on_ignne = line, on_ignne

    def report(self) -> None:
        """FERR# is asserted."""
        self._line.set(True)

    def read(self, offset: int, size: int) -> int:
        return (1 << 8 * size) - 1

    def write(self, offset: int, size: int, value: int) -> None:
        if self._line.level:
            self._line.set(False)
            self._on_ignne()

    def reset(self) -> None:
        self._line.set(False)

    def snapshot(self) -> Snapshot:
        return {"reported": self._line.level}

    def restore(self, state: Snapshot) -> None:
        self._line.set(state["reported"])
