"""Model-specific registers and the time-stamp counter.

An MSR is there when the feature that brings it is announced (`c.features`); another one, or a reserved bit set, is
#GP(0).  The memory-type range registers are latches: types of memory make no difference without caches.

Latches live in `c.msr_misc`: 0-15 variable ranges, 16-26 fixed ranges, 27 default type, 28 EBL_CR_POWERON,
29 BIOS_SIGN_ID, 30 MISC_ENABLE, 31-52 machine check (`machine_check.py`), 53 SMI_COUNT.

Source: Intel SDM vol. 2, RDMSR, WRMSR, RDTSC, RDPMC; vol. 3, 11.11 (MTRRs), 17.17 (TSC); vol. 4, 2.1
(architectural MSRs), 2.20 (MSRs of the P6 family).

Not modelled: performance counters (RDPMC finds none), branch records and BTF in DEBUGCTL, microcode
updates (the update trigger loads nothing); what IA32_MISC_ENABLE would switch besides CPUID's leaves and NX; VMX and SGX
(IA32_FEATURE_CONTROL is locked without them).
"""

from __future__ import annotations

from jitvm.isa.apic import read_deadline, tell_base, tell_offset, write_deadline
from jitvm.isa.catch import OTHERS, catch_msr, trace_msr
from jitvm.isa.cpuid import (
    FEATURE_APIC,
    FEATURE_ARCH_CAPABILITIES,
    FEATURE_LM,
    FEATURE_MSR,
    FEATURE_MTRR,
    FEATURE_NX,
    FEATURE_PAT,
    FEATURE_SSE42,
    FEATURE_TSC,
    FEATURE_TSC_DEADLINE,
    SLOT_MISC_ENABLE,
    XD_DISABLE,
)
from jitvm.isa.machine_check import is_machine_check, read_machine_check, write_machine_check
from jitvm.isa.mode import check_privilege
from jitvm.isa.shared import common_now
from jitvm.isa.smm import SLOT_SMI_COUNT
from jitvm.isa.state import (
    APIC_BASE_BSP,
    CATCH_TRACED_MSR,
    CR4_TSD,
    EXIT,
    GP,
    OK,
    RAX,
    RCX,
    RDX,
    UD,
    fault,
    fault0,
    retired,
)
from jitvm.isa.syscall import is_call_msr, read_call_msr, write_call_msr
from jitvm.isa.tlb import flush_tlb_all
from jitvm.isa.words import M8, M32, ONES, W0, W1, W8, W32, select, u64

TSC, PLATFORM_ID, EBL_CR_POWERON = u64(0x10), u64(0x17), u64(0x2A)
BIOS_UPDT_TRIG, BIOS_SIGN_ID, DEBUGCTL = u64(0x79), u64(0x8B), u64(0x1D9)
MTRR_CAP, MTRR_DEF_TYPE = u64(0xFE), u64(0x2FF)
MTRR_PHYS, MTRR_PHYS_END = u64(0x200), u64(0x210)
MTRR_FIX_64K, MTRR_FIX_16K, MTRR_FIX_4K, MTRR_FIX_4K_END = u64(0x250), u64(0x258), u64(0x268), u64(0x270)

MTRR_CAP_VALUE = u64(0x508)
"""8 variable ranges, fixed ranges, write combining."""
SLOT_FIXED, SLOT_DEF_TYPE, SLOT_EBL, SLOT_SIGN = u64(16), u64(27), u64(28), u64(29)
NO_SLOT = ONES
APIC_BASE, FEATURE_CONTROL, MISC_ENABLE, PAT = u64(0x1B), u64(0x3A), u64(0x1A0), u64(0x277)
SMI_COUNT = u64(0x34)
TSC_DEADLINE = u64(0x6E0)
ARCH_CAPABILITIES, NOT_AFFECTED = u64(0x10A), u64(1 << 0 | 1 << 3 | 1 << 5 | 1 << 6 | 1 << 8 | 7 << 13 | 1 << 26 | 1 << 27)
"""IA32_ARCH_CAPABILITIES (SDM vol. 4, table 2-2): RDCL, L1D, MDS, PSCHANGE_MC, TAA, SBDR, FBSDP, PSDP, GDS, RFDS.  Each is
about what an access that faults or is assisted leaves to be seen; here such an access is found out before it is made."""
APIC_BASE_BITS = ~u64(0x6FF)
"""IA32_APIC_BASE: address, EN (11), BSP (8); EXTD (10) belongs to x2APIC."""
PAT_TYPES = u64(0b1111_0011)
"""Bit n: type n may stand in the PAT (UC, WC, WT, WP, WB, UC-)."""
FEATURE_CONTROL_LOCK = u64(1)
FAST_STRINGS, PERFMON, NO_TRACE_STORES = u64(1), u64(1 << 7), u64(0b11 << 11)
"""IA32_MISC_ENABLE: 1 after a reset, so kept inverted; read-only, performance monitoring is there; read-only, branch trace
and event-based sampling are not."""
TYPES = u64(0b111_0011)
"""Bit n: memory type n exists (UC, WC, WT, WP, WB)."""
BASE_BITS, MASK_BITS = u64(0xFFFF_FFFF_FFFF_F0FF), u64(0xFFFF_FFFF_FFFF_F800)
"""IA32_MTRR_PHYSBASEn: type and address; IA32_MTRR_PHYSMASKn: V and address."""
DEF_TYPE_RESERVED = ~u64(0xCFF)
EBL_WRITABLE = u64(0xFFFF_FFFF)


def tsc_now(c):
    """The time-stamp counter: virtual time in ns, 1 an instruction, and what accesses to the outside took."""
    if c.shared != W0:
        return common_now(c) + c.tsc_offset
    return retired(c) + c.extra_ns + c.tsc_offset


def rdtsc(c):
    """RDTSC: EDX:EAX; #GP(0) under CR4.TSD above privilege level 0."""
    if c.features[0] & FEATURE_TSC == W0:
        return fault0(c, UD)
    if c.cr4 & CR4_TSD != W0 and check_privilege(c) != OK:
        return c.status
    v = tsc_now(c)
    c.gpr[RAX] = v & M32
    c.gpr[RDX] = v >> W32
    return OK


def rdtscp(c):
    """RDTSCP: as RDTSC, and TSC_AUX to ECX.  There is nothing to wait for: instructions complete in order."""
    if rdtsc(c) != OK:
        return c.status
    c.gpr[RCX] = c.msr_tsc_aux & M32
    return OK


def rdpmc(c):
    """RDPMC: there is no counter, whatever ECX says."""
    return fault(c, GP, W0)


def is_later(c):
    """1 for a processor of the generations with long mode: they have more MSRs."""
    return u64(c.features[2] & FEATURE_LM != W0)


def mtrr_slot(n):
    """Index in `msr_misc` of an MTRR that can be written; NO_SLOT for other numbers."""
    if n >= MTRR_PHYS and n < MTRR_PHYS_END:
        return n - MTRR_PHYS
    if n == MTRR_FIX_64K:
        return SLOT_FIXED
    if n == MTRR_FIX_16K or n == MTRR_FIX_16K + W1:
        return SLOT_FIXED + W1 + n - MTRR_FIX_16K
    if n >= MTRR_FIX_4K and n < MTRR_FIX_4K_END:
        return SLOT_FIXED + u64(3) + n - MTRR_FIX_4K
    if n == MTRR_DEF_TYPE:
        return SLOT_DEF_TYPE
    return NO_SLOT


def msr_slot(c, n):
    """Index in `msr_misc` of the latch that MSR `n` is; NO_SLOT when it is none."""
    if n == EBL_CR_POWERON:
        return SLOT_EBL
    if n == BIOS_SIGN_ID:
        return SLOT_SIGN
    if c.features[0] & FEATURE_MTRR != W0:
        return mtrr_slot(n)
    return NO_SLOT


def bad_memory_types(v):
    """1 when one of the eight bytes is not a memory type."""
    bad = W0
    k = W0
    while k < W8:
        kind = (v >> (k * W8)) & M8
        if kind >= W8 or (TYPES >> kind) & W1 == W0:
            bad = W1
        k = k + W1
    return bad


def msr_refused(c, slot, v):
    """1 when the latch does not take this value: reserved bits, unknown memory types."""
    if slot < SLOT_FIXED:
        if slot & W1 != W0:
            return u64(v & ~(MASK_BITS & c.phys_mask) != W0)
        return u64(v & ~(BASE_BITS & c.phys_mask) != W0) | bad_memory_types(v & M8)
    if slot < SLOT_DEF_TYPE:
        return bad_memory_types(v)
    if slot == SLOT_DEF_TYPE:
        return u64(v & DEF_TYPE_RESERVED != W0) | bad_memory_types(v & M8)
    if slot == SLOT_EBL:
        return u64(v > EBL_WRITABLE)
    return W0


def read_msr(c, n):
    """Value of MSR `n`; look at c.status."""
    slot = msr_slot(c, n)
    if slot != NO_SLOT:
        return c.msr_misc[slot]
    if is_call_msr(c, n) != W0:
        return read_call_msr(c, n)
    if is_machine_check(c, n) != W0:
        return read_machine_check(c, n)
    if n == TSC and c.features[0] & FEATURE_TSC != W0:
        return tsc_now(c)
    if n == MTRR_CAP and c.features[0] & FEATURE_MTRR != W0:
        return MTRR_CAP_VALUE
    if n == APIC_BASE and c.features[0] & FEATURE_APIC != W0:
        return c.msr_apic_base
    if n == TSC_DEADLINE and c.features[1] & FEATURE_TSC_DEADLINE != W0:
        return read_deadline(c)
    if n == ARCH_CAPABILITIES and c.features[7] & FEATURE_ARCH_CAPABILITIES != W0:
        return NOT_AFFECTED
    if n == PAT and c.features[0] & FEATURE_PAT != W0:
        return c.msr_pat
    if n == MISC_ENABLE and is_later(c) != W0:
        return (c.msr_misc[SLOT_MISC_ENABLE] ^ FAST_STRINGS) | NO_TRACE_STORES
    if n == SMI_COUNT and c.features[1] & FEATURE_SSE42 != W0:
        return c.msr_misc[SLOT_SMI_COUNT]
    if n == FEATURE_CONTROL and is_later(c) != W0:
        return FEATURE_CONTROL_LOCK
    if n == PLATFORM_ID:
        return W0
    if n == DEBUGCTL:
        return W0
    fault(c, GP, W0)
    return W0


def write_tsc(c, v):
    """Set the TSC; before long mode came it takes 32 bits and clears the upper half (SDM vol. 3, 17.17.3)."""
    if is_later(c) == W0:
        v = v & M32
    offset = c.tsc_offset + v - tsc_now(c)
    if tell_offset(c, offset) != OK:
        return c.status
    c.tsc_offset = offset
    return OK


def write_apic_base(c, v):
    """Set IA32_APIC_BASE: #GP(0) for a reserved bit; what kind of processor it is (BSP) stays.

    A page that has moved lies above whatever memory is there (SDM vol. 3, 10.4.4).
    """
    if v & ~(c.phys_mask & APIC_BASE_BITS) != W0:
        return fault(c, GP, W0)
    if tell_base(c, v) != OK:
        return c.status
    moved = (c.msr_apic_base ^ v) & ~APIC_BASE_BSP
    c.msr_apic_base = (v & ~APIC_BASE_BSP) | (c.msr_apic_base & APIC_BASE_BSP)
    if moved != W0:
        flush_tlb_all(c)
    return OK


def write_pat(c, v):
    """Set IA32_PAT: eight types of memory, which make no difference without caches; #GP(0) for one that there is not."""
    k = W0
    while k < W8:
        kind = (v >> (k * W8)) & M8
        if kind >= W8 or (PAT_TYPES >> kind) & W1 == W0:
            return fault(c, GP, W0)
        k += W1
    c.msr_pat = v
    return OK


def write_msr(c, n, v):
    """Write MSR `n`; status."""
    slot = msr_slot(c, n)
    if slot != NO_SLOT:
        if msr_refused(c, slot, v) != W0:
            return fault(c, GP, W0)
        c.msr_misc[slot] = v
        return OK
    if is_call_msr(c, n) != W0:
        return write_call_msr(c, n, v)
    if is_machine_check(c, n) != W0:
        return write_machine_check(c, n, v)
    if n == TSC and c.features[0] & FEATURE_TSC != W0:
        return write_tsc(c, v)
    if n == APIC_BASE and c.features[0] & FEATURE_APIC != W0:
        return write_apic_base(c, v)
    if n == TSC_DEADLINE and c.features[1] & FEATURE_TSC_DEADLINE != W0:
        return write_deadline(c, v)
    if n == PAT and c.features[0] & FEATURE_PAT != W0:
        return write_pat(c, v)
    if n == MISC_ENABLE and is_later(c) != W0:
        if v & XD_DISABLE != W0 and c.features[2] & FEATURE_NX == W0:
            return fault(c, GP, W0)
        c.msr_misc[SLOT_MISC_ENABLE] = (v ^ FAST_STRINGS) & ~(PERFMON | NO_TRACE_STORES)
        return OK
    if n == BIOS_UPDT_TRIG or (n == DEBUGCTL and v == W0):
        return OK
    return fault(c, GP, W0)


def is_told(c, n, v, write):
    """1 when the trace or a debugger is told of an access before it is made, or an answer from outside is needed for that.

    A register is known that can be read, or takes writes alone.
    """
    if c.catch[OTHERS] & CATCH_TRACED_MSR != W0:
        now = read_msr(c, n)
        if c.status == EXIT:
            return W1
        known = u64(c.status == OK) | u64(n == BIOS_UPDT_TRIG)
        c.status = OK
        if trace_msr(c, n, select(write, v, now), write, known) != W0:
            return W1
    return catch_msr(c, n, v, write)


def rdmsr(c):
    """RDMSR: EDX:EAX from the MSR that ECX names."""
    if c.features[0] & FEATURE_MSR == W0:
        return fault0(c, UD)
    if check_privilege(c) != OK:
        return c.status
    n = c.gpr[RCX] & M32
    if c.n_catch != W0 and is_told(c, n, W0, W0) != W0:
        return c.status
    v = read_msr(c, n)
    if c.status != OK:
        return c.status
    c.gpr[RAX] = v & M32
    c.gpr[RDX] = v >> W32
    return OK


def wrmsr(c):
    """WRMSR: EDX:EAX to the MSR that ECX names."""
    if c.features[0] & FEATURE_MSR == W0:
        return fault0(c, UD)
    if check_privilege(c) != OK:
        return c.status
    n, v = c.gpr[RCX] & M32, (c.gpr[RAX] & M32) | ((c.gpr[RDX] & M32) << W32)
    if c.n_catch != W0 and is_told(c, n, v, W1) != W0:
        return c.status
    return write_msr(c, n, v)
