"""The CD-ROM drive by its packets, seen through a channel."""

from __future__ import annotations

import struct

import pytest

from jitvm.backends.blockdev import MemoryDisk
from jitvm.bus import Bus
from jitvm.devices.atapi import AtapiCdrom
from jitvm.devices.ide import Piix3Ide
from jitvm.irq import IrqLine
from jitvm.memory import GuestMemory

N_BLOCKS = 40
DATA, FEATURES, COUNT, LOW, MID, HIGH, DEVICE, STATUS = range(8)


class Board:
    def __init__(self, disc: bool = True) -> None:
        self.disk = MemoryDisk(b"".join(struct.pack(">I", k) * 512 for k in range(N_BLOCKS)))
        self.drive = AtapiCdrom("hdc", self.disk if disc else None)
        self.edges: list[bool] = []
        self.memory = GuestMemory(1 << 20)
        self.memory.map(0, 1 << 20, 0)
        lines = [IrqLine(lambda _level: None), IrqLine(self.edges.append)]
        self.ide = Piix3Ide(self.memory, lines, [None, None, self.drive, None])
        self.io = Bus("io", 0x1000, direct=True)
        self.io.map(0, 8, self.ide.channels[1], name="ide", max_size=4)
        self.io.map(0x20, 16, self.ide.bars[0].region, name="bm", max_size=4)

    def out(self, port: int, value: int, size: int = 1) -> None:
        self.io.write(port, size, value)

    def inp(self, port: int, size: int = 1) -> int:
        return self.io.read(port, size)

    def send(self, packet: list[int], limit: int = 0xFFFE, dma: bool = False) -> int:
        """Issue a packet; the status behind it."""
        self.out(FEATURES, dma)
        self.out(MID, limit & 0xFF)
        self.out(HIGH, limit >> 8)
        self.out(STATUS, 0xA0)
        assert self.inp(STATUS) == 0x58 and self.inp(COUNT) == 1
        self.ide.channels[1].write_block(0, 2, bytes(packet).ljust(12, b"\0"))
        return self.inp(STATUS)

    def pieces(self) -> list[bytes]:
        """All data, one item for each DRQ block."""
        out = []
        while self.inp(STATUS) & 8:
            assert self.inp(COUNT) == 2
            n = self.inp(MID) | self.inp(HIGH) << 8
            out.append(b"".join(self.inp(DATA, 2).to_bytes(2, "little") for _ in range((n + 1) // 2))[:n])
        return out

    def ask(self, packet: list[int]) -> bytes:
        assert self.send(packet) == 0x58
        return b"".join(self.pieces())

    def sense(self) -> tuple[int, int]:
        data = self.ask([3, 0, 0, 0, 18])
        return data[2], data[12]

    def blocks(self, first: int, n: int) -> bytes:
        return bytes(self.disk.data[first * 2048 : (first + n) * 2048])


def test_signature_and_identify_device_is_refused() -> None:
    b = Board()
    assert [b.inp(k) for k in (COUNT, LOW, MID, HIGH, STATUS)] == [1, 1, 0x14, 0xEB, 0]
    b.out(STATUS, 0xEC)
    assert b.inp(STATUS) == 0x51 and b.inp(FEATURES) == 4 and (b.inp(MID), b.inp(HIGH)) == (0x14, 0xEB)


def test_identify_packet_device() -> None:
    b = Board()
    b.out(STATUS, 0xA1)
    raw = b"".join(b.inp(DATA, 2).to_bytes(2, "big") for _ in range(256))
    assert raw[:2] == b"\x85\xc0" and raw[54:94].strip() == b"JITVM DVD-ROM" and b.inp(STATUS) == 0x50


def test_inquiry_is_cut_to_its_allocation() -> None:
    b = Board()
    whole = b.ask([0x12, 0, 0, 0, 255])
    assert len(whole) == 36 and whole[0] == 5 and whole[8:16] == b"JITVM   " and whole[1] == 0x80
    assert b.ask([0x12, 0, 0, 0, 5]) == whole[:5]


def test_packets_interrupt_at_data_and_at_the_end() -> None:
    b = Board()
    b.send([0x28, 0, 0, 0, 0, 17, 0, 0, 1], limit=2048)
    assert b.edges == [True, False]
    (data,) = b.pieces()
    assert data == b.blocks(17, 1) and b.edges == [True, False, True, False]
    assert b.inp(COUNT) == 3 and b.inp(STATUS) == 0x50


@pytest.mark.parametrize(("limit", "sizes"), [(2048, [2048] * 3), (4096, [4096, 2048]), (3001, [3000, 3000, 144])])
def test_the_byte_count_limit_cuts_the_data(limit: int, sizes: list[int]) -> None:
    b = Board()
    b.send([0x28, 0, 0, 0, 0, 2, 0, 0, 3], limit=limit)
    pieces = b.pieces()
    assert [len(p) for p in pieces] == sizes and b"".join(pieces) == b.blocks(2, 3)


def test_long_reads_go_on_behind_the_first_fetch() -> None:
    b = Board()
    b.send([0xA8, 0, 0, 0, 0, 1, 0, 0, 0, 39])
    assert b"".join(b.pieces()) == b.blocks(1, 39)


def test_read_of_nothing_and_over_the_end() -> None:
    b = Board()
    assert b.send([0x28, 0, 0, 0, 0, 0, 0, 0, 0]) == 0x50
    assert b.send([0x28, 0, 0, 0, 0, 39, 0, 0, 2]) == 0x51 and b.inp(FEATURES) == 0x54
    assert b.sense() == (5, 0x21) and b.sense() == (0, 0)


def test_capacity_and_toc() -> None:
    b = Board()
    assert b.ask([0x25]) == struct.pack(">II", N_BLOCKS - 1, 2048)
    toc = b.ask([0x43, 0, 0, 0, 0, 0, 0, 0, 100])
    assert toc == bytes([0, 18, 1, 1, 0, 0x14, 1, 0, 0, 0, 0, 0, 0, 0x14, 0xAA, 0, 0, 0, 0, N_BLOCKS])
    assert b.ask([0x43, 2, 0, 0, 0, 0, 0xAA, 0, 100])[-4:] == bytes([0, 0, 2, 40])
    assert b.ask([0x43, 0, 1, 0, 0, 0, 0, 0, 12]) == bytes([0, 10, 1, 1, 0, 0x14, 1, 0, 0, 0, 0, 0])


def test_an_empty_drive() -> None:
    b = Board(disc=False)
    for packet in ([0x00], [0x25], [0x28, 0, 0, 0, 0, 0, 0, 0, 1], [0x43]):
        assert b.send(packet) == 0x51 and b.inp(FEATURES) == 0x24
        assert b.sense() == (2, 0x3A)
    b.drive.insert(b.disk)
    assert b.send([0]) == 0x51 and b.sense() == (6, 0x28)
    assert b.send([0]) == 0x50


def test_eject_load_and_lock() -> None:
    b = Board()
    b.send([0x1E, 0, 0, 0, 1])
    assert b.send([0x1B, 0, 0, 0, 2]) == 0x51 and b.sense() == (5, 0x53)
    b.send([0x1E, 0, 0, 0, 0])
    assert b.send([0x1B, 0, 0, 0, 2]) == 0x50
    assert b.send([0]) == 0x51 and b.sense() == (2, 0x3A)
    assert b.send([0x1B, 0, 0, 0, 3]) == 0x50
    assert b.send([0]) == 0x51 and b.sense() == (6, 0x28) and b.send([0]) == 0x50


def test_mode_sense() -> None:
    b = Board()
    data = b.ask([0x5A, 0, 0x2A, 0, 0, 0, 0, 0, 128])
    assert len(data) == 28 and data[:3] == bytes([0, 26, 1]) and data[8] == 0x2A
    assert len(b.ask([0x5A, 0, 0x3F, 0, 0, 0, 0, 0, 128])) == 36
    assert b.send([0x5A, 0, 0x0E, 0, 0, 0, 0, 0, 128]) == 0x51 and b.sense() == (5, 0x24)


def test_unknown_packets_are_illegal_requests() -> None:
    b = Board()
    assert b.send([0x4A, 1]) == 0x51 and b.sense() == (5, 0x20)


def test_read_by_dma() -> None:
    b = Board()
    b.ide.config_write(4, 2, 5)
    b.memory.write(0x1000, struct.pack("<IHH", 0x2000, 4096, 0x8000))
    b.out(0x2C, 0x1000, 4)
    assert b.send([0x28, 0, 0, 0, 0, 5, 0, 0, 2], dma=True) == 0x58
    b.out(0x28, 0x09)
    assert b.memory.read(0x2000, 4096) == b.blocks(5, 2)
    assert b.inp(0x2A) & 7 == 4 and b.inp(STATUS) == 0x50 and b.inp(COUNT) == 3


def test_host_errors_are_medium_errors() -> None:
    b = Board()
    b.disk.fail = True
    assert b.send([0x28, 0, 0, 0, 0, 0, 0, 0, 1]) == 0x51 and b.sense() == (3, 0x11)


def test_device_reset_needs_no_interrupt() -> None:
    b = Board()
    b.send([0x28, 0, 0, 0, 0, 0, 0, 0, 1])
    edges = len(b.edges)
    b.out(STATUS, 0x08)
    assert b.inp(STATUS) == 0 and b.inp(HIGH) == 0xEB and len(b.edges) == edges


def test_restore_in_the_middle_of_a_read() -> None:
    b = Board()
    b.send([0x28, 0, 0, 0, 0, 3, 0, 0, 2], limit=2048)
    first = [b.inp(DATA, 2) for _ in range(1000)]
    state = b.ide.snapshot()
    b.ide.reset()
    b.ide.restore(state)
    rest = [b.inp(DATA, 2) for _ in range(1048)]
    assert struct.pack("<2048H", *first, *rest) == b.blocks(3, 2)
