"""EFLAGS and their lazy form.

The six arithmetic flags live in two words, so that an operation stores little and a reader needs no operand size and
no dispatch on the kind of operation (the idea of a result and a carry word with spare bits that correct sign and
parity is the published one of the Bochs authors, "Virtualization Without Direct Execution"; the layout is ours):

`f.res`   the result, sign-extended to 64 bits.  ZF: it is 0.  SF: bit 63, flipped by FIX_SF.  PF: parity of the low
          byte, flipped by FIX_PF.
`f.aux`   CF in bit 0; "less" (SF xor OF: the sign of the exact result) in bit 1; FIX_SF in bit 2, FIX_PF in bit 3; AF in
          bit 4.

"less" instead of OF makes the signed conditions of a compare one host comparison: `set_flags` receives
`i64(a) < i64(b)`, and JL reads that bit.

Source: Intel SDM vol. 1, 3.4.3; vol. 2, Appendix B (condition codes).
"""

from __future__ import annotations

from jitvm.isa.words import W0, W1, W2, W3, W4, W6, W7, W8, W63, i64, sext, sign, u64

CF, PF, AF, ZF, SF = u64(1 << 0), u64(1 << 2), u64(1 << 4), u64(1 << 6), u64(1 << 7)
TF, IF, DF, OF = u64(1 << 8), u64(1 << 9), u64(1 << 10), u64(1 << 11)
IOPL, NT, RF, VM, AC = u64(3 << 12), u64(1 << 14), u64(1 << 16), u64(1 << 17), u64(1 << 18)
VIF, VIP, ID = u64(1 << 19), u64(1 << 20), u64(1 << 21)
RESERVED = u64(1 << 1)
"""Bit 1 of EFLAGS, always 1."""
ARITHMETIC = CF | PF | AF | ZF | SF | OF

AUX_CF, AUX_LESS, FIX_SF, FIX_PF, AUX_AF = (u64(1 << n) for n in range(5))
NOT_ZERO = u64(1 << 8)
PARITY = u64(0x6996)
"""Bit n is the parity (1: odd) of the 4-bit number n."""


def set_flags(f, result, cf, less, af):
    """All six flags: `result` sign-extended; of `cf` and `less` bit 0 counts, of `af` bit 4."""
    f.res = result
    f.aux = (cf & W1) | ((less & W1) << W1) | (af & AUX_AF)
    return W0


def set_logic(f, size, r):
    """Flags of AND, OR, XOR, TEST: CF = OF = 0, AF cleared (undefined in the manual; 0 on silicon)."""
    v = sext(size, r)
    f.res = v
    f.aux = (v >> W63) << W1
    return W0


def set_cf_of(f, cf, of):
    """CF and OF (0 or 1 each); the other four keep their value."""
    less = get_sf(f) ^ of
    f.aux = (f.aux & (AUX_AF | FIX_SF | FIX_PF)) | (cf & W1) | ((less & W1) << W1)
    return W0


def set_cf(f, cf):
    """CF alone."""
    f.aux = (f.aux & ~AUX_CF) | (cf & W1)
    return W0


def set_zf(f, zf):
    """ZF alone (0 or 1)."""
    return put_flags(f, (get_flags(f) & ~ZF) | (zf << W6))


def get_cf(f):
    return f.aux & AUX_CF


def get_zf(f):
    return u64(f.res == W0)


def get_sf(f):
    return (f.res >> W63) ^ ((f.aux >> W2) & W1)


def get_of(f):
    return get_sf(f) ^ get_less(f)


def get_less(f):
    """SF xor OF."""
    return (f.aux >> W1) & W1


def get_af(f):
    return (f.aux >> W4) & W1


def get_pf(f):
    low = (f.res ^ (f.res >> W4)) & u64(15)
    return ((PARITY >> low) ^ (f.aux >> W3) ^ W1) & W1


def get_flags(f):
    """The six flags at their places in EFLAGS."""
    return (
        get_cf(f)
        | (get_pf(f) << W2)
        | (get_af(f) << W4)
        | (get_zf(f) << W6)
        | (get_sf(f) << W7)
        | (get_of(f) << u64(11))
    )


def put_flags(f, value):
    """Set the six flags from an EFLAGS image."""
    zf, sf, of = (value >> W6) & W1, (value >> W7) & W1, (value >> u64(11)) & W1
    f.res = (W1 - zf) << W8
    f.aux = (
        (value & CF) | ((sf ^ of) << W1) | (sf << W2) | ((W1 - ((value >> W2) & W1)) << W3) | (value & AUX_AF)
    )
    return W0


def condition(f, cc):
    """Condition code 0..15 of Jcc, SETcc, CMOVcc: 1 when it holds."""
    k = cc >> W1
    if k == W0:
        r = get_of(f)
    elif k == W1:
        r = get_cf(f)
    elif k == W2:
        r = get_zf(f)
    elif k == u64(3):
        r = get_cf(f) | get_zf(f)
    elif k == W4:
        r = get_sf(f)
    elif k == u64(5):
        r = get_pf(f)
    elif k == W6:
        r = get_less(f)
    else:
        r = get_less(f) | get_zf(f)
    return r ^ (cc & W1)


def less_than(size, a, b):
    """Signed a < b."""
    return u64(i64(sext(size, a)) < i64(sext(size, b)))


def compared(cc, size, a, b):
    """`condition` behind CMP a, b where it is a comparison: B, Z, BE, L, LE and their opposites (`is_comparison`)."""
    k = cc >> W1
    if k == W1:
        r = u64(a < b)
    elif k == W2:
        r = u64(a == b)
    elif k == u64(3):
        r = u64(a <= b)
    elif k == W6:
        r = less_than(size, a, b)
    else:
        r = W1 - less_than(size, b, a)
    return r ^ (cc & W1)


def is_comparison(cc):
    """1 for the condition codes that `compared` knows."""
    return (u64(0b11001110) >> (cc >> W1)) & W1


def add_flags(f, size, a, b, r):
    """Flags of r = a + b (+ carry in); CF must be told apart by the caller's `r`: see `alu.add` and `alu.adc`."""
    cf = sign(size, (a & b) | ((a | b) & ~r))
    of = sign(size, (a ^ r) & (b ^ r))
    v = sext(size, r)
    return set_flags(f, v, cf, (v >> W63) ^ of, a ^ b ^ r)


def sub_flags(f, size, a, b, r):
    """Flags of r = a - b - borrow in."""
    cf = sign(size, (~a & b) | ((~a | b) & r))
    of = sign(size, (a ^ b) & (a ^ r))
    v = sext(size, r)
    return set_flags(f, v, cf, (v >> W63) ^ of, a ^ b ^ r)
