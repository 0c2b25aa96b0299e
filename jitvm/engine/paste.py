"""Stencils pasted: copied to code memory one behind the other, their holes filled, natively.

Also what both kinds of copied blocks begin and end with (`jitvm/engine/copy.py`, `pin.py`).
"""

from __future__ import annotations

from jitvm.engine.decode import (
    T_B,
    T_D,
    T_DISP,
    T_FORM,
    T_I,
    T_IMM,
    T_NEXT,
    T_S,
    T_SCALE,
    T_SEG,
    T_SHAPE,
    T_UOP,
    T_VARIANT,
)
from jitvm.engine.formbits import F_KIND_SHIFT, KIND_CALL, VARIANT_SHIFT
from jitvm.engine.gate import PAD, new_pad
from jitvm.engine.host_code import counter
from jitvm.engine.layout import OPT_COUNT, UOP_SIZE
from jitvm.engine.layout import WHY_STENCIL as WHY_STENCIL_
from jitvm.engine.layout import at as at_
from jitvm.engine.pin_gate import PAD as PIN_PAD
from jitvm.engine.pin_gate import new_pad as new_pinned_pad
from jitvm.engine.stencil_key import KINDS_OF_HOLES, PINNED_MARK, SCALE_SHIFT, SEG_SHIFT, STENCIL_BIT, TURNED_MARK
from jitvm.engine.translate import O_DISP, O_IMM, O_REST, decode_block
from jitvm.isa.host import peek, poke
from jitvm.isa.memory import code_linear, is_code
from jitvm.isa.state import OK
from jitvm.isa.words import W0, W1, W2, W3, W4, W6, W7, W8, W12, W16, W24, W32, sext, u64

WHY_STENCIL = u64(WHY_STENCIL_)
STENCIL, SEG, SCALE = u64(1 << STENCIL_BIT), u64(SEG_SHIFT), u64(SCALE_SHIFT)
NEVER = u64(1 << 62)
"""Count of an entry record whose block asks for no other code."""
UNCUTTABLE = u64(1)
"""In place of a blob's address: this form has no stencil."""
H_IMM, H_DISP, H_NEXT, H_UOP, H_END, H_D, H_S, H_B, H_I, H_RELATIVE, H_TAKEN, H_FALL, H_MISS = (
    u64(n) for n in range(len(KINDS_OF_HOLES))
)
MARK_TURNED, MARK_PINNED = u64(TURNED_MARK), u64(PINNED_MARK)
UOP = u64(UOP_SIZE)
COUNT, COPIED_INSNS = u64(OPT_COUNT), u64(at_("stat_copied_insns"))


def decode_again(c, b):
    """Decode block b into t, cut as it was: its number of instructions; 0: it can't be.

    Behind its end another instruction may stand by now, which whoever enters the block does not charge.
    """
    charged = peek(c.block_uop[b] + O_REST, W2)
    n = decode_block(c, c.ram + c.block_offset[b], c.block_rip[b], charged)
    if n == W0:
        c.status = OK
    if n != charged:
        return W0
    return n


def has_no_room(c, size):
    """1 when code memory has not so many bytes left (all translations will be forgotten, `forget`), or the log is full."""
    full = u64(c.code_next + size > c.code_end)
    c.forget = c.forget | full
    return full | u64(c.log_end != W0 and c.log_next == c.log_end)


def plain_key(c, at):
    """Key of the stencil of instruction t[at...], pinned or not, without what says which."""
    key = c.t[at + T_SHAPE] | (c.t[at + T_VARIANT] << VARIANT_SHIFT) | (c.t[at + T_SEG] >> W3 << SEG)
    return key | (c.t[at + T_SCALE] << SCALE)


def is_stub(c, at):
    """1 when the micro-op of instruction t[at...] is a stub that raises #GP: a call, whose push must not come before."""
    return u64((c.t[at + T_FORM] >> F_KIND_SHIFT) & W7 == KIND_CALL and is_code(c, c.t[at + T_IMM]) == W0)


def count_copied(c, to, n):
    """Where that is wanted, count n instructions whenever the code behind is entered."""
    if c.options & COUNT != W0:
        to = counter(to, COPIED_INSNS, n)
    return to


def hole_value(c, kind, at, record, ends):
    """What fills a hole of instruction t[at...] in the block with entry `record`."""
    if kind == H_IMM:
        return c.t[at + T_IMM]
    if kind == H_DISP:
        return sext(W4, c.t[at + T_DISP])  # LLVM may want it in a register of 64 bits
    if kind == H_NEXT:
        return c.t[at + T_NEXT]
    if kind == H_UOP:
        return (c.t[at + T_UOP] + W1) * UOP
    if kind == H_END:
        return ends
    if kind == H_D:
        return c.t[at + T_D]
    if kind == H_S:
        return c.t[at + T_S]
    if kind == H_B:
        return c.t[at + T_B]
    if kind == H_RELATIVE:
        return c.t[at + T_NEXT] + sext(W4, c.t[at + T_DISP])
    return c.t[at + T_I]


def copy_stencil(c, to, blob, at, record, ends, miss):
    """Copy one stencil to `to` and fill its holes; the address behind it."""
    size = peek(blob, W4)
    n = peek(blob + W4, W2)
    pads = peek(blob + W6, W1)
    marks = peek(blob + W7, W1)
    turned = marks & MARK_TURNED
    pad = PAD
    if marks & MARK_PINNED != W0:
        pad = PIN_PAD
    p = blob + W8
    k = W0
    while k < size:
        poke(to + k, W8, peek(p + k, W8))
        k += W8
    p += (size + W7) & ~W7
    while n != W0:
        h = peek(p, W8)
        kind = (h >> W12) & u64(15)
        v = h >> W32
        if kind == H_MISS:
            v += miss - (to + (h & u64(0xFFF)))
        elif kind >= H_TAKEN:
            v += to + size + pad * ((kind - H_TAKEN) ^ turned) - (to + (h & u64(0xFFF)))
        else:
            v += hole_value(c, kind, at, record, ends)
        poke(to + (h & u64(0xFFF)), (h >> W16) & u64(15), v)
        p += W8
        n -= W1
    to += size
    k = W0
    while k < pads:
        slot = ends + ((k ^ turned) << W3)
        if marks & MARK_PINNED != W0:
            to = new_pinned_pad(c, to, record + slot)
        else:
            to = new_pad(c, to, slot)
        k += W1
    return to


def leave_code(to, distance):
    """Machine code at `to`: add r13, distance; jmp [r13]: on in the handler `distance` bytes behind the entry record."""
    poke(to, W4, u64(0x00C5_8149))
    poke(to + W3, W4, distance)
    poke(to + W7, W4, u64(0x0065_FF41))
    return to + u64(11)


def leave_for_stencils(c, u, rip):
    """Leave to Python before the block with entry record u, `hot_block`, is given machine code; the next execution tries
    again, unless Python lets it wait (`jitvm/engine/waiting.py`)."""
    poke(u + O_IMM, W8, W1)
    c.hot_block = peek(u + O_DISP, W4)
    c.rip = rip
    c.why = WHY_STENCIL
    return W0


def keep_code(c, start, to, rip):
    """A block's machine code lies from `start` to `to`; let who observes know of it (`jitvm/engine/observer.py`)."""
    if c.log_end != W0:
        at = c.log_next
        poke(at, W8, start + c.code_shift)
        poke(at + W8, W8, to - start)
        poke(at + W16, W8, code_linear(c, rip))
        poke(at + W24, W8, rip)
        c.log_next = at + W32
    c.code_next = (to + u64(15)) & ~u64(15)
    c.stat_code_bytes += to - start
    return W0
