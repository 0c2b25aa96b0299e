"""Hot blocks as machine code: stencils copied one behind the other, natively.

Each block begins with an entry record that counts its executions.  When the count is used up, `promote` decodes the block
again, copies its stencils into code memory and puts the address into the entry record.  The micro-ops stay: a stencil
that misses goes on in its instruction's handler, and what has no stencil ends the copied part.

Code memory is writable and executable at different addresses (`jitvm/engine/code_memory.py`).  It is emptied together with
all translations (`blocks.forget_blocks`), also when it is full.  A block that was dropped more than once stays with
handlers: copying code that keeps being rewritten costs more than it gains.
"""

from __future__ import annotations

from jitvm.engine.decode import T_FORM, T_IMM, T_SCALE, T_SEG, T_SHAPE, T_STEP, T_UOP, T_VARIANT
from jitvm.engine.formbits import F_KIND_SHIFT, KIND_CALL, KIND_JCC, VARIANT_SHIFT
from jitvm.engine.gate import H_HOT, H_PIN, counter, counting_gate, new_pad, open_gate
from jitvm.engine.gather import gather
from jitvm.engine.layout import OPT_COUNT
from jitvm.engine.layout import at as at_
from jitvm.engine.paste import (
    SCALE,
    SEG,
    STENCIL,
    UNCUTTABLE,
    UOP,
    copy_stencil,
    leave_code,
    leave_for_stencils,
    note_copied,
)
from jitvm.engine.translate import O_DISP, O_EIP, O_IMM, O_REST, SKIPPED, code_of, decode_block, plan_block
from jitvm.isa.host import peek, poke
from jitvm.isa.memory import is_code
from jitvm.isa.state import OK
from jitvm.isa.words import W0, W1, W2, W3, W4, W7, W8, u64

NEVER = u64(1 << 62)
"""Count of an entry record whose block stays with handlers."""
COUNT, COPIED_INSNS = u64(OPT_COUNT), u64(at_("stat_copied_insns"))
MOST, TAIL = u64(512), u64(256)


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
        to = counting_gate(to, H_HOT)
        poke(u + O_IMM, W8, c.region_hot)
    elif c.pin_hot != W0:
        to = counting_gate(to, H_PIN)
        poke(u + O_IMM, W8, c.pin_hot)
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
                to = copy_stencil(c, to, blob, at, u, ends, W0)
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
