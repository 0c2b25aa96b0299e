"""XSAVE and what belongs to it: XCR0, and x87 and SSE state in an area with a header.

The state components are x87 (0) and SSE (1); the area is FXSAVE's 512 bytes and a header of 64.  Which components are in
use is asked of their values: what is in its initial configuration is not.  `RFBM`, the requested-feature bitmap, is EDX:EAX
with what XCR0 has.  With these two components the compacted format differs from the standard one in the header alone.

The whole area is asked for, whatever the bitmap says, and must be a multiple of 64: #GP(0), where alignment is checked and
it is no multiple of 4 #AC(0), before the limit; with 16-bit addresses it goes round at 64 KiB (measured on a Xeon of 2023,
family 6 model 207, as for FXSAVE).

Source: Intel SDM vol. 1, 13.1-13.10 (XSAVE-managed state); vol. 2, XGETBV, XSETBV, XSAVE, XSAVEOPT, XSAVEC, XRSTOR.

Not modelled: the modified optimization of XSAVEOPT, which is the processor's choice (what is in use is always written);
XSAVES and XRSTORS (not announced).
"""

from __future__ import annotations

from jitvm.isa.fxsave import (
    AREA,
    area_address,
    area_edge,
    fx_load,
    fx_registers,
    fx_store,
    load_mxcsr,
    load_sse,
    load_x87,
    probe_area,
    save_mxcsr,
    save_sse,
    save_x87,
)
from jitvm.isa.mode import check_privilege
from jitvm.isa.simd import MXCSR_RESET, pending_flags, put_mxcsr
from jitvm.isa.state import CR0_TS, CR4_OSXSAVE, GP, NM, OK, RAX, RCX, RDX, UD, fault, fault0
from jitvm.isa.words import M32, W0, W1, W8, W16, W24, W32, W64, u64
from jitvm.isa.x87_env import initialize

X87, SSE = u64(1), u64(2)
COMPONENTS = X87 | SSE
HEADER_AT, XSAVE_AREA, ALIGNMENT = AREA, AREA + W64, W64
COMPACTED = u64(1 << 63)
"""XCOMP_BV: the area has the compacted format."""
CONTROL_INIT = u64(0x37F)
XSAVEC, XGETBV1 = u64(1 << 1), u64(1 << 2)
"""Leaf 0Dh, subleaf 1, EAX: the compacted format; XGETBV with ECX = 1."""


# ---- XCR0 -----------------------------------------------------------------------------------------------------------
def enabled(c):
    """Status: #UD while CR4.OSXSAVE is 0."""
    if c.cr4 & CR4_OSXSAVE == W0:
        return fault0(c, UD)
    return OK


def usable(c):
    """Status: #UD while CR4.OSXSAVE is 0, #NM under CR0.TS."""
    if enabled(c) == OK and c.cr0 & CR0_TS != W0:
        fault0(c, NM)
    return c.status


def is_x87_used(c):
    """1 unless the x87 state is as after FNINIT with all registers +0."""
    used = (c.fcw ^ CONTROL_INIT) | c.fsw | c.fpu_used | c.fop | c.fip | c.fdp | c.fcs | c.fds
    k = W0
    while k < W16:
        used = used | c.fpr[k]
        k += W1
    return u64(used != W0)


def is_sse_used(c):
    """1 unless all XMM registers are 0."""
    used = W0
    k = W0
    while k < W32:
        used = used | c.xmm[k]
        k += W1
    return u64(used != W0)


def in_use(c):
    """XINUSE as XGETBV and XSAVEC see it: MXCSR belongs to SSE."""
    pending_flags(c)
    sse = is_sse_used(c) | u64(c.mxcsr != MXCSR_RESET)
    return is_x87_used(c) | (sse << W1)


def xgetbv(c):
    """XGETBV: EDX:EAX is XCR0, or with ECX = 1 what of it is in use; #GP(0) for another register."""
    if enabled(c) != OK:
        return c.status
    n = c.gpr[RCX] & M32
    v = c.xcr0
    if n == W1 and c.features[6] & XGETBV1 != W0:
        v = v & in_use(c)
    elif n != W0:
        return fault(c, GP, W0)
    c.gpr[RAX] = v & M32
    c.gpr[RDX] = v >> W32
    return OK


def xsetbv(c):
    """XSETBV: XCR0 by EDX:EAX; #GP(0) without x87 state, for components that there are not, and for another register."""
    if enabled(c) != OK or check_privilege(c) != OK:
        return c.status
    v = edx_eax(c)
    if c.gpr[RCX] & M32 != W0 or v & X87 == W0 or v & ~COMPONENTS != W0:
        return fault(c, GP, W0)
    c.xcr0 = v
    return OK


def edx_eax(c):
    """EDX:EAX."""
    return ((c.gpr[RDX] & M32) << W32) | (c.gpr[RAX] & M32)


def requested(c):
    """RFBM."""
    return edx_eax(c) & c.xcr0


# ---- saving ---------------------------------------------------------------------------------------------------------
def writable_area(c, seg, off, edge):
    """Linear address of an area that may be written; c.status."""
    lin = area_address(c, seg, off, edge, W1, XSAVE_AREA, ALIGNMENT)
    if c.status == OK:
        probe_area(c, lin, edge, XSAVE_AREA)
    return lin


def save_components(c, lin, edge, wide, which):
    """The registers of the components `which`; status."""
    if which & X87 != W0 and save_x87(c, lin, edge, wide) != OK:
        return c.status
    if which & SSE != W0:
        return save_sse(c, lin, edge)
    return OK


def save_standard(c, lin, edge, size, rfbm, which):
    """The components `which`, MXCSR and XSTATE_BV in the standard format; status."""
    header = fx_load(c, lin, edge, HEADER_AT)
    if c.status != OK:
        return c.status
    if rfbm & SSE != W0 and save_mxcsr(c, lin, edge) != OK:
        return c.status
    if save_components(c, lin, edge, u64(size == W8), which) != OK:
        return c.status
    used = is_x87_used(c) | (is_sse_used(c) << W1)
    return fx_store(c, lin, edge, HEADER_AT, (header & ~rfbm) | (used & rfbm))


def xsave(c, size, asize, seg, off):
    """XSAVE: what is requested, in use or not."""
    if usable(c) != OK:
        return c.status
    edge = area_edge(asize, off)
    lin = writable_area(c, seg, off, edge)
    if c.status != OK:
        return c.status
    return save_standard(c, lin, edge, size, requested(c), requested(c))


def xsaveopt(c, size, asize, seg, off):
    """XSAVEOPT: of what is requested, what is in use."""
    if usable(c) != OK:
        return c.status
    edge = area_edge(asize, off)
    lin = writable_area(c, seg, off, edge)
    if c.status != OK:
        return c.status
    used = is_x87_used(c) | (is_sse_used(c) << W1)
    return save_standard(c, lin, edge, size, requested(c), requested(c) & used)


def xsavec(c, size, asize, seg, off):
    """XSAVEC: the same in the compacted format; MXCSR counts as SSE state, and its header is written anew."""
    if usable(c) != OK:
        return c.status
    edge = area_edge(asize, off)
    lin = writable_area(c, seg, off, edge)
    if c.status != OK:
        return c.status
    which = requested(c) & in_use(c)
    if which & SSE != W0 and save_mxcsr(c, lin, edge) != OK:
        return c.status
    if save_components(c, lin, edge, u64(size == W8), which) != OK:
        return c.status
    if fx_store(c, lin, edge, HEADER_AT, which) != OK:
        return c.status
    return fx_store(c, lin, edge, HEADER_AT + W8, requested(c) | COMPACTED)


# ---- restoring ------------------------------------------------------------------------------------------------------
def is_bad_header(c, xstate, xcomp, third, others):
    """1 when XRSTOR refuses a header; `others`: its last five words, gathered."""
    if xcomp & COMPACTED != W0 and c.features[6] & XSAVEC != W0:
        wrong = (xcomp & ~COMPACTED & ~c.xcr0) | (xstate & ~(xcomp & ~COMPACTED)) | third | others
    else:
        wrong = (xstate & ~c.xcr0) | xcomp | third
    return u64(wrong != W0)


def walk_area(c, lin, edge, size, rfbm, commit):
    """Read header and registers, and make them the state when `commit` is 1; status: #GP(0) for a bad header or MXCSR."""
    xstate = fx_load(c, lin, edge, HEADER_AT)
    xcomp = fx_load(c, lin, edge, HEADER_AT + W8)
    third = fx_load(c, lin, edge, HEADER_AT + W16)
    others = W0
    k = W24
    while k < W64:
        others = others | fx_load(c, lin, edge, HEADER_AT + k)
        k += W8
    if c.status != OK:
        return c.status
    if is_bad_header(c, xstate, xcomp, third, others) != W0:
        return fault(c, GP, W0)
    loaded = rfbm & xstate
    if rfbm & SSE != W0 and (loaded & SSE != W0 or xcomp & COMPACTED == W0):
        if load_mxcsr(c, lin, edge, commit) != OK:
            return c.status
    elif rfbm & SSE != W0 and commit != W0:
        put_mxcsr(c, MXCSR_RESET)
    if loaded & X87 != W0 and load_x87(c, lin, edge, u64(size == W8), commit) != OK:
        return c.status
    if loaded & SSE != W0 and load_sse(c, lin, edge, commit) != OK:
        return c.status
    if commit != W0:
        forget_components(c, rfbm & ~loaded)
    return OK


def forget_components(c, which):
    """Put components into their initial configuration."""
    if which & X87 != W0:
        initialize(c)
        k = W0
        while k < W16:
            c.fpr[k] = W0
            k += W1
    if which & SSE != W0:
        n = fx_registers(c) << W1
        k = W0
        while k < n:
            c.xmm[k] = W0
            k += W1
    return W0


def xrstor(c, size, asize, seg, off):
    """XRSTOR: what is requested, from the area or, where XSTATE_BV has 0, as after a reset; nothing changes on a fault."""
    if usable(c) != OK:
        return c.status
    edge = area_edge(asize, off)
    lin = area_address(c, seg, off, edge, W0, XSAVE_AREA, ALIGNMENT)
    if c.status != OK or walk_area(c, lin, edge, size, requested(c), W0) != OK:
        return c.status
    c.io_pos = W0
    return walk_area(c, lin, edge, size, requested(c), W1)
