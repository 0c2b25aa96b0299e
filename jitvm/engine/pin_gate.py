"""Machine code around pinned blocks, written by hand, natively: how they are entered, left, linked and closed.

A pinned block's code, from its lowest address on:

    entry from code that is not pinned: the registers are loaded; jump to the gate
    the way back: the charge is taken back, then by `h_spill` to `h_enter`, which charges what the block has by now: the gate
        leads here when the block was dropped, and who is out of budget comes here
    entry of indirect jumps: charge, question for the budget
    gate: stencils, pads

Where a block was dropped its gate is overwritten: nobody is behind it then, as what drops blocks is called from handlers.

Registers: as `pinned.ARGUMENTS` says; encodings as in `jitvm/engine/host_code.py`.
"""

from __future__ import annotations

from jitvm.engine.gate import H_ENTER, LINK_PADS, PAD_AT
from jitvm.engine.host_code import change_budget, charge, jump, jump_by_record, rax_to_record, record_to_rax, set_rax
from jitvm.engine.layout import at
from jitvm.isa.host import poke, serialize
from jitvm.isa.words import W0, W1, W2, W3, W4, W7, W8, W12, u64

HOST_REGISTERS = u64(0x76_98_F2_1D)
"""A nibble a guest register: the number of its host register, R13, RCX, RDX, R15, R8, R9, RSI, RDI."""
OUT_U, OUT_TO = u64(at("out_u")), u64(at("out_to"))
H_SPILL, H_SETTLE, H_PIN_PAD = u64(at("h_spill")), u64(at("h_settle")), u64(at("h_pin_pad"))
AUX = u64(at("lazy") + 8)
PAD = u64(80)
BACK, INDIRECT = u64(49 + 21), u64(21)
"""How far before the gate the way back and the entry of indirect jumps begin."""


def host_register(k):
    """Number of the host register that guest register k is in."""
    return (HOST_REGISTERS >> (k << W2)) & u64(15)


def move_register(to, opcode, k):
    """mov between guest register k's host register and [r12 + 8 * k]: opcode 8Bh loads, 89h stores."""
    r = host_register(k)
    poke(to, W1, u64(0x49) | (r >> W3 << W2))
    poke(to + W1, W1, opcode)
    poke(to + W2, W2, u64(0x2484) | ((r & W7) << W3))
    poke(to + W4, W4, k << W3)
    return to + W8


def move_registers(to, opcode):
    """All eight."""
    k = W0
    while k < W8:
        to = move_register(to, opcode, k)
        k += W1
    return to


def load_registers(to):
    """mov host register, [r12 + ...], eight times."""
    return move_registers(to, u64(0x8B))


def store_registers(to):
    """mov [r12 + ...], host register, eight times."""
    return move_registers(to, u64(0x89))


def take_back(to, u, n):
    """The charge of n instructions is taken back, and h_enter charges the entry record u anew: 49 bytes."""
    to = rax_to_record(set_rax(change_budget(to, u64(0xC6), n), u), OUT_U)
    to = rax_to_record(record_to_rax(to, H_ENTER), OUT_TO)
    return jump_by_record(to, H_SPILL)


def spill_at(to, u):
    """To the handler of micro-op u: mov rax, [rax] in place of a field of the record."""
    to = rax_to_record(set_rax(to, u), OUT_U)
    poke(to, W4, u64(0x00_8B48))
    return jump_by_record(rax_to_record(to + W3, OUT_TO), H_SPILL)


def entries(to, u, n):
    """All that comes before the stencils of a block of n instructions with entry record u; the gate's address."""
    gate = to + u64(64 + 5) + BACK
    back = jump(load_registers(to), gate)
    return charge(take_back(back, u, n), n, back)


def close_pinned(c, b):
    """Block b is dropped: whoever jumps to its pinned code must look it up."""
    gate = c.block_pin[b]
    if gate != W0:
        jump(gate, gate - BACK)
        c.block_pin[b] = W0
        serialize()
    return W0


def pinned_entry(c, b):
    """Where an indirect jump enters block b from pinned code."""
    gate = c.block_pin[b]
    if gate == W0:
        return c.h_leap
    return gate - INDIRECT + c.code_shift


def settled(to):
    """cmp qword [r12 + aux], 255; jbe behind; lea rax, [behind]; mov [r12 + out_to], rax; jmp [r12 + h_settle]."""
    poke(to, W4, u64(0x24BC_8149))
    poke(to + W4, W4, AUX)
    poke(to + W8, W4, u64(255))
    poke(to + W12, W2, u64(0x1776))
    poke(to + u64(14), W8, u64(0x10_058D48))
    to = rax_to_record(to + u64(21), OUT_TO)
    return jump_by_record(to, H_SETTLE)


def new_pad(c, to, slot):
    """lea rax, [this]; mov [r12 + pad_at], rax; the micro-op from the link slot; to `h_pin_pad`.  The address behind it.

    With pads switched off it goes to `h_enter` and stays as it is.
    """
    poke(to, W8, u64(0xFFFF_FFF9_058D48))
    p = rax_to_record(to + W7, PAD_AT)
    p = set_rax(p, slot)
    poke(p, W4, u64(0x00_8B48))  # mov rax, [rax]
    p = rax_to_record(p + W3, OUT_U)
    if c.options & LINK_PADS != W0:
        p = record_to_rax(p, H_PIN_PAD)
    else:
        p = record_to_rax(p, H_ENTER)
    jump_by_record(rax_to_record(p, OUT_TO), H_SPILL)
    return to + PAD


def make_direct(pad, u, n, gate):
    """A pad from now on jumps to a gate, with the charge of its n instructions; u is that block's entry record."""
    out = pad + u64(26)
    jump(charge(pad, n, out), gate)
    return take_back(out, u, n)
