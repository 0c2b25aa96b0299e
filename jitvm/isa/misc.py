"""BOUND, CMPXCHG8B, the invalid opcode, and the floating-point opcodes of a CPU without FPU.

Source: Intel SDM vol. 2, BOUND, CMPXCHG8B, UD; vol. 3, 2.5 (CR0.EM, TS) and table 9-3.

Without a coprocessor an ESC instruction addresses nobody: it reads and writes nothing, so that FNINIT does nothing,
FNSTSW AX leaves AX and FNSTCW leaves memory as they were, which is how programs find out that there is no FPU.
"""

from __future__ import annotations

from jitvm.isa.cpuid import FEATURE_CX8
from jitvm.isa.flags import set_zf
from jitvm.isa.memory import load, load_rmw, store
from jitvm.isa.state import BR, CR0_EM, CR0_TS, MODE_CODE64, NM, OK, RAX, RBX, RCX, RDX, UD, fault0
from jitvm.isa.words import M32, W0, W1, W8, W32, i64, sext


def beside(c, off, n):
    """Offset `n` bytes behind `off`: operands of several parts run on over 64 KiB but not over 4 GiB."""
    if c.mode & MODE_CODE64 != W0:
        return off + n
    return (off + n) & M32


def bound(c, size, a, seg, off):
    """BOUND: #BR when the signed index `a` is not from the lower to the upper bound in memory."""
    lower = load(c, seg, off, size)
    if c.status != OK:
        return c.status
    upper = load(c, seg, beside(c, off, size), size)
    if c.status != OK:
        return c.status
    index = i64(sext(size, a))
    if index < i64(sext(size, lower)) or index > i64(sext(size, upper)):
        return fault0(c, BR)
    return OK


def cmpxchg8b(c, seg, off):
    """CMPXCHG8B: the memory operand is written in both cases, so it must be writable."""
    if c.features[0] & FEATURE_CX8 == W0:
        return fault0(c, UD)
    old = load_rmw(c, seg, off, W8)
    if c.status != OK:
        return c.status
    expected = (c.gpr[RDX] << W32) | (c.gpr[RAX] & M32)
    v = old
    if old == expected:
        v = (c.gpr[RCX] << W32) | (c.gpr[RBX] & M32)
    if store(c, seg, off, W8, v) != OK:
        return c.status
    if old == expected:
        set_zf(c.lazy, W1)
        return OK
    set_zf(c.lazy, W0)
    c.gpr[RAX] = old & M32
    c.gpr[RDX] = old >> W32
    return OK


def ud(c):
    """UD2, and every encoding that this CPU does not have: #UD."""
    return fault0(c, UD)


def no_device(c):
    """An instruction of a state that CR0.TS or CR0.EM keep from use: #NM."""
    return fault0(c, NM)


def nop(c):
    """NOP and the hints that are one here (PAUSE, the multi-byte NOP)."""
    return OK


def no_fpu(c):
    """Any ESC instruction on a CPU without FPU: #NM under CR0.EM or CR0.TS, else nothing happens."""
    if c.cr0 & (CR0_EM | CR0_TS) != W0:
        return fault0(c, NM)
    return OK
