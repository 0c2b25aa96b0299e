"""The flash: its commands, what is seen meanwhile, and what reaches the disk behind it."""

from __future__ import annotations

import pytest

from jitvm.backends.blockdev import MemoryDisk
from jitvm.devices.pflash import BLOCK, Pflash
from tests.devices.conformance import Rig

SIZE = 4 * BLOCK


class Flash:
    """A flash full of 5Ah whose memory is a bytearray."""

    def __init__(self, read_only: bool = False) -> None:
        self.rig = Rig()
        self.disk = MemoryDisk(b"\x5a" * SIZE, read_only=read_only)
        self.memory = bytearray(b"\x5a" * SIZE)
        self.shown = [True]
        self.chip = Pflash("pflash0", self.disk, self.put, self.shown.append, self.rig.trace)

    def put(self, offset: int, data: bytes) -> None:
        self.memory[offset : offset + len(data)] = data

    def write(self, offset: int, *values: int) -> None:
        for value in values:
            self.chip.write(offset, 1, value)

    def read(self, offset: int) -> int:
        return self.memory[offset] if self.shown[-1] else self.chip.read(offset, 1)


@pytest.fixture
def flash() -> Flash:
    return Flash()


def test_ovmf_knows_it_from_ram_and_rom(flash: Flash) -> None:
    """QemuFlashDetected: CLEAR STATUS does not stay as data, READ STATUS then shows 0."""
    flash.write(0, 0x50)
    assert flash.read(0) == 0x5A
    flash.write(0, 0x70)
    assert flash.read(0) == 0x00
    flash.write(0, 0xFF)
    assert flash.read(0) == 0x5A and flash.disk.data == b"\x5a" * SIZE


@pytest.mark.parametrize("command", [0x10, 0x40])
def test_program_a_byte(flash: Flash, command: int) -> None:
    flash.write(BLOCK + 3, command)
    assert flash.read(0) == 0x00 and flash.shown == [True, False]
    flash.write(BLOCK + 3, 0x77)
    assert flash.read(0) == 0x80
    flash.write(0, 0xFF)
    assert flash.shown == [True, False, True]
    assert flash.disk.data == flash.memory
    assert flash.memory.index(0x77) == BLOCK + 3


def test_erase_a_block(flash: Flash) -> None:
    flash.write(2 * BLOCK + 100, 0x20, 0xD0)
    assert flash.read(5) == 0x80
    flash.write(0, 0x00)
    assert flash.memory == flash.disk.data == b"\x5a" * 2 * BLOCK + b"\xff" * BLOCK + b"\x5a" * BLOCK


def test_write_to_buffer(flash: Flash) -> None:
    flash.write(0x200, 0xE8)
    assert flash.read(0x200) == 0x80
    flash.write(0x200, 2)
    for at, value in ((0x204, 1), (0x205, 2), (0x206, 3)):
        flash.write(at, value)
    assert flash.memory[0x204] == 0x5A, "not before it is confirmed"
    flash.write(0x200, 0xD0, 0xFF)
    assert flash.disk.data[0x203:0x208] == b"\x5a\1\2\3\x5a"


@pytest.mark.parametrize("commands", [(0x20, 0x33), (0x60, 0x33), (0xE8, 0, 1, 0x33)])
def test_broken_sequences(flash: Flash, commands: tuple[int, ...]) -> None:
    flash.write(0, *commands)
    assert flash.read(0) & 0xB0 == 0xB0 and flash.rig.traced("guest_error")
    flash.write(0, 0x50)
    assert flash.memory == flash.disk.data == b"\x5a" * SIZE


def test_a_buffer_stays_inside_its_bytes(flash: Flash) -> None:
    flash.write(0, 0xE8, 1)
    flash.write(0xFF, 1)
    flash.write(0x100, 2, 0xD0)
    assert flash.read(0) == 0xB0 and flash.disk.data == b"\x5a" * SIZE


def test_locks_are_taken_and_forgotten(flash: Flash) -> None:
    flash.write(0, 0x60, 0x01)
    assert flash.read(0) == 0x80
    flash.write(0, 0x20, 0xD0, 0xFF)
    assert flash.memory[:1] == b"\xff"


def test_unknown_commands_read_the_array(flash: Flash) -> None:
    flash.write(0, 0x70, 0xB0)
    assert flash.read(0) == 0x5A and flash.rig.traced("unmodelled")


def test_identifier_and_query(flash: Flash) -> None:
    flash.write(0, 0x90)
    assert flash.read(0) == 0
    flash.write(0, 0x98)
    table = bytes(flash.read(at) for at in range(0x40))
    assert table[0x10:0x13] == b"QRY" and table[0x13:0x17] == bytes((1, 0, 0x31, 0))
    assert table[0x27] == 14, "16 KiB"
    assert table[0x2C:0x31] == bytes((1, 3, 0, 16, 0)), "one region: 3 + 1 blocks of 16 times 256 bytes"
    assert table[0x31:0x36] == b"PRI10"


@pytest.mark.parametrize(("commands", "status"), [((0x10, 0x77), 0x90), ((0x20, 0xD0), 0xA0)])
def test_a_read_only_image(commands: tuple[int, int], status: int) -> None:
    flash = Flash(read_only=True)
    flash.write(0, *commands)
    assert flash.read(0) == status and flash.memory == b"\x5a" * SIZE
    assert not flash.rig.traced("device_state")


def test_an_error_of_the_host_is_told(flash: Flash) -> None:
    flash.disk.fail = True
    flash.write(0, 0x10, 0x77)
    assert flash.read(0) == 0x90 and flash.rig.traced("device_state")
    assert flash.memory == b"\x5a" * SIZE


def test_reset_shows_the_array(flash: Flash) -> None:
    flash.write(0, 0x70)
    flash.chip.reset()
    assert flash.read(0) == 0x5A
