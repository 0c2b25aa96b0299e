"""State after RESET# (Intel SDM vol. 3, table 10-1), and modes set up from outside (bare form, tests)."""

from __future__ import annotations

from jitvm.isa.cpuid import cpuid_row
from jitvm.isa.debug import reset_debug
from jitvm.isa.flags import RESERVED, put_flags
from jitvm.isa.mode import update_mode
from jitvm.isa.simd import MXCSR_RESET, put_mxcsr
from jitvm.isa.state import APIC_BASE_BSP, APIC_BASE_EN, APIC_BASE_RESET, CR0_CD, CR0_ET, CR0_NW, CS, RDX, ZERO
from jitvm.isa.tlb import empty_tlb_part, flush_tlb_all
from jitvm.isa.words import M16, ONES, W0, W1, W2, W4, W8, W16, W32, W64, u64

RESET_CS_BASE, RESET_SELECTOR, RESET_IP = u64(0xFFFF_0000), u64(0xF000), u64(0xFFF0)
DATA_REAL = u64(0x93)
LDT_REAL, TSS_REAL = u64(0x82), u64(0x8B)
DR6_RESET, DR7_RESET = u64(0xFFFF_0FF0), u64(0x400)
CONTROL_RESET, ALL_USED = u64(0x40), u64(0xFF)
"""x87: all exceptions unmasked but none flagged, single precision, the registers +0."""
SMBASE_RESET = u64(0x3_0000)
PAT_RESET = u64(0x0007_0406_0007_0406)


def reset_segment(c, seg, selector, base, attr):
    """A segment register as after reset: limit 64 KiB."""
    c.sel[seg] = selector
    c.base[seg] = base
    c.limit[seg] = M16
    c.attr[seg] = attr
    return W0


def reset_msrs(c):
    """Model-specific registers, but for those that have a value of their own."""
    c.msr_sysenter_cs = W0
    c.msr_sysenter_esp = W0
    c.msr_sysenter_eip = W0
    c.msr_star = W0
    c.msr_lstar = W0
    c.msr_cstar = W0
    c.msr_fmask = W0
    c.msr_kernel_gs_base = W0
    c.msr_tsc_aux = W0
    k = W0
    while k < W64:
        c.msr_misc[k] = W0
        k += W1
    c.msr_apic_base = APIC_BASE_RESET | APIC_BASE_EN | APIC_BASE_BSP
    c.msr_pat = PAT_RESET
    return W0


def signature(c):
    """Family, model and stepping, as CPUID leaf 1 tells them in EAX; 0 before the CPU has been chosen."""
    k = cpuid_row(c, W1, W0)
    if k == ONES:
        return W0
    return c.cpuid[k + W2]


def reset_cpu(c):
    """All architectural state; counters (`horizon`, `left`, `extra_ns`) and the memory tables stay."""
    k = W0
    while k <= ZERO:
        c.gpr[k] = W0
        k += W1
    c.gpr[RDX] = signature(c)
    put_flags(c.lazy, W0)
    c.rflags = RESERVED
    c.rip = RESET_IP
    c.next_rip = RESET_IP
    seg = W0
    while seg < W8:
        reset_segment(c, seg, W0, W0, DATA_REAL)
        seg += W1
    reset_segment(c, CS, RESET_SELECTOR, RESET_CS_BASE, DATA_REAL)
    c.attr[6] = LDT_REAL
    c.attr[7] = TSS_REAL
    c.gdt_base = W0
    c.gdt_limit = M16
    c.idt_base = W0
    c.idt_limit = M16
    c.cr0 = CR0_CD | CR0_NW | CR0_ET
    c.cr2 = W0
    c.cr3 = W0
    c.cr4 = W0
    k = W0
    while k < W4:
        c.pdpte[k] = W0
        k += W1
    c.cr8 = W0
    k = W0
    while k < W8:
        c.dr[k] = W0
        k += W1
    c.dr[6] = DR6_RESET
    c.dr[7] = DR7_RESET
    c.efer = W0
    c.xcr0 = W1
    k = W0
    while k < W32:
        c.xmm[k] = W0
        k += W1
    put_mxcsr(c, MXCSR_RESET)
    c.fcw = CONTROL_RESET
    c.fsw = W0
    c.ignne = W0
    c.fpu_used = ALL_USED
    c.fop = W0
    c.fip = W0
    c.fcs = W0
    c.fdp = W0
    c.fds = W0
    k = W0
    while k < W16:
        c.fpr[k] = W0
        k += W1
    reset_msrs(c)
    c.tsc_offset = W0 - (c.horizon - u64(c.left) + c.extra_ns)
    c.random = W0
    c.cpl = W0
    c.a20_mask = ONES
    c.halted = W0
    c.shadow = ONES
    c.nmi_blocked = W0
    c.parked = W0
    c.smm = W0
    c.smm_nmi = W0
    c.smm_window = W0
    c.smbase = SMBASE_RESET
    c.status = W0
    c.step_armed = W0
    c.delivering = W0
    c.io_n = W0
    c.io_pos = W0
    c.io_tag = ONES
    c.want_window = W0
    c.injected = W0
    reset_debug(c)
    update_mode(c)
    empty_tlb_part(c)
    return flush_tlb_all(c)
