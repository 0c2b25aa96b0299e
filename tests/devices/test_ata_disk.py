"""Commands of the ATA disk, seen through a channel."""

from __future__ import annotations

import pytest

from tests.devices.test_ide import BM, COUNT, DEVICE, ERROR, HIGH, LOW, MID, STATUS, Board

ABRT, IDNF, UNC = 4, 0x10, 0x40


def identify(b: Board) -> list[int]:
    b.command(0xEC, device=0xA0)
    raw = b.words(256)
    return [int.from_bytes(raw[k : k + 2], "little") for k in range(0, 512, 2)]


def text(words: list[int]) -> str:
    return b"".join(w.to_bytes(2, "big") for w in words).decode().strip()


def test_identify() -> None:
    w = identify(Board(n_sectors=4096))
    assert w[0] == 0x40 and (w[1], w[3], w[6]) == (4, 16, 63)
    assert text(w[27:47]) == "JITVM HARDDISK" and text(w[10:20]) == "JV00001" and text(w[23:27]) == "1.0"
    assert w[60] | w[61] << 16 == 4096 and w[100] | w[101] << 16 == 4096
    assert w[49] & 0x300 == 0x300 and w[47] & 0xFF == 16 and w[83] & 0x7400 == 0x7400 and w[80] & 0xC0


def test_small_disks_have_two_cylinders() -> None:
    assert identify(Board(n_sectors=256))[1] == 2


def test_read_interrupts_for_each_sector() -> None:
    b = Board()
    b.command(0x20, lba=100, count=3)
    for k in range(3):
        assert b.edges.count((14, True)) == k + 1 and b.inp(STATUS) == 0x58
        assert b.words(256) == b.sector(100 + k)
    assert b.inp(STATUS) == 0x50 and b.edges.count((14, True)) == 3
    assert (b.inp(LOW), b.inp(COUNT)) == (102, 0)


def test_count_0_is_256_sectors() -> None:
    b = Board()
    b.command(0x20, lba=0, count=0)
    assert b.ide.channels[0].read_block(0, 4, 128 * 256)[-512:] == b.sector(255) and b.inp(STATUS) == 0x50


def test_chs() -> None:
    b = Board()
    b.out(LOW, 5)
    b.command(0x20, lba=1 << 8 | 5, device=0xA2)
    assert b.words(256) == b.sector((1 * 16 + 2) * 63 + 4)
    assert b.inp(LOW) == 5 and b.inp(DEVICE) == 0xA2


def test_chs_follows_initialize_parameters() -> None:
    b = Board()
    b.command(0x91, count=17, device=0xA3)
    assert b.inp(STATUS) == 0x50
    b.command(0x20, lba=2 << 8 | 1, device=0xA1)
    assert b.words(256) == b.sector((2 * 4 + 1) * 17)
    assert (identify(b)[55], identify(b)[56]) == (4, 17)


@pytest.mark.parametrize("lba", [0x0100, 64])
def test_chs_outside_the_geometry(lba: int) -> None:
    b = Board()
    b.command(0x20, lba=lba, device=0xA0)
    assert b.inp(STATUS) == 0x51 and b.inp(ERROR) == IDNF


def test_lba48() -> None:
    b = Board()
    for port, high, low in ((COUNT, 0, 2), (LOW, 0, 0x34), (MID, 0, 0x03), (HIGH, 0, 0)):
        b.out(port, high)
        b.out(port, low)
    b.out(DEVICE, 0x40)
    b.out(STATUS, 0x24)
    assert b.words(512) == b.sector(0x334) + b.sector(0x335)


def test_lba48_takes_the_high_bytes() -> None:
    b = Board()
    b.out(LOW, 1)
    b.out(LOW, 0)
    b.out(DEVICE, 0x40)
    b.out(STATUS, 0x24)
    assert b.inp(STATUS) == 0x51 and b.inp(ERROR) == IDNF


def test_reading_over_the_end() -> None:
    b = Board()
    b.command(0x20, lba=2047, count=2)
    assert b.words(256) == b.sector(2047)
    assert b.inp(STATUS) == 0x51 and b.inp(ERROR) == IDNF and b.inp(LOW) | b.inp(MID) << 8 == 2048


def test_write_interrupts_after_each_sector() -> None:
    b = Board()
    b.command(0x30, lba=8, count=2)
    assert b.inp(STATUS) == 0x58 and b.edges == []
    for k in range(512):
        b.out(0x1F0, k, 2)
        assert b.edges.count((14, True)) == (k + 1) // 256
        if k == 255:
            assert b.inp(STATUS) == 0x58
    assert b.inp(STATUS) == 0x50
    assert b.disk.data[8 * 512 : 8 * 512 + 4] == b"\0\0\1\0" and b.disk.data[9 * 512 : 9 * 512 + 4] == b"\0\1\1\1"


def test_multiple() -> None:
    b = Board()
    b.command(0xC6, count=4)
    b.command(0xC4, lba=20, count=6)
    assert b.inp(STATUS) == 0x58
    assert b.words(1024) == b"".join(b.sector(20 + k) for k in range(4)) and b.edges.count((14, True)) == 3
    assert b.words(512) == b.sector(24) + b.sector(25) and b.inp(STATUS) == 0x50
    b.command(0xC5, lba=20, count=2)
    b.ide.channels[0].write_block(0, 4, b"m" * 1024)
    assert b.disk.data[20 * 512 : 22 * 512] == b"m" * 1024


def test_multiple_can_be_off_and_must_be_a_power_of_two() -> None:
    b = Board()
    for count, status in ((3, 0x51), (32, 0x51), (0, 0x50)):
        b.command(0xC6, count=count)
        assert b.inp(STATUS) == status
    b.command(0xC4)
    assert b.inp(STATUS) == 0x51 and b.inp(ERROR) == ABRT


def test_flush_reaches_the_backend() -> None:
    b = Board()
    for code in (0xE7, 0xEA, 0xE0):
        b.command(code)
        assert b.inp(STATUS) == 0x50
    assert b.disk.flushes == 3


def test_host_errors_are_disk_errors() -> None:
    b = Board()
    b.disk.fail = True
    b.command(0x20)
    assert b.inp(STATUS) == 0x51 and b.inp(ERROR) == UNC
    b.command(0xE7)
    assert b.inp(STATUS) == 0x51 and b.inp(ERROR) == ABRT
    b.command(0x30)
    b.ide.channels[0].write_block(0, 4, bytes(512))
    assert b.inp(STATUS) == 0x51 and b.inp(ERROR) == ABRT


def test_a_read_only_disk_aborts_writes() -> None:
    b = Board()
    b.disk.read_only = True
    b.command(0x30)
    assert b.inp(STATUS) == 0x51 and b.inp(ERROR) == ABRT


def test_verify_and_seek() -> None:
    b = Board()
    b.command(0x40, lba=2000, count=48)
    assert b.inp(STATUS) == 0x50
    b.command(0x40, lba=2000, count=49)
    assert b.inp(STATUS) == 0x51 and b.inp(ERROR) == IDNF
    b.command(0x70, lba=10)
    assert b.inp(STATUS) == 0x50
    b.command(0x70, lba=5000)
    assert b.inp(STATUS) == 0x51
    b.command(0x10)
    assert b.inp(STATUS) == 0x50


def test_read_native_max() -> None:
    b = Board()
    b.command(0xF8)
    assert b.inp(LOW) | b.inp(MID) << 8 == 2047 and b.inp(DEVICE) == 0xE0
    b.command(0x27)
    assert b.inp(LOW) | b.inp(MID) << 8 == 2047


def test_power_modes_are_reported() -> None:
    b = Board()
    b.command(0xE5)
    assert b.inp(COUNT) == 0xFF
    b.command(0xE0)
    b.command(0xE5)
    assert b.inp(COUNT) == 0
    b.command(0xE1)
    b.command(0xE5)
    assert b.inp(COUNT) == 0xFF


@pytest.mark.parametrize(
    ("feature", "count", "status", "word", "value"),
    [
        (0x03, 0x45, 0x50, 88, 0x203F),
        (0x03, 0x22, 0x50, 63, 0x0407),
        (0x03, 0x0C, 0x50, 88, 0x203F),
        (0x03, 0x47, 0x51, 88, 0x203F),
        (0x82, 0, 0x50, 85, 0x4040),
        (0x55, 0, 0x50, 85, 0x4020),
        (0x66, 0, 0x50, 85, 0x4060),
        (0x77, 0, 0x51, 85, 0x4060),
    ],
)
def test_set_features(feature: int, count: int, status: int, word: int, value: int) -> None:
    b = Board()
    b.out(ERROR, feature)
    b.command(0xEF, count=count)
    assert b.inp(STATUS) == status and identify(b)[word] == value


@pytest.mark.parametrize("code", [0x00, 0x08, 0xA1, 0xB0, 0xF1])
def test_commands_that_a_disk_aborts(code: int) -> None:
    b = Board()
    b.command(code)
    assert b.inp(STATUS) == 0x51 and b.inp(ERROR) == ABRT and b.edges[0] == (14, True)


def test_a_new_command_drops_the_old_data() -> None:
    b = Board()
    b.command(0x20, lba=1)
    b.words(3)
    b.command(0x20, lba=2)
    assert b.words(256) == b.sector(2)


def test_dma_of_48_bits() -> None:
    b = Board()
    b.ide.config_write(4, 2, 5)
    b.prds(0x1000, (0x1_0000, 0), (0x2_0000, 0))
    b.command(0x25, count=0x100, device=0x40)
    b.out(BM, 9)
    assert b.memory.read(0x1_0000, 0x2_0000) == bytes(b.disk.data[:0x2_0000])
    assert b.inp(STATUS) == 0x50 and b.inp(COUNT) == 0
