"""Watched memory: which accesses a debugger, or the guest by its debug registers, wants to know of.

A page with a watched byte has no TLB entry, so that all accesses to it come to `jitvm/isa/memory.py`, which asks
`watch_access` before it makes one.  An access that is watched leaves its instruction with status WATCHED, before
anything was done; the engine then runs the same instruction again alone (`c.armed`), and now hits are noted instead.
What an event's delivery and the page walk for a fetch access is noted at once (`c.noting`).

The tables: entries 0 to 3 are the guest's (DR0-DR3, jitvm/isa/debug.py), a debugger's follow, any number, in host memory
of their own.  `n_watch` says how many count; 0 is the usual case.  An access notes the first byte of it that is watched.

Source: Intel SDM vol. 3, 17.2.5 (which accesses match a data breakpoint), 17.3.1.2.
"""

from __future__ import annotations

from jitvm.isa.host import peek
from jitvm.isa.state import N_HITS, OK, WATCH_PHYSICAL, WATCH_READ, WATCH_WRITE, WATCHED
from jitvm.isa.words import ONES, W0, W1, W4, W8, u64

HITS = u64(N_HITS)
ANY_WATCH = WATCH_READ | WATCH_WRITE
PAGE_LAST = u64(0xFFF)
ENTRY_BYTES, LAST_WORD = u64(24), u64(16)


def watch_kind(c, k):
    """WATCH_* bits of entry k."""
    if k < W4:
        return c.watch_kind[k]
    return peek(c.points_at + (k - W4) * ENTRY_BYTES, W8)


def watch_first(c, k):
    """First address of entry k."""
    if k < W4:
        return c.watch_first[k]
    return peek(c.points_at + (k - W4) * ENTRY_BYTES + W8, W8)


def watch_last(c, k):
    """Last address of entry k."""
    if k < W4:
        return c.watch_last[k]
    return peek(c.points_at + (k - W4) * ENTRY_BYTES + LAST_WORD, W8)


def overlaps(c, k, lin, gpa, last):
    """1 when entry k watches a byte of the `last` + 1 bytes at a linear and physical address (`gpa` ONES: unknown)."""
    at = lin
    if watch_kind(c, k) & WATCH_PHYSICAL != W0:
        if gpa == ONES:
            return W0
        at = gpa
    return u64(at <= watch_last(c, k)) & u64(watch_first(c, k) <= at + last)


def watched_page(c, lin, gpa, kinds):
    """1 when a byte of the page is watched for one of these kinds."""
    k = W0
    while k < c.n_watch:
        if watch_kind(c, k) & kinds != W0 and overlaps(c, k, lin & ~PAGE_LAST, gpa & ~PAGE_LAST, PAGE_LAST) != W0:
            return W1
        k += W1
    return W0


def note_hit(c, k, lin, gpa):
    """Entry k was hit: the guest's are a bit each, a debugger's are listed with the address."""
    if k < W4:
        c.watch_bits = c.watch_bits | (W1 << k)
        return W0
    n = c.n_hits
    if n >= HITS:
        return W0
    at = lin
    if watch_kind(c, k) & WATCH_PHYSICAL != W0:
        at = gpa
    if at < watch_first(c, k):
        at = watch_first(c, k)
    c.hit_entry[n] = k
    c.hit_address[n] = at
    c.n_hits = n + W1
    return W0


def watch_access(c, lin, gpa, size, kinds):
    """Status of an access, not yet made, to `size` bytes in one page: OK (and noted), or WATCHED.

    `kinds`: WATCH_READ, WATCH_WRITE or both, of which only the first is noted: who reads to write stores later.
    """
    noted = kinds
    if kinds == ANY_WATCH:
        noted = WATCH_READ
    k = W0
    while k < c.n_watch:
        if watch_kind(c, k) & kinds != W0 and overlaps(c, k, lin, gpa, size - W1) != W0:
            if c.armed | c.noting == W0:
                c.status = WATCHED
                return WATCHED
            if watch_kind(c, k) & noted != W0:
                note_hit(c, k, lin, gpa)
        k += W1
    return OK


def watch_probe(c, lin, gpa, size):
    """Status of a probe: an instruction that is going to store to watched bytes leaves now, before its first store."""
    if c.armed | c.noting != W0:
        return OK
    return watch_access(c, lin, gpa, size, WATCH_WRITE)
