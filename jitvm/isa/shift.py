"""Shifts and rotates.

Counts are masked to 5 bits, 6 for 64-bit operands; a masked count of 0 changes no flag.  What the manual leaves
undefined is as Intel cores have it (measured on a Xeon of 2023, family 6 model 207): AF is 0, and OF has for every
count the value which it has for a count of 1 (but ROL and ROR by an immediate leave OF as it was there; not here).  CF
of a shift beyond the width is the bit that goes out last.

Source: Intel SDM vol. 2, SAL/SAR/SHL/SHR, RCL/RCR/ROL/ROR, SHLD, SHRD.
"""

from __future__ import annotations

from jitvm.isa.flags import get_cf, set_cf_of, set_flags
from jitvm.isa.words import W0, W1, W2, W3, W8, W16, W31, W32, W63, cut, i64, sext, sign, u64


def shift_count(size, b):
    """The count as the CPU masks it."""
    if size == W8:
        return b & W63
    return b & W31


def shl(f, size, a, b):
    """a shifted left.  All six flags; SAL is the same."""
    n = shift_count(size, b)
    if n == W0:
        return a
    r = cut(size, a << n)
    set_flags(f, sext(size, r), sign(size, a << (n - W1)), sign(size, r ^ a ^ (a << W1)), W0)
    return r


def shr(f, size, a, b):
    """a shifted right.  All six flags."""
    n = shift_count(size, b)
    if n == W0:
        return a
    r = a >> n
    set_flags(f, r, (a >> (n - W1)) & W1, sign(size, a), W0)
    return r


def sar(f, size, a, b):
    """a shifted right, keeping its sign.  All six flags; OF = 0."""
    n = shift_count(size, b)
    if n == W0:
        return a
    v = i64(sext(size, a)) >> i64(n - W1)
    r = u64(v >> i64(1))
    set_flags(f, r, u64(v) & W1, sign(size, a), W0)
    return cut(size, r)


def rol(f, size, a, b):
    """a rotated left.  CF, OF."""
    n = shift_count(size, b)
    if n == W0:
        return a
    last = (size << W3) - W1
    r = cut(size, (a << (n & last)) | (a >> ((W0 - n) & last)))
    set_cf_of(f, r & W1, sign(size, a ^ (a << W1)))
    return r


def ror(f, size, a, b):
    """a rotated right.  CF, OF."""
    n = shift_count(size, b)
    if n == W0:
        return a
    last = (size << W3) - W1
    r = cut(size, (a >> (n & last)) | (a << ((W0 - n) & last)))
    set_cf_of(f, sign(size, r), sign(size, a) ^ (a & W1))
    return r


def rcl(f, size, a, b):
    """CF:a rotated left; the count is taken modulo the width plus 1.  CF, OF."""
    width = size << W3
    n = shift_count(size, b) % (width + W1)
    if n == W0:
        return a
    r = (a << n) | (get_cf(f) << (n - W1)) | ((a >> W1) >> (width - n))
    set_cf_of(f, (a >> (width - n)) & W1, sign(size, a ^ (a << W1)))
    return cut(size, r)


def rcr(f, size, a, b):
    """CF:a rotated right; the count is taken modulo the width plus 1.  CF, OF."""
    width = size << W3
    n = shift_count(size, b) % (width + W1)
    if n == W0:
        return a
    cf = get_cf(f)
    r = (a >> n) | (cf << (width - n)) | ((a << W1) << (width - n))
    set_cf_of(f, (a >> (n - W1)) & W1, sign(size, a) ^ cf)
    return cut(size, r)


def shld(f, size, a, b, d):
    """a shifted left by `d`, filled from the top of b.  All six flags.

    A 16-bit count above 16 (undefined in the manual) goes on with the top of a: silicon rotates a:b.
    """
    n = shift_count(size, d)
    if n == W0:
        return a
    if size == W2:
        both = (a << W16) | b
        r = cut(size, ((both << n) | (both >> (W32 - n))) >> W16)
        cf = (both >> (W32 - n)) & W1
    else:
        r = cut(size, (a << n) | (b >> ((size << W3) - n)))
        cf = sign(size, a << (n - W1))
    set_flags(f, sext(size, r), cf, sign(size, r ^ a ^ (a << W1)), W0)
    return r


def shrd(f, size, a, b, d):
    """a shifted right by `d`, filled from the bottom of b.  All six flags.

    A 16-bit count above 16 (undefined in the manual) goes on with the bottom of a: silicon rotates b:a.
    """
    n = shift_count(size, d)
    if n == W0:
        return a
    if size == W2:
        both = (b << W16) | a
        r = cut(size, (both >> n) | (both << (W32 - n)))
        cf = (both >> (n - W1)) & W1
    else:
        r = cut(size, (a >> n) | (b << ((size << W3) - n)))
        cf = (a >> (n - W1)) & W1
    set_flags(f, sext(size, r), cf, sign(size, r ^ a) ^ (b & W1), W0)
    return r
