"""Buses: who answers, how wide, and what happens where nobody is."""

from __future__ import annotations

import random

import pytest

from jitvm.bus import Bus
from jitvm.errors import ConfigError
from jitvm.trace import Trace

WIDTHS = (1, 2, 4, 8)


class Bytes:
    """Memory that checks how it is accessed."""

    def __init__(self, size: int, max_size: int) -> None:
        self.data, self.max_size = bytearray((k + 1) & 0xFF for k in range(size)), max_size
        self.log: list[tuple[str, int, int]] = []

    def read(self, offset: int, size: int) -> int:
        self._check("read", offset, size)
        return int.from_bytes(self.data[offset : offset + size], "little")

    def write(self, offset: int, size: int, value: int) -> None:
        self._check("write", offset, size)
        self.data[offset : offset + size] = value.to_bytes(size, "little")

    def _check(self, way: str, offset: int, size: int) -> None:
        assert size in WIDTHS and size <= self.max_size, f"an access of {size} bytes"
        assert offset >= 0 and offset + size <= len(self.data)
        self.log.append((way, offset, size))


@pytest.fixture(params=[True, False], ids=["slots", "ranges"])
def bus(request: pytest.FixtureRequest) -> Bus:
    return Bus("port", 0x1_0000, direct=request.param)


def test_offsets_begin_at_the_mapping(bus: Bus) -> None:
    region = Bytes(8, 8)
    bus.map(0x100, 8, region, name="a", max_size=8)
    bus.write(0x104, 2, 0xBEEF)
    assert bus.read(0x104, 2) == 0xBEEF and region.log == [("write", 4, 2), ("read", 4, 2)]


def test_a_value_is_cut_to_its_size(bus: Bus) -> None:
    region = Bytes(8, 8)
    bus.map(0x100, 8, region, name="a", max_size=8)
    bus.write(0x100, 2, 0x1234_5678)
    assert region.data[:3] == b"\x78\x56\x03"


@pytest.mark.parametrize("size", WIDTHS)
def test_wide_accesses_are_split_lowest_first(bus: Bus, size: int) -> None:
    region = Bytes(16, 1)
    bus.map(0x100, 16, region, name="a")
    assert bus.read(0x103, size) == int.from_bytes(bytes(range(4, 4 + size)), "little")
    assert region.log == [("read", 3 + k, 1) for k in range(size)]


def test_nobody_there(bus: Bus) -> None:
    for size in WIDTHS:
        assert bus.read(0x200, size) == (1 << 8 * size) - 1
        bus.write(0x200, size, 5)
    assert bus.read(0xFFFF, 4) == 0xFFFF_FFFF, "beyond the last address, too"


def test_accesses_over_the_ends_of_regions_reach_every_byte_once_and_in_legal_widths() -> None:
    for direct in (True, False):
        bus = Bus("port", 0x1_0000, direct=direct)
        regions = {0x10: Bytes(3, 4), 0x13: Bytes(4, 2), 0x20: Bytes(8, 8), 0x2A: Bytes(1, 1), 0xFFFC: Bytes(4, 4)}
        for base, region in regions.items():
            bus.map(base, len(region.data), region, name=hex(base), max_size=region.max_size)
        expected = bytearray(b"\xff" * 0x1_0010)
        for base, region in regions.items():
            expected[base : base + len(region.data)] = region.data
        rng = random.Random(1)
        for _ in range(3000):
            address, size = rng.choice([rng.randrange(8, 0x30), rng.randrange(0xFFF4, 0x1_0000)]), rng.choice(WIDTHS)
            assert bus.read(address, size) == int.from_bytes(expected[address : address + size], "little")
            value = rng.getrandbits(8 * size)
            bus.write(address, size, value)
            for k, byte in enumerate(value.to_bytes(size, "little")):
                if bus.find(address + k) is not None:
                    expected[address + k] = byte


def test_ranges_may_not_overlap(bus: Bus) -> None:
    bus.map(0x100, 16, Bytes(16, 1), name="a")
    for base, length in ((0x100, 1), (0xFF, 2), (0x10F, 4), (0x80, 0x200), (0x104, 2)):
        with pytest.raises(ConfigError, match="overlaps a at 0x100"):
            bus.map(base, length, Bytes(length, 1), name="b")
    bus.map(0xF0, 16, Bytes(16, 1), name="below")
    bus.map(0x110, 16, Bytes(16, 1), name="above")
    assert [m.name for m in bus.mappings()] == ["below", "a", "above"]


@pytest.mark.parametrize(("base", "length"), [(0, 0), (-1, 4), (0xFFFF, 2), (5, -1)])
def test_a_range_lies_in_the_address_space(bus: Bus, base: int, length: int) -> None:
    with pytest.raises(ConfigError, match="outside the address space"):
        bus.map(base, length, Bytes(1, 1), name="a")


def test_a_mapping_that_was_taken_off_is_gone_at_once(bus: Bus) -> None:
    mapping = bus.map(0x100, 4, Bytes(4, 4), name="a", max_size=4)
    assert bus.read(0x100, 4) == 0x0403_0201
    bus.unmap(mapping)
    assert bus.read(0x100, 4) == 0xFFFF_FFFF and bus.find(0x101) is None and bus.mappings() == []
    bus.map(0x102, 4, Bytes(4, 4), name="b", max_size=4)
    assert bus.read(0x100, 4) == 0x0201_FFFF


def test_accesses_to_nothing_are_trace_events() -> None:
    events: list[tuple[str, dict[str, object]]] = []
    trace = Trace()
    trace.listeners.append(lambda event, fields: events.append((event, fields)))
    bus = Bus("mmio", 1 << 32, trace=trace)
    bus.map(0x100, 4, Bytes(4, 4), name="a", max_size=4)
    bus.read(0x100, 4)
    bus.read(0x200, 4)
    bus.write(0x204, 2, 0x1_2345)
    assert events == [
        ("unassigned_read", {"space": "mmio", "address": 0x200, "size": 4}),
        ("unassigned_write", {"space": "mmio", "address": 0x204, "size": 2, "value": 0x2345}),
    ]
