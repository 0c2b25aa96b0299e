"""Loops over host memory: what string instructions do with elements that lie in plain memory.

Addresses are the host's, of `size`-byte elements (1, 2, 4 or 8); nothing here can fault or leave.  Whole words of 8 bytes
are used where the result is the same; an aligned element is read and written by one access of the host all the same, so that
no other CPU sees half of it (SDM vol. 3, 8.1.1; the order of elements is free, 8.2.4).
"""

from __future__ import annotations

from jitvm.isa.host import peek, poke
from jitvm.isa.words import W0, W1, W2, W3, W4, W7, W8, W16, W32, u64


def log2_size(size):
    """0, 1, 2, 3 for 1, 2, 4, 8 bytes."""
    return (size >> W1) - (size >> W3)


def copy_up(dst, src, n_bytes):
    """Copy upwards in words; right when dst is not less than 8 bytes above src."""
    end = src + (n_bytes & ~W7)
    while src != end:
        poke(dst, W8, peek(src, W8))
        src = src + W8
        dst = dst + W8
    if n_bytes & W4 != W0:
        poke(dst, W4, peek(src, W4))
        src = src + W4
        dst = dst + W4
    if n_bytes & W2 != W0:
        poke(dst, W2, peek(src, W2))
        src = src + W2
        dst = dst + W2
    if n_bytes & W1 != W0:
        poke(dst, W1, peek(src, W1))
    return W0


def copy_down(dst, src, n_bytes):
    """Copy from the top downwards in words; right when src is not less than 8 bytes above dst."""
    at_src = src + n_bytes
    at_dst = dst + n_bytes
    end = src + (n_bytes & W7)
    while at_src != end:
        at_src = at_src - W8
        at_dst = at_dst - W8
        poke(at_dst, W8, peek(at_src, W8))
    if n_bytes & W4 != W0:
        at_src = at_src - W4
        at_dst = at_dst - W4
        poke(at_dst, W4, peek(at_src, W4))
    if n_bytes & W2 != W0:
        at_src = at_src - W2
        at_dst = at_dst - W2
        poke(at_dst, W2, peek(at_src, W2))
    if n_bytes & W1 != W0:
        poke(dst, W1, peek(src, W1))
    return W0


def copy_elements(dst, src, step, size, n):
    """Copy element by element, `step` bytes forth or back each time: overlapping operands repeat as on the CPU."""
    k = W0
    while k < n:
        poke(dst, size, peek(src, size))
        src = src + step
        dst = dst + step
        k = k + W1
    return W0


def spread_lanes(size, v):
    """A word of 8 bytes filled with copies of an operand of `size` bytes."""
    if size == W1:
        v = v | (v << W8)
    if size <= W2:
        v = v | (v << W16)
    if size <= W4:
        v = v | (v << W32)
    return v


def fill_words(at, n_bytes, size, v):
    """Store `v`, an operand of `size` bytes, over and over."""
    pattern = spread_lanes(size, v)
    end = at + (n_bytes & ~W7)
    while at != end:
        poke(at, W8, pattern)
        at = at + W8
    if n_bytes & W4 != W0:
        poke(at, W4, pattern)
        at = at + W4
    if n_bytes & W2 != W0:
        poke(at, W2, pattern)
        at = at + W2
    if n_bytes & W1 != W0:
        poke(at, W1, pattern)
    return W0


def skip_words(a, b, n_bytes, pattern, ones, highs):
    """Bytes, in whole words, that surely don't end a comparison.

    Compares memory at `a` with memory at `b`, or with `pattern` where `b` is 0.  `ones` is 0 when equal operands
    continue; else it and `highs` have the lowest and the highest bit of each operand of a word set, and unequal ones
    continue: a word x holds an operand that is 0 exactly if (x - ones) & ~x & highs is not 0.
    """
    end = n_bytes & ~W7
    k = W0
    while k != end:
        x = pattern
        if b != W0:
            x = peek(b + k, W8)
        x = x ^ peek(a + k, W8)
        stop = x
        if ones != W0:
            stop = (x - ones) & ~x & highs
        if stop != W0:
            return k
        k = k + W8
    return k


def skip_elements(a, b, size, n, pattern, want):
    """Elements, upwards, that surely don't end a comparison which goes on while "equal" is `want` (0 or 1)."""
    ones, highs = W0, W0
    if want == W0:
        ones = spread_lanes(size, W1)
        highs = ones << ((size << W3) - W1)
    return skip_words(a, b, n * size, pattern, ones, highs) >> log2_size(size)


def scan_elements(at, step, size, n, v, want):
    """Elements looked at, one by one, up to the first that ends a comparison with `v`, or `n`."""
    k = W0
    while k < n:
        k = k + W1
        if u64(peek(at, size) == v) != want:
            return k
        at = at + step
    return k


def match_elements(a, b, step, size, n, want):
    """Pairs of elements looked at, one by one, up to the first that ends a comparison, or `n`."""
    k = W0
    while k < n:
        k = k + W1
        if u64(peek(a, size) == peek(b, size)) != want:
            return k
        a = a + step
        b = b + step
    return k
