"""The bus master of an IDE channel: DMA between a drive and guest memory by a table of physical regions.

"Programming Interface for Bus Master IDE Controller", revision 1.0 (SFF-8038i): command, status and descriptor table
registers, physical region descriptors.

A table that ends before the transfer leaves the drive waiting and the engine inactive, without an interrupt; one that
goes on behind it leaves the engine active, with the interrupt: as the specification says.

Not modelled: simplex-only operation, transfers that take time.
"""

from __future__ import annotations

from collections.abc import Callable

from jitvm.devices.ata import AtaDevice, DmaRequest
from jitvm.devices.base import Snapshot
from jitvm.memory import GuestMemory
from jitvm.trace import SILENT, Trace

BMIC_START, BMIC_TO_MEMORY = 0x01, 0x08
BMIS_ACTIVE, BMIS_ERROR, BMIS_INTERRUPT, BMIS_CAPABLE = 0x01, 0x02, 0x04, 0x60
PRD_SIZE, PRD_END = 8, 0x80


class BusMasterChannel:
    """Bus master registers of one channel (eight ports) and its transfers, which happen at once."""

    __slots__ = ("_command", "_drive", "_memory", "_name", "_status", "_table", "_trace", "may_run")

    def __init__(self, name: str, drive: Callable[[], AtaDevice | None], trace: Trace = SILENT) -> None:
        self._name, self._drive, self._trace = name, drive, trace
        self._memory: GuestMemory | None = None
        self.may_run: Callable[[], bool] = lambda: False
        self._command = self._status = self._table = 0

    def connect(self, memory: GuestMemory, may_run: Callable[[], bool]) -> None:
        """Where DMA goes, and whether the PCI command register allows it."""
        self._memory, self.may_run = memory, may_run

    def read(self, offset: int, size: int) -> int:
        value = self._command | self._status << 16 | self._table << 32
        return value >> 8 * offset & ((1 << 8 * size) - 1)

    def write(self, offset: int, size: int, value: int) -> None:
        for at in range(offset, offset + size):
            byte, value = value & 0xFF, value >> 8
            if at == 0:
                self._set_command(byte)
            elif at == 2:
                kept = self._status & (BMIS_ACTIVE | (BMIS_ERROR | BMIS_INTERRUPT) & ~byte)
                self._status = kept | byte & BMIS_CAPABLE
            elif at >= 4:
                shift = 8 * (at - 4)
                self._table = (self._table & ~(0xFF << shift) | byte << shift) & 0xFFFF_FFFC

    def _set_command(self, value: int) -> None:
        started = value & BMIC_START and not self._command & BMIC_START
        self._command = value & (BMIC_START | BMIC_TO_MEMORY)
        if started:
            self._status |= BMIS_ACTIVE
            self.run()
        elif not value & BMIC_START:
            self._status &= ~BMIS_ACTIVE

    def interrupt(self) -> None:
        """The channel's INTRQ rose."""
        self._status |= BMIS_INTERRUPT

    def run(self) -> None:
        """Transfer, if the drive asks and software has started the engine."""
        drive = self._drive()
        if drive is None or drive.dma is None or not self._status & BMIS_ACTIVE or self._memory is None:
            return
        if not self.may_run():
            self._trace("guest_error", device=self._name, what="DMA without bus master enable", value=0)
            return
        request, memory = drive.dma, self._memory
        if bool(self._command & BMIC_TO_MEMORY) != (request.data is not None):
            self._trace("guest_error", device=self._name, what="DMA direction", value=self._command)
        data, ended = self._transfer(request, memory)
        if data is None:
            self._status &= ~BMIS_ACTIVE
            self._trace("guest_error", device=self._name, what="PRD table too short", value=self._table)
            return
        if ended:
            self._status &= ~BMIS_ACTIVE
        drive.dma_done(None if request.data is not None else data)

    def _transfer(self, request: DmaRequest, memory: GuestMemory) -> tuple[bytes | None, bool]:
        """Walk the table.  The bytes (None: the table is shorter than the transfer), and whether it ended with it."""
        data = request.data
        fetched = bytearray()
        at, last, table = 0, False, self._table
        room = n = 0
        while at < request.length:
            if last:
                return None, True
            entry = memory.read(table, PRD_SIZE)
            table += PRD_SIZE
            base = int.from_bytes(entry[:4], "little") & ~1
            room = int.from_bytes(entry[4:6], "little") & ~1 or 0x1_0000
            last = bool(entry[7] & PRD_END)
            n = min(room, request.length - at)
            if data is not None:
                memory.write(base, data[at : at + n])
            else:
                fetched += memory.read(base, n)
            at += n
        return bytes(fetched), last and n == room

    def reset(self) -> None:
        self._command = self._status = self._table = 0

    def snapshot(self) -> Snapshot:
        return {"command": self._command, "status": self._status, "table": self._table}

    def restore(self, state: Snapshot) -> None:
        self._command, self._status, self._table = state["command"], state["status"], state["table"]
