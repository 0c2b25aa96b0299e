"""BOUND, CMPXCHG8B and CMPXCHG16B, RDRAND and RDSEED, #UD, and the floating-point opcodes of a CPU without FPU.

Source: Intel SDM vol. 2, BOUND, CMPXCHG8B/CMPXCHG16B, RDRAND, RDSEED, UD; vol. 3, 2.5 (CR0.EM, TS) and table 9-3.

Without a coprocessor an ESC instruction addresses nobody: it reads and writes nothing, so that FNINIT does nothing,
FNSTSW AX leaves AX and FNSTCW leaves memory as they were, which is how programs find out that there is no FPU.
"""

from __future__ import annotations

from jitvm.isa.cpuid import FEATURE_CX8
from jitvm.isa.flags import CF, put_flags, set_zf
from jitvm.isa.host import peek, swap, swap_wide
from jitvm.isa.memory import linear, load, load_rmw, lock_host, store
from jitvm.isa.registers import set_reg
from jitvm.isa.state import BR, CR0_EM, CR0_TS, GP, MODE_CODE64, NM, OK, RAX, RBX, RCX, RDX, UD, fault, fault0
from jitvm.isa.words import M32, W0, W1, W8, W16, W32, i64, mask, select, sext, u64

GOLDEN_GAMMA, MIX_1, MIX_2 = u64(0x9E37_79B9_7F4A_7C15), u64(0xBF58_476D_1CE4_E5B9), u64(0x94D0_49BB_1331_11EB)


def beside(c, off, n):
    """Offset `n` bytes behind `off`: operands of several parts run on over 64 KiB but not over 4 GiB."""
    if c.mode & MODE_CODE64 != W0:
        return off + n
    return (off + n) & M32


def bound(c, size, a, seg, off, asize):
    """BOUND: #BR when the signed index `a` is not from the lower to the upper bound in memory, behind which offsets wrap."""
    lower = load(c, seg, off, size)
    if c.status != OK:
        return c.status
    upper = load(c, seg, (off + size) & mask(asize), size)
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
    host = lock_host(c, seg, off, W8)
    if c.status != OK:
        return c.status
    expected = (c.gpr[RDX] << W32) | (c.gpr[RAX] & M32)
    wanted = (c.gpr[RCX] << W32) | (c.gpr[RBX] & M32)
    if host != W0:
        old = peek(host, W8)
        while swap(host, W8, old, select(u64(old == expected), wanted, old)) == W0:
            old = peek(host, W8)
    else:
        old = load_rmw(c, seg, off, W8)
        if c.status != OK or store(c, seg, off, W8, select(u64(old == expected), wanted, old)) != OK:
            return c.status
    if old == expected:
        set_zf(c.lazy, W1)
        return OK
    set_zf(c.lazy, W0)
    c.gpr[RAX] = old & M32
    c.gpr[RDX] = old >> W32
    return OK


def cmpxchg16b(c, seg, off):
    """CMPXCHG16B: as CMPXCHG8B; the operand must be a multiple of 16."""
    lin = linear(c, seg, off, W16, W1)
    if c.status != OK:
        return c.status
    if lin & u64(15) != W0:
        return fault(c, GP, W0)
    host = lock_host(c, seg, off, W16)
    if c.status != OK:
        return c.status
    if host != W0:
        exchange_wide(c, host)
        return OK
    low = load_rmw(c, seg, off, W8)
    if c.status != OK:
        return c.status
    high = load_rmw(c, seg, off + W8, W8)
    if c.status != OK:
        return c.status
    equal = equals_pair(c, low, high)
    if store(c, seg, off, W8, select(equal, c.gpr[RBX], low)) != OK:
        return c.status
    if store(c, seg, off + W8, W8, select(equal, c.gpr[RCX], high)) != OK:
        return c.status
    return end_wide(c, low, high)


def equals_pair(c, low, high):
    """1 when RDX:RAX is what CMPXCHG16B has found."""
    return u64(low == c.gpr[RAX]) & u64(high == c.gpr[RDX])


def exchange_wide(c, host):
    """CMPXCHG16B of plain memory, at once."""
    while True:
        low, high = peek(host, W8), peek(host + W8, W8)
        equal = equals_pair(c, low, high)
        if swap_wide(host, low, high, select(equal, c.gpr[RBX], low), select(equal, c.gpr[RCX], high)) != W0:
            break
    return end_wide(c, low, high)


def end_wide(c, low, high):
    """ZF and, when they were not equal, RDX:RAX behind CMPXCHG16B, which has found these words."""
    equal = equals_pair(c, low, high)
    set_zf(c.lazy, equal)
    if equal == W0:
        c.gpr[RAX] = low
        c.gpr[RDX] = high
    return OK


def rdrand(c, size, reg):
    """RDRAND and RDSEED: CF = 1, the number is there; the other flags are 0.

    The numbers are those of SplitMix64 (Steele, Lea, Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014)
    with the record's `random` as its state, 0 after a reset: a run is reproducible, and nobody's secrets are safe.
    """
    c.random = c.random + GOLDEN_GAMMA
    z = c.random
    z = (z ^ (z >> u64(30))) * MIX_1
    z = (z ^ (z >> u64(27))) * MIX_2
    set_reg(c, reg, size, z ^ (z >> u64(31)))
    put_flags(c.lazy, CF)
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
