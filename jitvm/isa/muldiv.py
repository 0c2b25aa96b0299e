"""Multiplication and division, also of BCD digits (AAM, AAD).

What the manual leaves undefined is as Intel cores have it (measured on a Xeon of 2023, family 6 model 207): after MUL
and IMUL, SF and PF are those of the low half, ZF = AF = 0; DIV and IDIV change no flag; after AAM, CF = OF = AF = 0; AAD
sets all six flags as its ADD does.

Source: Intel SDM vol. 2, MUL, IMUL, DIV, IDIV, AAM, AAD.
"""

from __future__ import annotations

from jitvm.isa.alu import add
from jitvm.isa.flags import NOT_ZERO, set_flags, set_logic
from jitvm.isa.host import div_wide, mul_high, smul_high
from jitvm.isa.registers import get_reg, set_reg
from jitvm.isa.state import DE, OK, RAX, RDX, fault0
from jitvm.isa.words import M8, W0, W1, W2, W3, W8, W63, cut, mask, sext, sign, u64


def product_flags(f, v, overflow):
    """Flags of a product: `v` is its low half, sign-extended; CF = OF = `overflow`."""
    return set_flags(f, v | NOT_ZERO, overflow, (v >> W63) ^ overflow, W0)


def mul(f, size, acc, a):
    """Low half of acc * a; the high half is `f.hi`.  CF = OF = high half not 0."""
    p = acc * a
    r = cut(size, p)
    if size == W8:
        f.hi = mul_high(acc, a)
    else:
        f.hi = p >> (size << W3)
    product_flags(f, sext(size, r), u64(f.hi != W0))
    return r


def imul_wide(f, size, acc, a):
    """Low half of the signed acc * a; the high half is `f.hi`.  CF = OF = the low half alone is another number."""
    p = sext(size, acc) * sext(size, a)
    v = sext(size, p)
    if size == W8:
        f.hi = smul_high(acc, a)
    else:
        f.hi = cut(size, p >> (size << W3))
    product_flags(f, v, u64(f.hi != cut(size, W0 - (v >> W63))))
    return cut(size, p)


def imul(f, size, a, b):
    """Low half of the signed a * b (two and three operands).  CF = OF = it alone is another number."""
    p = sext(size, a) * sext(size, b)
    v = sext(size, p)
    if size == W8:
        overflow = u64(smul_high(a, b) != W0 - (v >> W63))
    else:
        overflow = u64(p != v)
    product_flags(f, v, overflow)
    return cut(size, p)


def dividend_high(c, size):
    """Upper half of the dividend: AH, DX, EDX or RDX."""
    if size == W1:
        return (c.gpr[RAX] >> W8) & M8
    return get_reg(c, RDX, size)


def quotient(size, hi, lo, d):
    """hi:lo by d, unsigned, where hi < d."""
    if size == W8:
        return div_wide(hi, lo, d)
    return ((hi << (size << W3)) | lo) // d


def put_quotient(c, size, q, r):
    """Quotient to AL, AX, EAX or RAX, remainder to AH, DX, EDX or RDX."""
    if size == W1:
        set_reg(c, RAX, W2, (r << W8) | q)
    else:
        set_reg(c, RAX, size, q)
        set_reg(c, RDX, size, r)
    return OK


def negate_if(size, negative, v):
    """0 - v where `negative` is 1, v where it is 0."""
    return cut(size, (v ^ (W0 - negative)) + negative)


def div(c, size, a):
    """AX, DX:AX, EDX:EAX or RDX:RAX by `a`, unsigned.  #DE when a = 0 or the quotient does not fit.  Flags stay."""
    hi = dividend_high(c, size)
    lo = get_reg(c, RAX, size)
    if hi >= a:
        return fault0(c, DE)
    q = quotient(size, hi, lo, a)
    return put_quotient(c, size, q, cut(size, lo - q * a))


def idiv(c, size, a):
    """AX, DX:AX, EDX:EAX or RDX:RAX by `a`, signed, towards 0; the remainder has the dividend's sign.

    #DE when a = 0 or the quotient does not fit.  Flags stay.
    """
    hi = dividend_high(c, size)
    lo = get_reg(c, RAX, size)
    negative = sign(size, hi)
    opposite = negative ^ sign(size, a)
    if negative:
        hi = cut(size, ~hi + u64(lo == W0))
        lo = cut(size, W0 - lo)
    d = negate_if(size, sign(size, a), a)
    if hi >= d:
        return fault0(c, DE)
    q = quotient(size, hi, lo, d)
    if q > (mask(size) >> W1) + opposite:
        return fault0(c, DE)
    r = cut(size, lo - q * d)
    return put_quotient(c, size, negate_if(size, opposite, q), negate_if(size, negative, r))


def aam(c, imm):
    """AH = AL / imm, AL = AL modulo imm.  #DE when imm = 0.  SF, ZF, PF of AL; CF = OF = AF = 0."""
    if imm == W0:
        return fault0(c, DE)
    al = get_reg(c, RAX, W1)
    r = al % imm
    set_reg(c, RAX, W2, ((al // imm) << W8) | r)
    set_logic(c.lazy, W1, r)
    return OK


def aad(f, acc, imm):
    """AL + AH * imm for AX, so AH = 0.  All six flags, as the 8-bit ADD."""
    return add(f, W1, acc & M8, cut(W1, (acc >> W8) * imm))
