"""Guest memory as the vCPU's current mapping shows it, for a debugger: no access leaves a trace.

The page walk sets no bit and asks for no right; device windows are no memory.  A write goes where reads come from, so
ROM and write-protected shadow RAM can be patched, and tells the vCPUs to drop what they translated there.

`memory_map` is what a client is told once: linear addresses, at which page tables may show any memory, so all of it is
RAM but what is ROM now, and chipset registers that no program puts memory on.

Source: Intel SDM vol. 3, 4.3 (32-bit paging); Intel 82441FX datasheet (290549), 3.3 (memory map).

Not modelled: PAE and 4-level paging, as in the CPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from gdbstub.errors import TargetError
from gdbstub.target import MemoryRegion
from jitvm.memory import PAGE, GuestMemory

ADDRESS_END = 1 << 32
PG, PSE = 1 << 31, 1 << 4
PRESENT, LARGE = 1, 0x80
ENTRY = 4
FRAME = 0xFFFF_F000
LARGE_MASK = 0x003F_FFFF


HOLE = (0xFEC0_0000, 0xFF00_0000)
"""Interrupt controllers and other registers of the chipset."""


def memory_map(memory: GuestMemory) -> list[MemoryRegion]:
    """ROM as it is mapped now, RAM everywhere else below 4 GiB, and the hole."""
    read_only = (memory.page_read != 0) & (memory.page_write == 0)
    edges = np.flatnonzero(np.diff(read_only, prepend=False, append=False)) * PAGE
    roms = [(int(start), int(end)) for start, end in edges.reshape(-1, 2)]
    taken = sorted([*((start, end, "rom") for start, end in roms), (*HOLE, "")])
    found: list[MemoryRegion] = []
    at = 0
    for start, end, kind in [*taken, (ADDRESS_END, ADDRESS_END, "")]:
        if at < start:
            found.append(MemoryRegion(at, start - at))
        if kind:
            found.append(MemoryRegion(start, end - start, "rom"))
        at = max(at, end)
    return found


class LinearMemory:
    """The memory that CPU record `c` sees.  `physical`: addresses are taken as physical ones."""

    def __init__(self, memory: GuestMemory, c: Any) -> None:
        self._memory, self._c = memory, c
        self.physical = False

    def read(self, address: int, size: int) -> bytes:
        """The bytes up to the first that is no memory."""
        out = bytearray()
        for offset, n in self._pieces(address, size):
            if offset is None:
                break
            out += self._memory.bytes[offset : offset + n].tobytes()
        return bytes(out)

    def write(self, address: int, data: bytes) -> None:
        """Write all bytes, or none and TargetError."""
        pieces = list(self._pieces(address, len(data)))
        at = address
        for offset, n in pieces:
            if offset is None:
                raise TargetError(f"no memory at {at:#x}")
            at += n
        at = 0
        for offset, n in pieces:
            assert offset is not None
            self._memory.bytes[offset : offset + n] = np.frombuffer(data[at : at + n], np.uint8)
            for listener in self._memory.on_write:
                listener(offset, n)
            at += n

    def read_linear(self, address: int, size: int) -> bytes:
        """As `read`, of a linear address also while addresses are physical ones."""
        physical, self.physical = self.physical, False
        try:
            return self.read(address, size)
        finally:
            self.physical = physical

    def _pieces(self, address: int, size: int) -> Iterator[tuple[int | None, int]]:
        """(offset in the host mapping, bytes) page by page; None where there is no memory, which is the last."""
        while size > 0:
            n = min(size, PAGE - address % PAGE)
            offset = self.offset(address)
            yield offset, n
            if offset is None:
                return
            address, size = address + n, size - n

    def offset(self, address: int) -> int | None:
        """Offset in the host mapping of an address, None where there is no memory."""
        if not 0 <= address < ADDRESS_END:
            return None
        gpa = address if self.physical else self.walk(address)
        return None if gpa is None else self._memory.offset(gpa)

    def walk(self, lin: int) -> int | None:
        """Physical address of a linear one, None where nothing is mapped."""
        c = self._c
        a20 = int(c.a20_mask)
        if not int(c.cr0) & PG:
            return lin & a20
        pde = self.entry((int(c.cr3) & FRAME) + (lin >> 22) * ENTRY)
        if not pde & PRESENT:
            return None
        if pde & LARGE and int(c.cr4) & PSE:
            return ((pde & ~LARGE_MASK) | (lin & LARGE_MASK)) & a20
        pte = self.entry((pde & FRAME) + (lin >> 12 & 0x3FF) * ENTRY)
        return (pte & FRAME | lin & (PAGE - 1)) & a20 if pte & PRESENT else None

    def entry(self, gpa: int) -> int:
        """An entry of a paging structure; not present where no memory is."""
        offset = self._memory.offset(gpa & int(self._c.a20_mask))
        return 0 if offset is None else int.from_bytes(self._memory.bytes[offset : offset + ENTRY].tobytes(), "little")
