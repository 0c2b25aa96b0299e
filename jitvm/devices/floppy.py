"""An Intel 82077AA floppy disk controller, as an AT has one, for up to two drives.

Intel 82077AA data sheet (290166): registers (section 2), command set and phases (sections 4 and 5), in PC/AT mode, with
data by DMA channel 2.  A command's bytes go into the FIFO; what it does comes a little later, and then the interrupt.

Not modelled: the time that motors, heads and the disk's rotation take (a sector takes 20 us, a seek 50 us); data without
DMA (such a transfer ends with an overrun, as where nobody serves it in time); READ TRACK, the SCAN commands and deleted
data (unknown commands here); other sectors than of 512 bytes; formats other than the disk's own; the thresholds of the FIFO;
power-down; seeks of several drives at a time (no command is taken meanwhile); changing the disk.  Status registers A and B
are not there in PC/AT mode.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from jitvm.clock import Clock
from jitvm.devices.base import Registers, Snapshot
from jitvm.devices.floppy_media import SECTOR, FloppyDrive
from jitvm.errors import BackendError
from jitvm.irq import IrqLine
from jitvm.trace import SILENT, Trace

DOR, TDR, MSR, FIFO = 2, 3, 4, 5
DOR_DRIVE, DOR_RUN, DOR_DMAGATE = 0x03, 0x04, 0x08
MSR_RQM, MSR_DIO, MSR_BUSY = 0x80, 0x40, 0x10
DSR_RESET, RATE = 0x80, 0x03
DIR_UNUSED = 0x7F
"""DSKCHG, bit 7, is all of DIR that this chip drives; the others are the IDE drive's or nobody's."""

(SPECIFY, SENSE_DRIVE, WRITE, READ, RECALIBRATE, SENSE_INTERRUPT) = (0x03, 0x04, 0x05, 0x06, 0x07, 0x08)
(READ_ID, FORMAT, DUMPREG, SEEK, VERSION, PERPENDICULAR, CONFIGURE, LOCK, VERIFY) = (
    0x0A, 0x0D, 0x0E, 0x0F, 0x10, 0x12, 0x13, 0x14, 0x16,
)  # fmt: skip
MULTI_TRACK, MFM = 0x80, 0x40
PARAMETERS = {
    SPECIFY: 2, SENSE_DRIVE: 1, WRITE: 8, READ: 8, RECALIBRATE: 1, SENSE_INTERRUPT: 0, READ_ID: 1, FORMAT: 5,
    DUMPREG: 0, SEEK: 2, VERSION: 0, PERPENDICULAR: 1, CONFIGURE: 3, LOCK: 0, VERIFY: 8,
}  # fmt: skip
"""Bytes behind a command's first one."""
FLAGS = {
    WRITE: MULTI_TRACK | MFM, READ: 0xE0, READ_ID: MFM, FORMAT: MFM, SEEK: 0xC0, LOCK: 0x80, VERIFY: 0xE0,
}  # fmt: skip
"""Bits of the first byte that say how."""
RELATIVE, INWARDS = 0x80, 0x40
IS_82077 = 0x90
POLL = 0
"""What it does behind a reset, in place of a command."""
EIS, EFIFO, POLL_OFF = 0x40, 0x20, 0x10
"""Of CONFIGURE's second byte: seeks are implied, no FIFO (so after a reset), no polling."""
ENABLE_COUNT = 0x80
"""Of VERIFY's second byte: as many sectors as its last one says."""

ST0_SEEK_END, ST0_ABNORMAL, ST0_INVALID, ST0_POLLED, ST0_EQUIPMENT = 0x20, 0x40, 0x80, 0xC0, 0x10
ST1_END, ST1_OVERRUN, ST1_NO_DATA, ST1_NOT_WRITABLE, ST1_NO_MARK = 0x80, 0x10, 0x04, 0x02, 0x01
ST2_WRONG_CYLINDER, ST2_DATA_ERROR = 0x10, 0x20
ST1_DATA_ERROR = 0x20
ST3_ALWAYS, ST3_PROTECTED, ST3_TRACK_0, ST3_HEAD = 0x28, 0x40, 0x10, 0x04

N_DRIVES = 4
STEPS_TO_TRACK_0 = 79
SECTOR_NS, SEEK_NS, RESET_NS = 20_000, 50_000, 10_000
SIZE_CODE = 2
"""N of sectors with 512 bytes."""


class Dma(Protocol):
    """What it needs of the DMA controllers (`jitvm.devices.dma8237`)."""

    def read_channel(self, channel: int, size: int) -> tuple[bytes, bool]: ...

    def write_channel(self, channel: int, data: bytes) -> tuple[int, bool]: ...


DMA_CHANNEL = 2


class FloppyController:
    """The chip: `ports` (3F0h, six ports) and `dir_ccr` (3F7h), and its drives."""

    name = "floppy"

    def __init__(
        self, clock: Clock, irq: IrqLine, dma: Dma, drives: Sequence[FloppyDrive | None], trace: Trace = SILENT
    ) -> None:
        self._clock, self._irq, self._dma, self._drives, self._trace = clock, irq, dma, list(drives), trace
        self._timer = clock.timer("floppy", self._execute)
        self.ports = Registers(self._read, self._write)
        self.dir_ccr = Registers(self._read_dir, self._write_ccr)
        self._changed = [True] * len(self._drives)
        self._tape, self._rate = 0, 2
        self._dor = 0
        self._power_on()

    def _power_on(self) -> None:
        self._locked = False
        self._configuration = [EFIFO, 0]
        """CONFIGURE's second and third byte."""
        self._perpendicular = 0
        self._specified = [0, 0]
        self._stop()

    def _stop(self) -> None:
        """What every reset does: commands are forgotten, heads count from 0."""
        self._command: list[int] = []
        self._result: list[int] = []
        self._ended: list[int] = []
        """ST0 of seeks, and of polled drives, for SENSE INTERRUPT STATUS."""
        self._doing: list[int] = []
        """The command that is being executed."""
        self._present = [0] * N_DRIVES
        """PCN: on which cylinder the chip thinks that each drive is."""
        if self._locked:
            self._configuration[0] &= ~(EIS | POLL_OFF)
        else:
            self._configuration = [EFIFO, 0]
        self._perpendicular &= ~3
        self._timer.cancel()
        self._irq.set(False)

    # Registers

    def _read(self, offset: int, size: int) -> int:
        if offset == DOR:
            return self._dor
        if offset == TDR:
            return self._tape | 0xFC
        if offset == MSR:
            return self._status()
        return self._read_fifo() if offset == FIFO else 0xFF

    def _write(self, offset: int, size: int, value: int) -> None:
        if offset == DOR:
            self._write_dor(value)
        elif offset == TDR:
            self._tape = value & 3
        elif offset == MSR:
            self._rate = value & RATE
            if value & DSR_RESET:
                self._stop()
                self._after_reset()
        elif offset == FIFO:
            self._write_fifo(value)

    def _status(self) -> int:
        """MSR: whose turn it is."""
        if not self._dor & DOR_RUN or self._doing == [POLL]:
            return 0
        if self._result:
            return MSR_RQM | MSR_DIO | MSR_BUSY
        if self._doing:
            seeking = self._doing[0] & 0x1F in (SEEK, RECALIBRATE)
            return 1 << (self._doing[1] & 3) if seeking else MSR_BUSY
        return MSR_RQM | MSR_BUSY if self._command else MSR_RQM

    def _write_dor(self, value: int) -> None:
        before, self._dor = self._dor, value
        if not value & DOR_RUN:
            self._stop()
        elif not before & DOR_RUN:
            self._after_reset()

    def _after_reset(self) -> None:
        """The first poll finds four drives that were not ready before: an interrupt, once it is through."""
        if self._dor & DOR_RUN:
            self._doing = [POLL]
            self._timer.arm(self._clock.now_ns + RESET_NS)

    def _read_dir(self, offset: int, size: int) -> int:
        number = self._dor & DOR_DRIVE
        there = self._drive(number) is not None and bool(self._dor & 0x10 << number)
        return DIR_UNUSED | 0x80 * (there and self._changed[number])

    def _write_ccr(self, offset: int, size: int, value: int) -> None:
        self._rate = value & RATE

    # Command and result phase

    def _write_fifo(self, value: int) -> None:
        if not self._status() & MSR_RQM or self._result:
            self._trace("guest_error", device=self.name, what="byte into the FIFO out of turn", value=value)
            return
        self._command.append(value)
        first = self._command[0]
        code = first & 0x1F
        if code not in PARAMETERS or first & 0xE0 & ~FLAGS.get(code, 0):
            self._trace("unmodelled", device=self.name, what="command", value=first)
            self._command, self._result = [], [ST0_INVALID]
        elif len(self._command) > PARAMETERS[code]:
            command, self._command = self._command, []
            self._begin(code, command)

    def _read_fifo(self) -> int:
        """A byte of the result; the first one takes the interrupt back."""
        if not self._result:
            return 0
        self._irq.set(False)
        return self._result.pop(0)

    def _begin(self, code: int, command: list[int]) -> None:
        """All bytes are there: do at once what needs no drive."""
        if code == SPECIFY:
            self._specified = command[1:]
        elif code == SENSE_DRIVE:
            self._result = [self._drive_status(command[1])]
        elif code == SENSE_INTERRUPT:
            self._sense_interrupt()
        elif code == DUMPREG:
            self._result = [*self._present, *self._specified, 0, self._perpendicular | self._locked << 7]
            self._result += self._configuration
        elif code == VERSION:
            self._result = [IS_82077]
        elif code == PERPENDICULAR:
            self._perpendicular = command[1] & 0x3F
        elif code == CONFIGURE:
            self._configuration = command[2:]
        elif code == LOCK:
            self._locked = bool(command[0] & 0x80)
            self._result = [self._locked << 4]
        else:
            self._doing = command
            sectors = max(1, command[6] - command[4] + 1) if code in (READ, WRITE, VERIFY) else 1
            seek = code in (SEEK, RECALIBRATE)
            self._timer.arm(self._clock.now_ns + (SEEK_NS if seek else SECTOR_NS * sectors))

    def _drive_status(self, select: int) -> int:
        """ST3."""
        value = ST3_ALWAYS | select & 7
        drive = self._drive(select)
        if drive is not None:
            value |= ST3_PROTECTED * drive.write_protected | ST3_TRACK_0 * (drive.cylinder == 0)
        return value

    def _sense_interrupt(self) -> None:
        if self._ended:
            st0 = self._ended.pop(0)
            self._result = [st0, self._present[st0 & 3]]
            self._irq.set(False)
        else:
            self._result = [ST0_INVALID]

    def _drive(self, select: int) -> FloppyDrive | None:
        number = select & 3
        return self._drives[number] if number < len(self._drives) else None

    # Execution phase

    def _execute(self) -> None:
        """The time has come: do what was asked, and tell by the interrupt."""
        command, self._doing = self._doing, []
        code = command[0] & 0x1F
        if code == POLL:
            self._ended = [ST0_POLLED | number for number in range(N_DRIVES)]
        elif code in (SEEK, RECALIBRATE):
            self._seek(code, command)
        elif code == READ_ID:
            self._read_id(command)
        elif code == FORMAT:
            self._format(command)
        else:
            self._transfer(code, command)
        if self._dor & DOR_DMAGATE:
            self._irq.set(True)

    def _seek(self, code: int, command: list[int]) -> None:
        """SEEK, RELATIVE SEEK and RECALIBRATE; the disk change line falls with a step where there is a disk."""
        number, drive = command[1] & 3, self._drive(command[1])
        target = 0
        if code == SEEK:
            target = command[2]
            if command[0] & RELATIVE:
                way = command[2] if command[0] & INWARDS else -command[2]
                target = self._present[number] + way & 0xFF
        st0 = ST0_SEEK_END | command[1] & 7
        if drive is not None:
            steps = target - self._present[number]
            if code == RECALIBRATE:
                steps = -STEPS_TO_TRACK_0
                if drive.cylinder > STEPS_TO_TRACK_0:
                    st0 |= ST0_ABNORMAL | ST0_EQUIPMENT
            drive.step_to(drive.cylinder + steps)
            self._changed[number] = False
        elif code == RECALIBRATE:
            st0 |= ST0_ABNORMAL | ST0_EQUIPMENT  # no drive drives TRK0
        self._present[number] = target
        self._ended.append(st0)

    def _end(self, select: int, st1: int, st2: int, place: Sequence[int]) -> None:
        """The result of a command about sectors: ST0 to ST2, then C, H, R and N."""
        self._result = [(ST0_ABNORMAL if st1 or st2 else 0) | select & 7, st1, st2, *place, SIZE_CODE]

    def _readable(self, command: list[int]) -> FloppyDrive | None:
        """The drive, if it turns and the chip can make sense of what its head reads there."""
        drive = self._drive(command[1])
        if drive is None or not self._dor & 0x10 << (command[1] & 3) or not command[0] & MFM:
            return None
        head = command[1] >> 2 & 1
        good = drive.form.rate == self._rate and drive.cylinder < drive.form.cylinders and head < drive.form.heads
        return drive if good else None

    def _read_id(self, command: list[int]) -> None:
        drive, head = self._readable(command), command[1] >> 2 & 1
        if drive is None:
            self._end(command[1], ST1_NO_MARK, 0, (self._present[command[1] & 3], head, 1))
        else:
            self._end(command[1], 0, 0, (drive.cylinder, head, 1))

    def _transfer(self, code: int, command: list[int]) -> None:
        """READ, WRITE and VERIFY: sector by sector to the terminal count, or to the end of the track."""
        select, cylinder, head, sector, size, last = command[1:7]
        drive = self._readable(command)
        if self._configuration[0] & EIS and drive is not None and drive.cylinder != cylinder:
            drive.step_to(drive.cylinder + cylinder - self._present[select & 3])
            self._present[select & 3] = cylinder
            drive = self._readable(command)
        if drive is None:
            return self._end(select, ST1_NO_MARK, 0, (cylinder, head, sector))
        if drive.cylinder != cylinder:
            return self._end(select, ST1_NO_DATA, ST2_WRONG_CYLINDER, (cylinder, head, sector))
        if code == WRITE and drive.write_protected:
            return self._end(select, ST1_NOT_WRITABLE, 0, (cylinder, head, sector))
        if size != SIZE_CODE or head != select >> 2 & 1:
            return self._end(select, ST1_NO_DATA, 0, (cylinder, head, sector))
        multi_track = bool(command[0] & MULTI_TRACK)
        left = (command[8] or 256) if code == VERIFY and select & ENABLE_COUNT else 0
        done = over = False
        while not done and not over:
            select = select & ~4 | head << 2
            if not drive.has(cylinder, head, sector):
                return self._end(select, ST1_NO_DATA, 0, (cylinder, head, sector))
            st1, st2, done = self._sector(code, drive, cylinder, head, sector)
            if st1:
                return self._end(select, st1, st2, (cylinder, head, sector))
            left -= 1
            done = done or left == 0
            over = sector == last and not (multi_track and head == 0)
            cylinder += over
            head ^= sector == last and multi_track
            sector = 1 if sector == last else sector + 1
        st1 = 0 if done or code == VERIFY else ST1_END
        self._end(select, st1, 0, (cylinder & 0xFF, head, sector & 0xFF))

    def _sector(self, code: int, drive: FloppyDrive, cylinder: int, head: int, sector: int) -> tuple[int, int, bool]:
        """Move one sector; what ST1 and ST2 say of it, and whether the terminal count was reached."""
        try:
            if code == WRITE:
                data, done = self._dma.read_channel(DMA_CHANNEL, SECTOR) if self._by_dma() else (b"", False)
                if not data:
                    return ST1_OVERRUN, 0, False
                drive.write(cylinder, head, sector, data.ljust(SECTOR, b"\0"))
                return 0, 0, done
            data = drive.read(cylinder, head, sector)
            if code == VERIFY:
                return 0, 0, False
            taken, done = self._dma.write_channel(DMA_CHANNEL, data) if self._by_dma() else (0, False)
            return 0 if done or taken == SECTOR else ST1_OVERRUN, 0, done
        except BackendError as e:
            self._trace("device_state", device=self.name, what=f"host error: {e}", value=0)
            return ST1_DATA_ERROR, ST2_DATA_ERROR, False

    def _by_dma(self) -> bool:
        return bool(self._dor & DOR_DMAGATE) and not self._specified[1] & 1

    def _format(self, command: list[int]) -> None:
        """FORMAT TRACK in the disk's own format: an ID of four bytes for each sector comes by DMA."""
        select, size, n_sectors, _gap, filler = command[1:6]
        drive, head = self._readable(command), command[1] >> 2 & 1
        place = (self._present[select & 3], head, 1)
        if drive is None:
            return self._end(select, ST1_NO_MARK, 0, place)
        if drive.write_protected:
            return self._end(select, ST1_NOT_WRITABLE, 0, place)
        for _ in range(n_sectors):
            ident, _done = self._dma.read_channel(DMA_CHANNEL, 4) if self._by_dma() else (b"", False)
            if len(ident) < 4:
                return self._end(select, ST1_OVERRUN, 0, place)
            there = size == SIZE_CODE == ident[3] and (ident[0], ident[1]) == (drive.cylinder, head)
            if not there or not drive.has(ident[0], ident[1], ident[2]):
                self._trace("unmodelled", device=self.name, what="another format", value=int.from_bytes(ident, "big"))
                return self._end(select, ST1_NO_DATA, 0, place)
            try:
                drive.write(ident[0], ident[1], ident[2], bytes((filler,)) * SECTOR)
            except BackendError as e:
                self._trace("device_state", device=self.name, what=f"host error: {e}", value=0)
                return self._end(select, ST1_NOT_WRITABLE, 0, place)
        return self._end(select, 0, 0, place)

    # Device

    def reset(self) -> None:
        """RESET#."""
        self._dor = self._tape = 0
        self._rate = 2
        self._changed = [True] * len(self._drives)
        self._power_on()

    def snapshot(self) -> Snapshot:
        return {
            "dor": self._dor, "tape": self._tape, "rate": self._rate, "locked": self._locked,
            "configuration": list(self._configuration), "perpendicular": self._perpendicular,
            "specified": list(self._specified), "present": list(self._present), "changed": list(self._changed),
            "command": list(self._command), "result": list(self._result), "ended": list(self._ended),
            "doing": list(self._doing), "deadline": self._timer.deadline, "irq": self._irq.level,
            "cylinders": [drive and drive.cylinder for drive in self._drives],
        }  # fmt: skip

    def restore(self, state: Snapshot) -> None:
        self._dor, self._tape, self._rate = state["dor"], state["tape"], state["rate"]
        self._locked, self._perpendicular = state["locked"], state["perpendicular"]
        self._configuration, self._specified = list(state["configuration"]), list(state["specified"])
        self._present, self._changed = list(state["present"]), list(state["changed"])
        self._command, self._result = list(state["command"]), list(state["result"])
        self._ended, self._doing = list(state["ended"]), list(state["doing"])
        for drive, cylinder in zip(self._drives, state["cylinders"], strict=True):
            if drive is not None:
                drive.cylinder = cylinder
        self._timer.cancel()
        if state["deadline"] is not None:
            self._timer.arm(state["deadline"])
        self._irq.set(state["irq"])
