"""What Python can't say: host memory, 128-bit products and quotients, and the engine's ears.

Each function has a Python body, which the plain engine runs, and a native one of the same name in
`jitvm/engine/primitives.py`.  This list is all that compiled semantics may call besides each other.
"""

from __future__ import annotations

import ctypes

from jitvm.isa.words import u64

_WORDS = {1: ctypes.c_uint8, 2: ctypes.c_uint16, 4: ctypes.c_uint32, 8: ctypes.c_uint64}


def peek(address, size):
    """`size` bytes of host memory, little endian; any alignment."""
    return u64(_WORDS[int(size)].from_address(int(address)).value)


def poke(address, size, v):
    """Store `size` bytes of host memory."""
    _WORDS[int(size)].from_address(int(address)).value = int(v)
    return u64(0)


def fill(address, n, v):
    """Set `n` 64-bit words of host memory to `v`."""
    ctypes.memmove(int(address), int(v).to_bytes(8, "little") * int(n), 8 * int(n))
    return u64(0)


def mul_high(a, b):
    """Upper 64 bits of the unsigned product."""
    return u64((int(a) * int(b)) >> 64)


def smul_high(a, b):
    """Upper 64 bits of the signed product of two 64-bit words."""
    x, y = int(a) - (int(a) >> 63 << 64), int(b) - (int(b) >> 63 << 64)
    return u64(((x * y) >> 64) & 0xFFFF_FFFF_FFFF_FFFF)


def div_wide(hi, lo, d):
    """Unsigned quotient of hi:lo by d; the caller made sure that hi < d."""
    return u64(((int(hi) << 64) | int(lo)) // int(d))


def swap(address, size, old, v):
    """Store `size` bytes of host memory, aligned, if they are `old`, at once (LOCK CMPXCHG); 1 when they were."""
    if peek(address, size) != old:
        return u64(0)
    poke(address, size, v)
    return u64(1)


def swap_wide(address, old_low, old_high, low, high):
    """The same for 16 bytes."""
    if peek(address, u64(8)) != old_low or peek(address + u64(8), u64(8)) != old_high:
        return u64(0)
    poke(address, u64(8), low)
    poke(address + u64(8), u64(8), high)
    return u64(1)


def serialize():
    """Machine code was rewritten at another address than it is run at: let the host's CPU forget what it fetched."""
    return u64(0)


MXCSR = [0x1F80]
"""The plain engine's SSE control and status register."""


def get_mxcsr():
    """The host's MXCSR."""
    return u64(MXCSR[0])


def set_mxcsr(v):
    """Load the host's MXCSR; the caller masks all exceptions."""
    MXCSR[0] = int(v)
    return u64(0)


def fence():
    """Stores before it are seen by all before a load behind it reads."""
    return u64(0)


def code_written(c, offset, size):
    """Guest memory that holds translated code was written: the engine drops the blocks which it overlaps."""
    return u64(0)


def translations_changed(c):
    """The TLB was flushed or the memory map changed: the engine's jump cache holds nothing any more."""
    return u64(0)
