"""FXSAVE and FXRSTOR: x87, MMX and SSE state in 512 bytes of memory.

Without CR4.OSFXSR neither XMM registers nor MXCSR take part (the manual leaves it to the implementation).  An address that
is no multiple of 16 is #GP(0), of 4 #AC(0) where alignment is checked, before the limit is asked for all 512 bytes: the
manual leaves that open, and this is what silicon does (measured on a Xeon of 2023, family 6 model 207).  An area that
goes round is, too: with 16-bit addresses its parts behind offset FFFFh are at the segment's beginning.

Source: Intel SDM vol. 1, 10.5; vol. 2, FXSAVE, FXRSTOR, tables 3-45 to 3-48.
"""

from __future__ import annotations

from jitvm.isa.memory import cut_linear, is_user, linear, load_linear, probe_linear, store_linear
from jitvm.isa.mode import CHECKED_TLB
from jitvm.isa.simd import MXCSR_VALID, pending_flags, put_mxcsr
from jitvm.isa.state import AC_FAULT, CR4_OSFXSR, GP, MODE_CODE64, OK, fault
from jitvm.isa.tlb import READ
from jitvm.isa.words import M8, M16, M32, ONES, W0, W1, W2, W3, W4, W7, W8, W16, W32, u64

AREA, MXCSR_AT, ST_AT, XMM_AT = u64(512), u64(24), u64(32), u64(160)
W11, W48 = u64(11), u64(48)
WRAP = u64(1 << 16)


def area_edge(asize, off):
    """Bytes of an area before its offset goes round to 0: with 16-bit addresses each part has an offset below 64 KiB."""
    if asize == W2:
        return WRAP - off
    return ONES


def area_address(c, seg, off, edge, write, size, alignment):
    """Linear address of an area of `size` bytes, all of which the segment's limit allows; c.status."""
    lin = linear(c, seg, off, W4, write)
    if c.status != OK:
        return W0
    if lin & (alignment - W1) == W0:
        if size <= edge:
            return linear(c, seg, off, size, write)
        linear(c, seg, W0, size - edge, write)
        if c.status != OK:
            return W0
        return linear(c, seg, off, edge, write)
    if c.tlb_off == CHECKED_TLB and lin & W3 != W0:
        fault(c, AC_FAULT, W0)
    else:
        fault(c, GP, W0)
    return W0


def area_part(c, lin, edge, at):
    """Linear address of what is `at` bytes behind the area's beginning."""
    if at >= edge:
        at = at - WRAP
    return cut_linear(c, lin + at)


def probe_area(c, lin, edge, size):
    """Status: may all of it be written?"""
    if size <= edge:
        return probe_linear(c, lin, size, is_user(c))
    if probe_linear(c, lin, edge, is_user(c)) != OK:
        return c.status
    return probe_linear(c, area_part(c, lin, edge, edge), size - edge, is_user(c))


def fx_store(c, lin, edge, at, v):
    """Eight bytes of the area; status."""
    return store_linear(c, area_part(c, lin, edge, at), W8, v, is_user(c))


def fx_load(c, lin, edge, at):
    """Eight bytes of the area; 0 when c.status says already that they can't be had."""
    if c.status != OK:
        return W0
    return load_linear(c, area_part(c, lin, edge, at), W8, READ, is_user(c))


def fx_registers(c):
    """XMM registers that an area in this mode has."""
    if c.mode & MODE_CODE64 != W0:
        return W16
    return W8


def save_x87(c, lin, edge, wide):
    """The first 24 bytes, and ST(0) to ST(7), in stack order; `wide`: 64-bit pointers.  Status."""
    head = (c.fcw & M16) | ((c.fsw & M16) << W16) | ((c.fpu_used & M8) << W32) | ((c.fop & u64(0x7FF)) << W48)
    if fx_store(c, lin, edge, W0, head) != OK:
        return c.status
    fip, fdp = c.fip, c.fdp
    if wide == W0:
        fip = (c.fip & M32) | ((c.fcs & M16) << W32)
        fdp = (c.fdp & M32) | ((c.fds & M16) << W32)
    if fx_store(c, lin, edge, W8, fip) != OK or fx_store(c, lin, edge, W16, fdp) != OK:
        return c.status
    k = W0
    while k < W8:
        n = ((k + (c.fsw >> W11)) & W7) << W1
        at = ST_AT + (k << W4)
        if fx_store(c, lin, edge, at, c.fpr[n]) != OK or fx_store(c, lin, edge, at + W8, c.fpr[n + W1] & M16) != OK:
            return c.status
        k += W1
    return OK


def load_x87(c, lin, edge, wide, commit):
    """Read what `save_x87` wrote, and make it the state when `commit` is 1; status."""
    head = fx_load(c, lin, edge, W0)
    fip, fdp = fx_load(c, lin, edge, W8), fx_load(c, lin, edge, W16)
    if c.status != OK:
        return c.status
    if commit != W0:
        c.fcw = (head & u64(0x1F3F)) | u64(0x40)
        c.fsw = (head >> W16) & M16
        c.fpu_used = (head >> W32) & M8
        c.fop = (head >> W48) & u64(0x7FF)
        c.fip = fip
        c.fdp = fdp
        if wide == W0:
            c.fip = fip & M32
            c.fdp = fdp & M32
            c.fcs = (fip >> W32) & M16
            c.fds = (fdp >> W32) & M16
    k = W0
    while k < W8:
        n = ((k + (c.fsw >> W11)) & W7) << W1
        low = fx_load(c, lin, edge, ST_AT + (k << W4))
        high = fx_load(c, lin, edge, ST_AT + (k << W4) + W8)
        if c.status != OK:
            return c.status
        if commit != W0:
            c.fpr[n] = low
            c.fpr[n + W1] = high & M16
        k += W1
    return OK


def load_sse(c, lin, edge, commit):
    """Read XMM registers, and make them the state when `commit` is 1; status."""
    n = fx_registers(c) << W1
    k = W0
    while k < n:
        v = fx_load(c, lin, edge, XMM_AT + (k << W3))
        if c.status != OK:
            return c.status
        if commit != W0:
            c.xmm[k] = v
        k += W1
    return OK


def save_sse(c, lin, edge):
    """XMM registers; status."""
    n = fx_registers(c) << W1
    k = W0
    while k < n:
        if fx_store(c, lin, edge, XMM_AT + (k << W3), c.xmm[k]) != OK:
            return c.status
        k += W1
    return OK


def save_mxcsr(c, lin, edge):
    """MXCSR and its mask; status."""
    pending_flags(c)
    return fx_store(c, lin, edge, MXCSR_AT, c.mxcsr | (MXCSR_VALID << W32))


def load_mxcsr(c, lin, edge, commit):
    """MXCSR from the area; status: #GP(0) for reserved bits.  It is made the CPU's when `commit` is 1."""
    mxcsr = fx_load(c, lin, edge, MXCSR_AT) & M32
    if c.status != OK:
        return c.status
    if mxcsr & ~MXCSR_VALID != W0:
        return fault(c, GP, W0)
    if commit != W0:
        put_mxcsr(c, mxcsr)
    return OK


def fxsave(c, size, asize, seg, off):
    """FXSAVE; with 64-bit operands the pointers have 64 bits."""
    edge = area_edge(asize, off)
    lin = area_address(c, seg, off, edge, W1, AREA, W16)
    if c.status != OK or probe_area(c, lin, edge, AREA) != OK:
        return c.status
    if save_x87(c, lin, edge, u64(size == W8)) != OK or c.cr4 & CR4_OSFXSR == W0:
        return c.status
    if save_mxcsr(c, lin, edge) != OK:
        return c.status
    return save_sse(c, lin, edge)


def walk_fx(c, lin, edge, wide, sse, commit):
    """Read the whole state, `sse`: SSE state, too, and make it the CPU's when `commit` is 1; status."""
    if load_x87(c, lin, edge, wide, commit) != OK or sse == W0 or load_mxcsr(c, lin, edge, commit) != OK:
        return c.status
    return load_sse(c, lin, edge, commit)


def fxrstor(c, size, asize, seg, off):
    """FXRSTOR: #GP(0) for reserved bits of MXCSR.

    All is read before anything changes, and once more then: what the outside answered stays answered.
    """
    sse = u64(c.cr4 & CR4_OSFXSR != W0)
    edge = area_edge(asize, off)
    lin = area_address(c, seg, off, edge, W0, AREA, W16)
    if c.status != OK or walk_fx(c, lin, edge, u64(size == W8), sse, W0) != OK:
        return c.status
    c.io_pos = W0
    return walk_fx(c, lin, edge, u64(size == W8), sse, W1)
