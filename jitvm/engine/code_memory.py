"""Memory for copied blocks: the same pages at two addresses, one writable, one executable; none is both.

The pages are anonymous (no file, no memfd), because Linux perf looks for names of code in its map only where a mapping has
none of its own.  A second address of shared anonymous pages comes from mremap(2) with an old size of 0.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import weakref

import numpy as np

from jitvm.errors import EngineError

MREMAP_MAYMOVE = 1
FAILED = ctypes.c_void_p(-1).value
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mremap.restype = ctypes.c_void_p
_libc.mremap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int)
_libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)


class CodeMemory:
    """`size` bytes; `writable` and `executable` are their addresses."""

    def __init__(self, size: int) -> None:
        self._map = mmap.mmap(-1, size, mmap.MAP_SHARED | mmap.MAP_ANONYMOUS, mmap.PROT_READ | mmap.PROT_WRITE)
        self.writable = int(np.frombuffer(self._map, np.uint8).ctypes.data)
        second = _libc.mremap(self.writable, 0, size, MREMAP_MAYMOVE)
        if second in (None, FAILED):
            raise EngineError(f"no memory for machine code: {os.strerror(ctypes.get_errno())}")
        self.executable: int = second
        weakref.finalize(self, _libc.munmap, second, size)
        if _libc.mprotect(second, size, mmap.PROT_READ | mmap.PROT_EXEC):
            raise EngineError(f"the host lets no memory be executable: {os.strerror(ctypes.get_errno())}")

    def retire(self) -> None:
        """Give the memory back and keep the addresses: nothing leads there any more."""
        self._map.madvise(mmap.MADV_REMOVE)
