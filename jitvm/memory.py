"""Guest physical memory: one host mapping that holds RAM and all ROMs, and the map from physical pages to it.

An *offset* (QEMU's ram_addr) names a byte of the host mapping: RAM from 0, then each ROM.  `page_read` and `page_write`
give, for each guest-physical page, its offset with bit 0 set, or 0 for "not memory": the access goes to the MMIO bus.
Reads and writes are mapped apart, so that the PAM registers can send reads to ROM and writes to RAM.  The host mapping
stands between inaccessible guard pages.

DMA (`read`, `write`) goes by the same map; what was written is told to the listeners (translated code is dropped).
"""

from __future__ import annotations

import ctypes
import gc
import mmap
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from jitvm.errors import ConfigError

PAGE = 4096
MAPPED = 1
"""Bit 0 of a `page_read` or `page_write` entry: the page is memory."""
GUARD = 64 * 1024
PROT_NONE = 0


def weakly(method: Callable[..., None]) -> Callable[..., None]:
    """A listener that calls a method of an object without keeping the object, which may own the memory it listens to."""
    reference = weakref.WeakMethod(method)

    def listener(*arguments: int) -> None:
        alive = reference()
        if alive is not None:
            alive(*arguments)

    return listener


def zeroed(shape: int, dtype: npt.DTypeLike, *, huge: bool = False) -> npt.NDArray[Any]:
    """An array of zeros on pages of its own, which the host has again as soon as the array is gone.

    The heap would keep them, as it does once it was given something so large back, and write all the zeros of the next
    one.  `huge`: pages of 2 MiB where the host has them, for tables that are read all over.
    """
    kind = np.dtype(dtype)
    pages = mmap.mmap(-1, max(shape * kind.itemsize, 1), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if huge:
        pages.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(pages, kind, shape)


class Mapped:
    """What the guest memory of this process takes, for its garbage collector.

    A machine's chips, buses and lines know each other, so it takes a collection to free one that nobody holds; and the
    collector counts objects, of which a machine has few, and not the memory that they keep.  So it is asked here: when guest
    memory takes `LEAST`, and twice as much as was left behind the last time.
    """

    LEAST = 512 << 20

    def __init__(self) -> None:
        self.bytes = 0
        self._most = self.LEAST

    def more(self, owner: object, size: int) -> None:
        """`owner` is about to take so many bytes, until it is gone."""
        if self.bytes and self.bytes + size > self._most:
            gc.collect()
            self._most = max(self.LEAST, 2 * (self.bytes + size))
        self.bytes += size
        weakref.finalize(owner, self._less, size).atexit = False

    def _less(self, size: int) -> None:
        self.bytes -= size


mapped = Mapped()


class GuestMemory:
    """RAM of `ram_size` bytes and room for `rom_size` bytes of ROM, `address_bits` of physical address."""

    def __init__(self, ram_size: int, rom_size: int = 0, address_bits: int = 32) -> None:
        if ram_size % PAGE or ram_size <= 0:
            raise ConfigError(f"memory size {ram_size} is not a positive multiple of {PAGE} bytes")
        rom_size = -(-rom_size // PAGE) * PAGE
        self.ram_size, self.size = ram_size, ram_size + rom_size
        mapped.more(self, self.size)
        try:
            self._map = mmap.mmap(-1, self.size + 2 * GUARD, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        except (OSError, OverflowError, ValueError) as e:
            raise ConfigError(f"the host has no {ram_size >> 20} MiB for guest memory ({e}); use a smaller -m") from None
        whole = np.frombuffer(self._map, np.uint8)
        base = whole.ctypes.data
        libc = ctypes.CDLL(None, use_errno=True)
        for start in (base, base + GUARD + self.size):
            if libc.mprotect(ctypes.c_void_p(start), ctypes.c_size_t(GUARD), PROT_NONE):
                raise ConfigError(f"mprotect of a guard page failed (errno {ctypes.get_errno()})")
        self.bytes: npt.NDArray[np.uint8] = whole[GUARD : GUARD + self.size]
        self.host = base + GUARD
        n_pages = 1 << (address_bits - 12)
        self.page_read: npt.NDArray[np.uint64] = zeroed(n_pages, np.uint64)
        self.page_write: npt.NDArray[np.uint64] = zeroed(n_pages, np.uint64)
        self._rom_next = ram_size
        self.on_map: list[Callable[[], None]] = []
        self.on_write: list[Callable[[int, int], None]] = []
        self.on_read: list[Callable[[int, int], None]] = []

    def add_rom(self, data: bytes) -> int:
        """Copy a ROM image behind the RAM; its offset.  The last page is filled up with zeros."""
        size = -(-len(data) // PAGE) * PAGE
        offset = self._rom_next
        if offset + size > self.size:
            raise ConfigError(f"no room for {len(data)} bytes of ROM")
        self._rom_next += size
        self.bytes[offset : offset + len(data)] = np.frombuffer(data, np.uint8)
        return offset

    def patch(self, offset: int, data: bytes) -> None:
        """Change bytes of the host mapping from outside: RAM, or what is no RAM to the guest."""
        self.bytes[offset : offset + len(data)] = np.frombuffer(data, np.uint8)
        for listener in self.on_write:
            listener(offset, len(data))

    def map(self, gpa: int, size: int, offset: int | None, *, read: bool = True, write: bool = True) -> None:
        """Let the physical range show the bytes at `offset` (None: the MMIO bus) for reads, writes or both."""
        if gpa % PAGE or size % PAGE or (offset or 0) % PAGE:
            raise ConfigError(f"memory map: {gpa:#x}+{size:#x} is not made of whole pages")
        if gpa < 0 or gpa + size > len(self.page_read) * PAGE:
            raise ConfigError(f"memory map: {gpa:#x}+{size:#x} is outside the address space")
        if offset is not None and not 0 <= offset <= self.size - size:
            raise ConfigError(f"memory map: {gpa:#x}+{size:#x} would show bytes behind the end of guest memory")
        pages = slice(gpa // PAGE, (gpa + size) // PAGE)
        entries = 0 if offset is None else np.arange(offset, offset + size, PAGE, dtype=np.uint64) | np.uint64(MAPPED)
        if read:
            self.page_read[pages] = entries
        if write:
            self.page_write[pages] = entries
        for listener in self.on_map:
            listener()

    def offset(self, gpa: int, *, write: bool = False) -> int | None:
        """Offset of a physical address in the host mapping, None when it is not memory."""
        table = self.page_write if write else self.page_read
        if not 0 <= gpa >> 12 < len(table):
            return None
        entry = int(table[gpa >> 12])
        return (entry & -PAGE) + (gpa & (PAGE - 1)) if entry & MAPPED else None

    def read(self, gpa: int, size: int) -> bytes:
        """Bytes at a physical address for a device, as `peek`; who looks at what devices read is told."""
        if self.on_read:
            at = gpa
            while at < gpa + size:
                n = min(gpa + size - at, PAGE - at % PAGE)
                offset = self.offset(at)
                if offset is not None:
                    for listener in self.on_read:
                        listener(offset, n)
                at += n
        return self.peek(gpa, size)

    def peek(self, gpa: int, size: int) -> bytes:
        """Bytes at a physical address, page by page; what is not memory reads as FFh."""
        out = bytearray()
        while size > 0:
            n = min(size, PAGE - gpa % PAGE)
            offset = self.offset(gpa)
            out += b"\xff" * n if offset is None else self.bytes[offset : offset + n].tobytes()
            gpa, size = gpa + n, size - n
        return bytes(out)

    def write(self, gpa: int, data: bytes) -> None:
        """Store bytes at a physical address; what is not writable memory is skipped."""
        at = 0
        while at < len(data):
            n = min(len(data) - at, PAGE - gpa % PAGE)
            offset = self.offset(gpa, write=True)
            if offset is not None:
                self.patch(offset, data[at : at + n])
            gpa, at = gpa + n, at + n
