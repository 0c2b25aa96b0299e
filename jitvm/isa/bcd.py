"""Decimal adjustment.

What the manual leaves undefined is as Intel cores have it (measured on a Xeon of 2023, family 6 model 207): OF = 0, and
after AAA and AAS SF, ZF and PF are those of AL.

Source: Intel SDM vol. 2, DAA, DAS, AAA, AAS.  AAM and AAD are in muldiv.py.
"""

from __future__ import annotations

from jitvm.isa.flags import get_af, get_cf, set_flags
from jitvm.isa.words import M8, W1, W4, W6, W9, W63, cut, sext, u64

ABOVE_99 = u64(0x99)
SIXTY = u64(0x60)
LOW_DIGIT = u64(0x0F)
CARRY_AND_6 = u64(0x106)
AH_AND_DIGIT = u64(0xFF0F)


def low_digit_over(f, acc):
    """1 when the low digit left the decimal range: it is above 9, or AF is set."""
    return u64((acc & LOW_DIGIT) > W9) | get_af(f)


def adjust_flags(f, al, cf, af):
    """SF, ZF, PF of AL; CF, AF; OF = 0."""
    v = sext(W1, al)
    return set_flags(f, v, cf, v >> W63, af << W4)


def daa(f, acc):
    """AL adjusted after an addition.  All six flags."""
    low = low_digit_over(f, acc)
    high = u64(acc > ABOVE_99) | get_cf(f)
    r = cut(W1, acc + low * W6 + high * SIXTY)
    adjust_flags(f, r, high, low)
    return r


def das(f, acc):
    """AL adjusted after a subtraction.  All six flags; a borrow out of the low digit's 6 sets CF too."""
    low = low_digit_over(f, acc)
    high = u64(acc > ABOVE_99) | get_cf(f)
    r = cut(W1, acc - low * W6 - high * SIXTY)
    adjust_flags(f, r, high | (low & u64(acc < W6)), low)
    return r


def aaa(f, acc):
    """AX adjusted after an addition of unpacked digits.  All six flags."""
    over = low_digit_over(f, acc)
    r = (acc + over * CARRY_AND_6) & AH_AND_DIGIT
    adjust_flags(f, r & M8, over, over)
    return r


def aas(f, acc):
    """AX adjusted after a subtraction of unpacked digits.  All six flags."""
    over = low_digit_over(f, acc)
    r = (acc - over * CARRY_AND_6) & AH_AND_DIGIT
    adjust_flags(f, r & M8, over, over)
    return r
