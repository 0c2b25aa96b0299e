"""Guest memory as instructions see it: segment, then page, then RAM or the outside.

These are the complete, slow ways.  Translated code looks into the TLB first and comes here on a miss, an access over a
page border, an unusual segment, MMIO, a page with translated code or with watched bytes.  A write that touches two pages is
checked on both before either changes.

Alignment is checked at CPL 3 with CR0.AM and EFLAGS.AC, of what a program itself accesses: descriptor tables and TSS are
the processor's own (`load_system` ...).  An operand in several parts is checked part by part.

In 64-bit mode there are no limits and types, and only FS and GS have bases; instead an address must be canonical: its
bits 63 to 47 are the same.

Source: Intel SDM vol. 3, 5.3 (limits), 5.3.1 (64-bit mode), 5.5 (types), 4.6, 6.15 (#AC, table 6-7), 6.9 (a page fault goes
before #AC), 3.5.1 (pseudo-descriptors); vol. 1, 3.3.7.1 (canonical addresses).
"""

from __future__ import annotations

from jitvm.isa.host import peek, poke
from jitvm.isa.mode import CHECKED_TLB
from jitvm.isa.outside import mmio
from jitvm.isa.paging import beside_code, host_of
from jitvm.isa.paging_entry import PAGE_MASK, PAGE_OFFSET, may_run_beside, store_beside, store_host, store_to_code
from jitvm.isa.shared import ask_alone
from jitvm.isa.state import (
    AC_FAULT,
    ATTR_CODE,
    ATTR_DB,
    ATTR_DC,
    ATTR_P,
    ATTR_RW,
    CS,
    EFER_LMA,
    FS,
    GP,
    MODE_CODE64,
    MODE_PE,
    MODE_VM,
    OK,
    SS,
    SS_FAULT,
    WATCH_READ,
    WATCH_WRITE,
    fault,
)
from jitvm.isa.tlb import FETCH, PERMITTED, READ, USER, WRITE, tlb_slot
from jitvm.isa.watch import ANY_WATCH, watch_access, watch_probe
from jitvm.isa.words import M8, M16, M32, ONES, W0, W1, W3, i64, u64

W3CPL, PAGE_SIZE = u64(3), u64(4096)
CANONICAL_HALF, W48 = u64(1 << 47), u64(48)


def is_user(c):
    """The part of the TLB that a program's own accesses belong to: USER at CPL 3, SUPERVISOR or PERMITTED else."""
    if c.cpl == W3CPL:
        return USER
    if c.tlb_off != W0:
        return PERMITTED
    return W0


def segment_fault(c, seg):
    """#SS(0) for the stack segment, #GP(0) for the others."""
    if seg == SS:
        return fault(c, SS_FAULT, W0)
    return fault(c, GP, W0)


def cut_linear(c, lin):
    """Linear addresses have 32 bits outside 64-bit mode."""
    if c.mode & MODE_CODE64 != W0:
        return lin
    return lin & M32


def is_canonical(lin):
    """1 when bits 63 to 47 of a linear address are the same."""
    return u64((lin + CANONICAL_HALF) >> W48 == W0)


def base_of(c, seg):
    """Segment base as it counts: in 64-bit mode only FS and GS have one."""
    if c.mode & MODE_CODE64 != W0 and seg < FS:
        return W0
    return c.base[seg]


def cut_system(c, lin):
    """Linear addresses of tables and TSS have 32 bits outside long mode."""
    if c.efer & EFER_LMA != W0:
        return lin
    return lin & M32


def code_linear(c, rip):
    """Linear address of code."""
    return cut_linear(c, base_of(c, CS) + rip)


def is_code(c, rip):
    """1 when an instruction may be fetched there as far as CS says: within its limit, in 64-bit mode canonical."""
    if c.mode & MODE_CODE64 != W0:
        return is_canonical(rip)
    return u64(rip <= c.limit[CS])


def linear64(c, seg, off, size):
    """`linear` in 64-bit mode."""
    lin = base_of(c, seg) + off
    if is_canonical(lin) & is_canonical(lin + size - W1) == W0:
        segment_fault(c, seg)
        return W0
    return lin


def linear(c, seg, off, size, write):
    """Linear address of seg:off after all segment checks; c.status on a fault."""
    if c.mode & MODE_CODE64 != W0:
        return linear64(c, seg, off, size)
    last = i64(off + size - W1)
    if (write == W0 and last <= c.read_limit[seg]) or (write != W0 and last <= c.write_limit[seg]):
        return (c.base[seg] + off) & M32
    return checked_linear(c, seg, off, size, write)


def checked_linear(c, seg, off, size, write):
    """The same by the descriptor's type and limit: there may be no plain limit, or the offset is beyond it."""
    attr = c.attr[seg]
    last = off + size - W1
    if c.mode & MODE_PE != W0 and c.mode & MODE_VM == W0:
        bad = u64(attr & ATTR_P == W0)
        if attr & ATTR_CODE != W0:
            bad = bad | write | u64(attr & ATTR_RW == W0)
        else:
            bad = bad | (write & u64(attr & ATTR_RW == W0))
        if bad != W0:
            segment_fault(c, seg)
            return W0
    if attr & (ATTR_CODE | ATTR_DC) == ATTR_DC:
        top = M16
        if attr & ATTR_DB != W0:
            top = M32
        if off <= c.limit[seg] or last > top:
            segment_fault(c, seg)
            return W0
    elif last > c.limit[seg]:
        segment_fault(c, seg)
        return W0
    return cut_linear(c, c.base[seg] + off)


def source_of(c, lin, kind, user):
    """Host address to read from, as `host_of`, by an access that may also write (`kind` WRITE)."""
    h = host_of(c, lin, kind, user)
    if kind == READ or c.status != W0:
        return h
    gpa = c.gpa
    h = host_of(c, lin, READ, user)
    if gpa != ONES:
        c.gpa = gpa
    return h


def watch_load(c, lin, gpa, size, kind):
    """Status of a load from one page that is about to be made; `kind` WRITE: a store to the same bytes follows."""
    if kind == READ:
        return watch_access(c, lin, gpa, size, WATCH_READ)
    return watch_access(c, lin, gpa, size, ANY_WATCH)


def load_pieces(c, lin, size, kind, user):
    """A load over a page border, byte by byte; both pages are checked first."""
    second = cut_linear(c, (lin & PAGE_MASK) + PAGE_SIZE)
    h1 = source_of(c, lin, kind, user)
    if c.status != W0:
        return W0
    g1 = c.gpa
    h2 = source_of(c, second, kind, user)
    if c.status != W0:
        return W0
    g2 = c.gpa
    n1 = PAGE_SIZE - (lin & PAGE_OFFSET)
    if c.n_watch != W0 and (watch_load(c, lin, g1, n1, kind) | watch_load(c, second, g2, size - n1, kind)) != W0:
        return W0
    v = W0
    k = W0
    while k < size:
        h, g = h1 + k, g1 + k
        if k >= n1:
            h, g = h2 + k - n1, g2 + k - n1
        if (k < n1 and h1 != W0) or (k >= n1 and h2 != W0):
            byte = peek(h, W1)
        else:
            byte = mmio(c, g, W1, W0, W0)
            if c.status != W0:
                return W0
        v = v | (byte << (k << W3))
        k += W1
    return v


def store_pieces(c, lin, size, v, user):
    """A store over a page border, byte by byte; both pages are checked first."""
    second = cut_linear(c, (lin & PAGE_MASK) + PAGE_SIZE)
    h1 = host_of(c, lin, WRITE, user)
    if c.status != W0:
        return c.status
    g1 = c.gpa
    h2 = host_of(c, second, WRITE, user)
    if c.status != W0:
        return c.status
    g2 = c.gpa
    n1 = PAGE_SIZE - (lin & PAGE_OFFSET)
    if (h1 != W0 and may_run_beside(c, h1) != W0) or (h2 != W0 and may_run_beside(c, h2) != W0):
        return ask_alone(c)
    if c.n_watch != W0:
        if watch_access(c, lin, g1, n1, WATCH_WRITE) != W0:
            return c.status
        if watch_access(c, second, g2, size - n1, WATCH_WRITE) != W0:
            return c.status
    k = W0
    while k < size:
        if (k < n1 and h1 == W0) or (k >= n1 and h2 == W0):
            g = g1 + k
            if k >= n1:
                g = g2 + k - n1
            mmio(c, g, W1, W1, (v >> (k << W3)) & M8)
            if c.status != W0:
                return c.status
        k += W1
    k = W0
    while k < size:
        byte = (v >> (k << W3)) & M8
        if k < n1 and h1 != W0:
            store_host(c, h1 + k, W1, byte)
        if k >= n1 and h2 != W0:
            store_host(c, h2 + k - n1, W1, byte)
        k += W1
    return W0


def load_linear(c, lin, size, kind, user):
    """Value at a linear address by privilege `user`; `kind` WRITE asks for a page that may also be written."""
    k = tlb_slot(lin, kind, user)
    if c.tlb[k] == (lin + size - W1) & PAGE_MASK:
        return peek(c.tlb[k + W1] + lin, size)
    return load_missed(c, lin, size, kind, user)


def load_missed(c, lin, size, kind, user):
    """A load that the TLB does not answer: over a page border, of a page not met yet, watched, or not memory."""
    if kind == WRITE:
        beside = beside_code(c, lin, size, user)
        if beside != W0:
            return peek(beside, size)
    if (lin & PAGE_OFFSET) + size > PAGE_SIZE:
        return load_pieces(c, lin, size, kind, user)
    h = source_of(c, lin, kind, user)
    if c.status != W0:
        return W0
    if c.n_watch != W0 and watch_load(c, lin, c.gpa, size, kind) != W0:
        return W0
    if h != W0:
        return peek(h, size)
    return mmio(c, c.gpa, size, W0, W0)


def store_linear(c, lin, size, v, user):
    """Store at a linear address by privilege `user`; status."""
    k = tlb_slot(lin, WRITE, user)
    if c.tlb[k] == (lin + size - W1) & PAGE_MASK:
        return poke(c.tlb[k + W1] + lin, size, v)
    return store_missed(c, lin, size, v, user)


def store_missed(c, lin, size, v, user):
    """A store that the TLB does not answer; pages with translated code are among them."""
    beside = beside_code(c, lin, size, user)
    if beside != W0:
        return store_to_code(c, beside, size, v)
    if (lin & PAGE_OFFSET) + size > PAGE_SIZE:
        return store_pieces(c, lin, size, v, user)
    h = host_of(c, lin, WRITE, user)
    if c.status != W0:
        return c.status
    if c.n_watch != W0 and watch_access(c, lin, c.gpa, size, WATCH_WRITE) != W0:
        return c.status
    if h != W0:
        return store_beside(c, h, size, v)
    mmio(c, c.gpa, size, W1, v)
    return c.status


def probe_linear(c, lin, size, user):
    """Status: may all bytes be written?"""
    if c.tlb[tlb_slot(lin, WRITE, user)] == (lin + size - W1) & PAGE_MASK:
        return OK
    return probe_missed(c, lin, size, user)


def probe_missed(c, lin, size, user):
    """A probe that the TLB does not answer."""
    if beside_code(c, lin, size, user) != W0:
        return OK
    host_of(c, lin, WRITE, user)
    if c.status != W0:
        return c.status
    gpa = c.gpa
    n1 = PAGE_SIZE - (lin & PAGE_OFFSET)
    if n1 > size:
        n1 = size
    if n1 != size:
        second = cut_linear(c, (lin & PAGE_MASK) + PAGE_SIZE)
        host_of(c, second, WRITE, user)
        if c.status == W0 and c.n_watch != W0:
            watch_probe(c, second, c.gpa, size - n1)
        if c.status != W0:
            return c.status
    if c.n_watch != W0:
        return watch_probe(c, lin, gpa, n1)
    return W0


def check_alignment(c, lin, size, kind):
    """Status: #AC(0) unless the address is a multiple of the size; a page that refuses the access goes first."""
    if lin & (size - W1) == W0:
        return OK
    host_of(c, lin, kind, W1)
    if c.status == OK and (lin & PAGE_OFFSET) + size > PAGE_SIZE:
        host_of(c, cut_linear(c, (lin & PAGE_MASK) + PAGE_SIZE), kind, W1)
    if c.status != OK:
        return c.status
    return fault(c, AC_FAULT, W0)


def load(c, seg, off, size):
    """Value at seg:off; look at c.status."""
    lin = linear(c, seg, off, size, W0)
    if c.status != W0 or (c.tlb_off == CHECKED_TLB and check_alignment(c, lin, size, READ) != OK):
        return W0
    return load_linear(c, lin, size, READ, is_user(c))


def store(c, seg, off, size, v):
    """Store at seg:off; status."""
    lin = linear(c, seg, off, size, W1)
    if c.status != W0 or (c.tlb_off == CHECKED_TLB and check_alignment(c, lin, size, WRITE) != OK):
        return c.status
    return store_linear(c, lin, size, v, is_user(c))


def load_rmw(c, seg, off, size):
    """Value at seg:off, where a store will follow: all that could refuse the store refuses now."""
    lin = linear(c, seg, off, size, W1)
    if c.status != W0 or (c.tlb_off == CHECKED_TLB and check_alignment(c, lin, size, WRITE) != OK):
        return W0
    return load_linear(c, lin, size, WRITE, is_user(c))


def lock_host(c, seg, off, size):
    """Host address of bytes at seg:off for a locked read-modify-write; 0 with c.status when it is refused.

    0 and OK: no other CPU runs, load_rmw and store do as well.  What no host instruction can do, or a page with code, asks
    for that.
    """
    if c.shared == W0 or c.alone != W0:
        return W0
    lin = linear(c, seg, off, size, W1)
    if c.status != W0 or (c.tlb_off == CHECKED_TLB and check_alignment(c, lin, size, WRITE) != OK):
        return W0
    if lin & (size - W1) == W0:
        user = is_user(c)
        k = tlb_slot(lin, WRITE, user)
        if c.tlb[k] != lin & PAGE_MASK:
            host_of(c, lin, WRITE, user)
            if c.status != W0:
                return W0
        if c.tlb[k] == lin & PAGE_MASK:
            return c.tlb[k + W1] + lin
    ask_alone(c)
    return W0


def probe_store(c, seg, off, size):
    """Status: could `store` succeed?  Nothing is accessed."""
    lin = linear(c, seg, off, size, W1)
    if c.status != W0 or (c.tlb_off == CHECKED_TLB and check_alignment(c, lin, size, WRITE) != OK):
        return c.status
    return probe_linear(c, lin, size, is_user(c))


def load_system(c, lin, size):
    """Value at a linear address with supervisor privilege (descriptor tables, TSS); look at c.status."""
    return load_linear(c, cut_system(c, lin), size, READ, W0)


def store_system(c, lin, size, v):
    """Store at a linear address with supervisor privilege; status."""
    return store_linear(c, cut_system(c, lin), size, v, W0)


def probe_system(c, lin, size):
    """Status: could `store_system` succeed?"""
    return probe_linear(c, cut_system(c, lin), size, W0)


def push_at(c, sp, size, v):
    """Store at SS:sp; commits nothing."""
    return store(c, SS, sp, size, v)


def cached_host(c, lin, kind):
    """Host address of a linear address whose page the TLB knows, else 0: it is plain, and nobody looks at each access."""
    if c.tlb_off == CHECKED_TLB:
        return W0
    k = tlb_slot(lin, kind, is_user(c))
    if c.tlb[k] != lin & PAGE_MASK:
        return W0
    return c.tlb[k + W1] + lin


def host_run(c, seg, off, size, write):
    """Host address of seg:off when all `size` bytes lie in one plain page that the TLB knows, else 0; never faults."""
    last = i64(off + size - W1)
    if c.mode & MODE_CODE64 == W0:
        if write != W0:
            if last > c.write_limit[seg]:
                return W0
        elif last > c.read_limit[seg]:
            return W0
    lin = cut_linear(c, base_of(c, seg) + off)
    if (lin & PAGE_OFFSET) + size > PAGE_SIZE:
        return W0
    return cached_host(c, lin, write)


def fetch_host(c, lin):
    """Host address of code at a linear address; 0 with c.status on a fault, or when no memory is there (`c.gpa`).

    Bits that the page walk sets may be watched bytes: they are noted.
    """
    noting = c.noting
    c.noting = W1
    h = host_of(c, lin, FETCH, is_user(c))
    c.noting = noting
    return h
