"""Single bits: tests and scans.

What the manual leaves undefined is as Intel cores have it (measured on a Xeon of 2023, family 6 model 207): BT, BTS, BTR
and BTC change CF alone; after BSF and BSR, CF = OF = SF = AF = 0 and PF is that of the result (of 0 when there is none),
and a source of 0 leaves the destination as it was.

Source: Intel SDM vol. 2, BT, BTC, BTR, BTS, BSF, BSR, POPCNT.
"""

from __future__ import annotations

from jitvm.isa.flags import ZF, put_flags, set_cf, set_flags
from jitvm.isa.words import W0, W1, W2, W3, W4, W5, W8, W16, W32, i64, select, sext, u64

# Which of the numbers 0 to 63 have bit 0, 1, .. 5 set.
INDEX_1, INDEX_2, INDEX_4 = u64(0xAAAA_AAAA_AAAA_AAAA), u64(0xCCCC_CCCC_CCCC_CCCC), u64(0xF0F0_F0F0_F0F0_F0F0)
INDEX_8, INDEX_16, INDEX_32 = u64(0xFF00_FF00_FF00_FF00), u64(0xFFFF_0000_FFFF_0000), u64(0xFFFF_FFFF_0000_0000)

BITS_1, BITS_2, BITS_4 = u64(0x5555_5555_5555_5555), u64(0x3333_3333_3333_3333), u64(0x0F0F_0F0F_0F0F_0F0F)
BYTES = u64(0x0101_0101_0101_0101)
W56 = u64(56)


def bit_index(size, b):
    """Bit number `b` modulo the width."""
    return b & ((size << W3) - W1)


def bit_offset(size, b):
    """Displacement in bytes, from a memory operand, of the operand of the same size which holds its bit `b`, signed."""
    return u64(i64(sext(size, b)) >> i64(3)) & ~(size - W1)


def bt(f, size, a, b):
    """CF = bit b of a, which stays as it is."""
    set_cf(f, (a >> bit_index(size, b)) & W1)
    return a


def bts(f, size, a, b):
    """a with bit b set.  CF = the bit before."""
    return bt(f, size, a, b) | (W1 << bit_index(size, b))


def btr(f, size, a, b):
    """a with bit b cleared.  CF = the bit before."""
    return bt(f, size, a, b) & ~(W1 << bit_index(size, b))


def btc(f, size, a, b):
    """a with bit b complemented.  CF = the bit before."""
    return bt(f, size, a, b) ^ (W1 << bit_index(size, b))


def lowest_bit(v):
    """Number of the lowest bit set in v; 0 when there is none."""
    one = v & (W0 - v)
    r = u64((one & INDEX_1) != W0) | (u64((one & INDEX_2) != W0) << W1) | (u64((one & INDEX_4) != W0) << W2)
    r |= (u64((one & INDEX_8) != W0) << W3) | (u64((one & INDEX_16) != W0) << W4)
    return r | (u64((one & INDEX_32) != W0) << W5)


def highest_bit(v):
    """Number of the highest bit set in v; 0 when there is none."""
    v |= v >> W1
    v |= v >> W2
    v |= v >> W4
    v |= v >> W8
    v |= v >> W16
    v |= v >> W32
    return lowest_bit(v ^ (v >> W1))


def bsf(f, size, a, b):
    """Number of the lowest bit set in b; a when b = 0.  ZF = b is 0, PF of the number, the others 0."""
    r = lowest_bit(b)
    set_flags(f, r | (u64(b != W0) << W8), W0, W0, W0)
    return select(b, r, a)


def bsr(f, size, a, b):
    """Number of the highest bit set in b; a when b = 0.  ZF = b is 0, PF of the number, the others 0."""
    r = highest_bit(b)
    set_flags(f, r | (u64(b != W0) << W8), W0, W0, W0)
    return select(b, r, a)


def popcnt(f, b):
    """Number of bits set in b.  ZF = b is 0, the others 0."""
    v = b - ((b >> W1) & BITS_1)
    v = (v & BITS_2) + ((v >> W2) & BITS_2)
    v = (v + (v >> W4)) & BITS_4
    put_flags(f, u64(b == W0) * ZF)
    return (v * BYTES) >> W56
