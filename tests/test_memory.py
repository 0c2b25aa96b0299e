"""Guest physical memory: the map from pages to bytes, ROMs, DMA, guard pages."""

from __future__ import annotations

import subprocess
import sys

import pytest

from jitvm.errors import ConfigError
from jitvm.memory import GUARD, MAPPED, PAGE, GuestMemory

RAM = 16 * PAGE


@pytest.fixture
def memory() -> GuestMemory:
    memory = GuestMemory(RAM, 3 * PAGE)
    memory.map(0, RAM, 0)
    return memory


def test_ram_is_read_back_over_page_borders(memory: GuestMemory) -> None:
    data = bytes(range(256)) * 40
    memory.write(PAGE - 100, data)
    assert memory.read(PAGE - 100, len(data)) == data
    assert memory.bytes[PAGE - 100 : PAGE - 90].tobytes() == data[:10]


def test_what_is_not_memory_reads_as_ones_and_drops_writes(memory: GuestMemory) -> None:
    memory.write(RAM - 2, b"abcd")
    assert memory.read(RAM - 2, 4) == b"ab\xff\xff"
    assert memory.read(1 << 40, 2) == b"\xff\xff" and memory.offset(-1) is None
    memory.write(1 << 40, b"gone")


def test_a_rom_lies_behind_the_ram_and_is_filled_up_with_zeros(memory: GuestMemory) -> None:
    first, second = memory.add_rom(b"\xaa" * 10), memory.add_rom(b"\xbb" * (PAGE + 1))
    assert (first, second) == (RAM, RAM + PAGE)
    memory.map(0xF_0000, PAGE, first, write=False)
    memory.map(0xF_0000, PAGE, None, read=False)
    memory.write(0xF_0000, b"rom")
    assert memory.read(0xF_0000, 12) == b"\xaa" * 10 + b"\0\0"
    with pytest.raises(ConfigError, match="no room for 1 bytes"):
        memory.add_rom(b"x")


def test_reads_and_writes_are_mapped_apart(memory: GuestMemory) -> None:
    """PAM: reads from the ROM, writes to the RAM below it, then both from RAM."""
    rom = memory.add_rom(b"R" * PAGE)
    memory.map(0x4000, PAGE, rom, write=False)
    memory.write(0x4000, b"shadow")
    assert memory.read(0x4000, 6) == b"RRRRRR"
    memory.map(0x4000, PAGE, 0x4000, write=False)
    assert memory.read(0x4000, 6) == b"shadow"
    assert memory.offset(0x4002) == memory.offset(0x4002, write=True) == 0x4002


def test_entries_carry_the_mapped_bit(memory: GuestMemory) -> None:
    assert int(memory.page_read[3]) == 3 * PAGE | MAPPED and int(memory.page_write[16]) == 0


def test_a_page_may_be_shown_twice(memory: GuestMemory) -> None:
    memory.map(0x8000_0000, 2 * PAGE, PAGE)
    memory.write(0x8000_0010, b"alias")
    assert memory.read(PAGE + 0x10, 5) == b"alias"


def test_listeners_hear_of_maps_and_of_writes_by_offset(memory: GuestMemory) -> None:
    maps: list[int] = []
    writes: list[tuple[int, int]] = []
    memory.on_map.append(lambda: maps.append(1))
    memory.on_write.append(lambda offset, n: writes.append((offset, n)))
    memory.map(0x8000_0000, PAGE, 2 * PAGE)
    memory.write(0x8000_0000 + PAGE - 3, b"abcdef")
    memory.write(3 * PAGE - 1, b"xy")
    assert maps == [1]
    assert writes == [(3 * PAGE - 3, 3), (3 * PAGE - 1, 1), (3 * PAGE, 1)]


@pytest.mark.parametrize("size", [0, -PAGE, 5, PAGE + 1])
def test_a_memory_has_whole_pages(size: int) -> None:
    with pytest.raises(ConfigError, match="positive multiple of 4096"):
        GuestMemory(size)


def test_more_memory_than_the_host_has() -> None:
    with pytest.raises(ConfigError, match="use a smaller -m"):
        GuestMemory(1 << 60)


@pytest.mark.parametrize(
    ("gpa", "size", "offset", "message"),
    [
        (0x10, PAGE, 0, "whole pages"),
        (0, 100, 0, "whole pages"),
        (0, PAGE, 8, "whole pages"),
        (1 << 32, PAGE, 0, "outside the address space"),
        ((1 << 32) - PAGE, 2 * PAGE, 0, "outside the address space"),
        (-PAGE, PAGE, 0, "outside the address space"),
        (0, PAGE, RAM + 3 * PAGE, "behind the end of guest memory"),
        (0, 4 * PAGE, RAM, "behind the end of guest memory"),
        (0, PAGE, -PAGE, "behind the end of guest memory"),
    ],
)
def test_a_map_that_translated_code_could_leave_guest_memory_by_is_refused(
    memory: GuestMemory, gpa: int, size: int, offset: int, message: str
) -> None:
    before = memory.page_read.tobytes()
    with pytest.raises(ConfigError, match=message):
        memory.map(gpa, size, offset)
    assert memory.page_read.tobytes() == before


@pytest.mark.parametrize("where", ["memory.host - 1", f"memory.host - {GUARD}", "memory.host + memory.size"])
def test_guard_pages_stand_around_guest_memory(where: str) -> None:
    program = f"""
import ctypes
from jitvm.memory import GuestMemory
memory = GuestMemory(1 << 16, 4096)
ctypes.string_at(memory.host, memory.size)
print("in", flush=True)
ctypes.string_at({where}, 1)
print("out")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout == "in\n" and done.returncode < 0
