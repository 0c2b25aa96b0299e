"""The floppy controller: phases, interrupts and what it says of sectors; media by the size of their image."""

from __future__ import annotations

import pytest

from jitvm.backends.blockdev import MemoryDisk
from jitvm.devices.dma8237 import DmaPair
from jitvm.devices.floppy import FloppyController
from jitvm.devices.floppy_media import DRIVE_1200K, DRIVE_1440K, DRIVE_2880K, FORMATS, SECTOR, FloppyDrive, find_format
from jitvm.errors import BackendError
from tests.devices.conformance import Rig
from tests.devices.test_dma8237 import out, program

BUFFER, MILLISECOND = 0x8000, 1_000_000
DMA_READ, DMA_WRITE = 0x48, 0x44
"""Modes of the DMA controller: out of memory, into memory."""
SIZE_1440K = 80 * 2 * 18 * SECTOR


class Chip:
    """A controller whose drive A has a 1.44 MB disk; every sector begins with its own number."""

    def __init__(self, size: int = SIZE_1440K, read_only: bool = False) -> None:
        self.rig = Rig()
        self.dma = DmaPair(self.rig.memory, self.rig.trace)
        out(self.dma, 0xD6, 0xC0)
        out(self.dma, 0xD4, 0x00)
        data = b"".join(n.to_bytes(4, "little").ljust(SECTOR, b"*") for n in range(size // SECTOR))
        self.disk = MemoryDisk(data, read_only=read_only)
        self.drive = FloppyDrive(self.disk)
        self.fdc = FloppyController(self.rig.clock, self.rig.line(), self.dma, (self.drive, None), self.rig.trace)

    def start(self, rate: int = 0) -> None:
        """Out of reset, polled, motor A on, on track 0."""
        self.write(2, 0x1C)
        self.wait()
        assert [self.do(8) for _ in range(5)] == [[0xC0, 0], [0xC1, 0], [0xC2, 0], [0xC3, 0], [0x80]]
        self.fdc.dir_ccr.write(0, 1, rate)
        assert self.do(3, 0xAF, 0x02) == []
        assert self.do(7, 0) == [] and self.do(8) == [0x20, 0]

    def write(self, offset: int, value: int) -> None:
        self.fdc.ports.write(offset, 1, value)

    def read(self, offset: int) -> int:
        return self.fdc.ports.read(offset, 1)

    def wait(self) -> None:
        self.rig.clock.advance_to(self.rig.clock.now_ns + MILLISECOND)

    def do(self, *command: int) -> list[int]:
        """A command through its three phases, byte for byte as the main status register allows; its result."""
        for byte in command:
            assert self.read(4) & 0xC0 == 0x80, "it takes a byte"
            self.write(5, byte)
        self.wait()
        result = []
        while self.read(4) & 0x40:
            assert self.read(4) == 0xD0
            result.append(self.read(5))
        assert self.read(4) == 0x80
        return result

    @property
    def interrupt(self) -> bool:
        return bool(self.rig.edges) and self.rig.edges[-1][1]


@pytest.fixture
def chip() -> Chip:
    chip = Chip()
    chip.start()
    return chip


def test_reset_polls_four_drives() -> None:
    chip = Chip()
    assert chip.read(4) == 0, "held in reset"
    chip.write(2, 0x0C)
    assert chip.read(4) == 0 and not chip.interrupt
    chip.wait()
    assert chip.interrupt and chip.read(4) == 0x80
    assert chip.do(8) == [0xC0, 0] and not chip.interrupt


def test_reset_by_dsr(chip: Chip) -> None:
    chip.write(5, 0x06)
    chip.write(4, 0x80)
    chip.wait()
    assert chip.interrupt and chip.do(8) == [0xC0, 0]


@pytest.mark.parametrize(
    ("first", "place", "n_sectors", "result"),
    [
        (0xE6, (0, 0, 1), 1, [0, 0, 0, 0, 0, 2, 2]),
        (0xE6, (0, 0, 18), 1, [0, 0, 0, 0, 1, 1, 2]),  # Table 5-6: with MT the other head is next
        (0xE6, (0, 0, 17), 3, [4, 0, 0, 0, 1, 2, 2]),
        (0xE6, (0, 1, 18), 1, [4, 0, 0, 1, 0, 1, 2]),
        (0x46, (0, 0, 18), 1, [0, 0, 0, 1, 0, 1, 2]),
        (0x46, (0, 1, 3), 2, [4, 0, 0, 0, 1, 5, 2]),
    ],
)
def test_read(chip: Chip, first: int, place: tuple[int, int, int], n_sectors: int, result: list[int]) -> None:
    cylinder, head, sector = place
    program(chip.dma, 2, DMA_WRITE, BUFFER, n_sectors * SECTOR)
    assert chip.do(first, head << 2, cylinder, head, sector, 2, 18, 27, 0xFF) == result
    at = (head * 18 + sector - 1) * SECTOR
    assert chip.rig.memory.read(BUFFER, n_sectors * SECTOR) == chip.disk.data[at : at + n_sectors * SECTOR]


def test_interrupt_at_the_result_goes_with_its_first_byte(chip: Chip) -> None:
    program(chip.dma, 2, DMA_WRITE, BUFFER, SECTOR)
    for byte in (0xE6, 0, 0, 0, 1, 2, 18, 27, 0xFF):
        chip.write(5, byte)
    assert chip.read(4) == 0x10 and not chip.interrupt, "execution phase"
    chip.wait()
    assert chip.interrupt
    chip.read(5)
    assert not chip.interrupt


def test_seek_and_read_id(chip: Chip) -> None:
    assert chip.fdc.dir_ccr.read(0, 1) == 0x7F, "the recalibration stepped: no disk change"
    for byte in (0x0F, 0x04, 10):
        chip.write(5, byte)
    assert chip.read(4) == 0x01, "drive 0 seeks"
    chip.wait()
    assert chip.interrupt and chip.do(8) == [0x24, 10]
    assert chip.do(0x4A, 0x04) == [4, 0, 0, 10, 1, 1, 2]
    assert chip.do(4, 4) == [0x2C], "two-sided, ready, head 1; not on track 0"
    assert chip.do(0x8F, 0, 3) == [] and chip.do(8) == [0x20, 7]
    assert chip.do(0xCF, 0, 5) == [] and chip.do(8) == [0x20, 12]


def test_read_on_another_cylinder_needs_a_seek(chip: Chip) -> None:
    program(chip.dma, 2, DMA_WRITE, BUFFER, SECTOR)
    assert chip.do(0xE6, 0, 5, 0, 1, 2, 18, 27, 0xFF) == [0x40, 4, 0x10, 5, 0, 1, 2]
    assert chip.do(0x13, 0, 0x57, 0) == [], "CONFIGURE: implied seeks"
    assert chip.do(0xE6, 0, 5, 0, 1, 2, 18, 27, 0xFF) == [0, 0, 0, 5, 0, 2, 2]
    assert chip.rig.memory.read(BUFFER, 4) == (5 * 36).to_bytes(4, "little")


def test_write_and_verify(chip: Chip) -> None:
    chip.rig.memory.write(BUFFER, b"new" * 400)
    program(chip.dma, 2, DMA_READ, BUFFER, 2 * SECTOR)
    assert chip.do(0xC5, 0, 0, 0, 2, 2, 18, 27, 0xFF) == [0, 0, 0, 0, 0, 4, 2]
    assert chip.disk.data[SECTOR : 3 * SECTOR] == (b"new" * 400)[: 2 * SECTOR]
    assert chip.disk.data[3 * SECTOR] == 3
    assert chip.do(0xF6, 0x80, 0, 0, 17, 2, 18, 27, 4) == [4, 0, 0, 0, 1, 3, 2], "four sectors by the enabled count"


def test_end_of_track_without_a_terminal_count(chip: Chip) -> None:
    program(chip.dma, 2, DMA_WRITE, BUFFER, 3 * SECTOR)
    assert chip.do(0x46, 0, 0, 0, 17, 2, 18, 27, 0xFF) == [0x40, 0x80, 0, 1, 0, 1, 2]


@pytest.mark.parametrize(
    ("what", "result"),
    [
        ("sector", [0x40, 4, 0, 0, 0, 19, 2]),
        ("rate", [0x40, 1, 0, 0, 0, 1, 2]),
        ("motor", [0x40, 1, 0, 0, 0, 1, 2]),
        ("drive", [0x41, 1, 0, 0, 0, 1, 2]),
        ("dma", [0x40, 0x10, 0, 0, 0, 1, 2]),
        ("host", [0x40, 0x20, 0x20, 0, 0, 1, 2]),
        ("single density", [0x40, 1, 0, 0, 0, 1, 2]),
    ],
)
def test_what_goes_wrong(chip: Chip, what: str, result: list[int]) -> None:
    if what != "dma":
        program(chip.dma, 2, DMA_WRITE, BUFFER, SECTOR)
    if what == "rate":
        chip.fdc.dir_ccr.write(0, 1, 2)
    if what == "motor":
        chip.write(2, 0x0C)
    chip.disk.fail = what == "host"
    first = 0x06 if what == "single density" else 0x46
    sector, last = (19, 19) if what == "sector" else (1, 18)
    assert chip.do(first, int(what == "drive"), 0, 0, sector, 2, last, 27, 0xFF) == result


def test_a_protected_disk() -> None:
    chip = Chip(read_only=True)
    chip.start()
    program(chip.dma, 2, DMA_READ, BUFFER, SECTOR)
    assert chip.do(0x45, 0, 0, 0, 1, 2, 18, 27, 0xFF) == [0x40, 2, 0, 0, 0, 1, 2]
    assert chip.do(4, 0) == [0x78]


def test_format_fills_a_track(chip: Chip) -> None:
    chip.rig.memory.write(BUFFER, b"".join(bytes((0, 1, n, 2)) for n in range(1, 19)))
    program(chip.dma, 2, DMA_READ, BUFFER, 18 * 4)
    assert chip.do(0x4D, 4, 2, 18, 84, 0xF6)[:3] == [4, 0, 0]
    assert chip.disk.data[18 * SECTOR : 36 * SECTOR] == b"\xf6" * 18 * SECTOR
    assert chip.disk.data[36 * SECTOR] == 36
    chip.rig.memory.write(BUFFER, bytes((0, 1, 19, 2)))
    program(chip.dma, 2, DMA_READ, BUFFER, 4)
    assert chip.do(0x4D, 4, 2, 1, 84, 0xF6)[:3] == [0x44, 4, 0]
    assert chip.rig.traced("unmodelled")


def test_commands_without_a_drive(chip: Chip) -> None:
    assert chip.do(0x10) == [0x90]
    assert chip.do(0x13, 0, 0x1A, 5) == []
    assert chip.do(0x94) == [0x10]
    chip.write(4, 0x80)
    chip.wait()
    chip.do(8)
    dump = chip.do(0x0E)
    assert dump[:6] == [0, 0, 0, 0, 0xAF, 0x02] and dump[7:] == [0x80, 0x0A, 5], "LOCK keeps the FIFO's threshold"
    assert chip.do(0x14) == [0]
    assert chip.do(0x18) == [0x80] and chip.do(0x42) == [0x80]


def test_no_drive_has_no_track_0(chip: Chip) -> None:
    assert chip.do(7, 1) == [] and chip.do(8) == [0x71, 0]


def test_disk_change_until_a_step() -> None:
    chip = Chip()
    chip.write(2, 0x1C)
    chip.wait()
    assert chip.fdc.dir_ccr.read(0, 1) == 0xFF
    chip.do(7, 0)
    assert chip.fdc.dir_ccr.read(0, 1) == 0x7F


@pytest.mark.parametrize(
    ("size", "geometry", "drive"),
    [
        (SECTOR, (80, 2, 18), DRIVE_1440K),  # the beginning of a disk: what there is of it
        (360 << 10, (40, 2, 9), DRIVE_1200K),
        (720 << 10, (80, 2, 9), DRIVE_1440K),
        (1200 << 10, (80, 2, 15), DRIVE_1200K),
        (SIZE_1440K, (80, 2, 18), DRIVE_1440K),
        (SIZE_1440K + SECTOR, (80, 2, 36), DRIVE_2880K),
    ],
)
def test_formats(size: int, geometry: tuple[int, int, int], drive: int) -> None:
    found = find_format(size)
    assert found is not None and found[:3] == geometry and found.drive == drive


def test_every_format_reads_its_last_sector() -> None:
    for form in FORMATS:
        chip = Chip(form.size)
        chip.start(form.rate)
        chip.do(0x0F, 0, form.cylinders - 1)
        chip.do(8)
        program(chip.dma, 2, DMA_WRITE, BUFFER, SECTOR)
        head = form.heads - 1
        result = chip.do(0x46, head << 2, form.cylinders - 1, head, form.track, 2, form.track, 27, 0xFF)
        assert result[:3] == [head << 2, 0, 0], form
        assert chip.rig.memory.read(BUFFER, 4) == (form.size // SECTOR - 1).to_bytes(4, "little")


def test_behind_the_end_of_a_short_image() -> None:
    chip = Chip(2 * SECTOR)
    chip.start()
    chip.rig.memory.write(BUFFER, b"x" * SECTOR)
    program(chip.dma, 2, DMA_WRITE, BUFFER, SECTOR)
    assert chip.do(0x46, 0, 0, 0, 3, 2, 18, 27, 0xFF)[:3] == [0, 0, 0]
    assert chip.rig.memory.read(BUFFER, SECTOR) == bytes(SECTOR)
    program(chip.dma, 2, DMA_READ, BUFFER, SECTOR)
    assert chip.do(0x45, 0, 0, 0, 3, 2, 18, 27, 0xFF)[:3] == [0x40, 0x20, 0x20]


def test_what_is_no_floppy() -> None:
    with pytest.raises(BackendError, match=r"the largest floppy 2949120; give a disk image to --drive"):
        FloppyDrive(MemoryDisk(bytes(4 << 20)))
