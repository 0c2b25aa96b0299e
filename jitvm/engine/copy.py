"""Hot blocks as machine code: stencils copied one behind the other, natively.

Each block begins with an entry record that counts its executions.  When the count is used up, `promote` decodes the block
again, copies its stencils into code memory and puts the address into the entry record.  The micro-ops stay: a stencil
that misses goes on in its instruction's handler, and what has no stencil ends the copied part.

Code memory is writable and executable at different addresses (`jitvm/engine/code_memory.py`).  It is emptied together with
all translations (`blocks.forget_blocks`), also when it is full.  A block that was dropped more than once stays with
handlers: copying code that keeps being rewritten costs more than it gains.
"""

from __future__ import annotations

from jitvm.engine.decode import T_FORM, T_STEP, T_UOP
from jitvm.engine.formbits import F_KIND_SHIFT, KIND_JCC
from jitvm.engine.gate import H_HOT, H_PIN, counting_gate, new_pad, open_gate
from jitvm.engine.gather import gather
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
from jitvm.engine.translate import O_DISP, O_EIP, O_IMM, SKIPPED, code_of, plan_block
from jitvm.isa.host import peek, poke
from jitvm.isa.words import W0, W1, W4, W7, W8, u64

MOST, TAIL = u64(512), u64(256)


def promote(c, u):
    """Give the hot block with entry record u its machine code; 1 when done or impossible, 0: leave (`why`).

    Stencils are missing then, or there is no room (`has_no_room`).
    """
    rip = peek(u + O_EIP, W8)
    poke(u + O_IMM, W8, NEVER)
    n = decode_again(c, peek(u + O_DISP, W4))
    if n == W0:
        return W1
    ends = (plan_block(c, n) + W1) * UOP
    if c.code_end == W0:
        c.rip = rip
        return gather(c, u, n)
    if has_no_room(c, n * MOST + TAIL) != W0:
        return leave_for_stencils(c, u, rip)
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
    to = count_copied(c, to, n)
    missing = c.n_missing
    whole = W1
    j = W0
    while j < n and whole != W0:
        at = j * T_STEP
        if c.t[at + T_UOP] != SKIPPED:
            blob = code_of(c, plain_key(c, at) | STENCIL)
            if is_stub(c, at) != W0:
                blob = UNCUTTABLE
            if blob == UNCUTTABLE:
                to = leave_code(to, (c.t[at + T_UOP] + W1) * UOP)
                whole = W0
                count_copied(c, count_at, j)
            elif blob != W0:
                to = copy_stencil(c, to, blob, at, u, ends, W0)
        j += W1
    if c.n_missing != missing:
        return leave_for_stencils(c, u, rip)
    kind = (c.t[(n - W1) * T_STEP + T_FORM] >> F_KIND_SHIFT) & W7
    if whole != W0 and kind < KIND_JCC:
        to = new_pad(c, to, ends + UOP)  # behind the micro-op that goes on to the next block
    keep_code(c, start, to, rip)
    c.stat_promoted += W1
    c.block_code[peek(u + O_DISP, W4)] = start
    poke(u, W8, start + c.code_shift)
    return W1
