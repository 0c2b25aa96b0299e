"""Unsigned 64-bit constants and the small arithmetic on operand sizes."""

from __future__ import annotations

import numpy as np

u64, i64 = np.uint64, np.int64

W0, W1, W2, W3, W4, W5, W6, W7, W8 = (u64(n) for n in range(9))
W9, W10, W11, W12, W13, W14, W15, W16 = (u64(n) for n in range(9, 17))
W20, W21, W24, W31, W32, W63, W64 = u64(20), u64(21), u64(24), u64(31), u64(32), u64(63), u64(64)
ONES = u64(0xFFFF_FFFF_FFFF_FFFF)
M8, M16, M32 = u64(0xFF), u64(0xFFFF), u64(0xFFFF_FFFF)


def mask(size):
    """All ones in an operand of `size` bytes."""
    return ONES >> (W64 - (size << W3))


def cut(size, v):
    """`v` modulo the operand size."""
    return v & (ONES >> (W64 - (size << W3)))


def sext(size, v):
    """`v`, an operand of `size` bytes, sign-extended to 64 bits."""
    n = i64(W64 - (size << W3))
    return u64((i64(v) << n) >> n)


def sign(size, v):
    """Top bit of an operand of `size` bytes, 0 or 1."""
    return (v >> ((size << W3) - W1)) & W1


def select(condition, a, b):
    """`a` if condition is not 0, else `b`, without a branch."""
    m = W0 - u64(condition != W0)
    return (a & m) | (b & ~m)
