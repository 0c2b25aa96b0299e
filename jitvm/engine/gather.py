"""Hot blocks whose handlers are groups (`jitvm/engine/group.py`), natively; for hosts and runs without stencils.

Each block begins with an entry record that counts its executions.  When the count is used up, `gather` decodes the block
again and gives the entry record, and every third micro-op behind it, the handler of as many instructions.
"""

from __future__ import annotations

from jitvm.engine.decode import T_FORM, T_IMM, T_SHAPE, T_STEP, T_UOP, T_VARIANT
from jitvm.engine.formbits import F_GROUP, F_KIND_SHIFT, KIND_CALL, VARIANT_SHIFT
from jitvm.engine.layout import GROUP_BIT, MEMBERS, UOP_SIZE
from jitvm.engine.layout import MEMBER_BITS as MEMBER_BITS_
from jitvm.engine.layout import WHY_HANDLER as WHY_HANDLER_
from jitvm.engine.translate import O_IMM, SKIPPED, code_of
from jitvm.isa.host import poke
from jitvm.isa.memory import is_code
from jitvm.isa.words import W0, W1, W7, W8, u64

WHY_HANDLER = u64(WHY_HANDLER_)
GROUP, MEMBER_BITS, MOST = u64(1 << GROUP_BIT), u64(MEMBER_BITS_), u64(MEMBERS)
UOP = u64(UOP_SIZE)


def member_of(c, at):
    """The member that instruction t[at...] may be, 0: none."""
    form = c.t[at + T_FORM]
    if form & F_GROUP == W0:
        return W0
    if (form >> F_KIND_SHIFT) & W7 == KIND_CALL and is_code(c, c.t[at + T_IMM]) == W0:
        return W0  # its micro-op is a stub that raises #GP
    return c.t[at + T_SHAPE] | (c.t[at + T_VARIANT] << VARIANT_SHIFT)


def use_group(c, u, key, count, put):
    """The handler of a group's `count` members: `put` it into the micro-op at u, or ask for it.  One member has its own."""
    if count > W1:
        address = code_of(c, key)
        if put != W0 and address != W0:
            poke(u, W8, address)
    return W0


def walk(c, u, n, put):
    """All groups of the block with entry record u, of the n instructions in t; the entry record is the first's beginning."""
    first, key, count = u, GROUP, W1
    j = W0
    while j < n:
        at = j * T_STEP
        if c.t[at + T_UOP] != SKIPPED:
            here = u + (c.t[at + T_UOP] + W1) * UOP
            member = member_of(c, at)
            if member == W0 or count == MOST:
                use_group(c, first, key, count, put)
                key, count = GROUP, W0
            if member != W0:
                if count == W0:
                    first = here
                key |= member << (MEMBER_BITS * count)
                count += W1
        j += W1
    return use_group(c, first, key, count, put)


def gather(c, u, n):
    """Give the block with entry record u, of the n instructions in t, its groups; 0: handlers are missing (`why`).

    Until all are there the entry record stays as it is, and asks again at the next execution.
    """
    missing = c.n_missing
    walk(c, u, n, W0)
    if c.n_missing != missing:
        poke(u + O_IMM, W8, W1)
        c.why = WHY_HANDLER
        return W0
    walk(c, u, n, W1)
    return W1
