"""The page walk of PAE and of 4-level paging, whose entries have 8 bytes.

Source: Intel SDM vol. 3, 4.4 (PAE paging), 4.5 (4-level paging), 4.6 (access rights).

Not modelled: 5-level paging, protection keys (not announced).
"""

from __future__ import annotations

from jitvm.isa.cpuid import FEATURE_PDPE1GB
from jitvm.isa.paging_entry import (
    PAGE_MASK,
    PF_P,
    PF_RSVD,
    PTE_A,
    PTE_D,
    PTE_P,
    PTE_PS,
    PTE_U,
    PTE_W,
    forbidden,
    load_wide_entry,
    page_fault,
    store_entry,
)
from jitvm.isa.state import EFER_LMA, EFER_NXE, GP, fault
from jitvm.isa.tlb import FETCH, MARK_LARGE, WRITE
from jitvm.isa.words import M32, W0, W1, W2, W3, W4, W8, W9, W12, u64

ENTRY_NX = u64(1 << 63)
HIGH_ADDRESS = u64(0x000F_FFFF_FFFF_F000)
IGNORED_LONG = u64(0x7FF0_0000_0000_0000)
"""Bits 52-62: ignored in long mode, reserved in PAE paging."""
PDE2M_RESERVED, PDPTE1G_RESERVED = u64(0x001F_E000), u64(0x3FFF_E000)
PDPTE_RESERVED = u64(0x1E6)
PDPT_MASK = u64(0xFFFF_FFE0)
WIDE_TABLE, W30 = u64(0x1FF), u64(30)


def reserved_bits(c, entry, level):
    """Not 0 when an entry of PAE or 4-level paging has a reserved bit set (SDM vol. 3, figures 4-7 and 4-11)."""
    bad = HIGH_ADDRESS & ~c.phys_mask
    if c.efer & EFER_NXE == W0:
        bad = bad | ENTRY_NX
    if c.efer & EFER_LMA == W0:
        bad = bad | IGNORED_LONG
    if entry & PTE_PS != W0:
        if level == W2:
            bad = bad | PDE2M_RESERVED
        elif level == W3:
            bad = bad | PDPTE1G_RESERVED
            if c.features[2] & FEATURE_PDPE1GB == W0:
                bad = bad | PTE_PS
        elif level == W4:
            bad = bad | PTE_PS
    return entry & bad


def touch_walk(c, level, top, kind):
    """Set the accessed bits of a walk's entries from level `top` down, and the dirty bit of the last; status."""
    k = top
    while k >= level:
        entry = c.walk_entry[k]
        touched = entry | PTE_A
        if k == level and kind == WRITE:
            touched = touched | PTE_D
        if touched != entry and store_entry(c, c.walk_at[k], entry & M32, touched & M32) != W0:
            return W1
        k -= W1
    return W0


def walk_wide(c, lin, kind, user):
    """Physical address of a linear one by PAE paging, in long mode by 4-level paging; as `walk`."""
    top = W4
    table = c.cr3
    if c.efer & EFER_LMA == W0:
        top = W2
        table = c.pdpte[(lin >> W30) & W3]
        if table & PTE_P == W0:
            page_fault(c, lin, W0, kind, user)
            return W0
    level = top
    rights = PTE_W | PTE_U
    nx = W0
    shift = W12 + W9 * (level - W1)
    while True:
        at = (table & c.phys_mask & PAGE_MASK) + (((lin >> shift) & WIDE_TABLE) << W3)
        entry = load_wide_entry(c, at)
        if entry & PTE_P == W0:
            page_fault(c, lin, W0, kind, user)
            return W0
        if reserved_bits(c, entry, level) != W0:
            page_fault(c, lin, PF_P | PF_RSVD, kind, user)
            return W0
        rights = rights & entry
        nx = nx | entry
        c.walk_at[level] = at
        c.walk_entry[level] = entry
        if level == W1 or entry & PTE_PS != W0:
            break
        table = entry
        level -= W1
        shift -= W9
    if forbidden(c, rights, kind, user) != W0 or (kind == FETCH and nx & ENTRY_NX != W0):
        page_fault(c, lin, PF_P, kind, user)
        return W0
    if touch_walk(c, level, top, kind) != W0:
        return W0
    inside = (W1 << shift) - W1
    c.marks = (entry >> W8) & W1
    if level != W1:
        c.marks = c.marks | MARK_LARGE
    return (entry & c.phys_mask & PAGE_MASK & ~inside) | (lin & inside)


def load_pdptes(c, cr3):
    """Load the page-directory-pointer entries of PAE paging; #GP(0), and nothing changed, for a reserved bit; status.

    Whoever makes PAE paging active, or writes CR3 while it is, calls this (SDM vol. 3, 4.4.1).
    """
    at = cr3 & PDPT_MASK
    k = W0
    while k < W4:
        entry = load_wide_entry(c, at + (k << W3))
        if entry & PTE_P != W0 and entry & (PDPTE_RESERVED | ~c.phys_mask) != W0:
            return fault(c, GP, W0)
        c.walk_entry[k] = entry
        k += W1
    k = W0
    while k < W4:
        c.pdpte[k] = c.walk_entry[k]
        k += W1
    return W0
