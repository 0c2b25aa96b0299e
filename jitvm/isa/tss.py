"""Stacks of control transfers: the frame on the current stack, and the change to an inner one that the TSS names.

A transfer first probes every word that it will push, then pushes: word `k` (1 is the first) lies `k * size` bytes below
the stack pointer it starts from.  A push does nothing once c.status is set, so that a whole frame is pushed before
looking.  After the probes only a stack outside of memory can still leave, and the restarted instruction finds its
earlier pushes answered.

Source: Intel SDM vol. 3, 5.8.5 (stack switching), 6.12.1 (frames of events), 6.15 (#TS, #SS), 7.2.1 and 7.6 (32- and
16-bit TSS).

Not modelled: the 64-bit TSS and its interrupt stack table.
"""

from __future__ import annotations

from jitvm.isa.memory import load_system, probe_store, probe_system, push_at, store_system
from jitvm.isa.registers import cut_sp
from jitvm.isa.segment import (
    RPL,
    desc_attr,
    desc_base,
    desc_dpl,
    desc_limit,
    is_null,
    is_writable_data,
    read_descriptor,
    selector_fault,
)
from jitvm.isa.state import ATTR_CODE, ATTR_DB, ATTR_DC, ATTR_P, FAULT, OK, PF_FAULT, RSP, SS, SS_FAULT, TR, TS, fault
from jitvm.isa.words import M16, M32, W0, W1, W2, W4, W8, W32, cut

TYPE_32 = W8
"""Bit of a system descriptor's type that tells 32-bit TSSs and gates from 16-bit ones."""


# ---- the current stack ----------------------------------------------------------------------------------------------
def probe_push(c, n, size):
    """Status: may `n` words of `size` bytes be pushed on the current stack?"""
    k = W1
    while k <= n:
        if probe_store(c, SS, cut_sp(c, c.gpr[RSP] - k * size), size) != OK:
            return c.status
        k += W1
    return OK


def push(c, k, size, v):
    """Push word `k` of a frame on the current stack, unless c.status is set; the stack pointer stays."""
    if c.status != OK:
        return c.status
    return push_at(c, cut_sp(c, c.gpr[RSP] - k * size), size, cut(size, v))


def with_ext(c, ext):
    """The status of a probe, with EXT in the error code if it has the form of a selector's."""
    if c.status == FAULT and c.vector != PF_FAULT:
        c.error = c.error | ext
    return c.status


# ---- inner stacks ---------------------------------------------------------------------------------------------------
def inner_stack(c, dpl, ext):
    """Stack of privilege level `dpl` by the current TSS: pointer in bits 0-31, selector in bits 32-47; c.status."""
    wide = c.attr[TR] & TYPE_32
    size = W2
    if wide != W0:
        size = W4
    at = size + dpl * (size + size)
    if at + size + W1 > c.limit[TR]:
        selector_fault(c, TS, c.sel[TR], ext)
        return W0
    sp = load_system(c, c.base[TR] + at, size)
    if c.status != OK:
        return W0
    ss = load_system(c, c.base[TR] + at + size, W2)
    if c.status != OK:
        return W0
    return sp | (ss << W32)


def inner_ss(c, ss, dpl, ext):
    """Descriptor of a stack segment for privilege level `dpl`, checked; c.status on #TS and #SS."""
    if is_null(ss) != W0:
        fault(c, TS, ext)
        return W0
    d = read_descriptor(c, ss, TS, ext)
    if c.status != OK:
        return W0
    attr = desc_attr(d)
    if ss & RPL != dpl or desc_dpl(d) != dpl or is_writable_data(attr) == W0:
        selector_fault(c, TS, ss, ext)
    elif attr & ATTR_P == W0:
        selector_fault(c, SS_FAULT, ss, ext)
    return d


def inner_offset(d, sp, k, size):
    """Offset of word `k` below `sp` in the stack segment `d`."""
    m = M16
    if desc_attr(d) & ATTR_DB != W0:
        m = M32
    return (sp - k * size) & m


def inside(d, off, size):
    """1 when the bytes at `off` are inside the segment `d` (SDM vol. 3, 5.3)."""
    attr = desc_attr(d)
    last = off + size - W1
    top = desc_limit(d)
    if attr & (ATTR_CODE | ATTR_DC) == ATTR_DC:
        if off <= top:
            return W0
        top = M16
        if attr & ATTR_DB != W0:
            top = M32
    if last > top:
        return W0
    return W1


def probe_inner(c, ss, d, sp, n, size, ext):
    """Status: is there room for `n` words below `sp` in the stack segment `d` with selector `ss`?"""
    k = W1
    while k <= n:
        off = inner_offset(d, sp, k, size)
        if inside(d, off, size) == W0:
            return selector_fault(c, SS_FAULT, ss, ext)
        if probe_system(c, desc_base(d) + off, size) != OK:
            return c.status
        k += W1
    return OK


def push_inner(c, d, sp, k, size, v):
    """Push word `k` of a frame on the stack segment `d`, unless c.status is set."""
    if c.status != OK:
        return c.status
    return store_system(c, desc_base(d) + inner_offset(d, sp, k, size), size, cut(size, v))
