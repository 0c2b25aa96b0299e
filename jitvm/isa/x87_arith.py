"""x87 arithmetic, comparisons and functions.

`imm` is the opcode as the last instruction's opcode register has it: three bits of the escape byte, then ModRM.

Source: Intel SDM vol. 2, the instructions; vol. 1, 8.3.5 to 8.3.9; see also x87.py.
"""

from __future__ import annotations

from jitvm.isa.flags import CF, PF, ZF, put_flags
from jitvm.isa.host_x87 import ARITH, ARITH_I16, ARITH_I32, ARITH_M32, ARITH_M64, GROUP_F, TST, UCOM
from jitvm.isa.state import OK
from jitvm.isa.words import W0, W1, W2, W3, W4, W7, u64
from jitvm.isa.x87 import (
    BEFORE,
    C0,
    C1,
    C2,
    C3,
    CONDITIONS,
    EXPONENT,
    POPPED,
    PUSHED,
    absorb,
    give,
    host_top,
    move_top,
    note,
    note_memory,
    operate,
    overflow,
    pop,
    put_indefinite,
    st,
    take,
    underflow,
    used,
)

COM = W2
"""The operation of ModRM.reg that compares; 3 pops, too."""
W8_, W15 = u64(8), u64(15)
MEMORY_KINDS = u64(4)


# ---- arithmetic ---------------------------------------------------------------------------------------------------------
def operation(imm):
    """ModRM.reg: ADD MUL COM COMP SUB SUBR DIV DIVR."""
    return (imm >> W3) & W7


def arith_registers(c, op, d, s):
    """Register d = d op s; 1 when it was done, and a pop may follow."""
    if (used(c, d) & used(c, s)) == W0:
        if underflow(c) == W0:
            return W0
        put_indefinite(c, d)
        return W1
    take(c, W0, d)
    take(c, W1, s)
    sw = operate(c, ARITH + op)
    give(c, d, W0)
    return u64(absorb(c, sw) == W0)


def arith(c, imm):
    """FADD ST(0), ST(i) and the like."""
    note(c, imm)
    arith_registers(c, operation(imm), st(c, W0), st(c, imm & W7))
    return OK


def arith_into(c, imm):
    """ST(i) = ST(i) op ST(0); here ModRM.reg calls 4 and 6 what is reversed; 1 when it was done."""
    note(c, imm)
    op = operation(imm)
    return arith_registers(c, op ^ (op >> W2), st(c, imm & W7), st(c, W0))


def arith_to(c, imm):
    """FADD ST(i), ST(0) and the like."""
    arith_into(c, imm)
    return OK


def arith_pop(c, imm):
    """FADDP ST(i), ST(0) and the like."""
    if arith_into(c, imm) != W0:
        pop(c)
    return OK


def arith_memory(c, kind, imm, seg, off, a):
    """ST(0) = ST(0) op memory operand `a`; `kind` is its format."""
    note_memory(c, imm, seg, off)
    d = st(c, W0)
    if used(c, d) == W0:
        if underflow(c) != W0:
            put_indefinite(c, d)
        return OK
    take(c, W0, d)
    c.wide[W4] = a
    sw = operate(c, kind + operation(imm))
    give(c, d, W0)
    absorb(c, sw)
    return OK


def arith_m32(c, imm, seg, off, a):
    """FADD m32 and the like."""
    return arith_memory(c, ARITH_M32, imm, seg, off, a)


def arith_m64(c, imm, seg, off, a):
    """FADD m64 and the like."""
    return arith_memory(c, ARITH_M64, imm, seg, off, a)


def arith_i32(c, imm, seg, off, a):
    """FIADD m32 and the like."""
    return arith_memory(c, ARITH_I32, imm, seg, off, a)


def arith_i16(c, imm, seg, off, a):
    """FIADD m16 and the like."""
    return arith_memory(c, ARITH_I16, imm, seg, off, a)


# ---- comparisons --------------------------------------------------------------------------------------------------------
def compared(c, sw):
    """Take the host's comparison over, also an unmasked invalid one's; 1 when a pop may follow."""
    c.fsw = (c.fsw & ~CONDITIONS) | (sw & CONDITIONS)
    return u64(absorb(c, sw) == W0)


def unordered(c):
    """A comparison with an empty register; 1 when a pop may follow."""
    c.fsw = c.fsw | CONDITIONS
    return underflow(c)


def compare_registers(c, op, i):
    """ST(0) with ST(i); 1 when a pop may follow."""
    d, s = st(c, W0), st(c, i)
    if (used(c, d) & used(c, s)) == W0:
        return unordered(c)
    take(c, W0, d)
    take(c, W1, s)
    return compared(c, operate(c, op))


def com(c, imm):
    """FCOM."""
    note(c, imm)
    compare_registers(c, ARITH + COM, imm & W7)
    return OK


def comp(c, imm):
    """FCOMP."""
    note(c, imm)
    if compare_registers(c, ARITH + COM, imm & W7) != W0:
        pop(c)
    return OK


def ucom(c, imm):
    """FUCOM."""
    note(c, imm)
    compare_registers(c, UCOM, imm & W7)
    return OK


def ucomp(c, imm):
    """FUCOMP."""
    note(c, imm)
    if compare_registers(c, UCOM, imm & W7) != W0:
        pop(c)
    return OK


def compp(c, imm):
    """FCOMPP."""
    note(c, imm)
    if compare_registers(c, ARITH + COM, W1) != W0:
        pop(c)
        pop(c)
    return OK


def ucompp(c, imm):
    """FUCOMPP."""
    note(c, imm)
    if compare_registers(c, UCOM, W1) != W0:
        pop(c)
        pop(c)
    return OK


def com_memory(c, kind, imm, seg, off, a):
    """ST(0) with a memory operand; ModRM.reg 3 pops."""
    note_memory(c, imm, seg, off)
    d = st(c, W0)
    done = W0
    if used(c, d) == W0:
        done = unordered(c)
    else:
        take(c, W0, d)
        c.wide[W4] = a
        done = compared(c, operate(c, kind + COM))
    if done & imm >> W3 & W1 != W0:
        pop(c)
    return OK


def com_m32(c, imm, seg, off, a):
    """FCOM m32, FCOMP m32."""
    return com_memory(c, ARITH_M32, imm, seg, off, a)


def com_m64(c, imm, seg, off, a):
    """FCOM m64, FCOMP m64."""
    return com_memory(c, ARITH_M64, imm, seg, off, a)


def com_i32(c, imm, seg, off, a):
    """FICOM m32, FICOMP m32."""
    return com_memory(c, ARITH_I32, imm, seg, off, a)


def com_i16(c, imm, seg, off, a):
    """FICOM m16, FICOMP m16."""
    return com_memory(c, ARITH_I16, imm, seg, off, a)


def tst(c, imm):
    """FTST: ST(0) with 0."""
    note(c, imm)
    d = st(c, W0)
    if used(c, d) == W0:
        unordered(c)
        return OK
    take(c, W0, d)
    compared(c, operate(c, TST))
    return OK


def compare_flags(c, op, imm):
    """FCOMI and the like: ZF, PF, CF, also of an unmasked invalid comparison; escape DFh pops.

    The conditions stay as they were, C1, too, unless it tells of a stack underflow (measured; the manual has it cleared).
    """
    note(c, imm)
    kept = c.fsw & (CONDITIONS | C1)
    if (used(c, st(c, W0)) & used(c, st(c, imm & W7))) == W0:
        kept = kept & ~C1
    done = compare_registers(c, op, imm & W7)
    v = W0
    if c.fsw & C3 != W0:
        v = v | ZF
    if c.fsw & C2 != W0:
        v = v | PF
    if c.fsw & C0 != W0:
        v = v | CF
    put_flags(c.lazy, v)
    c.fsw = (c.fsw & ~(CONDITIONS | C1)) | kept
    if done != W0 and imm >> W8_ == W7:
        pop(c)
    return OK


def comi(c, imm):
    """FCOMI, FCOMIP."""
    return compare_flags(c, ARITH + COM, imm)


def ucomi(c, imm):
    """FUCOMI, FUCOMIP."""
    return compare_flags(c, UCOM, imm)


# ---- functions: D9 F0 to D9 FF --------------------------------------------------------------------------------------------
TWO_OPERANDS = u64(1 << 1 | 1 << 3 | 1 << 5 | 1 << 8 | 1 << 9 | 1 << 13)
"""FYL2X FPATAN FPREM1 FPREM FYL2XP1 FSCALE, by the low four bits of ModRM."""
PUSHES = u64(1 << 2 | 1 << 4 | 1 << 11)
"""FPTAN FXTRACT FSINCOS."""
POPS = u64(1 << 1 | 1 << 3 | 1 << 9)
"""FYL2X FPATAN FYL2XP1."""
REMAINDERS = u64(1 << 5 | 1 << 8)
PARTIAL = u64(1 << 2 | 1 << 11 | 1 << 14 | 1 << 15) | REMAINDERS
"""C2 says that the operand was out of range, or the remainder is a partial one."""


def function(c, imm):
    """F2XM1 ... FCOS but FDECSTP and FINCSTP."""
    note(c, imm)
    k = imm & W15
    d, s = st(c, W0), st(c, W1)
    above = st(c, W7)
    bad = u64(used(c, d) == W0) | (TWO_OPERANDS >> k & u64(used(c, s) == W0))
    full = PUSHES >> k & used(c, above)
    if PARTIAL >> k & W1 != W0:
        c.fsw = c.fsw & ~C2
    if bad | full != W0:
        return function_fault(c, k, bad)
    take(c, W0, d)
    take(c, W1, s)
    sw = operate(c, GROUP_F + k)
    changed = C1
    if PARTIAL >> k & W1 != W0:
        changed = changed | C2
    if REMAINDERS >> k & W1 != W0 and sw & ~c.fcw & BEFORE == W0 and c.wide[W1] & EXPONENT != EXPONENT:
        changed = changed | C3 | C0  # there is a quotient
    absorb(c, sw)
    c.fsw = (c.fsw & ~changed) | (sw & changed)
    top = host_top(sw)
    if top == PUSHED:
        move_top(c, W7)
        give(c, above, W0)
        give(c, d, W1)
    elif top == POPPED:
        give(c, s, W0)
        pop(c)
    else:
        give(c, d, W0)
    return OK


def function_fault(c, k, bad):
    """A stack fault of a function: `bad` underflow, else overflow."""
    masked = W0
    if bad != W0:
        masked = underflow(c)
    else:
        masked = overflow(c)
    if masked == W0:
        return OK
    if POPS >> k & W1 != W0:
        put_indefinite(c, st(c, W1))
        pop(c)
        return OK
    put_indefinite(c, st(c, W0))
    if PUSHES >> k & W1 != W0:
        move_top(c, W7)
        put_indefinite(c, st(c, W0))
    return OK
