"""Paging-structure entries: where they lie, what rights they give, and the page fault.

Source: Intel SDM vol. 3, 4.6 (access rights), 4.7 (page-fault error code).

Not modelled: protection keys (not announced).
"""

from __future__ import annotations

from jitvm.isa.host import code_written, peek, poke, swap
from jitvm.isa.shared import ask_alone, begin_store, end_store, note_written
from jitvm.isa.state import (
    APIC_BASE_EN,
    CR0_WP,
    CR4_PAE,
    CR4_SMAP,
    CR4_SMEP,
    EFER_NXE,
    PF_FAULT,
    WATCH_WRITE,
    fault,
)
from jitvm.isa.tlb import FETCH, SUPERVISOR, USER, WRITE
from jitvm.isa.watch import watch_access
from jitvm.isa.words import M32, ONES, W0, W1, W3, W4, W8, W12, u64

PAGE_OFFSET = u64(0xFFF)
PAGE_MASK = u64(0xFFFF_FFFF_FFFF_F000)
MAPPED = u64(1)
SMRAM_PAGE, SMRAM_PAGES = u64(0xA0), u64(0x20)
"""A0000h to BFFFFh, which are RAM in system management mode (`smm_window`)."""
PTE_P, PTE_W, PTE_U, PTE_A, PTE_D, PTE_PS = u64(1), u64(2), u64(4), u64(0x20), u64(0x40), u64(0x80)
PF_P, PF_W, PF_U, PF_RSVD, PF_FETCH = u64(1), u64(2), u64(4), u64(8), u64(16)


def memory_at(c, gpa, write):
    """Host address of a physical address, 0 when it is not memory: the local APIC's page lies above memory (10.4.4)."""
    page = gpa >> W12
    if page >= c.n_pages:
        return W0
    if page == c.msr_apic_base >> W12 and c.msr_apic_base & APIC_BASE_EN != W0:
        return W0
    if c.smm_window != W0 and page - SMRAM_PAGE < SMRAM_PAGES:
        return c.ram + gpa
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
    """Store to guest memory by host address and see to translated code there; the bytes are in one page.

    Other CPUs that have translated them must stand; `written` tells what is to be done for them.
    """
    poke(host, size, v)
    return see_to_code(c, host, size)


def see_to_code(c, host, size):
    """Drop what was translated from bytes that were stored to."""
    if has_code(c, host) != W0:
        code_written(c, host - c.ram, size)
        if c.shared != W0:
            note_written(c, (host - c.ram) >> W12)
    return W0


def may_run_beside(c, host):
    """1 when a store to a host address may be to code of another CPU, which does not stand."""
    return c.shared & ~c.alone & peek(c.code_pages + ((host - c.ram) >> W12), W1)


def store_beside(c, host, size, v):
    """The same while other CPUs may run; status."""
    if may_run_beside(c, host) == W0:
        return store_host(c, host, size, v)
    if begin_store(c, host - c.ram, size) != W0:
        return c.status
    poke(host, size, v)
    return end_store(c, host - c.ram, size)


def store_to_code(c, host, size, v):
    """`store_beside` where a page is known to have translated code."""
    if c.shared != W0:
        return store_beside(c, host, size, v)
    poke(host, size, v)
    code_written(c, host - c.ram, size)
    return W0


def load_entry(c, gpa):
    """A 4-byte paging-structure entry; all ones where no memory is."""
    h = memory_at(c, gpa & c.a20_mask, W0)
    if h == W0:
        return M32
    return peek(h, W4)


def store_entry(c, gpa, old, v):
    """Give an entry, the low word of which is `old`, its accessed or dirty bit; status: the access may be watched.

    Not 0 also when the entry has changed meanwhile: the walk is lost.
    """
    gpa = gpa & c.a20_mask
    h = memory_at(c, gpa, W1)
    if h != W0:
        if c.n_points != W0 and watch_access(c, ONES, gpa, W4, WATCH_WRITE) != W0:
            return c.status
        if may_run_beside(c, h) != W0:
            return ask_alone(c)
        if memory_at(c, gpa, W0) != h:
            return store_host(c, h, W4, v)
        if swap(h, W4, old, v) == W0:
            c.walk_lost = W1
            return W1
        see_to_code(c, h, W4)
    return W0


def load_wide_entry(c, gpa):
    """An 8-byte paging-structure entry; all ones where no memory is."""
    h = memory_at(c, gpa & c.a20_mask, W0)
    if h == W0:
        return ONES
    return peek(h, W8)


def page_fault(c, lin, error, kind, user):
    """#PF with its error code; CR2 takes the linear address."""
    c.cr2 = lin
    if kind == WRITE:
        error = error | PF_W
    elif kind == FETCH and (c.cr4 & CR4_SMEP != W0 or (c.cr4 & CR4_PAE != W0 and c.efer & EFER_NXE != W0)):
        error = error | PF_FETCH
    if user == USER:
        error = error | PF_U
    return fault(c, PF_FAULT, error)


def kept_from_user(c, kind, user):
    """1 when SMEP or SMAP keep a supervisor from a page of the user."""
    if kind == FETCH:
        return u64(c.cr4 & CR4_SMEP != W0)
    return u64(user == SUPERVISOR) & u64(c.cr4 & CR4_SMAP != W0)


def forbidden(c, rights, kind, user):
    """1 when a page with the combined rights `rights` (PTE_W, PTE_U) refuses this access."""
    if user == USER:
        if rights & PTE_U == W0:
            return W1
        return u64(kind == WRITE) & u64(rights & PTE_W == W0)
    if rights & PTE_U != W0 and c.cr4 & (CR4_SMEP | CR4_SMAP) != W0 and kept_from_user(c, kind, user) != W0:
        return W1
    if kind == WRITE and c.cr0 & CR0_WP != W0:
        return u64(rights & PTE_W == W0)
    return W0
