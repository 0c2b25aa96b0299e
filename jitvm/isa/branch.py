"""Loop conditions: whether the branch is taken, 1 or 0.

`asize`, the address size, decides between CX, ECX and RCX.  No flags, no faults; the stitcher makes the jump.

Source: Intel SDM vol. 2, LOOP/LOOPcc, Jcc (JCXZ, JECXZ, JRCXZ).
"""

from __future__ import annotations

from jitvm.isa.flags import get_zf
from jitvm.isa.registers import get_reg, set_reg
from jitvm.isa.state import RCX
from jitvm.isa.words import W0, W1, cut, u64


def loop_(c, asize):
    """Count down (E)CX; taken while it is not 0."""
    count = cut(asize, c.gpr[RCX] - W1)
    set_reg(c, RCX, asize, count)
    return u64(count != W0)


def loope(c, asize):
    """Count down (E)CX; taken while it is not 0 and ZF is set."""
    return loop_(c, asize) & get_zf(c.lazy)


def loopne(c, asize):
    """Count down (E)CX; taken while it is not 0 and ZF is clear."""
    return loop_(c, asize) & (get_zf(c.lazy) ^ W1)


def jcxz(c, asize):
    """Taken when (E)CX is 0."""
    return u64(get_reg(c, RCX, asize) == W0)
