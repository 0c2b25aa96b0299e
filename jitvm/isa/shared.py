"""CPUs that run at the same time on one memory (`--smp-threads`): what one asks of the others.

What is common is in few words, a line of 64 bytes a CPU (`c.peers`): the page of guest memory that it is storing to
although code is on it (number + 1, else 0), and where its bits of translated pieces are, a word a page.  `c.code_pages` is
one map for all: a page on which any of them has translated code has no write entry in any TLB.

* The first to translate code of a page leaves with EXIT_CODE: all stand while their write entries go.
* A store to a page with code announces itself; whoever translates announces the bytes before it reads them, and waits for
  announced stores.  So one of the two sees the other: old bytes are never kept unnoticed.
* A store to bytes that another CPU has translated leaves with EXIT_ALONE before it has done anything: the instruction runs
  again while all others stand, which drop the page behind it (`written`).
* A page that is only data by now leaves with EXIT_DATA, and has write entries again.
* EXIT_ALONE also serves locked accesses that no host instruction can make: over a border, to devices, to watched memory.
* What the processor does to descriptors by itself, with bus-lock semantics (SDM vol. 3, 8.1.2.1), is done alone, too: to set
  an accessed bit, and to test and set the busy bit of a TSS.  It is rare: kernels have set them before.

Time is one for all: RDTSC never tells less than was told anywhere before.

Source: Intel SDM vol. 3, 8.1.2 (bus locking), 8.1.3 (self- and cross-modifying code), 8.3 (serializing instructions).
"""

from __future__ import annotations

from jitvm.isa.host import code_written, fence, peek, poke, swap
from jitvm.isa.state import EXIT, EXIT_ALONE, EXIT_CODE, EXIT_DATA, OK, WRITTEN, retired
from jitvm.isa.words import ONES, W0, W1, W3, W6, W8, W12, W63, i64, u64

IN_PAGE = u64(0xFFF)
MOST_WRITTEN = u64(WRITTEN)
DATA_STORES = u64(64)
"""Stores in a row to a page with no code on it any more, after which it is data."""


def pieces(first, n):
    """Bits of the 64-byte pieces in which n bytes from byte `first` of a page lie."""
    low, high = first >> W6, (first + n - W1) >> W6
    return (ONES << low) & (ONES >> (W63 - high))


def ask(c, reason, page):
    """Leave before anything of the instruction has happened; status."""
    c.status = EXIT
    c.exit_reason = reason
    c.asked_page = page
    return EXIT


def ask_alone(c):
    """Leave: the instruction shall run while all others stand; status."""
    return ask(c, EXIT_ALONE, W0)


def others_run(c):
    """1 while other CPUs may be in the midst of anything."""
    return c.shared & (c.alone ^ W1)


def line_of(c, k):
    """Host address of CPU k's line."""
    return c.peers + (k << W6)


def translated_by_others(c, page):
    """Pieces of a page that other CPUs have translated, or are about to."""
    found = W0
    k = W0
    while k < c.n_peers:
        if k != c.peer:
            found = found | peek(peek(line_of(c, k) + W8, W8) + (page << W3), W8)
        k += W1
    return found


def begin_translation(c, offset, size):
    """Announce that `size` bytes of guest memory, in one page, are read as code; the page's pieces before."""
    page = offset >> W12
    bits = peek(line_of(c, c.peer) + W8, W8) + (page << W3)
    before = peek(bits, W8)
    poke(bits, W8, before | pieces(offset & IN_PAGE, size))
    fence()
    k = W0
    while k < c.n_peers:
        if k == c.peer or peek(line_of(c, k), W8) != page + W1:
            k += W1
    return before


def end_translation(c, offset, size, before):
    """What of the announced bytes belongs to a block, and stays so."""
    bits = peek(line_of(c, c.peer) + W8, W8) + (offset >> W12 << W3)
    return poke(bits, W8, before | pieces(offset & IN_PAGE, size))


def note_written(c, page):
    """Remember a page with code that was stored to while all others stand."""
    n = c.n_written
    if n != W0 and n <= MOST_WRITTEN and c.written[n - W1] == page:
        return W0
    if n < MOST_WRITTEN:
        c.written[n] = page
    if n <= MOST_WRITTEN:
        c.n_written = n + W1
    return W0


def is_data(c, page):
    """1 when a page with code, of which no CPU has any, was stored to so often that it had better be data."""
    own = peek(peek(line_of(c, c.peer) + W8, W8) + (page << W3), W8)
    if own | translated_by_others(c, page) != W0:
        return W0
    if c.data_page != page:
        c.data_page = page
        c.data_stores = W0
    c.data_stores += W1
    return u64(c.data_stores >= DATA_STORES)


def begin_store(c, offset, size):
    """Before a store to a page with code, in one page: OK, it is announced; or EXIT, and nothing has happened."""
    page = offset >> W12
    if is_data(c, page) != W0:
        return ask(c, EXIT_DATA, page)
    poke(line_of(c, c.peer), W8, page + W1)
    fence()
    if translated_by_others(c, page) & pieces(offset & IN_PAGE, size) != W0:
        poke(line_of(c, c.peer), W8, W0)
        return ask_alone(c)
    return OK


def end_store(c, offset, size):
    """Behind it; OK."""
    poke(line_of(c, c.peer), W8, W0)
    code_written(c, offset, size)
    return OK


def need_code(c, offset):
    """Status: may code of this page of guest memory be kept?"""
    if peek(c.code_pages + (offset >> W12), W1) != W0:
        return OK
    return ask(c, EXIT_CODE, offset >> W12)


def serialize_memory(c):
    """What is stored before is seen by the other CPUs before anything behind it is read; OK."""
    if c.shared != W0:
        fence()
    return OK


def common_now(c):
    """Virtual time: this CPU's own, but never before what is known anywhere; its own goes on from there.

    What it has caught up with comes off the budget, which is virtual time, too: no timer comes late by that.
    """
    own = retired(c) + c.extra_ns
    now = own
    if peek(c.times, W8) > now:
        now = peek(c.times, W8)
    told = peek(c.times + W8, W8)
    while told < now and swap(c.times + W8, W8, told, now) == W0:
        told = peek(c.times + W8, W8)
    if told > now:
        now = told
    c.extra_ns = c.extra_ns + now - own
    c.horizon = c.horizon - (now - own)
    c.left = c.left - i64(now - own)
    return now
