"""Addition, subtraction, logic, moves and the flag instructions.

Source: Intel SDM vol. 2, the instructions of the functions' names.
"""

from __future__ import annotations

from jitvm.isa.flags import (
    OF,
    add_flags,
    condition,
    get_cf,
    get_flags,
    get_of,
    less_than,
    put_flags,
    set_cf,
    set_cf_of,
    set_flags,
    set_logic,
    sub_flags,
)
from jitvm.isa.words import M8, M32, W0, W1, W2, W3, W4, W8, W16, W32, W64, cut, i64, select, sext, sign, u64

BYTES_0246 = u64(0x00FF_00FF_00FF_00FF)
WORDS_02 = u64(0x0000_FFFF_0000_FFFF)


def add(f, size, a, b):
    """a + b.  All six flags."""
    r = cut(size, a + b)
    less = u64(i64(sext(size, a)) <= i64(~sext(size, b)))  # a + b < 0, without an overflow
    set_flags(f, sext(size, r), u64(r < a), less, a ^ b ^ r)
    return r


def adc(f, size, a, b):
    """a + b + CF.  All six flags."""
    r = cut(size, a + b + get_cf(f))
    add_flags(f, size, a, b, r)
    return r


def adcx(f, size, a, b):
    """a + b + CF.  CF alone."""
    r = cut(size, a + b + get_cf(f))
    set_cf(f, sign(size, (a & b) | ((a | b) & ~r)))
    return r


def adox(f, size, a, b):
    """a + b + OF.  OF alone, which is the carry."""
    r = cut(size, a + b + get_of(f))
    set_cf_of(f, get_cf(f), sign(size, (a & b) | ((a | b) & ~r)))
    return r


def sub(f, size, a, b):
    """a - b, also for CMP and SCAS.  All six flags."""
    r = cut(size, a - b)
    set_flags(f, sext(size, r), u64(a < b), less_than(size, a, b), a ^ b ^ r)
    return r


def sbb(f, size, a, b):
    """a - b - CF.  All six flags."""
    r = cut(size, a - b - get_cf(f))
    sub_flags(f, size, a, b, r)
    return r


def inc(f, size, a):
    """a + 1.  All flags but CF."""
    r = cut(size, a + W1)
    less = u64(i64(sext(size, a)) < i64(-1))
    set_flags(f, sext(size, r), get_cf(f), less, a ^ r)
    return r


def dec(f, size, a):
    """a - 1.  All flags but CF."""
    r = cut(size, a - W1)
    less = u64(i64(sext(size, a)) < i64(1))
    set_flags(f, sext(size, r), get_cf(f), less, a ^ r)
    return r


def neg(f, size, a):
    """0 - a.  All six flags."""
    r = cut(size, W0 - a)
    less = u64(i64(sext(size, a)) > i64(0))
    set_flags(f, sext(size, r), u64(a != W0), less, a ^ r)
    return r


def and_(f, size, a, b):
    """a AND b, also for TEST.  CF = OF = AF = 0, SF, ZF, PF."""
    r = a & b
    set_logic(f, size, r)
    return r


def or_(f, size, a, b):
    """a OR b.  CF = OF = AF = 0, SF, ZF, PF."""
    r = a | b
    set_logic(f, size, r)
    return r


def xor(f, size, a, b):
    """a XOR b.  CF = OF = AF = 0, SF, ZF, PF."""
    r = a ^ b
    set_logic(f, size, r)
    return r


def not_(size, a):
    """One's complement.  No flags."""
    return cut(size, ~a)


def xadd(f, size, a, b):
    """a + b for the destination; the source gets the old destination, `f.hi`.  All six flags, as ADD."""
    f.hi = a
    return add(f, size, a, b)


def cmpxchg(f, size, a, b, acc):
    """`b` for the destination where it equals the accumulator, else its old value, which `f.hi` gives the accumulator.

    All six flags, as CMP accumulator, destination.
    """
    f.hi = a
    return select(u64(sub(f, size, acc, a) == W0), b, a)


def cmpxchg_keep(f, a, b, acc):
    """CMPXCHG of 32 bits on whole registers: the one of destination and accumulator that does not change keeps its upper
    half (measured on a Xeon of 2023, family 6 model 207; the manual's pseudo code writes both)."""
    equal = u64(sub(f, W4, acc & M32, a & M32) == W0)
    f.hi = select(equal, acc, a & M32)
    return select(equal, b, a)


def mov(b):
    """The source as it is."""
    return b


def movzx(b):
    """The source, which comes zero-extended."""
    return b


def movsx(size, bsize, b):
    """The source of `bsize` bytes, sign-extended.  Also MOVSXD."""
    return cut(size, sext(bsize, b))


def bswap(size, a):
    """Bytes in reverse order.  Of a 16-bit register (undefined in the manual) silicon makes 0."""
    if size == W2:
        return W0
    r = ((a & BYTES_0246) << W8) | ((a >> W8) & BYTES_0246)
    r = ((r & WORDS_02) << W16) | ((r >> W16) & WORDS_02)
    r = (r << W32) | (r >> W32)
    return r >> (W64 - (size << W3))


def reverse(size, b):
    """MOVBE: the source's bytes in reverse order."""
    return bswap(W8, b) >> (W64 - (size << W3))


def cbw(size, acc):
    """CBW, CWDE, CDQE by `size`: the accumulator's lower half, sign-extended to the whole."""
    return cut(size, sext(size >> W1, acc))


def cwd(size, acc):
    """CWD, CDQ, CQO by `size`: the accumulator's sign in every bit, for (E)DX."""
    return cut(size, W0 - sign(size, acc))


def cmov(f, cc, a, b):
    """`b` when the condition holds, else `a`.  No flags."""
    return select(condition(f, cc), b, a)


def setcc(f, cc):
    """1 when the condition holds, else 0.  No flags."""
    return condition(f, cc)


def lahf(f):
    """SF, ZF, AF, PF and CF at their places for AH; bit 1 is 1."""
    return (get_flags(f) & M8) | W2


def sahf(f, a):
    """SF, ZF, AF, PF and CF from AH, `a`; OF stays."""
    put_flags(f, (a & M8) | (get_flags(f) & OF))
    return W0


def clc(f):
    """CF = 0."""
    return set_cf(f, W0)


def stc(f):
    """CF = 1."""
    return set_cf(f, W1)


def cmc(f):
    """CF complemented."""
    return set_cf(f, get_cf(f) ^ W1)


def salc(f):
    """CF in every bit, for AL.  No flags.  Undocumented, opcode D6."""
    return cut(W1, W0 - get_cf(f))
