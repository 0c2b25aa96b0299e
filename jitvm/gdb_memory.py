"""Guest memory as the vCPU's current mapping shows it, for a debugger: no access leaves a trace.

The page walk sets no bit and asks for no right; device windows are no memory.  A write goes where reads come from, so
ROM and write-protected shadow RAM can be patched, and tells the vCPUs to drop what they translated there.

`memory_map` is what a client is told once: linear addresses, at which page tables may show any memory, so all of it is
RAM but what is ROM now, and chipset registers that no program puts memory on.

Source: Intel SDM vol. 3, 4.3 (32-bit paging), 4.4 (PAE), 4.5 (4-level paging), 4.1.4 (physical addresses); Intel 82441FX
datasheet (290549), 3.3 (memory map).

PAE paging goes by the PDPTEs that the CPU loaded with CR3, whatever memory has now (4.4.1).

Not modelled: what makes an entry fault though it is present (rights, reserved bits); 5-level paging.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gdbstub.errors import TargetError
from jitvm.isa.state import CR0_PG, CR4_PAE, CR4_PSE, EFER_LMA, MODE_CODE32, MODE_CODE64
from jitvm.memory import PAGE, GuestMemory

if TYPE_CHECKING:
    from gdbstub.target import MemoryRegion

PG, PSE, PAE, LMA = int(CR0_PG), int(CR4_PSE), int(CR4_PAE), int(EFER_LMA)
CODE32, CODE64 = int(MODE_CODE32), int(MODE_CODE64)
CS = 1
PRESENT, LARGE = 1, 0x80
M32, FRAME, FRAME_64 = 0xFFFF_FFFF, 0xFFFF_F000, 0x000F_FFFF_FFFF_F000
PDPT_32 = 0xFFFF_FFE0
"""Where CR3 has the PDPT of PAE paging: 32 bytes aligned."""
PSE36 = 0x001F_E000
"""Bits of a 4 MiB page's entry that are bits 32 to 39 of its address."""

HOLE = (0xFEC0_0000, 0xFF00_0000)
"""Interrupt controllers and other registers of the chipset."""


class Level(NamedTuple):
    """One level of a translation: its name, where its entry lies and what is in it, bytes of an entry; `shift`: address
    bits below those that chose the entry; `page`: it maps a page of that size.
    """

    name: str
    at: int
    entry: int
    size: int
    shift: int
    page: bool

    @property
    def frame(self) -> int:
        """Physical address of the page that it maps."""
        high = (self.entry & PSE36) << 19 if self.size == 4 and self.shift == 22 else 0
        return (self.entry & (FRAME if self.size == 4 else FRAME_64) & -(1 << self.shift)) | high


def is_long(c: Any) -> bool:
    """Long mode is active: linear addresses may have 64 bits."""
    return bool(int(c.efer) & LMA)


def address_mask(c: Any) -> int:
    """The bits that a linear address has now."""
    return 0xFFFF_FFFF_FFFF_FFFF if is_long(c) else M32


def code_base(c: Any) -> int:
    """Base of the code segment, as it counts: none in 64-bit mode."""
    return 0 if int(c.mode) & CODE64 else int(c.base[CS])


def code_address(base: int, ip: int) -> int:
    """Linear address of code; of 32 bits but for 64-bit mode, where there is no base."""
    return ip if ip > M32 else base + ip & M32


def code_bits(c: Any) -> int:
    """16, 32 or 64: the width of the code that the vCPU runs."""
    return 64 if int(c.mode) & CODE64 else 32 if int(c.mode) & CODE32 else 16


def is_canonical(lin: int) -> bool:
    """Bits 47 to 63 are the same."""
    return (lin + (1 << 47)) & 0xFFFF_FFFF_FFFF_FFFF < 1 << 48


def memory_map(memory: GuestMemory, end: int = 1 << 32) -> list[MemoryRegion]:
    """ROM as it is mapped now, RAM everywhere else below `end`, and the hole."""
    read_only = (memory.page_read != 0) & (memory.page_write == 0)
    edges = np.flatnonzero(np.diff(read_only, prepend=False, append=False)) * PAGE
    roms = [(int(start), int(end)) for start, end in edges.reshape(-1, 2)]
    taken = sorted([*((start, end, "rom") for start, end in roms), (*HOLE, "")])
    from gdbstub.target import MemoryRegion  # loads much that only a debugger needs

    found: list[MemoryRegion] = []
    at = 0
    for start, stop, kind in [*taken, (end, end, "")]:
        if at < start:
            found.append(MemoryRegion(at, start - at))
        if kind:
            found.append(MemoryRegion(start, stop - start, "rom"))
        at = max(at, stop)
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
        gpa = address if self.physical else self.walk(address)
        return None if gpa is None else self._memory.offset(gpa)

    def walk(self, lin: int) -> int | None:
        """Physical address of a linear one, None where nothing is mapped."""
        c = self._c
        if lin & ~address_mask(c) or lin < 0:
            return None
        a20 = int(c.a20_mask)
        if not int(c.cr0) & PG:
            return lin & a20
        if is_long(c) and not is_canonical(lin):
            return None
        last = self.levels(lin)[-1]
        return (last.frame | lin & (1 << last.shift) - 1) & a20 if last.page else None

    def levels(self, lin: int) -> list[Level]:
        """The entries that translate a linear address, down to the page or to one that is not present; paging is on."""
        c = self._c
        cr3, large = int(c.cr3), int(c.cr4) & PSE
        if is_long(c):
            table, size, mask, steps = (
                cr3 & FRAME_64,
                8,
                0x1FF,
                [("PML4E", 39), ("PDPTE", 30), ("PDE", 21), ("PTE", 12)],
            )
        elif int(c.cr4) & PAE:
            table, size, mask, steps = cr3 & PDPT_32, 8, 0x1FF, [("PDPTE", 30), ("PDE", 21), ("PTE", 12)]
        else:
            table, size, mask, steps = cr3 & FRAME, 4, 0x3FF, [("PDE", 22), ("PTE", 12)]
        may_be_large = {22} if large and size == 4 else {21} if not is_long(c) else {21, 30}
        found = []
        for name, shift in steps:
            at = table + (lin >> shift & mask) * size
            entry = int(c.pdpte[lin >> 30]) if name == "PDPTE" and not is_long(c) else self.entry(at, size)
            page = bool(entry & PRESENT) and (shift == 12 or (shift in may_be_large and bool(entry & LARGE)))
            found.append(Level(name, at, entry, size, shift, page))
            if page or not entry & PRESENT:
                break
            table = entry & (FRAME if size == 4 else FRAME_64)
        return found

    def entry(self, gpa: int, size: int) -> int:
        """An entry of a paging structure; not present where no memory is."""
        offset = self._memory.offset(gpa & int(self._c.a20_mask))
        return 0 if offset is None else int.from_bytes(self._memory.bytes[offset : offset + size].tobytes(), "little")
