"""The IDE channels: selection, reset, interrupts, the data register and the bus master."""

from __future__ import annotations

import struct

from jitvm.backends.blockdev import MemoryDisk
from jitvm.bus import Bus
from jitvm.devices.ata_disk import AtaDisk
from jitvm.devices.ide import Piix3Ide
from jitvm.irq import IrqLine
from jitvm.memory import GuestMemory
from jitvm.trace import Trace

DATA, ERROR, COUNT, LOW, MID, HIGH, DEVICE, STATUS = range(0x1F0, 0x1F8)
CONTROL = 0x3F6
BM = 0xC000


class Board:
    """Two disks on the primary channel if `slave`, none on the secondary."""

    def __init__(self, n_sectors: int = 2048, slave: bool = False) -> None:
        content = b"".join(struct.pack("<I", k) * 128 for k in range(n_sectors))
        self.disk = MemoryDisk(content)
        self.memory = GuestMemory(1 << 20)
        self.memory.map(0, 1 << 20, 0)
        self.edges: list[tuple[int, bool]] = []
        self.traced: list[tuple[str, dict[str, object]]] = []
        trace = Trace()
        trace.listeners.append(lambda event, fields: self.traced.append((event, fields)))
        drives = [AtaDisk("hda", self.disk), AtaDisk("hdb", MemoryDisk(bytes(1 << 20))) if slave else None, None, None]
        self.ide = Piix3Ide(self.memory, [self.irq(14), self.irq(15)], drives, trace)
        self.io = Bus("io", 0x1_0000, direct=True)
        for channel, command, control in zip(self.ide.channels, (0x1F0, 0x170), (0x3F6, 0x376), strict=True):
            self.io.map(command, 8, channel, name="ide", max_size=4)
            self.io.map(control, 1, channel.control, name="ide")
        self.io.map(BM, 16, self.ide.bars[0].region, name="bm", max_size=4)

    def irq(self, n: int) -> IrqLine:
        return IrqLine(lambda level: self.edges.append((n, level)))

    def out(self, port: int, value: int, size: int = 1) -> None:
        self.io.write(port, size, value)

    def inp(self, port: int, size: int = 1) -> int:
        return self.io.read(port, size)

    def command(self, code: int, lba: int = 0, count: int = 1, device: int = 0xE0) -> None:
        """Registers, then the command; the bytes for a 48-bit command's upper half are those of `count` and zeros."""
        for port, value in ((COUNT, count >> 8), (LOW, 0), (MID, 0), (HIGH, 0)):
            self.out(port, value)
        for port, value in ((COUNT, count & 0xFF), (LOW, lba & 0xFF), (MID, lba >> 8 & 0xFF), (HIGH, lba >> 16 & 0xFF)):
            self.out(port, value)
        self.out(DEVICE, device | lba >> 24 & 0xF)
        self.out(STATUS, code)

    def words(self, n: int) -> bytes:
        return b"".join(self.inp(DATA, 2).to_bytes(2, "little") for _ in range(n))

    def prds(self, table: int, *regions: tuple[int, int]) -> None:
        for k, (base, size) in enumerate(regions):
            last = 0x8000 if k == len(regions) - 1 else 0
            self.memory.write(table + 8 * k, struct.pack("<IHH", base, size & 0xFFFF, last))
        self.out(BM + 4, table, 4)

    def sector(self, lba: int) -> bytes:
        return struct.pack("<I", lba) * 128


def test_identity_is_qemus() -> None:
    ide = Board().ide
    assert [ide.register(o, 4) for o in (0, 4, 8, 0x20)] == [0x7010_8086, 0x0280_0000, 0x0101_8000, 1]
    ide.config_write(0x20, 4, 0xFFFF_FFFF)
    assert ide.register(0x20, 4) == 0xFFFF_FFF1


def test_seabios_finds_the_registers_of_a_drive() -> None:
    b = Board()
    b.out(DEVICE, 0xA0)
    assert b.inp(STATUS) == 0x50 and b.inp(DEVICE) == 0xA0
    b.out(COUNT, 0x55)
    b.out(LOW, 0xAA)
    assert (b.inp(COUNT), b.inp(LOW)) == (0x55, 0xAA)


def test_an_empty_channel_reads_zeros() -> None:
    b = Board()
    b.out(0x176, 0xA0)
    b.out(0x172, 0x55)
    b.out(0x177, 0xEC)
    assert [b.inp(0x170 + k) for k in range(1, 8)] == [0] * 7 and b.inp(0x376) == 0 and b.edges == []


def test_an_absent_slave_has_status_0() -> None:
    b = Board()
    b.out(DEVICE, 0xB0)
    assert b.inp(STATUS) == 0 and b.inp(CONTROL) == 0 and b.inp(DEVICE) == 0xB0
    b.out(STATUS, 0xEC)
    assert b.edges == []
    b.out(DEVICE, 0xA0)
    assert b.inp(STATUS) == 0x50


def test_two_drives_keep_their_own_state() -> None:
    b = Board(slave=True)
    b.command(0x20, lba=3)
    b.out(DEVICE, 0xB0)
    assert b.inp(STATUS) == 0x50 and b.edges == [(14, True), (14, False)]
    b.out(DEVICE, 0xE0)
    assert b.edges[-1] == (14, True) and b.words(256) == b.sector(3)


def test_software_reset() -> None:
    b = Board()
    b.command(0x20, lba=5, count=2)
    b.out(CONTROL, 0x0E)
    assert b.inp(CONTROL) == 0x80 and b.inp(STATUS) == 0x80
    b.out(CONTROL, 0x0A)
    assert [b.inp(0x1F0 + k) for k in range(1, 8)] == [1, 1, 1, 0, 0, 0, 0x50]
    assert b.inp(DATA, 2) == 0xFFFF


def test_reading_status_lets_the_interrupt_go() -> None:
    b = Board()
    b.command(0x20)
    assert b.edges == [(14, True)] and b.inp(CONTROL) == 0x58
    assert b.edges == [(14, True)], "the alternate status has no effect"
    assert b.inp(STATUS) == 0x58 and b.edges == [(14, True), (14, False)]


def test_nien_gates_the_line() -> None:
    b = Board()
    b.out(CONTROL, 0x02)
    b.command(0x20)
    assert b.edges == []
    b.out(CONTROL, 0x00)
    assert b.edges == [(14, True)]


def test_hob_reads_give_the_previous_bytes() -> None:
    b = Board()
    for value in (0x12, 0x34):
        b.out(COUNT, value)
        b.out(LOW, value + 1)
    assert b.inp(COUNT) == 0x34
    b.out(CONTROL, 0x80)
    assert (b.inp(COUNT), b.inp(LOW)) == (0x12, 0x13)
    b.out(COUNT, 0)
    assert b.inp(LOW) == 0x35, "writing a register ends the HOB reading"


def test_dwords_and_words_give_the_same_bytes() -> None:
    b = Board()
    b.command(0x20, lba=9)
    data = b"".join(b.inp(DATA, 4).to_bytes(4, "little") for _ in range(127)) + b.words(2)
    assert data == b.sector(9) and b.inp(STATUS) == 0x50
    assert b.inp(DATA, 4) == 0xFFFF_FFFF and b.inp(DATA, 1) == 0xFF


def test_blocks_run_over_sector_borders() -> None:
    b = Board()
    b.command(0x20, lba=1, count=3)
    channel = b.ide.channels[0]
    assert channel.read_block(0, 2, 300) == (b.sector(1) + b.sector(2))[:600]
    assert channel.read_block(0, 4, 300)[:936] == (b.sector(2) + b.sector(3))[88:]
    assert channel.read_block(0, 2, 2) == b"\xff" * 4
    assert b.inp(STATUS) == 0x50


def test_blocks_write() -> None:
    b = Board()
    b.command(0x30, lba=7, count=2)
    b.ide.channels[0].write_block(0, 2, b"ab" * 256)
    b.ide.channels[0].write_block(0, 4, b"cdef" * 200)
    assert b.disk.data[7 * 512 : 9 * 512] == b"ab" * 256 + b"cdef" * 128 and b.inp(STATUS) == 0x50


def test_blocks_of_other_registers_are_single_accesses() -> None:
    b = Board()
    channel = b.ide.channels[0]
    channel.write_block(2, 1, b"\x01\x02\x03")
    assert channel.read_block(2, 1, 2) == b"\x03\x03"


def test_diagnostic_runs_on_both_and_selects_the_first() -> None:
    b = Board(slave=True)
    b.command(0x90, device=0xB0)
    assert b.inp(ERROR) == 1 and b.inp(DEVICE) == 0 and b.inp(STATUS) == 0x50 and b.edges == [(14, True), (14, False)]


def test_dma_read_scatters() -> None:
    b = Board()
    b.ide.config_write(4, 2, 5)
    b.prds(0x1000, (0x2000, 700), (0x3000, 324))
    b.out(BM, 0x08)
    b.command(0xC8, lba=4, count=2)
    assert b.edges == []
    b.out(BM, 0x09)
    whole = b.sector(4) + b.sector(5)
    assert b.memory.read(0x2000, 700) == whole[:700] and b.memory.read(0x3000, 324) == whole[700:]
    assert b.inp(BM + 2) & 7 == 4 and b.edges == [(14, True)] and b.inp(STATUS) == 0x50
    b.out(BM + 2, 0x64)
    assert b.inp(BM + 2) == 0x60


def test_dma_write_gathers_when_the_engine_starts_first() -> None:
    b = Board()
    b.ide.config_write(4, 2, 5)
    b.memory.write(0x4000, b"q" * 1024)
    b.prds(0x1000, (0x4000, 1024))
    b.out(BM, 0x01)
    assert b.inp(BM + 2) & 1
    b.command(0x35, lba=6, count=2, device=0x40)
    assert b.disk.data[6 * 512 : 8 * 512] == b"q" * 1024 and b.inp(BM + 2) & 7 == 4


def test_dma_needs_bus_master_enable() -> None:
    b = Board()
    b.prds(0x1000, (0x2000, 512))
    b.command(0xC8, lba=1)
    b.out(BM, 0x09)
    assert b.edges == [] and b.traced[-1][0] == "guest_error"
    b.ide.config_write(4, 2, 5)
    assert b.memory.read(0x2000, 512) == b.sector(1) and b.edges == [(14, True)]


def test_a_long_table_leaves_the_engine_active() -> None:
    b = Board()
    b.ide.config_write(4, 2, 5)
    b.prds(0x1000, (0x2000, 1024))
    b.command(0xC8, lba=1)
    b.out(BM, 0x09)
    assert b.inp(BM + 2) & 7 == 5
    b.out(BM, 0x08)
    assert b.inp(BM + 2) & 7 == 4


def test_a_short_table_never_interrupts() -> None:
    b = Board()
    b.ide.config_write(4, 2, 5)
    b.prds(0x1000, (0x2000, 256))
    b.command(0xC8, lba=1)
    b.out(BM, 0x09)
    assert b.inp(BM + 2) & 7 == 0 and b.edges == [] and b.inp(CONTROL) & 8
    b.out(CONTROL, 4)
    b.out(CONTROL, 0)
    assert b.inp(STATUS) == 0x50


def test_a_table_in_nowhere_ends() -> None:
    b = Board()
    b.ide.config_write(4, 2, 5)
    b.out(BM + 4, 0xFFFF_FFF8, 4)
    b.command(0xC8, lba=1)
    b.out(BM, 0x09)
    assert b.inp(BM + 2) & 1 in (0, 1)


def test_restore_in_the_middle_of_a_sector() -> None:
    b = Board()
    b.command(0x20, lba=11, count=2)
    first = b.words(100)
    state = b.ide.snapshot()
    b.ide.reset()
    assert b.edges[-1] == (14, False)
    b.ide.restore(state)
    assert b.edges[-1] == (14, True)
    assert first + b.words(412) == b.sector(11) + b.sector(12)
