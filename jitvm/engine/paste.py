"""Stencils pasted: copied to code memory one behind the other, their holes filled, natively."""

from __future__ import annotations

from jitvm.engine.decode import T_B, T_D, T_DISP, T_I, T_IMM, T_NEXT, T_S, T_UOP
from jitvm.engine.gate import PAD, new_pad
from jitvm.engine.layout import UOP_SIZE
from jitvm.engine.layout import WHY_STENCIL as WHY_STENCIL_
from jitvm.engine.pin_gate import PAD as PIN_PAD
from jitvm.engine.pin_gate import new_pad as new_pinned_pad
from jitvm.engine.translate import O_IMM
from jitvm.isa.host import peek, poke
from jitvm.isa.memory import code_linear
from jitvm.isa.words import W0, W1, W2, W3, W4, W6, W7, W8, W12, W16, W24, W32, sext, u64

WHY_STENCIL = u64(WHY_STENCIL_)
STENCIL, SEG, SCALE = u64(1 << 40), u64(24), u64(27)
UNCUTTABLE = u64(1)
"""In place of a blob's address: this form has no stencil."""
H_IMM, H_DISP, H_NEXT, H_UOP, H_END, H_D, H_S, H_B, H_I, H_RELATIVE, H_TAKEN, H_FALL, H_MISS = (
    u64(n) for n in range(13)
)
MARK_TURNED, MARK_PINNED = u64(1), u64(2)
"""Bits of a blob's marks (`stencil.Stencil`)."""
UOP = u64(UOP_SIZE)


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
    """Leave to Python before the block with entry record u is given machine code; the next execution tries again."""
    poke(u + O_IMM, W8, W1)
    c.rip = rip
    c.why = WHY_STENCIL
    return W0


def note_copied(c, start, size, rip):
    """Let who observes know of a block's machine code (`jitvm/engine/observer.py`)."""
    at = c.log_next
    poke(at, W8, start + c.code_shift)
    poke(at + W8, W8, size)
    poke(at + W16, W8, code_linear(c, rip))
    poke(at + W24, W8, rip)
    c.log_next = at + W32
    return W0
