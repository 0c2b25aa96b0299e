"""A bus: address ranges to regions.  Used for the 64 Ki ports and for physical memory outside RAM and ROM.

A region answers for its own offsets.  Ranges may not overlap (`ConfigError`), as in rust-vmm's vm-device.  An access
that is wider than a region's `max_size`, or that runs over a region's end, is split into smaller ones, lowest address
first, as an ISA bridge splits a 16-bit access to an 8-bit card.  Nobody there: reads give all ones, writes are dropped,
both are trace events.

A bus of ports says in a table which of them need no device (`Bus.table`), so that the CPU serves them itself
(jitvm/isa/served.py): where nobody is, and registers that do nothing but hold what is written to them (`Latched`).
"""

from __future__ import annotations

import bisect
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from jitvm.errors import ConfigError
from jitvm.trace import SILENT, Trace

MASKS = [(1 << 8 * size) - 1 for size in range(9)]
"""The values that fit into 0 to 8 bytes."""


class Region(Protocol):
    """What a device puts on a bus."""

    def read(self, offset: int, size: int) -> int:
        """Value at `offset`, `size` 1, 2, 4 or 8 bytes, little endian; never raises on guest input."""
        ...

    def write(self, offset: int, size: int, value: int) -> None:
        """Store `value` (already cut to `size` bytes); never raises on guest input."""
        ...


ASK, FIXED, LATCH = range(3)
"""How a port is served: by its region; it always reads as its value; it reads as what was written last."""
BEYOND = 8
"""Entries of the table behind the last port: an access may reach over it."""


@runtime_checkable
class Latched(Protocol):
    """A region of bytes that read as what was written last; nothing else comes of a write."""

    def keep_in(self, place: memoryview) -> None:
        """The values move to `place`, where the CPU reads and writes them, too."""
        ...


class Mapping:
    """One mapped range: `base` to `base + length`, with the widest access that the region takes."""

    __slots__ = ("base", "end", "max_size", "name", "read", "region", "write")

    def __init__(self, base: int, length: int, region: Region, name: str, max_size: int) -> None:
        self.base, self.end, self.region, self.name, self.max_size = base, base + length, region, name, max_size
        self.read, self.write = region.read, region.write


class Bus:
    """An address space of `limit` addresses.  Ports use a table with one slot an address (`direct=True`)."""

    def __init__(self, space: str, limit: int, *, direct: bool = False, trace: Trace = SILENT) -> None:
        self.space, self.limit, self._trace = space, limit, trace
        self._bases: list[int] = []
        self._mappings: list[Mapping] = []
        self._slots: list[Mapping | None] | None = [None] * limit if direct else None
        self._last: Mapping | None = None
        """Found last, where there are no slots."""
        self.table: npt.NDArray[np.uint8] = np.zeros((2, limit + BEYOND if direct else 0), np.uint8)
        """How each port is served, and its value."""
        if direct:
            self._serve(0, limit, None)

    def _serve(self, base: int, length: int, region: Region | None) -> None:
        """Enter into the table what is at some ports."""
        kinds, values = self.table[:, base : base + length]
        if isinstance(region, Latched):
            region.keep_in(values.data)
        elif region is None:
            values[:] = 0xFF
        kinds[:] = FIXED if region is None else LATCH if isinstance(region, Latched) else ASK

    def map(self, base: int, length: int, region: Region, *, name: str, max_size: int = 1) -> Mapping:
        """Put `region` at `base`; its offsets run from 0 to `length - 1`.  Overlap is a `ConfigError`."""
        if length <= 0 or base < 0 or base + length > self.limit:
            raise ConfigError(f"{self.space} bus: {name} at {base:#x}+{length:#x} is outside the address space")
        at = bisect.bisect_left(self._bases, base)
        for other in self._mappings[max(0, at - 1) : at + 1]:
            if base < other.end and other.base < base + length:
                where = f"{base:#x}+{length:#x}"
                raise ConfigError(f"{self.space} bus: {name} at {where} overlaps {other.name} at {other.base:#x}")
        mapping = Mapping(base, length, region, name, max_size)
        self._bases.insert(at, base)
        self._mappings.insert(at, mapping)
        if self._slots is not None:
            self._slots[base : base + length] = [mapping] * length
            self._serve(base, length, region)
        return mapping

    def unmap(self, mapping: Mapping) -> None:
        """Take a mapping off the bus (a PCI BAR that moves)."""
        at = self._mappings.index(mapping)
        del self._mappings[at], self._bases[at]
        self._last = None
        if self._slots is not None:
            self._slots[mapping.base : mapping.end] = [None] * (mapping.end - mapping.base)
            if isinstance(mapping.region, Latched):
                mapping.region.keep_in(memoryview(bytearray(mapping.end - mapping.base)))
            self._serve(mapping.base, mapping.end - mapping.base, None)

    def find(self, address: int) -> Mapping | None:
        """The mapping that holds `address`."""
        if self._slots is not None:
            return self._slots[address] if 0 <= address < self.limit else None
        m = self._last
        if m is not None and m.base <= address < m.end:
            return m
        at = bisect.bisect_right(self._bases, address) - 1
        if at >= 0 and address < self._mappings[at].end:
            m = self._last = self._mappings[at]
            return m
        return None

    def mappings(self) -> list[Mapping]:
        """All mappings, lowest first."""
        return list(self._mappings)

    def read(self, address: int, size: int) -> int:
        """Little-endian value of `size` bytes at `address`."""
        m = self._last if self._slots is None else self._slots[address]
        if m is not None and m.base <= address and size <= m.max_size and address + size <= m.end:
            return m.read(address - m.base, size)
        return self._read_anywhere(address, size)

    def write(self, address: int, size: int, value: int) -> None:
        """Store the low `size` bytes of `value` at `address`."""
        m = self._last if self._slots is None else self._slots[address]
        if m is not None and m.base <= address and size <= m.max_size and address + size <= m.end:
            m.write(address - m.base, size, value & MASKS[size])
        else:
            self._write_anywhere(address, size, value)

    def _read_anywhere(self, address: int, size: int) -> int:
        """A read that does not go to the mapping at hand as a whole."""
        m = self.find(address)
        if m is not None and size <= m.max_size and address + size <= m.end:
            return m.read(address - m.base, size)
        if m is None and all(self.find(address + k) is None for k in range(1, size)):
            if self._trace.wants("unassigned_read"):
                self._trace("unassigned_read", space=self.space, address=address, size=size)
            return MASKS[size]
        value = done = 0
        while done < size:
            n = self._piece(address + done, size - done)
            value |= self._read_anywhere(address + done, n) << 8 * done
            done += n
        return value

    def _write_anywhere(self, address: int, size: int, value: int) -> None:
        """A write that does not go to the mapping at hand as a whole."""
        m = self.find(address)
        if m is not None and size <= m.max_size and address + size <= m.end:
            m.write(address - m.base, size, value & MASKS[size])
        elif m is None and all(self.find(address + k) is None for k in range(1, size)):
            if self._trace.wants("unassigned_write"):
                self._trace("unassigned_write", space=self.space, address=address, size=size, value=value & MASKS[size])
        else:
            done = 0
            while done < size:
                n = self._piece(address + done, size - done)
                self._write_anywhere(address + done, n, value >> 8 * done)
                done += n

    def _piece(self, address: int, size: int) -> int:
        """Bytes, 1, 2, 4 or 8, of the next part of an access that has to be split."""
        m = self.find(address)
        room = 1 if m is None else min(m.max_size, m.end - address, size)
        return 1 << (room.bit_length() - 1)
