"""Linear to physical addresses: the TLB's miss, and the page walk of 32-bit paging.

Only whole pages of guest memory get an entry in the TLB (jitvm/isa/tlb.py); pages of the MMIO bus and, for writes, pages
with translated code, those that are read from elsewhere, and those with watched bytes never do, so that a hit needs no
further check, also to read and then write.  A write entry exists only when the dirty bit is set.  A page with translated
code that may be written has an entry `BESIDE` instead, which only the complete ways look at: their stores see to the code.

Accessed and dirty bits are set when the access is allowed: a refused one changes nothing.

`user` is the part of the TLB that the access belongs to: SUPERVISOR, USER or PERMITTED.

Source: Intel SDM vol. 3, 4.3 (32-bit paging), 4.6 (access rights), 4.7 (page-fault error code); PAE and 4-level paging are
in jitvm/isa/paging_long.py.

Not modelled: protection keys, 5-level paging (not announced).
"""

from __future__ import annotations

from jitvm.isa.cpuid import FEATURE_PSE36
from jitvm.isa.paging_entry import (
    PAGE_MASK,
    PAGE_OFFSET,
    PF_P,
    PF_RSVD,
    PTE_A,
    PTE_D,
    PTE_P,
    PTE_PS,
    forbidden,
    has_code,
    load_entry,
    memory_at,
    page_fault,
    store_entry,
)
from jitvm.isa.paging_long import walk_wide
from jitvm.isa.state import CR0_PG, CR4_PAE, CR4_PSE
from jitvm.isa.tlb import BESIDE, FETCH, MARK_LARGE, READ, WRITE, mark_slot, tlb_slot
from jitvm.isa.watch import watched_page
from jitvm.isa.words import M32, ONES, W0, W1, W2, W3, W8, W12, W32, u64

PDE4M_HIGH = u64(0x003F_E000)
"""Bits 13-21 of the entry of a 4 MiB page: PSE-36 has address bits 32 and up in them, the others are reserved."""
TABLE = u64(0x3FF)
WATCHED_KINDS = u64(0b00_11_01)
"""WATCH_* bits that keep a page out of the TLB, two bits a kind: an instruction may read by a write entry, too."""
W13, W22, M8_HIGH = u64(13), u64(22), u64(0xFF)
PAGE_4M = u64(0x003F_FFFF)
PDE4M_BASE = u64(0xFFC0_0000)


def pse36_bits(c):
    """Those of PDE4M_HIGH that are address bits (SDM vol. 3, table 4-4)."""
    if c.features[0] & FEATURE_PSE36 == W0:
        return W0
    return ((c.phys_mask >> W32) & M8_HIGH) << W13


def walk_4m(c, lin, kind, user, pde_at, pde):
    """Physical address in a 4 MiB page; c.status on #PF."""
    high = pse36_bits(c)
    if pde & PDE4M_HIGH & ~high != W0:
        page_fault(c, lin, PF_P | PF_RSVD, kind, user)
        return W0
    if forbidden(c, pde, kind, user) != W0:
        page_fault(c, lin, PF_P, kind, user)
        return W0
    touched = pde | PTE_A
    if kind == WRITE:
        touched = touched | PTE_D
    if touched != pde and store_entry(c, pde_at, pde, touched) != W0:
        return W0
    c.marks = ((pde >> W8) & W1) | MARK_LARGE
    return (pde & PDE4M_BASE) | ((pde & high) >> W13 << W32) | (lin & PAGE_4M)


def walk(c, lin, kind, user):
    """Physical address of a linear one by 32-bit paging; sets accessed and dirty bits; c.status on #PF."""
    pde_at = (c.cr3 & PAGE_MASK & M32) + ((lin >> W22) << W2)
    pde = load_entry(c, pde_at)
    if pde & PTE_P == W0:
        page_fault(c, lin, W0, kind, user)
        return W0
    if pde & PTE_PS != W0 and c.cr4 & CR4_PSE != W0:
        return walk_4m(c, lin, kind, user, pde_at, pde)
    pte_at = (pde & PAGE_MASK) + (((lin >> W12) & TABLE) << W2)
    pte = load_entry(c, pte_at)
    if pte & PTE_P == W0:
        page_fault(c, lin, W0, kind, user)
        return W0
    if forbidden(c, pde & pte, kind, user) != W0:
        page_fault(c, lin, PF_P, kind, user)
        return W0
    if pde & PTE_A == W0 and store_entry(c, pde_at, pde, pde | PTE_A) != W0:
        return W0
    touched = pte | PTE_A
    if kind == WRITE:
        touched = touched | PTE_D
    if touched != pte and store_entry(c, pte_at, pte, touched) != W0:
        return W0
    c.marks = (pte >> W8) & W1
    return (pte & PAGE_MASK) | (lin & PAGE_OFFSET)


def walk_again(c, lin, kind, user):
    """The walk that the mode says, until no entry changes under it."""
    while True:
        c.walk_lost = W0
        if c.cr4 & CR4_PAE != W0:
            gpa = walk_wide(c, lin, kind, user)
        else:
            gpa = walk(c, lin, kind, user)
        if c.walk_lost == W0:
            return gpa
    return W0


def forget_older(c, lin, addend, user):
    """No other entry for data leads elsewhere: what reads and what stores go through one TLB on silicon.

    The page table may have changed since one was made; a stale one may be used until it is invalidated, but not again
    when the newer one was.
    """
    kind = READ
    while kind <= BESIDE:
        k = tlb_slot(lin, kind, user)
        if c.tlb[k] == lin & PAGE_MASK and c.tlb[k + W1] != addend and kind != FETCH:
            c.tlb[k] = ONES
        kind += W1
    return W0


def host_of(c, lin, kind, user):
    """Host address of a linear address.  0: a fault (c.status), or not memory.

    `c.gpa` is the physical address, ONES when the TLB had the page.  What may be cached is entered into the TLB.
    """
    k = tlb_slot(lin, kind, user)
    if c.tlb[k] == lin & PAGE_MASK:
        c.gpa = ONES
        return c.tlb[k + W1] + lin
    gpa = lin
    if c.cr0 & CR0_PG == W0:
        c.marks = W0
    else:
        gpa = walk_again(c, lin, kind, user)
        if c.status != W0:
            return W0
    gpa = gpa & c.a20_mask
    c.gpa = gpa
    h = memory_at(c, gpa, u64(kind == WRITE))
    if h == W0:
        return W0
    if kind == WRITE:
        if memory_at(c, gpa, W0) != h:
            return h
        if has_code(c, h) != W0:
            k = tlb_slot(lin, BESIDE, user)
    if c.n_watch != W0 and watched_page(c, lin, gpa, (WATCHED_KINDS >> (kind + kind)) & W3) != W0:
        return h
    c.tlb[k] = lin & PAGE_MASK
    c.tlb[k + W1] = h - lin
    if kind != FETCH:
        forget_older(c, lin, h - lin, user)
    if c.marks | c.any_marks != W0:
        mark_slot(c, k, c.marks)
    return h


def beside_code(c, lin, size, user):
    """Host address of bytes in one page with translated code which may be written, if the TLB knows it; else 0."""
    k = tlb_slot(lin, BESIDE, user)
    if c.tlb[k] != (lin + size - W1) & PAGE_MASK:
        return W0
    h = c.tlb[k + W1] + lin
    if has_code(c, h) == W0:
        return W0
    return h
