"""What every device on an IDE cable has: the task file, the data register's buffer, INTRQ, the DMA request.

ATA/ATAPI-6 (T13 1410D), 7 (registers), 9.5-9.8 (PIO and DMA protocols).  Commands complete at once: BSY is never seen
except while SRST is set.

A device that moves data sets up `buffer` and its end with `send` or `receive`; the channel takes bytes out or puts them
in and calls `block_done` at the end.  For DMA it leaves a `DmaRequest` that the bus master serves.

Not modelled: 8-bit PIO transfers, the time that a command takes, hot plugging.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

from jitvm.devices.base import Snapshot
from jitvm.trace import SILENT, Trace

FEATURES, COUNT, LBA_LOW, LBA_MID, LBA_HIGH, DEVICE, COMMAND = 1, 2, 3, 4, 5, 6, 7
ERR, DRQ, DSC, DF, DRDY, BSY = 0x01, 0x08, 0x10, 0x20, 0x40, 0x80
ABRT, IDNF, UNC = 0x04, 0x10, 0x40
DEVICE_LBA, DEVICE_SLAVE = 0x40, 0x10
EXECUTE_DIAGNOSTIC = 0x90
PASSED = 0x01


class DmaRequest:
    """A transfer that waits for the bus master: `data` goes to memory, or `length` bytes come from it."""

    __slots__ = ("data", "length")

    def __init__(self, data: bytes | None, length: int) -> None:
        self.data, self.length = data, length


class AtaDevice(ABC):
    """Task file and data engine.  `on_intrq()` tells the channel that `intrq` changed, `on_dma()` that `dma` is set."""

    signature = (1, 1, 0, 0)
    """Sector count and LBA registers after a reset: by them software tells disks from packet devices."""
    ready = DRDY | DSC

    def __init__(self, name: str, trace: Trace = SILENT) -> None:
        self.name, self.trace = name, trace
        self.on_intrq: Callable[[], None] = lambda: None
        self.on_dma: Callable[[], None] = lambda: None
        self.registers = bytearray(8)
        self.previous = bytearray(8)
        self.status = self.error = 0
        self.intrq = False
        self.buffer = bytearray()
        self.position = self.read_end = self.write_end = 0
        self.dma: DmaRequest | None = None
        self.reset_device()

    # The channel's side

    def read_register(self, offset: int, hob: bool) -> int:
        """A task file register; `hob` gives the byte written before the last one (48-bit addresses)."""
        if offset == FEATURES:
            return self.error
        return (self.previous if hob else self.registers)[offset]

    def write_register(self, offset: int, value: int) -> None:
        self.previous[offset] = self.registers[offset]
        self.registers[offset] = value

    @abstractmethod
    def block_done(self) -> None:
        """The buffer is empty (sending) or full (receiving)."""

    @abstractmethod
    def dma_done(self, data: bytes | None) -> None:
        """The bus master took the data, or brings what it fetched."""

    def execute(self, code: int) -> None:
        """A write to the command register: INTRQ and what the last command left is gone, then `command`."""
        self.set_intrq(False)
        self.read_end = self.write_end = 0
        self.dma = None
        self.error = 0
        self.status = DRDY | DSC
        self.command(code)

    @abstractmethod
    def command(self, code: int) -> None:
        """One command."""

    def set_intrq(self, level: bool) -> None:
        if level != self.intrq:
            self.intrq = level
            self.on_intrq()

    # The device's side

    def send(self, data: bytes) -> None:
        """Offer a block to the host and interrupt."""
        self.buffer, self.position, self.read_end, self.write_end = bytearray(data), 0, len(data), 0
        self.status = DRDY | DSC | DRQ
        self.set_intrq(True)

    def receive(self, size: int, interrupt: bool) -> None:
        """Ask the host for a block; the first one of a command comes without an interrupt."""
        self.buffer, self.position, self.read_end, self.write_end = bytearray(size), 0, 0, size
        self.status = DRDY | DSC | DRQ
        if interrupt:
            self.set_intrq(True)

    def request_dma(self, data: bytes | None, length: int) -> None:
        """Raise DMARQ."""
        self.dma = DmaRequest(data, length)
        self.status = DRDY | DSC | DRQ
        self.on_dma()

    def complete(self) -> None:
        """The command is done; interrupt."""
        self.read_end = self.write_end = 0
        self.status = DRDY | DSC
        self.set_intrq(True)

    def abort(self, error: int = ABRT) -> None:
        """The command fails; interrupt."""
        self.read_end = self.write_end = 0
        self.error = error
        self.status = DRDY | DSC | ERR
        self.set_intrq(True)

    def set_signature(self) -> None:
        """Sector count, LBA and device registers as after a reset or EXECUTE DEVICE DIAGNOSTIC."""
        count, low, mid, high = self.signature
        self.registers[:] = bytes([0, 0, count, low, mid, high, self.registers[DEVICE] & DEVICE_SLAVE, 0])
        self.previous[:] = bytes(8)
        self.error = PASSED

    def soft_reset(self) -> None:
        """SRST: commands end, the signature stands in the registers, settings survive."""
        self.read_end = self.write_end = 0
        self.dma = None
        self.registers[DEVICE] = 0
        self.set_signature()
        self.status = self.ready
        self.set_intrq(False)

    def reset_device(self) -> None:
        """Power on."""
        self.buffer = bytearray()
        self.position = 0
        self.soft_reset()

    def snapshot(self) -> Snapshot:
        dma = None if self.dma is None else [self.dma.data, self.dma.length]
        return {
            "registers": bytes(self.registers),
            "previous": bytes(self.previous),
            "status": self.status,
            "error": self.error,
            "intrq": self.intrq,
            "buffer": bytes(self.buffer),
            "transfer": [self.position, self.read_end, self.write_end],
            "dma": dma,
        }

    def restore(self, state: Snapshot) -> None:
        self.registers[:], self.previous[:] = state["registers"], state["previous"]
        self.status, self.error, self.intrq = state["status"], state["error"], state["intrq"]
        self.buffer = bytearray(state["buffer"])
        self.position, self.read_end, self.write_end = state["transfer"]
        self.dma = None if state["dma"] is None else DmaRequest(*state["dma"])


def identify_string(text: str, size: int) -> bytes:
    """Text as IDENTIFY DEVICE gives it: padded with blanks, the two bytes of each word swapped."""
    raw = text.encode("ascii", "replace")[:size].ljust(size)
    return bytes(raw[k ^ 1] for k in range(size))
