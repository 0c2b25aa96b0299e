"""Hot blocks as machine code: stencils copied one behind the other, natively.

Each block begins with an entry record that counts its executions.  When the count is used up, `promote` decodes the block
again, copies its stencils into code memory and puts the address into the entry record.  The micro-ops stay: a stencil
that misses goes on in its instruction's handler, and what has no stencil ends the copied part.

Code memory is writable and executable at different addresses (`jitvm/engine/code_memory.py`).  It is emptied together with
all translations (`blocks.forget_blocks`), also when it is full.  A block that was dropped more than once stays with
handlers: copying code that keeps being rewritten costs more than it gains.
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
    T_STEP,
    T_UOP,
    T_VARIANT,
)
from jitvm.engine.formbits import F_KIND_SHIFT, KIND_CALL, KIND_JCC, VARIANT_SHIFT
from jitvm.engine.gate import PAD, counter, counting_gate, new_pad, open_gate
from jitvm.engine.gather import gather
from jitvm.engine.layout import OPT_COUNT, UOP_SIZE
from jitvm.engine.layout import WHY_STENCIL as WHY_STENCIL_
from jitvm.engine.layout import at as at_
from jitvm.engine.translate import O_DISP, O_EIP, O_IMM, O_REST, SKIPPED, code_of, decode_block, plan_block
from jitvm.isa.host import peek, poke
from jitvm.isa.memory import code_linear, is_code
from jitvm.isa.state import OK
from jitvm.isa.words import W0, W1, W2, W3, W4, W6, W7, W8, W12, W16, W24, W32, sext, u64

WHY_STENCIL = u64(WHY_STENCIL_)
STENCIL, SEG, SCALE = u64(1 << 40), u64(24), u64(27)
UNCUTTABLE = u64(1)
"""In place of a blob's address: this form has no stencil."""
H_IMM, H_DISP, H_NEXT, H_UOP, H_END, H_D, H_S, H_B, H_I, H_RELATIVE, H_TAKEN = (u64(n) for n in range(11))
NEVER = u64(1 << 62)
"""Count of an entry record whose block stays with handlers."""
COUNT, COPIED_INSNS = u64(OPT_COUNT), u64(at_("stat_copied_insns"))
UOP, MOST, TAIL = u64(UOP_SIZE), u64(512), u64(256)


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


def copy_stencil(c, to, blob, at, record, ends):
    """Copy one stencil to `to` and fill its holes; the address behind it."""
    size = peek(blob, W4)
    n = peek(blob + W4, W2)
    pads = peek(blob + W6, W2)
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
        if kind >= H_TAKEN:
            v += to + size + PAD * ((kind - H_TAKEN) ^ (pads >> W8)) - (to + (h & u64(0xFFF)))
        else:
            v += hole_value(c, kind, at, record, ends)
        poke(to + (h & u64(0xFFF)), (h >> W16) & u64(15), v)
        p += W8
        n -= W1
    to += size
    n = pads & u64(255)
    k = W0
    while k < n:
        to = new_pad(c, to, ends + ((k ^ (pads >> W8)) << W3))
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


def gather_at(c, u, rip, n):
    """`gather`, without code memory; a block that is cut otherwise than it was stays as it is."""
    c.rip = rip
    if n != peek(u + O_REST, W2):
        return W1
    return gather(c, u, n)


def promote(c, u):
    """Give the hot block with entry record u its machine code; 1 when done or impossible, 0: leave (`why`).

    Stencils are missing then, or code memory is full: all translations will be forgotten (`forget`); or the log is full.
    """
    rip = peek(u + O_EIP, W8)
    b = peek(u + O_DISP, W4)
    poke(u + O_IMM, W8, NEVER)
    n = decode_block(c, c.ram + c.block_offset[b], rip, c.block_most)
    if n == W0:
        c.status = OK
        return W1
    count = plan_block(c, n)
    if c.code_end == W0:
        return gather_at(c, u, rip, n)
    full = u64(c.code_next + n * MOST + TAIL > c.code_end)
    if full != W0 or (c.log_end != W0 and c.log_next == c.log_end):
        c.forget = c.forget | full
        return leave_for_stencils(c, u, rip)
    ends = (count + W1) * UOP
    start = c.code_next
    to = start
    if c.region_hot != W0:
        to = counting_gate(to)
        poke(u + O_IMM, W8, c.region_hot)
    else:
        to = open_gate(to)
    count_at = to
    if c.options & COUNT != W0:
        to = counter(to, COPIED_INSNS, n)
    missing = c.n_missing
    whole = W1
    j = W0
    while j < n and whole != W0:
        at = j * T_STEP
        if c.t[at + T_UOP] != SKIPPED:
            key = c.t[at + T_SHAPE] | (c.t[at + T_VARIANT] << VARIANT_SHIFT) | (c.t[at + T_SEG] >> W3 << SEG)
            blob = code_of(c, key | (c.t[at + T_SCALE] << SCALE) | STENCIL)
            form = c.t[at + T_FORM]
            if (form >> F_KIND_SHIFT) & W7 == KIND_CALL and is_code(c, c.t[at + T_IMM]) == W0:
                blob = UNCUTTABLE  # its micro-op is a stub that raises #GP: nothing may be pushed before
            if blob == UNCUTTABLE:
                to = leave_code(to, (c.t[at + T_UOP] + W1) * UOP)
                whole = W0
                if c.options & COUNT != W0:
                    counter(count_at, COPIED_INSNS, j)
            elif blob != W0:
                to = copy_stencil(c, to, blob, at, u, ends)
        j += W1
    if c.n_missing != missing:
        return leave_for_stencils(c, u, rip)
    kind = (c.t[(n - W1) * T_STEP + T_FORM] >> F_KIND_SHIFT) & W7
    if whole != W0 and kind < KIND_JCC:
        to = new_pad(c, to, ends + UOP)  # behind the micro-op that goes on to the next block
    if c.log_end != W0:
        note_copied(c, start, to - start, rip)
    c.code_next = (to + u64(15)) & ~u64(15)
    c.stat_promoted += W1
    c.stat_code_bytes += to - start
    c.block_code[b] = start
    poke(u, W8, start + c.code_shift)
    return W1

