"""x87 control: control and status word, the environment, the whole state.

The environment has four layouts (SDM vol. 1, figures 8-9 to 8-12): by the operand size, and by the mode: real and
virtual-8086 mode store linear addresses and the opcode, protected mode selectors and offsets; 64-bit mode has the 32-bit
protected one.  What the 32-bit layouts reserve is stored as ones.

Source: Intel SDM vol. 1, 8.1.3 to 8.1.10; vol. 2, FLDCW, FLDENV, FNCLEX, FNINIT, FNSAVE, FNSTCW, FNSTENV, FNSTSW, FRSTOR.
"""

from __future__ import annotations

from jitvm.isa.memory import load, probe_store, store
from jitvm.isa.misc import beside
from jitvm.isa.mode import is_protected
from jitvm.isa.registers import set_reg
from jitvm.isa.state import OK, RAX
from jitvm.isa.words import M16, M32, W0, W1, W2, W3, W4, W5, W6, W7, W8, W12, W16, u64
from jitvm.isa.x87 import EXCEPTIONS, EXPONENT, INITIAL_CONTROL, INTEGER_BIT, SF, present, st, summarize

CONTROL_BITS, CONTROL_ONES = u64(0x1F3F), u64(0x40)
"""Control word: what can be written, and what reads as 1."""
OPCODE = u64(0x7FF)
FIELDS, REGISTER = W7, u64(10)
"""Words of an environment; bytes of a register."""
EMPTY_TAG, SPECIAL_TAG, ZERO_TAG = W3, W2, W1
RESERVED_ONES, LINEAR_HIGH = u64(0xFFFF_0000), u64(0xFFFF_0000)


# ---- words --------------------------------------------------------------------------------------------------------------
def set_control(c, v):
    """Write the control word; an exception that was flagged before may be pending now."""
    c.fcw = (v & CONTROL_BITS) | CONTROL_ONES
    return summarize(c)


def ldcw(c, a):
    """FLDCW."""
    set_control(c, a)
    return OK


def nstcw_value(c):
    """FNSTCW."""
    present(c)
    return c.fcw


def nstsw_value(c):
    """FNSTSW m16."""
    present(c)
    return c.fsw


def nstsw_ax(c):
    """FNSTSW AX."""
    if present(c) != OK:
        return c.status
    set_reg(c, RAX, W2, c.fsw)
    return OK


def nclex(c):
    """FNCLEX."""
    if present(c) != OK:
        return c.status
    c.fsw = c.fsw & ~(EXCEPTIONS | SF)
    summarize(c)
    return OK


def initialize(c):
    """What FNINIT and FNSAVE leave: the registers are empty, their contents stay."""
    c.fcw = INITIAL_CONTROL
    c.fsw = W0
    c.ignne = W0
    c.fpu_used = W0
    c.fop = W0
    c.fip = W0
    c.fcs = W0
    c.fdp = W0
    c.fds = W0
    return W0


def ninit(c):
    """FNINIT."""
    if present(c) != OK:
        return c.status
    initialize(c)
    return OK


def nothing(c):
    """FNENI, FNDISI, FNSETPM: instructions of the 8087 and 80287 that do nothing any more."""
    return present(c)


# ---- tag word -----------------------------------------------------------------------------------------------------------
def tag_of(c, n):
    """Tag of physical register n, from its contents: valid, zero, special or empty."""
    if c.fpu_used >> n & W1 == W0:
        return EMPTY_TAG
    significand = c.fpr[n << W1]
    exponent = c.fpr[(n << W1) + W1] & EXPONENT
    if exponent == W0 and significand == W0:
        return ZERO_TAG
    if exponent == W0 or exponent == EXPONENT or significand & INTEGER_BIT == W0:
        return SPECIAL_TAG
    return W0


def tag_word(c):
    """The full tag word."""
    v = W0
    n = W0
    while n < W8:
        v = v | (tag_of(c, n) << (n << W1))
        n += W1
    return v


def set_tags(c, v):
    """Take a tag word over: only which registers are empty counts."""
    kept = W0
    n = W0
    while n < W8:
        if v >> (n << W1) & W3 != EMPTY_TAG:
            kept = kept | (W1 << n)
        n += W1
    c.fpu_used = kept
    return W0


# ---- environment --------------------------------------------------------------------------------------------------------
def linear_of(selector, offset):
    """Address of an instruction or operand in real mode."""
    return ((selector << W4) + offset) & M32


def environment_word(c, size, k):
    """Word k of an environment of words of `size` bytes."""
    if k == W0:
        return c.fcw
    if k == W1:
        return c.fsw
    if k == W2:
        return tag_word(c)
    if is_protected(c) != W0:
        if k == W3:
            return c.fip
        if k == W4:
            return (c.fcs & M16) | (c.fop << W16)
        if k == W5:
            return c.fdp
        return c.fds & M16
    at = linear_of(c.fcs, c.fip)
    opcode = c.fop
    if k >= W5:
        at = linear_of(c.fds, c.fdp)
        opcode = W0
    if k == W3 or k == W5:
        return at & M16
    if size == W2:
        return (at >> W16 << W12) | opcode
    return ((at & LINEAR_HIGH) >> W4) | opcode


def reserved_ones(c, k):
    """The upper half of word k of a 32-bit environment where it is reserved."""
    if k < W3 or (is_protected(c) == W0 and k != W4 and k != W6) or (is_protected(c) != W0 and k == W6):
        return RESERVED_ONES
    return W0


def place(c, size, off, k):
    """Offset of word k."""
    return beside(c, off, k * size)


def probe_words(c, size, seg, off):
    """Status: may an environment be written?"""
    k = W0
    while k < FIELDS:
        if probe_store(c, seg, place(c, size, off, k), size) != OK:
            return c.status
        k += W1
    return OK


def store_words(c, size, seg, off):
    """Write an environment; status."""
    k = W0
    while k < FIELDS:
        v = environment_word(c, size, k)
        if size == W4:
            v = (v | reserved_ones(c, k)) & M32
        else:
            v = v & M16
        if store(c, seg, place(c, size, off, k), size, v) != OK:
            return c.status
        k += W1
    return OK


def load_words(c, size, seg, off):
    """Read an environment into `wide`; status."""
    k = W0
    while k < FIELDS:
        v = load(c, seg, place(c, size, off, k), size)
        if c.status != OK:
            return c.status
        c.wide[k] = v
        k += W1
    return OK


def set_environment(c, size):
    """Take the environment in `wide` over."""
    c.fcw = (c.wide[W0] & CONTROL_BITS) | CONTROL_ONES
    c.fsw = c.wide[W1] & M16
    summarize(c)
    set_tags(c, c.wide[W2])
    if is_protected(c) != W0:
        c.fip = c.wide[W3]
        c.fcs = c.wide[W4] & M16
        c.fdp = c.wide[W5]
        c.fds = c.wide[W6] & M16
        c.fop = c.wide[W4] >> W16 & OPCODE
        return W0
    c.fcs = W0
    c.fds = W0
    c.fop = c.wide[W4] & OPCODE
    if size == W2:
        c.fip = (c.wide[W3] & M16) | (c.wide[W4] >> W12 << W16)
        c.fdp = (c.wide[W5] & M16) | (c.wide[W6] >> W12 << W16)
    else:
        c.fip = (c.wide[W3] & M16) | ((c.wide[W4] >> W12 << W16) & M32)
        c.fdp = (c.wide[W5] & M16) | ((c.wide[W6] >> W12 << W16) & M32)
    return W0


def nstenv(c, size, seg, off):
    """FNSTENV: store the environment and mask all exceptions."""
    if present(c) != OK or probe_words(c, size, seg, off) != OK or store_words(c, size, seg, off) != OK:
        return c.status
    c.fcw = c.fcw | EXCEPTIONS
    summarize(c)
    return OK


def ldenv(c, size, seg, off):
    """FLDENV."""
    if load_words(c, size, seg, off) != OK:
        return c.status
    set_environment(c, size)
    return OK


# ---- the whole state ------------------------------------------------------------------------------------------------------
def register_at(c, size, off, i):
    """Offset of ST(i) behind the environment."""
    return beside(c, off, FIELDS * size + i * REGISTER)


def nsave(c, size, seg, off):
    """FNSAVE: store environment and registers, then FNINIT."""
    if present(c) != OK or probe_words(c, size, seg, off) != OK:
        return c.status
    i = W0
    while i < W8:
        at = register_at(c, size, off, i)
        if probe_store(c, seg, at, W8) != OK or probe_store(c, seg, beside(c, at, W8), W2) != OK:
            return c.status
        i += W1
    if store_words(c, size, seg, off) != OK:
        return c.status
    i = W0
    while i < W8:
        at = register_at(c, size, off, i)
        n = st(c, i) << W1
        if store(c, seg, at, W8, c.fpr[n]) != OK or store(c, seg, beside(c, at, W8), W2, c.fpr[n + W1]) != OK:
            return c.status
        i += W1
    initialize(c)
    return OK


def rstor(c, size, seg, off):
    """FRSTOR: environment and registers; all is read before anything changes."""
    if load_words(c, size, seg, off) != OK:
        return c.status
    i = W0
    while i < W8:
        at = register_at(c, size, off, i)
        c.fpr_new[i << W1] = load(c, seg, at, W8)
        if c.status == OK:
            c.fpr_new[(i << W1) + W1] = load(c, seg, beside(c, at, W8), W2)
        if c.status != OK:
            return c.status
        i += W1
    set_environment(c, size)
    i = W0
    while i < W8:
        n = st(c, i) << W1
        c.fpr[n] = c.fpr_new[i << W1]
        c.fpr[n + W1] = c.fpr_new[(i << W1) + W1]
        i += W1
    return OK
