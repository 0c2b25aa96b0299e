"""x87 loads, stores, exchanges, and what looks at or changes a register without arithmetic.

A store makes its value first (`*_value`), which changes nothing, then the memory is written, then `stored` takes exceptions
over and pops: an instruction that leaves at its access begins again.  A value that an unmasked exception keeps from being
stored ends the instruction before the memory is looked at, as on silicon.

Source: Intel SDM vol. 2, the instructions; vol. 1, 4.2 (formats), 4.9.1 (unmasked responses of stores); see also x87.py.
"""

from __future__ import annotations

from jitvm.isa.flags import condition
from jitvm.isa.host_x87 import (
    BLD,
    BSTP,
    CONSTANTS,
    ILD_I16,
    ILD_I32,
    ILD_I64,
    IST_I16,
    IST_I32,
    ISTP_I64,
    ISTTP_I16,
    ISTTP_I32,
    ISTTP_I64,
    LD_M32,
    LD_M64,
    ST_M32,
    ST_M64,
)
from jitvm.isa.memory import load, probe_store, store
from jitvm.isa.misc import beside
from jitvm.isa.state import JUMP, OK
from jitvm.isa.words import M16, W0, W1, W2, W3, W4, W5, W7, W8, W10, u64
from jitvm.isa.x87 import (
    C0,
    C1,
    C2,
    C3,
    CONDITIONS,
    EXCEPTIONS,
    EXPONENT,
    IE,
    INDEFINITE,
    INDEFINITE_SE,
    INTEGER_BIT,
    PE,
    PUSHED,
    SF,
    SIGN,
    absorb,
    host_top,
    move_top,
    note,
    note_memory,
    operate,
    overflow,
    pop,
    push,
    put,
    put_indefinite,
    st,
    take,
    underflow,
    used,
)

KEEPS = EXCEPTIONS & ~PE
"""Exceptions that, unmasked, keep a value from being stored."""
INDEFINITE_M32, INDEFINITE_M64 = u64(0xFFC0_0000), u64(0xFFF8_0000_0000_0000)
INDEFINITE_I16, INDEFINITE_I32, INDEFINITE_I64 = u64(0x8000), u64(0x8000_0000), u64(0x8000_0000_0000_0000)
SW = W5
"""Word of `wide` that keeps the host's status word between a store's value and its end."""
REVERSED, ESCAPE_DB = W1, W3


# ---- loads --------------------------------------------------------------------------------------------------------------
def ld_converted(c, op, a):
    """Push a memory operand that is converted."""
    n = st(c, W7)
    if used(c, n) != W0:
        if overflow(c) != W0:
            move_top(c, W7)
            put_indefinite(c, n)
        return OK
    c.wide[W4] = a
    sw = operate(c, op)
    absorb(c, sw)
    if host_top(sw) == PUSHED:
        move_top(c, W7)
        put(c, n, c.wide[W0], c.wide[W1])
    return OK


def ld_m32(c, imm, seg, off, a):
    """FLD m32."""
    note_memory(c, imm, seg, off)
    return ld_converted(c, LD_M32, a)


def ld_m64(c, imm, seg, off, a):
    """FLD m64."""
    note_memory(c, imm, seg, off)
    return ld_converted(c, LD_M64, a)


def ild_i16(c, imm, seg, off, a):
    """FILD m16."""
    note_memory(c, imm, seg, off)
    return ld_converted(c, ILD_I16, a)


def ild_i32(c, imm, seg, off, a):
    """FILD m32."""
    note_memory(c, imm, seg, off)
    return ld_converted(c, ILD_I32, a)


def ild_i64(c, imm, seg, off, a):
    """FILD m64."""
    note_memory(c, imm, seg, off)
    return ld_converted(c, ILD_I64, a)


def ld_m80(c, imm, seg, off):
    """FLD m80: as it is."""
    low = load(c, seg, off, W8)
    if c.status != OK:
        return c.status
    high = load(c, seg, beside(c, off, W8), W2)
    if c.status != OK:
        return c.status
    note_memory(c, imm, seg, off)
    push(c, low, high)
    return OK


def bld(c, imm, seg, off):
    """FBLD m80."""
    low = load(c, seg, off, W8)
    if c.status != OK:
        return c.status
    high = load(c, seg, beside(c, off, W8), W2)
    if c.status != OK:
        return c.status
    note_memory(c, imm, seg, off)
    c.wide[W5] = high
    return ld_converted(c, BLD, low)


def ld_sti(c, imm):
    """FLD ST(i)."""
    note(c, imm)
    s = st(c, imm & W7)
    if used(c, s) == W0:
        if underflow(c) != W0:
            move_top(c, W7)
            put_indefinite(c, st(c, W0))
        return OK
    push(c, c.fpr[s << W1], c.fpr[(s << W1) + W1])
    return OK


def ld_constant(c, imm):
    """FLD1 ... FLDZ: what is not exact is rounded by the control word."""
    note(c, imm)
    return ld_converted(c, CONSTANTS + (imm & W7), W0)


# ---- stores to memory ---------------------------------------------------------------------------------------------------
def value_of_top(c, op, indefinite, imm, seg, off):
    """What ST(0) is in a memory format; status JUMP when an unmasked exception keeps it from being stored."""
    n = st(c, W0)
    v, sw = indefinite, IE | SF
    if used(c, n) != W0:
        take(c, W0, n)
        c.wide[W4] = W0
        sw = operate(c, op)
        v = c.wide[W4]
    c.wide[SW] = sw
    if sw & ~c.fcw & KEEPS != W0:
        note_memory(c, imm, seg, off)
        absorb(c, sw)
        c.rip = c.next_rip
        c.status = JUMP
    return v


def stored(c, imm, seg, off):
    """ST(0) is stored: take the exceptions over."""
    note_memory(c, imm, seg, off)
    absorb(c, c.wide[SW])
    return OK


def stored_pop(c, imm, seg, off):
    """ST(0) is stored: take the exceptions over and pop."""
    stored(c, imm, seg, off)
    pop(c)
    return OK


def m32_value(c, imm, seg, off):
    """FST m32, FSTP m32."""
    return value_of_top(c, ST_M32, INDEFINITE_M32, imm, seg, off)


def m64_value(c, imm, seg, off):
    """FST m64, FSTP m64."""
    return value_of_top(c, ST_M64, INDEFINITE_M64, imm, seg, off)


def i16_value(c, imm, seg, off):
    """FIST m16, FISTP m16."""
    return value_of_top(c, IST_I16, INDEFINITE_I16, imm, seg, off)


def i32_value(c, imm, seg, off):
    """FIST m32, FISTP m32."""
    return value_of_top(c, IST_I32, INDEFINITE_I32, imm, seg, off)


def i64_value(c, imm, seg, off):
    """FISTP m64."""
    return value_of_top(c, ISTP_I64, INDEFINITE_I64, imm, seg, off)


def i16_truncated(c, imm, seg, off):
    """FISTTP m16."""
    return value_of_top(c, ISTTP_I16, INDEFINITE_I16, imm, seg, off)


def i32_truncated(c, imm, seg, off):
    """FISTTP m32."""
    return value_of_top(c, ISTTP_I32, INDEFINITE_I32, imm, seg, off)


def i64_truncated(c, imm, seg, off):
    """FISTTP m64."""
    return value_of_top(c, ISTTP_I64, INDEFINITE_I64, imm, seg, off)


def store_ten(c, seg, off, low, high):
    """Status of a store of ten bytes: all may be written, or none is."""
    second = beside(c, off, W8)
    if probe_store(c, seg, off, W8) != OK or probe_store(c, seg, second, W2) != OK:
        return c.status
    if store(c, seg, off, W8, low) != OK:
        return c.status
    return store(c, seg, second, W2, high)


def stp_m80(c, imm, seg, off):
    """FSTP m80: as it is."""
    n = st(c, W0)
    low, high, sw = c.fpr[n << W1], c.fpr[(n << W1) + W1], W0
    if used(c, n) == W0:
        low, high, sw = INDEFINITE, INDEFINITE_SE, IE | SF
        if c.fcw & IE == W0:
            note_memory(c, imm, seg, off)
            absorb(c, sw)
            return OK
    if store_ten(c, seg, off, low, high) != OK:
        return c.status
    c.wide[SW] = sw
    return stored_pop(c, imm, seg, off)


def bstp(c, imm, seg, off):
    """FBSTP m80."""
    n = st(c, W0)
    low, high, sw = INDEFINITE, INDEFINITE_SE, IE | SF
    if used(c, n) != W0:
        take(c, W0, n)
        c.wide[W4] = W0
        c.wide[W5] = W0
        sw = operate(c, BSTP)
        low, high = c.wide[W4], c.wide[W5] & M16
    if sw & ~c.fcw & KEEPS != W0:
        note_memory(c, imm, seg, off)
        absorb(c, sw)
        return OK
    if store_ten(c, seg, off, low, high) != OK:
        return c.status
    c.wide[SW] = sw
    return stored_pop(c, imm, seg, off)


# ---- between registers --------------------------------------------------------------------------------------------------
def copy_top(c, imm):
    """ST(i) = ST(0); 1 when it was done."""
    note(c, imm)
    n, d = st(c, W0), st(c, imm & W7)
    if used(c, n) == W0:
        if underflow(c) == W0:
            return W0
        put_indefinite(c, d)
        return W1
    c.fsw = c.fsw & ~C1
    put(c, d, c.fpr[n << W1], c.fpr[(n << W1) + W1])
    return W1


def st_sti(c, imm):
    """FST ST(i)."""
    copy_top(c, imm)
    return OK


def stp_sti(c, imm):
    """FSTP ST(i)."""
    if copy_top(c, imm) != W0:
        pop(c)
    return OK


def stp_unchecked(c, imm):
    """D9 D8+i: FSTP ST(i) that takes an empty ST(0) off without a fault, and writes nothing then."""
    if used(c, st(c, W0)) != W0:
        copy_top(c, imm)
    note(c, imm)
    c.fsw = c.fsw & ~C1
    pop(c)
    return OK


def xch(c, imm):
    """FXCH: an empty register is the indefinite first."""
    note(c, imm)
    n, d = st(c, W0), st(c, imm & W7)
    if (used(c, n) & used(c, d)) == W0:
        if underflow(c) == W0:
            return OK
        if used(c, n) == W0:
            put_indefinite(c, n)
        if used(c, d) == W0:
            put_indefinite(c, d)
    else:
        c.fsw = c.fsw & ~C1
    low, high = c.fpr[n << W1], c.fpr[(n << W1) + W1]
    put(c, n, c.fpr[d << W1], c.fpr[(d << W1) + W1])
    put(c, d, low, high)
    return OK


def cmov(c, imm):
    """FCMOVcc: an empty register is found whatever the condition."""
    note(c, imm)
    n, s = st(c, W0), st(c, imm & W7)
    if (used(c, n) & used(c, s)) == W0:
        if underflow(c) != W0:
            put_indefinite(c, n)
        return OK
    which = imm >> W3 & W3
    cc = W2 + (which << W1)
    if which == W3:
        cc = W10
    if imm >> W8 == ESCAPE_DB:
        cc = cc | REVERSED
    if condition(c.lazy, cc) != W0:
        put(c, n, c.fpr[s << W1], c.fpr[(s << W1) + W1])
    return OK


def sign(c, imm):
    """FCHS, FABS: any contents, no exception but underflow."""
    note(c, imm)
    n = st(c, W0)
    if used(c, n) == W0:
        if underflow(c) != W0:
            put_indefinite(c, n)
        return OK
    c.fsw = c.fsw & ~C1
    se = c.fpr[(n << W1) + W1]
    c.fpr[(n << W1) + W1] = (se ^ SIGN) & ~((imm & W1) * SIGN)
    return OK


def class_of(significand, se):
    """C3, C2, C0 of FXAM for what a register holds."""
    exponent = se & EXPONENT
    if exponent == EXPONENT:
        if significand & INTEGER_BIT == W0:
            return W0
        if significand == INTEGER_BIT:
            return C2 | C0
        return C0
    if exponent == W0:
        if significand == W0:
            return C3
        return C3 | C2
    if significand & INTEGER_BIT == W0:
        return W0
    return C2


def xam(c, imm):
    """FXAM: an empty register's sign is told, too."""
    note(c, imm)
    n = st(c, W0)
    se = c.fpr[(n << W1) + W1]
    v = C3 | C0
    if used(c, n) != W0:
        v = class_of(c.fpr[n << W1], se)
    if se & SIGN != W0:
        v = v | C1
    c.fsw = (c.fsw & ~(CONDITIONS | C1)) | v
    return OK


def free(c, imm):
    """FFREE ST(i)."""
    note(c, imm)
    c.fsw = c.fsw & ~C1
    c.fpu_used = c.fpu_used & ~(W1 << st(c, imm & W7))
    return OK


def free_pop(c, imm):
    """FFREEP ST(i): FFREE, then TOP + 1."""
    free(c, imm)
    c.fpu_used = c.fpu_used & ~(W1 << st(c, W0))
    move_top(c, W1)
    return OK


def step_top(c, imm):
    """FDECSTP, FINCSTP."""
    note(c, imm)
    c.fsw = c.fsw & ~C1
    if imm & W1 == W0:
        move_top(c, W7)
    else:
        move_top(c, W1)
    return OK


def nop(c, imm):
    """FNOP."""
    note(c, imm)
    return OK
