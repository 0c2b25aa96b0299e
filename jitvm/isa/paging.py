"""Linear to physical addresses: the page walk and the soft TLB.

The TLB is direct-mapped, one part a privilege (supervisor, user), four kinds (read, write, fetch, beside) of `TLB_ENTRIES`
entries each.  A third part is always empty: translated code looks there while alignment is checked.  An entry is a tag,
the linear page address (`ONES`: empty), and an addend: tag + addend is the page's host address.  Only whole pages of
guest memory get an entry; pages of the MMIO bus and, for writes, pages with translated code, those that are read from
elsewhere, and those with watched bytes never do, so that a hit needs no further check, also to read and then write.  A
write entry exists only when the dirty bit is set.  A page with translated code that may be written has an entry `BESIDE`
instead, which only the complete ways look at: their stores see to the code.

Source: Intel SDM vol. 3, 4.3 (32-bit paging), 4.6 (access rights), 4.7 (page-fault error code), 4.10 (TLB).

Not modelled: PAE and 4-level paging, PSE-36, global pages as such (a flush drops them too, which the manual allows),
protection keys.  None of these is announced by CPUID.
"""

from __future__ import annotations

from jitvm.isa.host import code_written, fill, peek, poke, translations_changed
from jitvm.isa.state import CR0_PG, CR0_WP, CR4_PSE, PF_FAULT, TLB_ENTRIES, TLB_KINDS, WATCH_WRITE, fault
from jitvm.isa.watch import watch_access, watched_page
from jitvm.isa.words import M32, ONES, W0, W1, W2, W3, W4, W8, W12, u64

READ, WRITE, FETCH, BESIDE = u64(0), u64(1), u64(2), u64(3)
PAGE_OFFSET = u64(0xFFF)
PAGE_MASK = u64(0xFFFF_FFFF_FFFF_F000)
MAPPED = u64(1)
PTE_P, PTE_W, PTE_U, PTE_A, PTE_D, PTE_PS = u64(1), u64(2), u64(4), u64(0x20), u64(0x40), u64(0x80)
PDE4M_RESERVED = u64(0x003F_E000)
PF_P, PF_W, PF_U, PF_RSVD = u64(1), u64(2), u64(4), u64(8)
EMPTY_SLOTS = u64(TLB_KINDS * TLB_ENTRIES * 2)
TLB_SLOTS = EMPTY_SLOTS + EMPTY_SLOTS
KINDS, INDEX, TABLE = u64(TLB_KINDS), u64(TLB_ENTRIES - 1), u64(0x3FF)
WATCHED_KINDS = u64(0b00_11_01)
"""WATCH_* bits that keep a page out of the TLB, two bits a kind: an instruction may read by a write entry, too."""
W10, W20_, W22 = u64(10), u64(20), u64(22)
PAGE_4M = u64(0x003F_FFFF)


def tlb_slot(lin, kind, user):
    """Index in `c.tlb` of the tag for a linear address; the addend is behind it."""
    return ((user * KINDS + kind) << W10) | (((lin >> W12) & INDEX) << W1)


def flush_tlb(c):
    """Forget all translations (MOV to CR3, task switch)."""
    fill(c.tlb_host, TLB_SLOTS, ONES)
    return translations_changed(c)


def flush_tlb_all(c):
    """Forget all translations, global ones too (CR0.PG, CR0.WP, CR4, A20, memory map)."""
    return flush_tlb(c)


def empty_tlb_part(c):
    """Make the part of the TLB that is always empty."""
    return fill(c.tlb_host + TLB_SLOTS * W8, EMPTY_SLOTS, ONES)


def flush_page(c, lin):
    """Forget the translations of one linear page (INVLPG)."""
    kind = W0
    while kind < KINDS:
        c.tlb[tlb_slot(lin, kind, W0)] = ONES
        c.tlb[tlb_slot(lin, kind, W1)] = ONES
        kind += W1
    return translations_changed(c)


def memory_at(c, gpa, write):
    """Host address of a physical address, 0 when it is not memory."""
    page = gpa >> W12
    if page >= c.n_pages:
        return W0
    table = c.page_read
    if write != W0:
        table = c.page_write
    entry = peek(table + (page << W3), W8)
    if entry & MAPPED == W0:
        return W0
    return c.ram + (entry & PAGE_MASK) + (gpa & PAGE_OFFSET)


def has_code(c, host):
    """Not 0 when there is translated code on the page of guest memory at a host address."""
    return peek(c.code_pages + ((host - c.ram) >> W12), W1)


def store_host(c, host, size, v):
    """Store to guest memory by host address and see to translated code there; the bytes are in one page."""
    poke(host, size, v)
    if has_code(c, host) != W0:
        code_written(c, host - c.ram, size)
    return W0


def load_entry(c, gpa):
    """A 4-byte paging-structure entry; all ones where no memory is."""
    h = memory_at(c, gpa & c.a20_mask, W0)
    if h == W0:
        return M32
    return peek(h, W4)


def store_entry(c, gpa, v):
    """Write an entry back with its accessed or dirty bit; status: the access may be watched."""
    gpa = gpa & c.a20_mask
    h = memory_at(c, gpa, W1)
    if h != W0:
        if c.n_points != W0 and watch_access(c, ONES, gpa, W4, WATCH_WRITE) != W0:
            return c.status
        store_host(c, h, W4, v)
    return W0


def page_fault(c, lin, error, kind, user):
    """#PF with its error code; CR2 takes the linear address."""
    c.cr2 = lin
    if kind == WRITE:
        error = error | PF_W
    if user != W0:
        error = error | PF_U
    return fault(c, PF_FAULT, error)


def forbidden(c, rights, kind, user):
    """1 when a page with the combined rights `rights` (PTE_W, PTE_U) refuses this access."""
    if user != W0:
        if rights & PTE_U == W0:
            return W1
        return u64(kind == WRITE) & u64(rights & PTE_W == W0)
    if kind == WRITE and c.cr0 & CR0_WP != W0:
        return u64(rights & PTE_W == W0)
    return W0


def walk(c, lin, kind, user):
    """Physical address of a linear one by 32-bit paging; sets accessed and dirty bits; c.status on #PF."""
    pde_at = (c.cr3 & PAGE_MASK & M32) + ((lin >> W22) << W2)
    pde = load_entry(c, pde_at)
    if pde & PTE_P == W0:
        page_fault(c, lin, W0, kind, user)
        return W0
    if pde & PTE_PS != W0 and c.cr4 & CR4_PSE != W0:
        if pde & PDE4M_RESERVED != W0:
            page_fault(c, lin, PF_P | PF_RSVD, kind, user)
            return W0
        if forbidden(c, pde, kind, user) != W0:
            page_fault(c, lin, PF_P, kind, user)
            return W0
        touched = pde | PTE_A
        if kind == WRITE:
            touched = touched | PTE_D
        if touched != pde and store_entry(c, pde_at, touched) != W0:
            return W0
        return (pde & ~PAGE_4M) | (lin & PAGE_4M)
    pte_at = (pde & PAGE_MASK) + (((lin >> W12) & TABLE) << W2)
    pte = load_entry(c, pte_at)
    if pte & PTE_P == W0:
        page_fault(c, lin, W0, kind, user)
        return W0
    if forbidden(c, pde & pte, kind, user) != W0:
        page_fault(c, lin, PF_P, kind, user)
        return W0
    if pde & PTE_A == W0 and store_entry(c, pde_at, pde | PTE_A) != W0:
        return W0
    touched = pte | PTE_A
    if kind == WRITE:
        touched = touched | PTE_D
    if touched != pte and store_entry(c, pte_at, touched) != W0:
        return W0
    return (pte & PAGE_MASK) | (lin & PAGE_OFFSET)


def host_of(c, lin, kind, user):
    """Host address of a linear address.  0: a fault (c.status), or not memory.

    `c.gpa` is the physical address, ONES when the TLB had the page.  What may be cached is entered into the TLB.
    """
    k = tlb_slot(lin, kind, user)
    if c.tlb[k] == lin & PAGE_MASK:
        c.gpa = ONES
        return c.tlb[k + W1] + lin
    gpa = lin
    if c.cr0 & CR0_PG != W0:
        gpa = walk(c, lin, kind, user)
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
