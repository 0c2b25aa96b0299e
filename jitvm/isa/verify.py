"""LAR, LSL, VERR, VERW and ARPL: what a program may learn of a selector.

All are #UD outside protected mode, which is asked before an operand in memory is read (`table.CHECKED_BY`).

Source: Intel SDM vol. 2, the instructions; vol. 3, 5.10 (pointer validation).
"""

from __future__ import annotations

from jitvm.isa.flags import set_zf
from jitvm.isa.memory import load, load_system, store
from jitvm.isa.registers import set_reg
from jitvm.isa.segment import (
    RPL,
    TYPE,
    desc_attr,
    desc_dpl,
    desc_limit,
    descriptor_address,
    is_conforming,
    is_null,
    is_readable,
    is_writable_data,
    need_protected,
)
from jitvm.isa.state import ATTR_S, EFER_LMA, FAULT, OK
from jitvm.isa.words import M16, ONES, W0, W1, W2, W8, W32, u64

LAR_TYPES, LSL_TYPES = u64(0x1A3E), u64(0x0A0E)
"""System descriptor types (bit n: type n) that LAR and LSL know (SDM vol. 2, tables of LAR and LSL)."""
LONG_TYPES = u64(0x1A04)
"""The types of long mode: LDT, available and busy TSS, call gate."""
LAR_MASK = u64(0x00F0_FF00)


def visible_descriptor(c, selector):
    """The descriptor of a selector that CPL and RPL may see, else 0; c.status on a fault of the access itself.

    A descriptor of type 0 is reserved, so 0 can't be one that LAR, LSL, VERR or VERW accept.
    """
    if is_null(selector) != W0:
        return W0
    at = descriptor_address(c, selector)
    if at == ONES:
        return W0
    d = load_system(c, at, W8)
    if c.status != OK:
        return W0
    dpl = desc_dpl(d)
    if is_conforming(desc_attr(d)) == W0 and (c.cpl > dpl or selector & RPL > dpl):
        return W0
    return d


def known_type(d, types):
    """1 for code and data descriptors and for system descriptors of a type in the set `types`."""
    attr = desc_attr(d)
    if attr & ATTR_S != W0:
        return W1
    return (types >> (attr & TYPE)) & W1


def types_known(c, types):
    """Those of a set of system descriptor types that there are in long mode (SDM vol. 2, tables of LAR and LSL)."""
    if c.efer & EFER_LMA != W0:
        return types & LONG_TYPES
    return types


def answer(c, zf):
    """End of an instruction whose answer is ZF."""
    set_zf(c.lazy, zf)
    return OK


def lar(c, size, reg, b):
    """LAR: access rights of selector `b` to register `reg`, ZF = 1; ZF = 0 when it may not be looked at."""
    d = visible_descriptor(c, b & M16)
    if c.status != OK:
        return c.status
    if known_type(d, types_known(c, LAR_TYPES)) == W0:
        return answer(c, W0)
    set_reg(c, reg, size, (d >> W32) & LAR_MASK)
    return answer(c, W1)


def lsl(c, size, reg, b):
    """LSL: limit in bytes of selector `b` to register `reg`, ZF = 1; ZF = 0 when it may not be looked at."""
    d = visible_descriptor(c, b & M16)
    if c.status != OK:
        return c.status
    if known_type(d, types_known(c, LSL_TYPES)) == W0:
        return answer(c, W0)
    set_reg(c, reg, size, desc_limit(d))
    return answer(c, W1)


def verr(c, a):
    """VERR: ZF = 1 when the segment may be read."""
    d = visible_descriptor(c, a & M16)
    if c.status != OK:
        return c.status
    return answer(c, is_readable(desc_attr(d)))


def verw(c, a):
    """VERW: ZF = 1 when the segment may be written."""
    d = visible_descriptor(c, a & M16)
    if c.status != OK:
        return c.status
    return answer(c, is_writable_data(desc_attr(d)))


def arpl(f, a, b):
    """ARPL: `a` with an RPL not below that of `b`, ZF = 1 when it had to be raised.  #UD outside protected mode is
    the form's affair (`need_protected`)."""
    lower = u64(a & RPL < b & RPL)
    set_zf(f, lower)
    if lower != W0:
        return (a & ~RPL) | (b & RPL)
    return a


def arpl_mem(c, seg, off, b):
    """ARPL with a memory destination, which is written only when its RPL is raised."""
    if need_protected(c) != OK:
        return FAULT
    a = load(c, seg, off, W2)
    if c.status != OK:
        return c.status
    raised = u64(a & RPL < b & RPL)
    if raised != W0 and store(c, seg, off, W2, (a & ~RPL) | (b & RPL)) != OK:
        return c.status
    return answer(c, raised)
