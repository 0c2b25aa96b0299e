"""IRET.

Source: Intel SDM vol. 2, "IRET/IRETD"; vol. 3, 6.7.1 (NMI), 5.8.6, 20.1.4, 20.2.6 (virtual-8086 mode).

EFLAGS.RF is taken from the image only while DR7 enables a breakpoint, as the next instruction has to run alone to clear it
(jitvm/isa/debug.py).  Otherwise nothing can see it but the image of a trap or an interrupt that comes right behind IRET:
`again_at` sets it there (vol. 3, 17.3.1.1; seen on silicon).
"""

from __future__ import annotations

from jitvm.isa.far import (
    drop,
    jump_plain,
    load_outer,
    load_stack,
    mark_stack,
    return_cs,
    return_ss,
    return_stack,
    stack_word,
)
from jitvm.isa.flags import AC, ARITHMETIC, DF, ID, IF, IOPL, NT, RF, TF, VM
from jitvm.isa.mode import is_protected, read_eflags, update_mode, vme_flags, write_eflags
from jitvm.isa.segment import RPL, go_to, is_outside, load_cs, mark_accessed, set_v86
from jitvm.isa.state import CS, DS, EFER_LMA, ES, FS, GP, GS, JUMP, MODE_CODE64, OK, RSP, SS, fault, retired
from jitvm.isa.task import return_task
from jitvm.isa.vme import virtual_iret
from jitvm.isa.words import M16, M32, W0, W1, W2, W3, W4, W12, u64

ALWAYS = ARITHMETIC | TF | DF | NT | RF
"""What IRET may change at every privilege level, in 16 bits (and RF, which a 16-bit image clears)."""
WIDE = AC | ID
BREAKPOINTS = u64(0xFF)
"""L0-G3 of DR7."""
CPL3 = u64(3)


def returned_flags(c, size, image):
    """EFLAGS after IRET at the current privilege level: what of the image counts (SDM vol. 3, 2.3)."""
    m = ALWAYS
    if size != W2:
        m = m | WIDE
    if c.cpl <= (c.rflags & IOPL) >> W12:
        m = m | IF
    if c.cpl == W0:
        m = m | IOPL
        if size != W2:
            m = m | vme_flags(c)
    if c.dr[7] & BREAKPOINTS == W0:
        if image & RF != W0:
            c.again_at = retired(c) + W1
        image = image & ~RF
    return (read_eflags(c) & ~m) | (image & m)


def iret_plain(c, size, rip, cs, image):
    """In real mode, and in virtual-8086 mode with IOPL 3."""
    if rip > c.limit[CS]:
        return fault(c, GP, W0)
    write_eflags(c, returned_flags(c, size, image))
    drop(c, W3 * size)
    return jump_plain(c, cs, rip)


def iret_same(c, size, rip, cs, image, d):
    """At the current privilege level."""
    if is_outside(c, d, rip) != W0:
        return fault(c, GP, W0)
    if mark_accessed(c, cs, d) != OK:
        return c.status
    write_eflags(c, returned_flags(c, size, image))
    drop(c, W3 * size)
    load_cs(c, cs, d, c.cpl)
    return go_to(c, rip)


def iret_outer(c, size, rip, cs, image, d):
    """To an outer privilege level; the flags count by the inner one."""
    sp = stack_word(c, W3 * size, size)
    ss = stack_word(c, W4 * size, size) & M16
    if c.status != OK:
        return c.status
    sd = return_ss(c, ss, cs & RPL)
    if c.status != OK:
        return c.status
    if is_outside(c, d, rip) != W0:
        return fault(c, GP, W0)
    if mark_accessed(c, cs, d) != OK or mark_accessed(c, ss, sd) != OK:
        return c.status
    write_eflags(c, returned_flags(c, size, image))
    load_outer(c, cs, d, ss, sd, sp)
    c.rip = rip
    return JUMP


def iret_v86(c, rip, cs, image):
    """To virtual-8086 mode (SDM vol. 3, 20.2.6): nine doublewords, all of EFLAGS."""
    sp = stack_word(c, u64(12), W4)
    ss = stack_word(c, u64(16), W4)
    es = stack_word(c, u64(20), W4)
    ds = stack_word(c, u64(24), W4)
    fs = stack_word(c, u64(28), W4)
    gs = stack_word(c, u64(32), W4)
    if c.status != OK:
        return c.status
    if rip > M16:
        return fault(c, GP, W0)
    write_eflags(c, returned_flags(c, W4, image) | VM)
    c.cpl = CPL3
    set_v86(c, CS, cs)
    set_v86(c, SS, ss & M16)
    set_v86(c, ES, es & M16)
    set_v86(c, DS, ds & M16)
    set_v86(c, FS, fs & M16)
    set_v86(c, GS, gs & M16)
    c.gpr[RSP] = sp & M32
    update_mode(c)
    c.rip = rip
    return JUMP


def iret_long(c, size):
    """In long mode: 64-bit code always pops SS and RSP, and a null SS will do for 64-bit code below level 3."""
    rip = stack_word(c, W0, size)
    cs = stack_word(c, size, size) & M16
    image = stack_word(c, W2 * size, size)
    if c.status != OK:
        return c.status
    d = return_cs(c, cs)
    if c.status != OK:
        return c.status
    outer = u64(cs & RPL != c.cpl)
    if c.mode & MODE_CODE64 == W0 and outer == W0:
        return iret_same(c, size, rip, cs, image, d)
    sp = stack_word(c, W3 * size, size)
    ss = stack_word(c, W4 * size, size) & M16
    if c.status != OK:
        return c.status
    sd = return_stack(c, ss, cs, d)
    if c.status != OK:
        return c.status
    if is_outside(c, d, rip) != W0:
        return fault(c, GP, W0)
    if mark_accessed(c, cs, d) != OK or mark_stack(c, ss, sd) != OK:
        return c.status
    write_eflags(c, returned_flags(c, size, image))
    if outer != W0:
        load_outer(c, cs, d, ss, sd, sp)
    else:
        load_stack(c, cs, d, ss, sd, sp)
    return go_to(c, rip)


def iret(c, size):
    """IRET, IRETD.  NMIs are open again even if it faults (SDM vol. 3, 6.7.1)."""
    if c.rflags & VM != W0:
        if c.rflags & IOPL != IOPL:
            c.nmi_blocked = W0
            return virtual_iret(c, size)
    elif is_protected(c) != W0 and c.rflags & NT != W0:
        c.nmi_blocked = W0
        return return_task(c)
    c.nmi_blocked = W0
    if c.efer & EFER_LMA != W0:
        return iret_long(c, size)
    rip = stack_word(c, W0, size)
    cs = stack_word(c, size, size) & M16
    image = stack_word(c, W2 * size, size)
    if c.status != OK:
        return c.status
    if is_protected(c) == W0:
        return iret_plain(c, size, rip, cs, image)
    if image & VM != W0 and c.cpl == W0:
        return iret_v86(c, rip, cs, image)
    d = return_cs(c, cs)
    if c.status != OK:
        return c.status
    if cs & RPL == c.cpl:
        return iret_same(c, size, rip, cs, image, d)
    return iret_outer(c, size, rip, cs, image, d)
