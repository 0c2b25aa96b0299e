"""Instructions whose bytes, or some of them, a device answers: code in VGA memory, or where nothing is (FFh, #UD).

The bytes are read as a CPU does it from uncached memory, ahead and in aligned words: 8 bytes an access, as many accesses
as the longest instruction may need of its page; of the next page only when the instruction reaches it.  They are fetched
anew for each instruction.  They are kept, apart from the log of answered accesses (jitvm/isa/outside.py), until the
instruction has ended, so that those which the instruction makes itself have the log for themselves.

Not modelled: the size of the accesses and how far ahead real CPUs read; both differ between them.
"""

from __future__ import annotations

from jitvm.engine.decode import TRUNCATED, decode
from jitvm.isa.host import peek, poke
from jitvm.isa.memory import cut_linear, fetch_host, is_code
from jitvm.isa.outside import is_half_done, mmio
from jitvm.isa.paging_entry import PAGE_OFFSET
from jitvm.isa.state import GP, OK, fault, retired
from jitvm.isa.words import ONES, W0, W1, W3, W7, W8, W16, u64

WORD, AT, PAGE_BYTES = u64(0xFFFF_FFFF_FFFF_FFF8), u64(32), u64(4096)
"""Of an address; where in `fetch_buffer` the bytes are."""


def is_kept(c, lin, end):
    """1 when the first `end` bytes of the instruction at `lin`, which has not ended, were fetched already.

    A repeated string instruction counts one with each element; what it has in the log then is of an element.
    """
    if c.outside_lin != lin or c.outside_n < end:
        return W0
    return u64(c.outside_at == retired(c)) | is_half_done(c)


def gather(c, lin, first, end):
    """Fetch the bytes `first` to `end` of the instruction at `lin`, which are in one page; status.

    While the first ones are fetched none count as kept: an answer in the log is to one of them.
    """
    if is_kept(c, lin, end) != W0:
        return OK
    if first == W0:
        c.outside_lin = ONES
    at = c.fetch_address + AT
    k = first
    while k < end:
        host = fetch_host(c, cut_linear(c, lin + k))
        if host != W0:
            poke(at + k, W1, peek(host, W1))
            k += W1
        else:
            if c.status != OK:
                return c.status
            low = c.gpa & W7
            word = mmio(c, c.gpa & WORD, W8, W0, W0)
            if c.status != OK:
                return c.status
            while low < W8 and k < end:
                poke(at + k, W1, word >> (low << W3))
                low += W1
                k += W1
    c.outside_lin = lin
    c.outside_n = end
    c.outside_at = retired(c)
    c.io_n = W0
    c.io_pos = W0
    return OK


def decode_outside(c, rip, lin):
    """`translate.decode_at` for an instruction with bytes from a device; TRUNCATED: c.status says what is first."""
    c.from_device = W1
    at = c.fetch_address + AT
    room = PAGE_BYTES - (lin & PAGE_OFFSET)
    if room > W16:
        room = W16
    if gather(c, lin, W0, room) != OK:
        return TRUNCATED
    n = decode(c, at, room, rip, c.mode, W0)
    if n != TRUNCATED:
        return n
    if is_code(c, rip + room) == W0:
        fault(c, GP, W0)
        return TRUNCATED
    if gather(c, lin, room, W16) != OK:
        return TRUNCATED
    return decode(c, at, W16, rip, c.mode, W0)
