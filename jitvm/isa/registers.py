"""General registers by number and size, as out-of-line semantics use them.

A 32-bit write clears the upper half (Intel SDM vol. 1, 3.4.1.1); 8- and 16-bit writes keep the rest.
"""

from __future__ import annotations

from jitvm.isa.state import RSP
from jitvm.isa.words import M16, M32, W4, cut, mask, u64


def get_reg(c, reg, size):
    """Low `size` bytes of register `reg` (never AH..BH)."""
    return cut(size, c.gpr[reg])


def set_reg(c, reg, size, v):
    """Write the low `size` bytes of register `reg` (never AH..BH)."""
    if size >= W4:
        c.gpr[reg] = cut(size, v)
    else:
        m = mask(size)
        c.gpr[reg] = (c.gpr[reg] & ~m) | (v & m)
    return u64(0)


def stack_mask(c):
    """Ones as wide as the stack pointer: SS.B decides outside 64-bit mode."""
    if c.mode & u64(2):
        return ~u64(0)
    if c.attr[2] & u64(0x4000):
        return M32
    return M16


def set_sp(c, sp):
    """Write SP, ESP or RSP by the stack size; SP keeps the upper bits."""
    m = stack_mask(c)
    if m == M16:
        c.gpr[RSP] = (c.gpr[RSP] & ~M16) | (sp & M16)
    else:
        c.gpr[RSP] = sp & m
    return u64(0)


def cut_sp(c, v):
    """`v` cut to the stack size."""
    return v & stack_mask(c)


