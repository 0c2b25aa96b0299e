"""The block store: which translated blocks there are, by what they were made from, and which bytes they cover.

A block is keyed by the offset of its first byte in guest memory, RIP and context (CS base, limit code, mode).  Blocks of a
page are listed, so that a store to it drops those that it overlaps; `page_bits` has one bit for each 64 bytes of the
page, so that data beside code costs a bit test.  Dropping a block puts the `stale` handler into all its micro-ops: also
the running block leaves at its next instruction.
"""

from __future__ import annotations

from jitvm.engine.gate import close_block
from jitvm.engine.layout import N_BLOCK_HASH, N_BLOCKS, N_DATA_KNOWN, N_JUMP_CACHE, N_JUMP_LOG, UOP_SIZE
from jitvm.engine.pin_gate import close_pinned
from jitvm.isa.host import peek, poke
from jitvm.isa.paging_entry import PAGE_OFFSET
from jitvm.isa.shared import need_code, pieces
from jitvm.isa.state import OK
from jitvm.isa.tlb import PARTS, WRITE, tlb_slot
from jitvm.isa.words import M32, ONES, W0, W1, W2, W3, W4, W8, W12, u64

BLOCK_VALID, BLOCK_LISTED = u64(1), u64(2)
"""Bits of `block_state`: translated; in its first page's list; (<< 1) in its second page's list; micro-ops from bit 8."""
BLOCK_DROP, BLOCK_DROPS = u64(8), u64(0x18)
"""How often the block was dropped, up to 3, in bits 3 and 4."""
BLOCK_KEPT = BLOCK_LISTED | (BLOCK_LISTED << W1) | BLOCK_DROPS
MAX_BLOCKS, HASH_SLOTS, JUMP_SLOTS = u64(N_BLOCKS), u64(N_BLOCK_HASH), u64(N_JUMP_CACHE)
UOP_BYTES = u64(UOP_SIZE)
HASH_MULTIPLIER, HASH_SHIFT = u64(0x9E37_79B9_7F4A_7C15), u64(64 - 18)
NO_BLOCK = u64(0xFFFF_FFFF)
RIP_MASK, JUMP_LOG = u64(N_JUMP_CACHE - 1), u64(N_JUMP_LOG)
CHUNK = u64(63)
DATA_KNOWN = u64(N_DATA_KNOWN)
OWN_CODE, OTHERS_CODE, OTHERS_WRITTEN = u64(1), u64(2), u64(4)
"""Bits of `code_pages`: translations of this vCPU, of another one; this one wrote to such a page (`shared_code.py`)."""


def translations_changed(c):
    """Empty the jump cache: what it says went through the old translations."""
    c.epoch += W1
    k = c.jump_room
    if k == W0:
        while k < JUMP_SLOTS:
            c.jump_cache[(k << W2) + W1] = ONES
            k += W1
    else:
        while k < JUMP_LOG:
            c.jump_cache[c.jump_log[k] + W1] = ONES
            k += W1
    c.jump_room = JUMP_LOG
    return W0


def remember_jump(c, k, rip, ctx, u, pinned):
    """At `k` of the jump cache: the block at `rip` begins with micro-op u, and its pinned code at `pinned`."""
    if c.jump_room != W0:
        c.jump_room -= W1
        c.jump_log[c.jump_room] = k
    c.jump_cache[k] = rip
    c.jump_cache[k + W1] = ctx
    c.jump_cache[k + W2] = u
    c.jump_cache[k + W3] = pinned
    return W0


def jump_slot(rip):
    """Index in `jump_cache` for a RIP."""
    return ((rip ^ (rip >> W12)) & RIP_MASK) << W2


def block_slot(offset, rip, ctx):
    """Index in `block_hash`."""
    return ((offset ^ (rip << u64(20)) ^ (ctx << W3)) * HASH_MULTIPLIER) >> HASH_SHIFT


def known_block(c, offset, rip, ctx):
    """Index of the block with this key, valid or not, or NO_BLOCK."""
    b = c.block_hash[block_slot(offset, rip, ctx)]
    while b != W0:
        b -= W1
        if c.block_offset[b] == offset and c.block_rip[b] == rip and c.block_ctx[b] == ctx:
            return b
        b = c.block_chain[b]
    return NO_BLOCK


def new_block(c, offset, rip, ctx):
    """A fresh entry in the store; the caller made sure that there is room."""
    b = c.n_blocks
    c.n_blocks = b + W1
    h = block_slot(offset, rip, ctx)
    c.block_offset[b] = offset
    c.block_rip[b] = rip
    c.block_ctx[b] = ctx
    c.block_state[b] = W0
    c.block_room[b] = W0
    c.block_code[b] = W0
    c.block_pin[b] = W0
    c.block_chain[b] = c.block_hash[h]
    c.block_hash[h] = b + W1
    return b


def unmap_writes(c, page):
    """Take a page of guest memory that now holds code out of the write TLB."""
    host = c.ram + (page << W12)
    part = W0
    while part < PARTS:
        k = tlb_slot(W0, WRITE, part)
        end = k + u64(1024)
        while k < end:
            if c.tlb[k] != ONES and c.tlb[k] + c.tlb[k + W1] == host:
                c.tlb[k] = ONES
            k += W2
        part += W1
    return W0


def forget_data(c):
    """A new block: nothing is known of stores beside code any more."""
    k = W0
    while k < DATA_KNOWN:
        c.data_known[k] = ONES
        k += W1
    c.any_data = W0
    return W0


def data_slot(offset):
    """Index in `data_known`."""
    return (offset ^ (offset >> W4)) & (DATA_KNOWN - W1)


def look_at_stores(c, page):
    """Page `page` holds code from now on: stores to it are made one by one, and looked at."""
    flag = c.code_pages + page
    v = peek(flag, W1)
    if v & OWN_CODE == W0:
        poke(flag, W1, v | OWN_CODE)
        unmap_writes(c, page)
    return W0


def look_at_lone(c, host):
    """The same for the instruction that was decoded last, of which nothing is kept: a REP that overwrites itself is fetched
    again.  `host`: of its first byte, 0: no memory is there.  Status."""
    if host == W0:
        return OK
    if c.shared != W0 and need_code(c, host - c.ram) != OK:
        return c.status
    look_at_stores(c, (host - c.ram) >> W12)
    if c.second_host != W0:
        look_at_stores(c, (c.second_host - c.ram) >> W12)
    return OK


def list_block(c, b, which, page, first, n):
    """Let page `page` know that block b covers n bytes of it from byte `first`."""
    bit = BLOCK_LISTED << which
    if c.block_state[b] & bit == W0:
        c.block_state[b] = c.block_state[b] | bit
        head = c.page_head + (page << W2)
        c.block_list[(b << W1) + which] = peek(head, W4)
        poke(head, W4, (b << W1) + which + W1)
    bits = c.page_bits + (page << W3)
    poke(bits, W8, peek(bits, W8) | pieces(first, n))
    if c.any_data != W0:
        forget_data(c)
    return look_at_stores(c, page)


def unlist_second(c, b):
    """Take block b out of its second page's list: the page may be another one from now on."""
    entry = (b << W1) + W2
    page = c.block_second[b] >> W12
    head = c.page_head + (page << W2)
    following = c.block_list[entry - W1]
    e = peek(head, W4)
    if e == entry:
        poke(head, W4, following)
    while e != entry and e != W0:
        before = e - W1
        e = c.block_list[before]
        if e == entry:
            c.block_list[before] = following
    if peek(head, W4) == W0:
        poke(c.page_bits + (page << W3), W8, W0)
    c.block_state[b] = c.block_state[b] & ~(BLOCK_LISTED << W1)
    return W0


def drop_block(c, b):
    """Make a block invalid: each of its micro-ops leads to a look-up."""
    state = c.block_state[b]
    c.block_state[b] = state & ~BLOCK_VALID
    if state & BLOCK_DROPS != BLOCK_DROPS:
        c.block_state[b] = (state & ~BLOCK_VALID) + BLOCK_DROP
    version = c.page_version + ((c.block_offset[b] >> W12) << W3)
    poke(version, W8, peek(version, W8) + W1)
    c.epoch += W1
    u = c.block_uop[b]
    close_block(c, b)
    close_pinned(c, b)
    n = state >> W8
    while n != W0:
        poke(u, W8, c.h_stale)
        u += UOP_BYTES
        n -= W1
    c.stat_dropped += W1
    return W0


def code_written(c, offset, size):
    """Bytes of a page with translated code were written (within one page): drop the blocks which they overlap.

    Another vCPU's blocks are its own affair, when its turn comes; what was written is noted for it.
    """
    page = offset >> W12
    first = offset & PAGE_OFFSET
    flag = c.code_pages + page
    v = peek(flag, W1)
    bits = c.page_bits + (page << W3)
    covered = peek(bits, W8)
    meets = covered & pieces(first, size)
    if v & OTHERS_CODE == W0 and covered != W0 and meets == W0:
        return W0
    if v & OTHERS_CODE != W0:
        written = c.page_written + (page << W3)
        poke(written, W8, peek(written, W8) | pieces(first, size))
        v = v | OTHERS_WRITTEN
        poke(flag, W1, v)
    head = c.page_head + (page << W2)
    e = peek(head, W4)
    if e == W0:
        poke(bits, W8, W0)
        if c.shared == W0:
            poke(flag, W1, v & ~OWN_CODE)
        return W0
    if meets == W0:
        return W0
    known = data_slot(offset)
    key = (offset << W12) | (size & PAGE_OFFSET)
    if c.any_data != W0 and c.data_known[known] == key:
        return W0
    dropped = c.stat_dropped
    left = W0
    keep = W0
    before = head
    while e != W0:
        b, which = (e - W1) >> W1, (e - W1) & W1
        following = c.block_list[e - W1]
        spans = c.block_bytes[b]
        start = c.block_offset[b] & PAGE_OFFSET
        n = spans & M32
        if which != W0:
            start = W0
            n = spans >> u64(32)
        hit = u64(start < first + size) & u64(first < start + n)
        valid = c.block_state[b] & BLOCK_VALID
        if valid != W0 and hit != W0:
            drop_block(c, b)
            valid = W0
        if valid != W0:
            left = left | pieces(start, n)
            keep += W1
            if before == head:
                poke(head, W4, e)
            else:
                c.block_list[before] = e
            before = e - W1
        else:
            c.block_state[b] = c.block_state[b] & ~(BLOCK_LISTED << which)
        e = following
    if before == head:
        poke(head, W4, W0)
    else:
        c.block_list[before] = W0
    poke(bits, W8, left)
    if c.stat_dropped == dropped and size <= W8:
        if c.any_data == W0:
            forget_data(c)
        c.data_known[known] = key
        c.any_data = W1
    return keep


def forget_blocks(c):
    """Forget every translation (the micro-op arena or the store is full); nothing translated may be running."""
    k = W0
    while k < HASH_SLOTS:
        c.block_hash[k] = W0
        k += W1
    k = W0
    while k < c.n_guest_pages:
        poke(c.page_head + (k << W2), W4, W0)
        poke(c.page_bits + (k << W3), W8, W0)
        if c.shared == W0:
            poke(c.code_pages + k, W1, peek(c.code_pages + k, W1) & ~OWN_CODE)
        k += W1
    c.n_blocks = W0
    c.uop_next = c.uop_arena
    if c.log_end == W0:  # who observes wants each address to mean one thing: such memory is left when it is full
        c.code_next = c.code_start
    c.generation += W1
    c.stat_flushes += W1
    return translations_changed(c)


def written_outside(c, offset, size):
    """Guest memory was written by someone else than the vCPU (DMA, debugger): as `code_written`, any length."""
    while size != W0:
        n = W1 + PAGE_OFFSET - (offset & PAGE_OFFSET)
        if n > size:
            n = size
        if peek(c.code_pages + (offset >> W12), W1) != W0:
            code_written(c, offset, n)
        offset += n
        size -= n
    return W0


