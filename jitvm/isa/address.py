"""Effective addresses, stack slots and register exchange: the small arithmetic around operands.

Source: Intel SDM vol. 1, 3.7.5 (offset = base + index * scale + displacement, modulo the address size), 6.2 (stack).
"""

from __future__ import annotations

from jitvm.isa.words import M16, W2, cut


def effective(asize, base, index, scale, disp):
    """Offset of a memory operand; `scale` is the shift count 0..3."""
    return cut(asize, base + (index << scale) + disp)


def xlat_address(asize, base, al):
    """Offset of XLAT's byte: (E)BX + AL."""
    return cut(asize, base + al)


def lea(size, off):
    """LEA: the offset itself, cut or zero-extended to the operand size."""
    return cut(size, off)


def below(ssize, sp, size):
    """Stack pointer after a push of `size` bytes."""
    return cut(ssize, sp - size)


def above(ssize, sp, size):
    """Stack pointer after a pop of `size` bytes."""
    return cut(ssize, sp + size)


def popped(is_stack, n):
    """What POP adds to the base of its memory operand: `n` when the base is the stack pointer."""
    return n * is_stack


def xchg(f, a, b):
    """XCHG: the new destination; the old one in `f.hi`."""
    f.hi = a
    return b


def near(size, target):
    """EIP of a near transfer: a 16-bit operand size clears the upper half."""
    if size == W2:
        return target & M16
    return target
