"""Blocks that ask for a region, natively: noticed, described, asked again.

A hot block's machine code begins with a gate (jitvm/engine/gate.py) that counts its executions in the entry record.  At
zero `note_hot` lets the block's name be known and opens the gate.
"""

from __future__ import annotations

from jitvm.engine.gate import H_HOT, counting_gate, open_gate, region_gate
from jitvm.engine.layout import TABLE_N_PAGES, TABLE_PAGES, TABLE_PLAIN
from jitvm.engine.layout import WHY_REGION as WHY_REGION_
from jitvm.engine.paste import NEVER, decode_again
from jitvm.engine.translate import O_DISP, O_EIP, O_IMM, plan_block
from jitvm.isa.host import peek, poke, serialize
from jitvm.isa.memory import is_user
from jitvm.isa.tlb import FETCH, tlb_slot
from jitvm.isa.words import W0, W1, W3, W4, W8, W12, W16, W24, u64

WHY_REGION = u64(WHY_REGION_)
PLAIN, PAGES, N_PAGES = u64(TABLE_PLAIN), u64(TABLE_PAGES), u64(TABLE_N_PAGES)
PATIENCE = u64(64)
"""A block whose region was lost to rewritten code is counted this many times as long."""


def note_hot(c, u):
    """The block with entry record u asks for a region; from now on it runs without counting."""
    b = peek(u + O_DISP, W4)
    poke(u + O_IMM, W8, NEVER)
    open_gate(c.block_code[b])
    serialize()
    c.hot_block = b
    c.rip = peek(u + O_EIP, W8)
    c.why = WHY_REGION
    return W0


def ask_again(c, b, count):
    """Let block b ask for a region after `count` more executions of its machine code."""
    counting_gate(c.block_code[b], H_HOT)
    serialize()
    poke(c.block_uop[b] + O_IMM, W8, count)
    poke(c.block_uop[b], W8, c.block_code[b] + c.code_shift)
    return W0


def enter_region(c, b, address, table):
    """Block b begins with a region from now on."""
    u = c.block_uop[b]
    poke(u + O_IMM, W8, table)
    poke(u, W8, address)
    region_gate(c.block_code[b])
    serialize()
    return W0


def still_mapped(c, lin, offset):
    """1 when the fetch TLB says that a linear page is this page of guest memory."""
    k = tlb_slot(lin, FETCH, is_user(c))
    return u64(c.tlb[k] == lin) & u64(c.tlb[k + W1] + lin == c.ram + offset)


def recheck(c, u):
    """Where to go on from the entry record u of a region: something has happened since the region was found true.

    Blocks dropped from its pages: never again into it.  A page whose translation is not known at the moment (nobody looks
    it up here: that could fault, or mark page tables): the block's own code this time.
    """
    table = peek(u + O_IMM, W8)
    plain = peek(table + PLAIN, W8)
    page = peek(table + PAGES, W8)
    n = peek(table + N_PAGES, W8)
    while n != W0:
        offset = peek(page + W8, W8)
        if peek(c.page_version + (offset >> W12 << W3), W8) != peek(page + W16, W8):
            ask_again(c, peek(u + O_DISP, W4), c.region_hot * PATIENCE)
            return plain
        if still_mapped(c, peek(page, W8), offset) == W0:
            return plain
        page += W24
        n -= W1
    poke(table, W8, c.epoch)
    return peek(u, W8)


def describe_block(c, b):
    """Decode and plan block b again into `t`; its number of instructions, 0 when it can't be had."""
    n = decode_again(c, b)
    if n != W0:
        plan_block(c, n)
    return n
