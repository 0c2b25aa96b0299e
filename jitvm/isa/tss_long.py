"""Stacks of control transfers in long mode: the 64-bit TSS, and frames of 8-byte words.

As in jitvm/isa/tss.py a transfer probes every word before it pushes the first; word `k` lies `8 * k` bytes below the stack
pointer it starts from.  SS has no base and no limit there: an address must be canonical, #SS else.

Source: Intel SDM vol. 3, 6.14 (frames of events), 6.14.5 (interrupt stack table), 7.7 (64-bit TSS).
"""

from __future__ import annotations

from jitvm.isa.memory import is_canonical, load_system, probe_linear, store_linear
from jitvm.isa.segment import selector_fault
from jitvm.isa.state import OK, SS_FAULT, TR, TS, fault
from jitvm.isa.words import W0, W1, W3, W7, W8, u64

RSP0, IST1 = u64(4), u64(0x24)
"""Offsets in a 64-bit TSS: the stack pointers of the privilege levels, and of the interrupt stack table."""


def inner_rsp(c, at, ext):
    """The stack pointer at an offset of the TSS; c.status: #TS when the TSS is too short, #SS when it is not canonical."""
    if at + W7 > c.limit[TR]:
        selector_fault(c, TS, c.sel[TR], ext)
        return W0
    rsp = load_system(c, c.base[TR] + at, W8)
    if c.status == OK and is_canonical(rsp) == W0:
        fault(c, SS_FAULT, ext)
    return rsp


def probe_long(c, rsp, n, part, ext):
    """Status: may `n` words below `rsp` be written with the privilege `part` (jitvm/isa/tlb.py)?"""
    k = W1
    while k <= n:
        at = rsp - (k << W3)
        if is_canonical(at) & is_canonical(at + W7) == W0:
            return fault(c, SS_FAULT, ext)
        if probe_linear(c, at, W8, part) != OK:
            return c.status
        k += W1
    return OK


def push_long(c, rsp, k, v, part):
    """Push word `k` of a frame, unless c.status is set; status."""
    if c.status != OK:
        return c.status
    return store_linear(c, rsp - (k << W3), W8, v, part)
