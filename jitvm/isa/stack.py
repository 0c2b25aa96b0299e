"""PUSHA, POPA and ENTER: the instructions that use several stack slots.

Each checks all its slots before it changes the first, so that an exit (and a fault, but for POPA) starts it again from the
old state.

Source: Intel SDM vol. 2, PUSHA, POPA, ENTER; vol. 1, 6.5.

Not modelled: when an outer frame's slots are MMIO, ENTER reads them twice (once to see whether they can be read).
"""

from __future__ import annotations

from jitvm.isa.memory import host_run, load, probe_store, push_at
from jitvm.isa.registers import cut_sp, get_reg, set_reg, set_sp, stack_mask
from jitvm.isa.state import FAULT, OK, RBP, RSP, SS
from jitvm.isa.words import M16, W0, W1, W3, W7, W8, W31, cut

SKIPPED = W3
"""The slot of SP among those of POPA."""


def probe_slots(c, sp, size, n):
    """Status: may `n` slots below `sp` be written?"""
    k = W1
    while k <= n:
        if probe_store(c, SS, cut_sp(c, sp - k * size), size) != OK:
            return c.status
        k = k + W1
    return OK


def pusha(c, size):
    """PUSHA, PUSHAD: AX, CX, DX, BX, the old SP, BP, SI, DI."""
    sp = c.gpr[RSP]
    if probe_slots(c, sp, size, W8) != OK:
        return c.status
    k = W0
    while k < W8:
        if push_at(c, cut_sp(c, sp - (k + W1) * size), size, get_reg(c, k, size)) != OK:
            return c.status
        k = k + W1
    set_sp(c, sp - W8 * size)
    return OK


def popa(c, size):
    """POPA, POPAD: DI, SI, BP, a slot that is skipped, BX, DX, CX, AX; collected in the scratch words `io_data`.

    A fault leaves the registers before it popped, and SP where it was (measured on silicon).
    """
    sp, n = c.gpr[RSP], W0
    while n < W8:
        if n != SKIPPED:
            v = load(c, SS, cut_sp(c, sp + n * size), size)
            if c.status != OK:
                break
            c.io_data[n] = v
        n = n + W1
    if c.status != OK and c.status != FAULT:
        return c.status
    k = W0
    while k < n:
        if k != SKIPPED:
            set_reg(c, W7 - k, size, c.io_data[k])
        k = k + W1
    if c.status == OK:
        set_sp(c, sp + W8 * size)
    return c.status


def probe_frame(c, size, k):
    """Status: can the frame pointer `k` slots below BP be read?"""
    off = cut_sp(c, c.gpr[RBP] - k * size)
    if host_run(c, SS, off, size, W0) == W0:
        load(c, SS, off, size)
    return c.status


def probe_enter(c, size, level):
    """Status: can the outer frame pointers be read and all slots written?  In the order in which ENTER does it."""
    sp = c.gpr[RSP]
    k = W1
    while k <= level + W1:
        if k > W1 and k <= level and probe_frame(c, size, k - W1) != OK:
            return c.status
        if probe_store(c, SS, cut_sp(c, sp - k * size), size) != OK:
            return c.status
        k = k + W1
    return OK


def push_frames(c, sp, size, level):
    """Copy `level` - 1 frame pointers from below BP to below `sp`; status."""
    k = W1
    while k < level:
        v = load(c, SS, cut_sp(c, c.gpr[RBP] - k * size), size)
        if c.status != OK:
            return c.status
        if push_at(c, cut_sp(c, sp - k * size), size, v) != OK:
            return c.status
        k = k + W1
    return OK


def enter(c, size, imm, imm2):
    """ENTER: `imm` bytes of locals, nesting level `imm2` modulo 32.

    The frame pointer has the operand's size, whatever the stack's, and is ESP behind the push, whose upper half a push on a
    16-bit stack leaves, at SP = 0 as well: so the manual (vol. 2, ENTER: FrameTemp), an 80386 by the ROM test386, and Bochs.
    Newer silicon borrows from the upper half there, which tests/oracle/compare.py leaves out.
    """
    level, sp = imm2 & W31, c.gpr[RSP]
    frame = (sp & ~stack_mask(c)) | cut_sp(c, sp - size)
    slots = W1 + level
    bottom = sp - slots * size - (imm & M16)
    if probe_enter(c, size, level) != OK or probe_store(c, SS, cut_sp(c, bottom), size) != OK:
        return c.status
    if push_at(c, cut_sp(c, frame), size, get_reg(c, RBP, size)) != OK:
        return c.status
    if level != W0:
        if push_frames(c, frame, size, level) != OK:
            return c.status
        if push_at(c, cut_sp(c, frame - level * size), size, cut(size, frame)) != OK:
            return c.status
    set_sp(c, bottom)
    set_reg(c, RBP, size, frame)
    return OK
