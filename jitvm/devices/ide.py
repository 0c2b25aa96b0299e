"""The IDE function of an Intel 82371SB (PIIX3): two channels at the legacy ports, and the bus master.

Intel 82371SB datasheet (290550), IDE configuration registers; ATA/ATAPI-6 (T13 1410D), 7 and 9 (channel, device
selection, SRST, nIEN).  Identity and reset values are those of QEMU 7.2's "pc" board.

`BlockRegion`: the data register's region also has

    read_block(offset, size, count) -> bytes          `count` reads of `size` bytes, one behind the other
    write_block(offset, size, data)                   the same for writes

which do what as many single accesses do.  The vCPU loop asks for them with `hasattr` to serve a string I/O exit.

A device that is absent answers 0 in its status; its other registers read as they were written if the channel has the
other device, and as 0 if the channel is empty.

Not modelled: native mode, decode enables and timing (IDETIM 40h-43h stored without effect: the legacy ports are always
decoded, as in QEMU), byte accesses to the data register (read all ones), Ultra DMA control.
"""

from __future__ import annotations

from collections.abc import Sequence

from jitvm.devices.ata import BSY, COMMAND, DEVICE, DEVICE_SLAVE, EXECUTE_DIAGNOSTIC, AtaDevice
from jitvm.devices.base import Registers, Snapshot
from jitvm.devices.ide_busmaster import BusMasterChannel
from jitvm.devices.pci import COMMAND as PCI_COMMAND
from jitvm.devices.pci import COMMAND_MASTER, PciFunction
from jitvm.irq import IrqLine
from jitvm.memory import GuestMemory
from jitvm.trace import SILENT, Trace

CONTROL_NIEN, CONTROL_SRST, CONTROL_HOB = 0x02, 0x04, 0x80
BM_SIZE = 16
IDETIM, IDETIM_DECODE = 0x40, 0x8000


class IdeChannel:
    """One cable: itself the command block's region (eight ports, `max_size` 4), with `control` (one port)."""

    __slots__ = ("_device", "_drives", "_irq", "_nien", "_selected", "_trace", "bus_master", "control", "name")

    def __init__(self, name: str, irq: IrqLine, drives: Sequence[AtaDevice | None], trace: Trace = SILENT) -> None:
        self.name, self._irq, self._trace = name, irq, trace
        self._drives: tuple[AtaDevice | None, AtaDevice | None] = (drives[0], drives[1])
        self._nien = 0
        self._device = 0
        self._selected = self._drives[0]
        self.control = Registers(self._read_control, self._write_control)
        self.bus_master = BusMasterChannel(name, lambda: self._selected, trace)
        for drive in self._drives:
            if drive:
                drive.on_intrq = self._update_irq
                drive.on_dma = self.bus_master.run

    @property
    def selected(self) -> AtaDevice | None:
        """The device that answers, None when it is absent."""
        return self._selected

    def read(self, offset: int, size: int) -> int:
        drive = self._selected
        if offset == 0 and drive is not None:
            position = drive.position
            end = position + size
            if end <= drive.read_end and size > 1:
                value = int.from_bytes(drive.buffer[position:end], "little")
                drive.position = end
                if end == drive.read_end:
                    drive.block_done()
                return value
            if size > 1:
                return int.from_bytes(self.read_block(0, 2, size // 2), "little")
            return 0xFF
        if size > 1:
            return self.read(offset, 1) | self.read(offset + 1, size - 1) << 8
        return self._read_register(offset)

    def _read_register(self, offset: int) -> int:
        drive = self._selected
        if drive is None:
            other = self._drives[0] or self._drives[1]
            if other is None or offset == COMMAND:
                return 0
            return self._device if offset == DEVICE else other.read_register(offset, bool(self._nien & CONTROL_HOB))
        if offset == COMMAND:
            drive.set_intrq(False)
            return drive.status
        return drive.read_register(offset, bool(self._nien & CONTROL_HOB))

    def write(self, offset: int, size: int, value: int) -> None:
        if offset == 0:
            drive = self._selected
            if drive is None:
                return
            position = drive.position
            end = position + size
            if end <= drive.write_end and size > 1:
                drive.buffer[position:end] = value.to_bytes(size, "little")
                drive.position = end
                if end == drive.write_end:
                    drive.block_done()
            elif size > 1:
                self.write_block(0, 2, value.to_bytes(size, "little"))
        elif size > 1:
            self.write(offset, 1, value & 0xFF)
            self.write(offset + 1, size - 1, value >> 8)
        elif offset == COMMAND:
            self._command(value)
        else:
            self._nien &= ~CONTROL_HOB
            for drive in self._drives:
                if drive:
                    drive.write_register(offset, value)
            if offset == DEVICE:
                self._device = value
                self._selected = self._drives[1 if value & DEVICE_SLAVE else 0]
                self._update_irq()

    def read_block(self, offset: int, size: int, count: int) -> bytes:
        """`count` reads of `size` bytes; behind the end of the data come ones."""
        drive = self._selected
        if offset or size == 1 or drive is None:
            return b"".join(self.read(offset, size).to_bytes(size, "little") for _ in range(count))
        need = size * count
        out = bytearray()
        while need and drive.position < drive.read_end:
            n = min(need, drive.read_end - drive.position)
            out += drive.buffer[drive.position : drive.position + n]
            drive.position += n
            need -= n
            if drive.position == drive.read_end:
                drive.block_done()
        return bytes(out) + b"\xff" * need

    def write_block(self, offset: int, size: int, data: bytes) -> None:
        """Writes of `size` bytes each; what the device does not ask for is dropped."""
        drive = self._selected
        if offset or size == 1 or drive is None:
            for k in range(0, len(data), size):
                self.write(offset, size, int.from_bytes(data[k : k + size], "little"))
            return
        at = 0
        while at < len(data) and drive.position < drive.write_end:
            n = min(len(data) - at, drive.write_end - drive.position)
            drive.buffer[drive.position : drive.position + n] = data[at : at + n]
            drive.position += n
            at += n
            if drive.position == drive.write_end:
                drive.block_done()

    def _command(self, code: int) -> None:
        self._nien &= ~CONTROL_HOB
        if self._trace.wants("device_state"):
            self._trace("device_state", device=self.name, what="command", value=code)
        if code == EXECUTE_DIAGNOSTIC:
            for drive in self._drives:
                if drive:
                    drive.execute(code)
            self._select_first()
        elif self._selected is not None and not self._nien & CONTROL_SRST:
            self._selected.execute(code)

    def _select_first(self) -> None:
        """After a reset or a diagnostic, device 0 is selected and both device registers are 0."""
        for drive in self._drives:
            if drive:
                drive.registers[DEVICE] = 0
        self._device = 0
        self._selected = self._drives[0]
        self._update_irq()

    def _read_control(self, _offset: int, _size: int) -> int:
        """Alternate status: the status, without an effect on INTRQ."""
        return self._selected.status if self._selected is not None else 0

    def _write_control(self, _offset: int, _size: int, value: int) -> None:
        before, self._nien = self._nien, value & (CONTROL_NIEN | CONTROL_SRST | CONTROL_HOB)
        if value & CONTROL_SRST and not before & CONTROL_SRST:
            for drive in self._drives:
                if drive:
                    drive.soft_reset()
                    drive.status = BSY
            self._select_first()
        elif before & CONTROL_SRST and not value & CONTROL_SRST:
            for drive in self._drives:
                if drive:
                    drive.soft_reset()
        self._update_irq()

    def _update_irq(self) -> None:
        """INTRQ comes from the selected device; nIEN lets go of it."""
        level = self._selected is not None and self._selected.intrq and not self._nien & CONTROL_NIEN
        if level and not self._irq.level:
            self.bus_master.interrupt()
        self._irq.set(level)

    def reset(self) -> None:
        self._nien = 0
        for drive in self._drives:
            if drive:
                drive.reset_device()
        self._select_first()
        self.bus_master.reset()

    def snapshot(self) -> Snapshot:
        return {
            "control": self._nien,
            "device": self._device,
            "drives": [drive.snapshot() if drive else None for drive in self._drives],
            "bus_master": self.bus_master.snapshot(),
        }

    def restore(self, state: Snapshot) -> None:
        self._nien, self._device = state["control"], state["device"]
        self._selected = self._drives[1 if self._device & DEVICE_SLAVE else 0]
        for drive, saved in zip(self._drives, state["drives"], strict=True):
            if drive:
                drive.restore(saved)
        self._update_irq()
        self.bus_master.restore(state["bus_master"])


class Piix3Ide(PciFunction):
    """8086:7010 at 01.1 with `channels[0]` (1F0h, 3F6h, IRQ 14) and `channels[1]` (170h, 376h, IRQ 15).

    `drives` are primary master and slave, secondary master and slave.
    """

    def __init__(
        self, memory: GuestMemory, irqs: Sequence[IrqLine], drives: Sequence[AtaDevice | None], trace: Trace = SILENT
    ) -> None:
        super().__init__("ide", vendor=0x8086, device=0x7010, class_code=0x010180, status=0x0280, trace=trace)
        self.channels = [
            IdeChannel("ide0", irqs[0], drives[0:2], trace),
            IdeChannel("ide1", irqs[1], drives[2:4], trace),
        ]
        for channel in self.channels:
            channel.bus_master.connect(memory, self._master_enabled)
        self.define(IDETIM, 2, 0, 0xFFFF)
        self.define(IDETIM + 2, 2, 0, 0xFFFF)
        self.add_bar("ide.bus_master", 4, "io", BM_SIZE, Registers(self._read_master, self._write_master), max_size=4)

    def _master_enabled(self) -> bool:
        return bool(self.config[PCI_COMMAND] & COMMAND_MASTER)

    def config_written(self, offset: int, size: int) -> None:
        if self.wrote(IDETIM, offset, size, 4) and self.register(offset & ~1, 2) & ~IDETIM_DECODE:
            self.unmodelled_register(offset, size)
        if self.wrote(PCI_COMMAND, offset, size) and self._master_enabled():
            for channel in self.channels:
                channel.bus_master.run()

    def _read_master(self, offset: int, size: int) -> int:
        if (offset ^ offset + size - 1) & 8:
            return self._read_master(offset, 1) | self._read_master(offset + 1, size - 1) << 8
        return self.channels[offset >> 3].bus_master.read(offset & 7, size)

    def _write_master(self, offset: int, size: int, value: int) -> None:
        for k in range(size):
            self.channels[offset + k >> 3].bus_master.write(offset + k & 7, 1, value >> 8 * k & 0xFF)

    def reset(self) -> None:
        super().reset()
        for channel in self.channels:
            channel.reset()

    def snapshot(self) -> Snapshot:
        return super().snapshot() | {"channels": [channel.snapshot() for channel in self.channels]}

    def restore(self, state: Snapshot) -> None:
        super().restore(state)
        for channel, saved in zip(self.channels, state["channels"], strict=True):
            channel.restore(saved)
