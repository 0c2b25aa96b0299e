"""Bit manipulation: BMI1, BMI2, LZCNT.

Flags that the manual leaves undefined are 0, as on Intel cores, but for SF of BEXTR, which is the result's sign (measured
on a Xeon of 2023, family 6 model 207).

Source: Intel SDM vol. 2, the instructions of the functions' names.
"""

from __future__ import annotations

from jitvm.isa.bits import highest_bit, lowest_bit
from jitvm.isa.flags import put_flags
from jitvm.isa.host import mul_high
from jitvm.isa.words import M8, ONES, W0, W1, W3, W6, W7, W8, cut, i64, select, sext, sign, u64


def result_flags(f, size, r, cf):
    """CF as given, ZF and SF by the result, the others 0; gives the result."""
    put_flags(f, cf | (u64(r == W0) << W6) | (sign(size, r) << W7))
    return r


def low_bits(n):
    """Ones in the lowest n bits; n may be any number."""
    if n > u64(63):
        return ONES
    return (W1 << n) - W1


def andn(f, size, b, d):
    """b complemented AND d.  SF, ZF; CF = OF = 0."""
    return result_flags(f, size, cut(size, ~b & d), W0)


def bextr(f, size, b, d):
    """The field of b that begins at bit d[7:0] and has d[15:8] bits.  ZF; CF = OF = 0."""
    start = d & M8
    r = W0
    if start < u64(64):
        r = (b >> start) & low_bits((d >> W8) & M8)
    return result_flags(f, size, r, W0)


def blsi(f, size, b):
    """The lowest bit set in b.  SF, ZF; CF = b is not 0; OF = 0."""
    return result_flags(f, size, cut(size, b & (W0 - b)), u64(b != W0))


def blsmsk(f, size, b):
    """Ones up to the lowest bit set in b.  SF; CF = b is 0; ZF = OF = 0."""
    return result_flags(f, size, cut(size, b ^ (b - W1)), u64(b == W0))


def blsr(f, size, b):
    """b without its lowest bit set.  SF, ZF; CF = b is 0; OF = 0."""
    return result_flags(f, size, b & (b - W1), u64(b == W0))


def bzhi(f, size, b, d):
    """b without its bits from number d[7:0] on.  SF, ZF; CF = there is no such bit; OF = 0."""
    n = d & M8
    return result_flags(f, size, b & low_bits(n), u64(n >= (size << W3)))


def tzcnt(f, size, b):
    """Number of zeros below the lowest bit set in b, the width when there is none.  ZF by it; CF = b is 0."""
    r = select(u64(b == W0), size << W3, lowest_bit(b))
    return result_flags(f, size, r, u64(b == W0))


def lzcnt(f, size, b):
    """Number of zeros above the highest bit set in b, the width when there is none.  ZF by it; CF = b is 0."""
    r = select(u64(b == W0), size << W3, (size << W3) - W1 - highest_bit(b))
    return result_flags(f, size, r, u64(b == W0))


def mulx(f, size, rdx, d):
    """High half of the unsigned rDX * d; the low half is `f.hi`.  No flags."""
    p = rdx * d
    f.hi = cut(size, p)
    if size == W8:
        return mul_high(rdx, d)
    return p >> (size << W3)


def pdep(b, d):
    """The low bits of b spread over the bits set in d."""
    r, bit = W0, W1
    while d != W0:
        lowest = d & (W0 - d)
        if b & bit != W0:
            r = r | lowest
        bit = bit << W1
        d = d ^ lowest
    return r


def pext(b, d):
    """The bits of b at the places of those set in d, side by side."""
    r, bit = W0, W1
    while d != W0:
        lowest = d & (W0 - d)
        if b & lowest != W0:
            r = r | bit
        bit = bit << W1
        d = d ^ lowest
    return r


def rorx(size, b, d):
    """b rotated right.  No flags, as those that follow."""
    last = (size << W3) - W1
    return cut(size, (b >> (d & last)) | (b << ((W0 - d) & last)))


def sarx(size, b, d):
    """b shifted right, keeping its sign."""
    return cut(size, u64(i64(sext(size, b)) >> i64(d & ((size << W3) - W1))))


def shlx(size, b, d):
    """b shifted left."""
    return cut(size, b << (d & ((size << W3) - W1)))


def shrx(size, b, d):
    """b shifted right."""
    return b >> (d & ((size << W3) - W1))
