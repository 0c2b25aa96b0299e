"""Control registers: MOV to and from CR0, CR2, CR3, CR4 and CR8, LMSW, SMSW, CLTS; EFER; how long mode begins and ends.

What changes the mode or the memory map returns JUMP to the next instruction, so that it is fetched anew.

Long mode is active (EFER.LMA) from the MOV to CR0 that sets PG while EFER.LME is set, until one that clears PG; which of
its two modes runs is said by CS.L.

Source: Intel SDM vol. 2, MOV (control registers), LMSW, SMSW, CLTS; vol. 3, 2.2.1 (EFER), 2.5 (control registers), 4.4.1
(when the page-directory-pointer entries are loaded), 4.10.4.1 (what ends translations), 9.8.5 (entering long mode).

Not modelled: whatever belongs to features that are not announced; CR8 is the register alone: the local APIC looks at it.
CR4.PCE, which the P6 family brought without a bit of CPUID, is kept, but there are no counters that it could open.
"""

from __future__ import annotations

from jitvm.isa.apic import tell_priority
from jitvm.isa.catch import catch_other
from jitvm.isa.cpuid import (
    FEATURE_DE,
    FEATURE_FSGSBASE,
    FEATURE_FXSR,
    FEATURE_LM,
    FEATURE_MCE,
    FEATURE_NX,
    FEATURE_PAE,
    FEATURE_PCID,
    FEATURE_PGE,
    FEATURE_PSE,
    FEATURE_SMAP,
    FEATURE_SMEP,
    FEATURE_SSE,
    FEATURE_SYSCALL,
    FEATURE_TSC,
    FEATURE_UMIP,
    FEATURE_VME,
    FEATURE_XSAVE,
    GENERATION_P6,
    SLOT_MISC_ENABLE,
    XD_DISABLE,
)
from jitvm.isa.debug import update_debug
from jitvm.isa.mode import check_privilege, go_on, register_mask, umip, update_mode
from jitvm.isa.paging_long import load_pdptes
from jitvm.isa.segment import TSS32, TYPE
from jitvm.isa.state import (
    ATTR_L,
    CATCH_CR3,
    CR0_AM,
    CR0_CD,
    CR0_EM,
    CR0_ET,
    CR0_MP,
    CR0_NE,
    CR0_NW,
    CR0_PE,
    CR0_PG,
    CR0_TS,
    CR0_WP,
    CR4_DE,
    CR4_FSGSBASE,
    CR4_MCE,
    CR4_OSFXSR,
    CR4_OSXMMEXCPT,
    CR4_OSXSAVE,
    CR4_PAE,
    CR4_PCE,
    CR4_PCIDE,
    CR4_PGE,
    CR4_PSE,
    CR4_PVI,
    CR4_SMAP,
    CR4_SMEP,
    CR4_TSD,
    CR4_UMIP,
    CR4_VME,
    CS,
    EFER_LMA,
    EFER_LME,
    EFER_NXE,
    EFER_SCE,
    GP,
    MODE_CODE64,
    OK,
    TR,
    UD,
    fault,
    fault0,
)
from jitvm.isa.tlb import flush_tlb, flush_tlb_all
from jitvm.isa.words import W0, W1, W32, u64

CR0_WRITABLE = CR0_PE | CR0_MP | CR0_EM | CR0_TS | CR0_NE | CR0_WP | CR0_AM | CR0_NW | CR0_CD | CR0_PG
CR0_PAGING = CR0_PG | CR0_WP
"""A change of one of these ends every translation."""
CR0_PDPTE = CR0_PG | CR0_CD | CR0_NW
CR4_PAGING = CR4_PSE | CR4_PAE | CR4_PGE | CR4_SMEP | CR4_SMAP | CR4_PCIDE
CR4_PDPTE = CR4_PSE | CR4_PAE | CR4_PGE | CR4_SMEP
"""A change of one of these loads the page-directory-pointer entries of PAE paging."""
LMSW_BITS = CR0_PE | CR0_MP | CR0_EM | CR0_TS
CR2, CR3, CR4, CR8 = u64(2), u64(3), u64(4), u64(8)
W15 = u64(15)
PCID, KEEP = u64(0xFFF), u64(1 << 63)
"""Of what is written to CR3 under CR4.PCIDE: the identifier; its translations may be kept (they are not, tlb.py)."""


# ---- CR0 and long mode ----------------------------------------------------------------------------------------------
def may_switch_paging(c, v):
    """Status: may PG change as CR0 value `v` says?  #GP(0) else (SDM vol. 2, MOV (control registers))."""
    long_code = c.attr[CS] & ATTR_L != W0
    if v & CR0_PG == W0:
        if (c.efer & EFER_LMA != W0 and long_code) or c.cr4 & CR4_PCIDE != W0:
            return fault(c, GP, W0)
    elif c.efer & EFER_LME != W0:
        old_tss = c.attr[TR] & TYPE < TSS32
        if c.cr4 & CR4_PAE == W0 or long_code or old_tss:
            return fault(c, GP, W0)
    return OK


def is_pae_only(c, cr0, cr4):
    """1 when PAE paging, not that of long mode, is in use with these values."""
    if cr0 & CR0_PG == W0 or cr4 & CR4_PAE == W0:
        return W0
    return u64(c.efer & EFER_LME == W0)


def set_cr0(c, v):
    """Write CR0: #GP(0) for PG without PE, NW without CD or upper bits; reserved bits stay 0, ET 1."""
    if v >> W32 != W0 or v & (CR0_PG | CR0_PE) == CR0_PG or v & (CR0_NW | CR0_CD) == CR0_NW:
        return fault(c, GP, W0)
    changed = c.cr0 ^ v
    if changed & CR0_PG != W0 and may_switch_paging(c, v) != OK:
        return c.status
    if changed & CR0_PDPTE != W0 and is_pae_only(c, v, c.cr4) != W0 and load_pdptes(c, c.cr3) != OK:
        return c.status
    c.cr0 = (v & CR0_WRITABLE) | CR0_ET
    if v & CR0_PG == W0:
        c.efer = c.efer & ~EFER_LMA
    elif c.efer & EFER_LME != W0:
        c.efer = c.efer | EFER_LMA
    update_mode(c)
    if changed & CR0_PAGING != W0:
        flush_tlb_all(c)
    return go_on(c)


def lmsw(c, a):
    """LMSW behind `check_privilege`: the low four bits of CR0; PE can be set, not cleared."""
    kept = c.cr0 & ~(LMSW_BITS & ~CR0_PE)
    return set_cr0(c, kept | (a & LMSW_BITS))


def smsw(c):
    """SMSW: the value of CR0 (not a status), which the destination's size cuts; look at c.status (UMIP)."""
    umip(c)
    return c.cr0


def clts(c):
    """CLTS: clear CR0.TS."""
    if check_privilege(c) != OK:
        return c.status
    c.cr0 = c.cr0 & ~CR0_TS
    update_mode(c)
    return go_on(c)


# ---- EFER -----------------------------------------------------------------------------------------------------------
def efer_bits(c):
    """The bits of EFER that can be written."""
    f = c.features[2]
    bits = W0
    if f & FEATURE_SYSCALL != W0:
        bits = bits | EFER_SCE
    if f & FEATURE_LM != W0:
        bits = bits | EFER_LME
    if f & FEATURE_NX != W0 and c.msr_misc[SLOT_MISC_ENABLE] & XD_DISABLE == W0:
        bits = bits | EFER_NXE
    return bits


def set_efer(c, v):
    """WRMSR to EFER: #GP(0) for a reserved bit, and when LME changes while paging is on; LMA stays as it is."""
    bits = efer_bits(c)
    changed = (c.efer ^ v) & bits
    if v & ~(bits | EFER_LMA) != W0 or (changed & EFER_LME != W0 and c.cr0 & CR0_PG != W0):
        return fault(c, GP, W0)
    c.efer = (c.efer & EFER_LMA) | (v & bits)
    if changed & EFER_NXE != W0:
        flush_tlb_all(c)
    return OK


# ---- CR2, CR3, CR4, CR8 ---------------------------------------------------------------------------------------------
def cr4_bits(c):
    """The bits of CR4 that the announced features have."""
    f = c.features[0]
    bits = W0
    if f & FEATURE_VME != W0:
        bits = bits | CR4_VME | CR4_PVI
    if f & FEATURE_TSC != W0:
        bits = bits | CR4_TSD
    if f & FEATURE_DE != W0:
        bits = bits | CR4_DE
    if f & FEATURE_PSE != W0:
        bits = bits | CR4_PSE
    if f & FEATURE_PAE != W0:
        bits = bits | CR4_PAE
    if f & FEATURE_MCE != W0:
        bits = bits | CR4_MCE
    if f & FEATURE_PGE != W0:
        bits = bits | CR4_PGE
    if f & FEATURE_FXSR != W0:
        bits = bits | CR4_OSFXSR
    if f & FEATURE_SSE != W0:
        bits = bits | CR4_OSXMMEXCPT
    if c.features[7] & GENERATION_P6 != W0:
        bits = bits | CR4_PCE
    f = c.features[1]
    if f & FEATURE_XSAVE != W0:
        bits = bits | CR4_OSXSAVE
    if f & FEATURE_PCID != W0:
        bits = bits | CR4_PCIDE
    f = c.features[4]
    if f & FEATURE_FSGSBASE != W0:
        bits = bits | CR4_FSGSBASE
    if f & FEATURE_SMEP != W0:
        bits = bits | CR4_SMEP
    if f & FEATURE_SMAP != W0:
        bits = bits | CR4_SMAP
    if c.features[5] & FEATURE_UMIP != W0:
        bits = bits | CR4_UMIP
    return bits


def set_cr4(c, v):
    """Write CR4: #GP(0) for a bit that no announced feature has, and for clearing PAE in long mode.

    PCIDE can be set in long mode alone, while CR3 names PCID 0.
    """
    if v & ~cr4_bits(c) != W0 or (c.efer & EFER_LMA != W0 and v & CR4_PAE == W0):
        return fault(c, GP, W0)
    changed = c.cr4 ^ v
    if changed & v & CR4_PCIDE != W0 and (c.efer & EFER_LMA == W0 or c.cr3 & PCID != W0):
        return fault(c, GP, W0)
    if changed & CR4_PDPTE != W0 and is_pae_only(c, c.cr0, v) != W0 and load_pdptes(c, c.cr3) != OK:
        return c.status
    c.cr4 = v
    update_mode(c)
    update_debug(c)
    if changed & CR4_PAGING != W0:
        flush_tlb_all(c)
    return go_on(c)


def set_cr3(c, v):
    """Write CR3; #GP(0) for an address that is wider than the processor's, and for bad PAE entries."""
    if c.cr4 & CR4_PCIDE != W0:
        v = v & ~KEEP
    if v & ~c.phys_mask != W0:
        return fault(c, GP, W0)
    if c.n_catch != W0 and catch_other(c, CATCH_CR3, c.cr3, v, W1) != W0:
        return c.status
    if is_pae_only(c, c.cr0, c.cr4) != W0 and load_pdptes(c, v) != OK:
        return c.status
    c.cr3 = v
    flush_tlb(c)
    return go_on(c)


def set_cr8(c, v):
    """Write CR8: a task priority of four bits."""
    if v > W15:
        return fault(c, GP, W0)
    if tell_priority(c, v) != OK:
        return c.status
    c.cr8 = v
    return go_on(c)


def is_control_register(c, reg):
    """1 when CR`reg` exists; CR8 does in 64-bit mode."""
    long = u64(c.mode & MODE_CODE64 != W0)
    return u64(reg == W0) | (u64(reg >= CR2) & u64(reg <= CR4)) | (u64(reg == CR8) & long)


def mov_to_cr(c, reg, rm):
    """MOV CRn, r: `reg` is n, `rm` the general register."""
    if is_control_register(c, reg) == W0:
        return fault0(c, UD)
    if check_privilege(c) != OK:
        return c.status
    v = c.gpr[rm] & register_mask(c)
    if reg == W0:
        return set_cr0(c, v)
    if reg == CR4:
        return set_cr4(c, v)
    if reg == CR3:
        return set_cr3(c, v)
    if reg == CR8:
        return set_cr8(c, v)
    c.cr2 = v
    return OK


def mov_from_cr(c, reg, rm):
    """MOV r, CRn: `reg` is n, `rm` the general register."""
    if is_control_register(c, reg) == W0:
        return fault0(c, UD)
    if check_privilege(c) != OK:
        return c.status
    v = c.cr0
    if reg == CR2:
        v = c.cr2
    elif reg == CR3:
        v = c.cr3
    elif reg == CR4:
        v = c.cr4
    elif reg == CR8:
        v = c.cr8
    c.gpr[rm] = v & register_mask(c)
    return OK
