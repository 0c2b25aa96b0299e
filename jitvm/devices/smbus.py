"""The SMBus host controller of an Intel 82371AB (PIIX4), with nothing on its bus.

Intel 82371AB datasheet (290562), 7.3: SMBus I/O space registers.  A transaction ends at once with "device error", which
is what the chip reports when no slave acknowledges its address.

Not modelled: slave functions (SMBSLVCNT and what follows store without effect), SMBALERT#, slaves.
"""

from __future__ import annotations

from collections.abc import Callable

from jitvm.devices.base import Registers, Snapshot
from jitvm.trace import SILENT, Trace

SMBHSTSTS, SMBHSTCNT, SMBHSTCMD, SMBHSTADD, SMBHSTDAT0, SMBHSTDAT1, SMBBLKDAT = 0, 2, 3, 4, 5, 6, 7
LENGTH = 16
DEV_ERR, STATUS_BITS = 0x04, 0x1E
INTEREN, START = 0x01, 0x40
BLOCK = 32


class SmbusHost:
    """Registers for sixteen of the window's ports; `on_change()` is called when `interrupt` may have changed."""

    def __init__(self, on_change: Callable[[], None], trace: Trace = SILENT) -> None:
        self._on_change, self._trace = on_change, trace
        self.registers = Registers(self._read, self._write)
        self._values = bytearray(LENGTH)
        self._block = bytearray(BLOCK)
        self._index = 0

    @property
    def interrupt(self) -> bool:
        """Level of the interrupt request."""
        return bool(self._values[SMBHSTSTS] & STATUS_BITS and self._values[SMBHSTCNT] & INTEREN)

    def _read(self, offset: int, _size: int) -> int:
        if offset == SMBBLKDAT:
            value = self._block[self._index]
            self._index = (self._index + 1) % BLOCK
            return value
        if offset == SMBHSTCNT:
            self._index = 0
        return self._values[offset]

    def _write(self, offset: int, _size: int, value: int) -> None:
        if offset == SMBHSTSTS:
            self._values[offset] &= ~(value & STATUS_BITS)
        elif offset == SMBHSTCNT:
            self._values[offset] = value & ~START
            if value & START:
                self._values[SMBHSTSTS] |= DEV_ERR
        elif offset == SMBBLKDAT:
            self._block[self._index] = value
            self._index = (self._index + 1) % BLOCK
        else:
            self._values[offset] = value
            if offset > SMBBLKDAT:
                self._trace("unmodelled", device="smbus", what=f"slave register {offset:02x}h", value=value)
        self._on_change()

    def reset(self) -> None:
        self._values[:] = bytes(LENGTH)
        self._block[:] = bytes(BLOCK)
        self._index = 0

    def snapshot(self) -> Snapshot:
        return {"values": bytes(self._values), "block": bytes(self._block), "index": self._index}

    def restore(self, state: Snapshot) -> None:
        self._values[:], self._block[:], self._index = state["values"], state["block"], state["index"]
