"""Blocks that ask for a region, natively: noticed, described, asked again.

A hot block's machine code begins with `count_prefix`, which counts its executions in the entry record.  At zero
`note_hot` lets the block's name be known and takes the prefix out of its way.
"""

from __future__ import annotations

from jitvm.engine.layout import WHY_REGION as WHY_REGION_
from jitvm.engine.layout import at
from jitvm.engine.translate import O_DISP, O_EIP, O_IMM, decode_block, plan_block
from jitvm.isa.host import peek, poke
from jitvm.isa.state import OK
from jitvm.isa.words import W0, W2, W4, W6, W8, u64

WHY_REGION = u64(WHY_REGION_)
PREFIX = u64(14)
"""Bytes of the counting prefix."""
H_HOT_AT = u64(at("h_hot"))
PATIENCE = u64(64)
"""A block whose region was lost to rewritten code is counted this many times as long."""
NEVER = u64(1 << 62)


def count_prefix(to):
    """Machine code at `to`: dec qword [r13 + 16]; jnz behind; jmp [r12 + h_hot].  The address behind it."""
    poke(to, W4, u64(0x104D_FF49))
    poke(to + W4, W2, u64(0x0875))
    poke(to + W6, W4, u64(0x24A4_FF41))
    poke(to + W6 + W4, W4, H_HOT_AT)
    return to + PREFIX


def note_hot(c, u):
    """The block with entry record u asks for a region; from now on it runs without counting."""
    poke(u, W8, peek(u, W8) + PREFIX)
    poke(u + O_IMM, W8, NEVER)
    c.hot_block = peek(u + O_DISP, W4)
    c.rip = peek(u + O_EIP, W8)
    c.why = WHY_REGION
    return W0


def count_again(c, u):
    """The region that begins at entry record u is no longer true: back to handlers, counting from the beginning."""
    poke(u, W8, c.h_count)
    poke(u + O_IMM, W8, c.hot * PATIENCE)
    return W0


def describe_block(c, b):
    """Decode and plan block b again into `t`; its number of instructions, 0 when it can't be had."""
    n = decode_block(c, c.ram + c.block_offset[b], c.block_rip[b], c.block_most)
    if n == W0:
        c.status = OK
        return W0
    plan_block(c, n)
    return n
