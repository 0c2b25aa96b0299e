"""The soft TLB: what translated code looks into, and how it is emptied.

It is direct-mapped, one part a privilege, four kinds (read, write, fetch, beside) of `TLB_ENTRIES` entries each.  An entry
is a tag, the linear page address (`ONES`: empty), and an addend: tag + addend is the page's host address.  The parts:

    SUPERVISOR    CPL 0 to 2, and what the processor itself accesses (descriptor tables, TSS)
    USER          CPL 3
    PERMITTED     CPL 0 to 2 with EFLAGS.AC under CR4.SMAP: pages of the user may be accessed
    (the last)    always empty: translated code looks there while alignment is checked

Entries of a large page and of a global one are marked (`tlb_large`, `tlb_global`, a bit an entry): INVLPG forgets all
that was made of a large page, and a load of CR3 under CR4.PGE keeps what is global.

Source: Intel SDM vol. 3, 4.10 (caching translations), 4.10.2.3 (fractured large pages), 4.10.4.1 (what invalidates).

Entries know no process-context identifier: under CR4.PCIDE a load of CR3 forgets them whatever bit 63 says, as any
processor may at any time (SDM vol. 3, 4.10.4.1), and so none of another identifier is ever used.

Not modelled: paging-structure caches.
"""

from __future__ import annotations

from jitvm.isa.host import fill, translations_changed
from jitvm.isa.state import CR4_PGE, CR4_SMAP, TLB_ENTRIES, TLB_KINDS, TLB_PARTS
from jitvm.isa.words import ONES, W0, W1, W2, W3, W8, W12, W63, W64, u64

READ, WRITE, FETCH, BESIDE = u64(0), u64(1), u64(2), u64(3)
SUPERVISOR, USER, PERMITTED = u64(0), u64(1), u64(2)
KINDS, INDEX, PARTS = u64(TLB_KINDS), u64(TLB_ENTRIES - 1), u64(TLB_PARTS)
PART_SLOTS = u64(TLB_KINDS * TLB_ENTRIES * 2)
"""Words of a part."""
N_MARKS = u64(TLB_PARTS * TLB_KINDS * TLB_ENTRIES // 64)
INDEX_OF_MARK = u64(7)
MARK_GLOBAL, MARK_LARGE = u64(1), u64(2)
"""`marks` of a translation.  The paging-structure entry's G counts only under CR4.PGE."""
W10, W30 = u64(10), u64(30)
W128 = u64(128)


def tlb_slot(lin, kind, user):
    """Index in `c.tlb` of the tag for a linear address; the addend is behind it."""
    return ((user * KINDS + kind) << W10) | (((lin >> W12) & INDEX) << W1)


def forget_marks(c):
    """No entry is marked any more."""
    if c.any_marks != W0:
        k = W0
        while k < N_MARKS:
            c.tlb_global[k] = W0
            c.tlb_large[k] = W0
            k += W1
        c.any_marks = W0
    return W0


def flush_tlb_all(c):
    """Forget all translations, global ones too (CR0.PG, CR0.WP, CR4, EFER, A20, memory map)."""
    fill(c.tlb_host, PART_SLOTS * PARTS, ONES)
    forget_marks(c)
    return translations_changed(c)


def flush_tlb(c):
    """Forget all translations but, under CR4.PGE, those of global pages (MOV to CR3, task switch)."""
    if c.any_marks == W0 or c.cr4 & CR4_PGE == W0:
        n = PART_SLOTS * W2
        if c.cr4 & CR4_SMAP != W0:
            n = PART_SLOTS * W3
        fill(c.tlb_host, n, ONES)
        forget_marks(c)
        return translations_changed(c)
    left = W0
    k = W0
    while k < N_MARKS:
        kept = c.tlb_global[k]
        c.tlb_large[k] = c.tlb_large[k] & kept
        left = left | kept
        if kept == W0:
            fill(c.tlb_host + ((k * W128) << W3), W128, ONES)
        else:
            forget_unmarked(c, k, kept)
        k += W1
    c.any_marks = left
    return translations_changed(c)


def forget_unmarked(c, k, kept):
    """Empty those of 64 entries that have no bit in `kept`."""
    n = W0
    while n < W64:
        if (kept >> n) & W1 == W0:
            c.tlb[k * W128 + n + n] = ONES
        n += W1
    return W0


def empty_tlb_part(c):
    """Make the part of the TLB that is always empty."""
    return fill(c.tlb_host + PART_SLOTS * PARTS * W8, PART_SLOTS, ONES)


def mark_slot(c, k, marks):
    """Note of the entry at index `k` of `c.tlb` whether it is global (under CR4.PGE), and of a large page."""
    bit = W1 << ((k >> W1) & W63)
    at = k >> INDEX_OF_MARK
    c.tlb_global[at] = c.tlb_global[at] & ~bit
    c.tlb_large[at] = c.tlb_large[at] & ~bit
    if marks & MARK_GLOBAL != W0 and c.cr4 & CR4_PGE != W0:
        c.tlb_global[at] = c.tlb_global[at] | bit
        c.any_marks = W1
    if marks & MARK_LARGE != W0:
        c.tlb_large[at] = c.tlb_large[at] | bit
        c.any_marks = W1
    return W0


def forget_large(c, lin):
    """Forget what was made of large pages in the gigabyte of a linear address: among them is all of its page."""
    k = W0
    while k < N_MARKS:
        marks = c.tlb_large[k]
        n = k * W128
        while marks != W0:
            if marks & W1 != W0 and (c.tlb[n] ^ lin) >> W30 == W0:
                c.tlb[n] = ONES
            marks = marks >> W1
            n += W2
        k += W1
    return W0


def flush_page(c, lin):
    """Forget the translations of one linear page, large or not, global ones too (INVLPG)."""
    part = W0
    while part < PARTS:
        kind = W0
        while kind < KINDS:
            k = tlb_slot(lin, kind, part)
            if c.tlb[k] >> W12 == lin >> W12:
                c.tlb[k] = ONES
            kind += W1
        part += W1
    if c.any_marks != W0:
        forget_large(c, lin)
    return translations_changed(c)
