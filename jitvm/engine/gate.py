"""Where copied code is entered and left: machine code written by hand, natively.

A block's machine code begins with a *gate* of 16 bytes: it counts executions until the block asks for a region, or is
nothing, or leads to the block's region, or, when the block was dropped, takes the charge back and looks the block up again.
So a jump to the gate stays right whatever becomes of the block, as long as code memory is not emptied.

It ends with a *pad* of 64 bytes for each direct exit.  A pad goes through the block's link slot at first, as handlers do,
and leaves its own address behind; `link_pad` then makes it a direct jump to the successor's gate, with the charge and the
question for the budget in front.

Registers and encodings: `jitvm/engine/host_code.py`.
"""

from __future__ import annotations

from jitvm.engine.host_code import change_budget, charge, jump, jump_by_record, rax_to_record, set_uop
from jitvm.engine.layout import OPT_PADS, UOP_DISP, UOP_REST, at
from jitvm.isa.host import peek, poke, serialize
from jitvm.isa.words import W0, W1, W2, W3, W4, W6, W7, W8, u64

GATE, PAD = u64(16), u64(64)
"""Bytes."""
H_HOT, H_ENTER, H_PAD = u64(at("h_hot")), u64(at("h_enter")), u64(at("h_pad"))
H_PIN = u64(at("h_pin"))
PAD_AT = u64(at("pad_at"))
DISP, REST = u64(UOP_DISP), u64(UOP_REST)
LINK_PADS = u64(OPT_PADS)
OUT_AT = u64(36)
"""Where a linked pad goes on that is out of budget: it takes back what it charged, and `h_enter` charges what the block has
by now, which may have been rewritten."""


# ---- gates ----------------------------------------------------------------------------------------------------------
def counting_gate(to, field):
    """dec qword [r13 + 16]; jnz behind; jmp [r12 + field], which is h_hot or h_pin.  The address behind it."""
    poke(to, W4, u64(0x104D_FF49))
    poke(to + W4, W2, u64(0x0A75))
    jump_by_record(to + W6, field)
    return to + GATE


def open_gate(to):
    """nop (9 bytes); nop (7 bytes).  The address behind it."""
    poke(to, W8, u64(0x0000_0084_1F0F_66))
    poke(to + W8, W8, u64(0x0000_0000_0080_1F0F << 8))
    return to + GATE


def region_gate(to):
    """jmp [r13]: to what the entry record leads to."""
    return poke(to, W4, u64(0x0065_FF41))


def closed_gate(to, n):
    """add r14, n; jmp [r12 + h_enter]: look the block up, for which n instructions were charged."""
    return jump_by_record(change_budget(to, u64(0xC6), n), H_ENTER)


def serialize_code(c):
    """Another thread has written to this CPU's machine code since it ran."""
    return serialize()


def close_block(c, b):
    """Block b is dropped: whoever jumps to its machine code must look it up."""
    gate = c.block_code[b]
    if gate != W0:
        closed_gate(gate, peek(c.block_uop[b] + REST, W2))
        c.block_code[b] = W0
        serialize()
    return W0


# ---- pads -----------------------------------------------------------------------------------------------------------
def new_pad(c, to, slot):
    """lea rax, [this]; mov [r12 + pad_at], rax; mov r13, [r13 + slot]; jmp [r12 + h_pad].  The address behind the pad.

    With pads switched off it jumps to h_enter and stays as it is.
    """
    poke(to, W8, u64(0xFF_FFFF_F905_8D48))
    p = rax_to_record(to + W7, PAD_AT)
    poke(p, W4, u64(0xAD_8B4D))
    poke(p + W3, W4, slot)
    if c.options & LINK_PADS != W0:
        jump_by_record(p + W7, H_PAD)
    else:
        jump_by_record(p + W7, H_ENTER)
    return to + PAD


def link_pad(c, u):
    """The pad at `pad_at` was passed on the way to the entry record u: from now on it jumps there directly.

    Not to a stub, nor to a block without machine code.
    """
    b = peek(u + DISP, W4)
    if b >= c.n_blocks or c.block_uop[b] != u or c.block_code[b] == W0:
        return W0
    gate = c.block_code[b]
    n = peek(u + REST, W2)
    pad = c.pad_at - c.code_shift
    jump(set_uop(charge(pad, n, pad + OUT_AT), u), gate)
    closed_gate(set_uop(pad + OUT_AT, u), n)
    c.stat_linked += W1
    serialize()
    return W0
