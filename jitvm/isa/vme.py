"""Virtual interrupts: virtual-8086 mode extensions (CR4.VME) and protected-mode virtual interrupts (CR4.PVI).

With IOPL below 3, CLI, STI and the 16-bit PUSHF, POPF and IRET of a virtual-8086 program work on VIF in place of IF; in
protected mode at level 3 CLI and STI do.  A program that would set VIF while VIP is set comes to the monitor by #GP(0).
INT n looks into the redirection bitmap, 32 bytes below the I/O map of a 32-bit TSS: a clear bit leads to the program's own
handler by the vector table at linear address 0.

Source: Intel SDM vol. 3, 20.3 (table 20-2: methods 1 to 6), 20.4; vol. 2, CLI, STI, PUSHF, POPF, IRET, INT n.
"""

from __future__ import annotations

from jitvm.isa.far import drop, jump_plain, stack_word
from jitvm.isa.flags import ARITHMETIC, DF, IF, IOPL, NT, TF, VIF, VIP, VM, put_flags
from jitvm.isa.io import IO_MAP_BASE, TSS_32, TSS_KIND
from jitvm.isa.memory import load_system
from jitvm.isa.mode import read_eflags
from jitvm.isa.registers import cut_sp, set_sp
from jitvm.isa.segment import load_cs_plain
from jitvm.isa.state import CR4_PVI, CR4_VME, CS, GP, JUMP, OK, RSP, TR, fault
from jitvm.isa.tss import probe_push, push
from jitvm.isa.words import M16, W0, W1, W2, W3, W4, W7, W16, u64

BITMAP_SIZE = u64(32)
LOW_FLAGS = TF | DF | NT
"""Of the low half of EFLAGS, what a program with virtual interrupts changes, besides the arithmetic flags."""


# ---- CLI and STI ----------------------------------------------------------------------------------------------------
def is_virtual(c):
    """1 when CLI and STI, for which IOPL is too low, change VIF."""
    if c.rflags & VM != W0:
        return u64(c.cr4 & CR4_VME != W0)
    return u64(c.cpl == W3 and c.cr4 & CR4_PVI != W0)


def virtual_cli(c):
    """CLI where IOPL is too low."""
    if is_virtual(c) == W0:
        return fault(c, GP, W0)
    c.rflags = c.rflags & ~VIF
    return OK


def virtual_sti(c):
    """STI where IOPL is too low."""
    if is_virtual(c) == W0 or c.rflags & VIP != W0:
        return fault(c, GP, W0)
    c.rflags = c.rflags | VIF
    return OK


# ---- the flags of a virtual-8086 program with IOPL below 3 ------------------------------------------------------------
def check_virtual_flags(c, size):
    """Status: PUSHF, POPF and IRET need VME, and exist in 16 bits only."""
    if size != W2 or c.cr4 & CR4_VME == W0:
        return fault(c, GP, W0)
    return OK


def virtual_image(c):
    """FLAGS as the program sees them: VIF in place of IF, IOPL 3."""
    v = (read_eflags(c) & M16 & ~IF) | IOPL
    if c.rflags & VIF != W0:
        v = v | IF
    return v


def check_virtual_image(c, v):
    """Status: FLAGS with TF, or with IF while VIP is set, are the monitor's affair."""
    if v & TF != W0 or (v & IF != W0 and c.rflags & VIP != W0):
        return fault(c, GP, W0)
    return OK


def set_virtual_flags(c, v):
    """FLAGS from an image: IF goes to VIF, IOPL stays."""
    flags = (c.rflags & ~(LOW_FLAGS | VIF)) | (v & LOW_FLAGS)
    if v & IF != W0:
        flags = flags | VIF
    c.rflags = flags & ~ARITHMETIC
    return put_flags(c.lazy, v)


def virtual_iret(c, size):
    """IRET of a virtual-8086 program with IOPL below 3."""
    if check_virtual_flags(c, size) != OK:
        return c.status
    rip = stack_word(c, W0, W2)
    cs = stack_word(c, W2, W2)
    image = stack_word(c, W4, W2)
    if c.status != OK or check_virtual_image(c, image) != OK:
        return c.status
    if rip > c.limit[CS]:
        return fault(c, GP, W0)
    set_virtual_flags(c, image)
    drop(c, u64(6))
    return jump_plain(c, cs, rip)


# ---- INT n ----------------------------------------------------------------------------------------------------------
def is_redirected(c, vector):
    """1 when the bitmap leads INT n to the program's own handler; #GP(0) when the TSS has no bitmap.  c.status."""
    limit = c.limit[TR]
    if c.attr[TR] & TSS_KIND != TSS_32 or limit < IO_MAP_BASE + W1:
        fault(c, GP, W0)
        return W0
    at = load_system(c, c.base[TR] + IO_MAP_BASE, W2)
    if c.status != OK:
        return W0
    if at < BITMAP_SIZE or at - W1 > limit:
        fault(c, GP, W0)
        return W0
    bits = load_system(c, c.base[TR] + at - BITMAP_SIZE + (vector >> W3), W1)
    return u64((bits >> (vector & W7)) & W1 == W0)


def redirect(c, vector):
    """INT n to the program's own handler: methods 5 (IOPL 3) and 6; JUMP or why not."""
    entry = load_system(c, vector * W4, W4)
    if c.status != OK or probe_push(c, W3, W2) != OK:
        return c.status
    image, cleared = virtual_image(c), TF | VIF
    if c.rflags & IOPL == IOPL:
        image, cleared = read_eflags(c), TF | IF
    push(c, W1, W2, image)
    push(c, W2, W2, c.sel[CS])
    if push(c, W3, W2, c.next_rip) != OK:
        return c.status
    set_sp(c, cut_sp(c, c.gpr[RSP] - u64(6)))
    c.rflags = c.rflags & ~cleared
    load_cs_plain(c, entry >> W16)
    c.rip = entry & M16
    return JUMP
