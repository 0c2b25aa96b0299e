"""Hot blocks as pinned machine code, natively: `pin` strings pinned stencils together (`jitvm/engine/pinned.py`).

A block that was executed `pin_hot` times as machine code gets pinned code, to which its old code leads from then on.  In
between, an instruction that has no pinned stencil has its other one: registers are stored before it, and loaded again where
the next pinned one begins.  What has no stencil at all ends the pinned part, as everywhere.

Flags are left as operands only where nothing in the block reads them before they are written again; who reads flags that may
be of another block has a question before it.
"""

from __future__ import annotations

from jitvm.engine.blocks import jump_slot
from jitvm.engine.decode import T_B, T_D, T_FORM, T_I, T_IMM, T_S, T_STEP, T_UOP, T_VARIANT
from jitvm.engine.formbits import F_COUNT, F_KILLS, F_KIND_SHIFT, F_READS, F_WRITES, KIND_JCC, VARIANT_DEAD
from jitvm.engine.gate import new_pad as new_plain_pad
from jitvm.engine.host_code import jump, set_uop
from jitvm.engine.paste import (
    NEVER,
    STENCIL,
    UNCUTTABLE,
    UOP,
    copy_stencil,
    count_copied,
    decode_again,
    has_no_room,
    is_stub,
    keep_code,
    leave_code,
    leave_for_stencils,
    plain_key,
)
from jitvm.engine.pin_gate import (
    entries,
    load_registers,
    make_direct,
    new_pad,
    pinned_entry,
    settled,
    spill_at,
    store_registers,
)
from jitvm.engine.stencil_key import DEFERRED_MARK, EAGER_BIT, PIN_BIT, SLOT_SHIFTS
from jitvm.engine.translate import O_DISP, O_EIP, O_IMM, O_REST, SKIPPED, code_of, plan_block
from jitvm.isa.alu import add, dec, inc, neg, sub
from jitvm.isa.flags import set_logic
from jitvm.isa.host import peek, poke, serialize
from jitvm.isa.words import M8, W0, W1, W2, W3, W4, W7, W8, W16, W31, cut, u64

PIN, EAGER = u64(1 << PIN_BIT), u64(EAGER_BIT)
AT_D, AT_S, AT_B, AT_I = (u64(SLOT_SHIFTS[slot]) for slot in "dsbi")
DEFERRED = u64(DEFERRED_MARK)
MOST, TAIL, MISS = u64(832), u64(1024), u64(37)


def settle(c):
    """Make the flags that pinned code left as operands: `pinned.KIND_OF`, then `pinned.TOP_KIND_OF`."""
    f = c.lazy
    aux = f.aux
    base = (aux >> W8) & M8
    top = (aux >> W16) & M8
    if base != W0:
        size = W1 << ((base - W1) & W3)
        kind = (base - W1) >> W2
        if kind == W0:
            sub(f, size, cut(size, f.res), cut(size, f.hi))
        elif kind == W1:
            add(f, size, cut(size, f.res), cut(size, f.hi))
        elif kind == W2:
            set_logic(f, size, f.res)
        else:
            neg(f, size, cut(size, f.res))
    else:
        f.aux = aux & M8
    if top != W0:
        size = W1 << ((top - W1) & W3)
        if (top - W1) >> W2 == W0:
            inc(f, size, cut(size, c.flags_top))
        else:
            dec(f, size, cut(size, c.flags_top))
    return W0


def kills(c, at):
    """1 when instruction t[at...] writes all flags."""
    f = c.t[at + T_FORM]
    if f & F_KILLS == W0 or (f & F_COUNT != W0 and c.t[at + T_IMM] & W31 == W0):
        return W0
    return W1


def read_inside(c, n):
    """Bits of the instructions in t whose flags others in the block read."""
    found = W0
    wanted = W0
    k = n
    while k != W0:
        k -= W1
        at = k * T_STEP
        found = found | (wanted << k)
        f = c.t[at + T_FORM]
        if kills(c, at) != W0:
            wanted = W0
        fused = u64(c.t[at + T_UOP] == SKIPPED)
        if f & F_READS != W0 and fused == W0:
            wanted = W1
    return found


def pinned_key(c, at, eager):
    """Key of the pinned stencil of instruction t[at...]."""
    registers = (c.t[at + T_D] << AT_D) | (c.t[at + T_S] << AT_S) | (c.t[at + T_B] << AT_B) | (c.t[at + T_I] << AT_I)
    return plain_key(c, at) | registers | (eager << EAGER) | PIN


def wants_flags(c, at, blob):
    """1 when instruction t[at...] looks at flags, which must be made then: reads them, or keeps some."""
    f = c.t[at + T_FORM]
    if f & F_READS != W0:
        return W1
    if f & F_WRITES == W0 or c.t[at + T_VARIANT] == VARIANT_DEAD or kills(c, at) != W0:
        return W0
    return u64(peek(blob + W7, W1) & DEFERRED == W0)


def string_stencils(c, to, misses, u, n, ends):
    """The code of the n instructions in t, which begins and may end pinned, at `to`; the address behind it.

    The block's entry record is u, its link slots are `ends` behind it; at `misses` instructions leave for their handlers.
    Where handlers go on for good `c.pin_cut` says how many instructions are left here, else it is n.
    """
    eager = read_inside(c, n)
    missing = c.n_missing
    pinned = W1
    made = W0
    c.pin_cut = n
    j = W0
    while j < c.pin_cut:
        at = j * T_STEP
        if c.t[at + T_UOP] != SKIPPED:
            here = u + (c.t[at + T_UOP] + W1) * UOP
            stub = is_stub(c, at)
            blob = code_of(c, pinned_key(c, at, (eager >> j) & W1))
            other = UNCUTTABLE
            if blob == UNCUTTABLE and stub == W0:
                other = code_of(c, plain_key(c, at) | STENCIL)
            if c.n_missing == missing:
                if stub != W0 or (blob == UNCUTTABLE and other == UNCUTTABLE):
                    if pinned != W0:
                        to = spill_at(to, here)
                    else:
                        to = leave_code(to, here - u)
                    c.pin_cut = j
                elif blob == UNCUTTABLE:
                    if pinned != W0:
                        if made == W0:
                            to = settled(to)
                        to = set_uop(store_registers(to), u)
                    pinned = W0
                    made = W1
                    to = copy_stencil(c, to, other, at, u, ends, W0)
                else:
                    if pinned == W0:
                        to = load_registers(to)
                    pinned = W1
                    if made == W0 and wants_flags(c, at, blob) != W0:
                        to = settled(to)
                        made = W1
                    if peek(blob + W7, W1) & DEFERRED != W0:
                        made = W0
                    elif kills(c, at) != W0 and c.t[at + T_VARIANT] != VARIANT_DEAD:
                        made = W1
                    to = copy_stencil(c, to, blob, at, u, ends, spill_at(misses + j * MISS, here) - MISS)
        j += W1
    kind = (c.t[(n - W1) * T_STEP + T_FORM] >> F_KIND_SHIFT) & W7
    if c.pin_cut == n and kind < KIND_JCC and pinned != W0:
        to = new_pad(c, to, u + ends + UOP)
    elif c.pin_cut == n and kind < KIND_JCC:
        to = new_plain_pad(c, to, ends + UOP)
    return to


def pin(c, u):
    """Give the block with entry record u pinned code; 1 when done or impossible, 0: leave (`why`), as `copy.promote`."""
    rip = peek(u + O_EIP, W8)
    b = peek(u + O_DISP, W4)
    poke(u + O_IMM, W8, NEVER)
    n = decode_again(c, b)
    if n == W0:
        return W1
    ends = (plan_block(c, n) + W1) * UOP
    if has_no_room(c, n * MOST + TAIL) != W0:
        return leave_for_stencils(c, u, rip)
    missing = c.n_missing
    start = c.code_next
    entry = start + n * MISS
    gate = entries(entry, u, n)
    to = string_stencils(c, count_copied(c, gate, n), start, u, n, ends)
    if c.n_missing != missing:
        return leave_for_stencils(c, u, rip)
    count_copied(c, gate, c.pin_cut)
    keep_code(c, start, to, rip)
    c.stat_pinned += W1
    if c.block_code[b] != W0:
        jump(c.block_code[b], entry)
    c.block_code[b] = entry
    c.block_pin[b] = gate
    poke(u, W8, entry + c.code_shift)
    know_entry(c, b, u)
    serialize()
    return W1


def know_entry(c, b, u):
    """Let the jump cache know where block b's pinned code is entered."""
    k = jump_slot(c.block_rip[b])
    if c.jump_cache[k + W2] == u:
        c.jump_cache[k + W3] = pinned_entry(c, b)
    return W0


def link_pad(c, u):
    """The pinned pad at `pad_at` was passed on the way to the entry record u: if that is pinned it jumps there directly."""
    b = peek(u + O_DISP, W4)
    if b >= c.n_blocks or c.block_uop[b] != u or c.block_pin[b] == W0:
        return W0
    make_direct(c.pad_at - c.code_shift, u, peek(u + O_REST, W2), c.block_pin[b])
    c.stat_linked += W1
    serialize()
    return W0
