"""Fast system calls: SYSENTER, SYSEXIT, SYSCALL, SYSRET, SWAPGS, the bases of FS and GS, and the MSRs that belong to them.

They load CS and SS with fixed descriptors, without a look at a table.

Source: Intel SDM vol. 2, the instructions; vol. 3, 5.8.7 (SYSENTER, SYSEXIT), 5.8.8 (SYSCALL, SYSRET, SWAPGS); vol. 4, 2.1.

Intel's processors have SYSCALL and SYSRET in 64-bit mode alone, and SYSRET checks RCX before the privilege level changes.
Whether a single-step trap follows them is up to the TF that they leave, not the one that they found: a kernel that masks TF
does not trap at its entry, and a program that is stepped over a system call traps behind it (AMD manual vol. 2, 13.1.4;
Linux relies on it, entry_64.S, and kvm-unit-tests asserts it on hardware).
"""

from __future__ import annotations

from jitvm.isa.control import set_efer
from jitvm.isa.cpuid import FEATURE_LM, FEATURE_NX, FEATURE_RDTSCP, FEATURE_SEP, FEATURE_SYSCALL
from jitvm.isa.flags import IF, RESERVED, RF, TF, VM
from jitvm.isa.memory import is_canonical
from jitvm.isa.mode import check_privilege, go_on, read_eflags, update_mode, write_eflags
from jitvm.isa.registers import set_reg
from jitvm.isa.segment import NOT_RPL
from jitvm.isa.state import (
    CR0_PE,
    CR4_FSGSBASE,
    CS,
    EFER_LMA,
    EFER_SCE,
    FS,
    GP,
    GS,
    JUMP,
    MODE_CODE64,
    OK,
    RCX,
    RDX,
    RSP,
    SS,
    TRAP_STEP,
    UD,
    fault,
    fault0,
)
from jitvm.isa.words import M16, M32, W0, W8, W16, W32, cut, u64

R11 = u64(11)
SYSENTER_CS, SYSENTER_ESP, SYSENTER_EIP = u64(0x174), u64(0x175), u64(0x176)
EFER, STAR, LSTAR, CSTAR, FMASK = (u64(n) for n in range(0xC000_0080, 0xC000_0085))
FS_BASE, GS_BASE, KERNEL_GS_BASE, TSC_AUX = (u64(n) for n in range(0xC000_0100, 0xC000_0104))
CODE_32, CODE_64, STACK = u64(0xC09B), u64(0xA09B), u64(0xC093)
"""Attributes of the flat segments, DPL 0."""
DPL_3, CPL3 = u64(0x60), u64(3)
SYSRET_FLAGS = u64(0x3C_7FD7)
W48 = u64(48)


def set_call_segments(c, cs, ss, code, dpl):
    """Flat CS and SS with the selectors given, at the privilege level that the attribute bits `dpl` say."""
    rpl = dpl >> u64(5)
    c.sel[CS] = (cs & NOT_RPL) | rpl
    c.base[CS] = W0
    c.limit[CS] = M32
    c.attr[CS] = code | dpl
    c.sel[SS] = (ss & NOT_RPL) | rpl
    c.base[SS] = W0
    c.limit[SS] = M32
    c.attr[SS] = STACK | dpl
    c.cpl = rpl
    return update_mode(c)


# ---- SYSENTER, SYSEXIT ----------------------------------------------------------------------------------------------
def may_use_sysenter(c):
    """Status: #GP(0) outside protected mode, and while IA32_SYSENTER_CS names no segment."""
    if c.cr0 & CR0_PE == W0 or c.msr_sysenter_cs & NOT_RPL == W0:
        return fault(c, GP, W0)
    return OK


def sysenter(c):
    """SYSENTER: to privilege level 0, in long mode to 64-bit mode; nothing is saved."""
    if may_use_sysenter(c) != OK:
        return c.status
    cs = c.msr_sysenter_cs & M16
    c.rflags = c.rflags & ~(VM | IF | RF)
    if c.efer & EFER_LMA != W0:
        set_call_segments(c, cs, cs + W8, CODE_64, W0)
        c.gpr[RSP] = c.msr_sysenter_esp
        c.rip = c.msr_sysenter_eip
    else:
        set_call_segments(c, cs, cs + W8, CODE_32, W0)
        c.gpr[RSP] = c.msr_sysenter_esp & M32
        c.rip = c.msr_sysenter_eip & M32
    return JUMP


def sysexit(c, size):
    """SYSEXIT: to privilege level 3, RIP from RDX and RSP from RCX; with REX.W to 64-bit mode."""
    if may_use_sysenter(c) != OK or check_privilege(c) != OK:
        return c.status
    cs = c.msr_sysenter_cs & M16
    rip, rsp = c.gpr[RDX], c.gpr[RCX]
    if size == W8:
        if is_canonical(rip) & is_canonical(rsp) == W0:
            return fault(c, GP, W0)
        set_call_segments(c, cs + W32, cs + u64(40), CODE_64, DPL_3)
        c.gpr[RSP] = rsp
        c.rip = rip
    else:
        set_call_segments(c, cs + W16, cs + u64(24), CODE_32, DPL_3)
        c.gpr[RSP] = rsp & M32
        c.rip = rip & M32
    return JUMP


# ---- SYSCALL, SYSRET ------------------------------------------------------------------------------------------------
def may_use_syscall(c):
    """Status: #UD outside 64-bit mode and while EFER.SCE is 0."""
    if c.mode & MODE_CODE64 == W0 or c.efer & EFER_SCE == W0:
        return fault0(c, UD)
    return OK


def step_by_new_flags(c):
    """The single-step trap behind SYSCALL and SYSRET: by TF as it is now."""
    c.step_armed = c.step_armed & ~TRAP_STEP
    if c.rflags & TF != W0:
        c.step_armed = c.step_armed | TRAP_STEP
    return JUMP


def syscall(c):
    """SYSCALL: to privilege level 0; RIP goes to RCX and RFLAGS to R11."""
    if may_use_syscall(c) != OK:
        return c.status
    flags = read_eflags(c)
    c.gpr[RCX] = c.next_rip
    c.gpr[R11] = flags
    cs = (c.msr_star >> W32) & M16
    write_eflags(c, flags & ~c.msr_fmask & ~RF)
    set_call_segments(c, cs, cs + W8, CODE_64, W0)
    c.rip = c.msr_lstar
    return step_by_new_flags(c)


def sysret(c, size):
    """SYSRET: to privilege level 3, RIP from RCX and RFLAGS from R11; with REX.W to 64-bit mode, else to 32-bit code."""
    if may_use_syscall(c) != OK or check_privilege(c) != OK:
        return c.status
    rip = c.gpr[RCX]
    if size == W8 and is_canonical(rip) == W0:
        return fault(c, GP, W0)
    cs = (c.msr_star >> W48) & M16
    write_eflags(c, (c.gpr[R11] & SYSRET_FLAGS) | RESERVED)
    if size == W8:
        set_call_segments(c, cs + W16, cs + W8, CODE_64, DPL_3)
        c.rip = rip
    else:
        set_call_segments(c, cs, cs + W8, CODE_32, DPL_3)
        c.rip = rip & M32
    return step_by_new_flags(c)


def swapgs(c):
    """SWAPGS: GS.base and IA32_KERNEL_GS_BASE change places; #UD outside 64-bit mode."""
    if c.mode & MODE_CODE64 == W0:
        return fault0(c, UD)
    if check_privilege(c) != OK:
        return c.status
    base = c.base[GS]
    c.base[GS] = c.msr_kernel_gs_base
    c.msr_kernel_gs_base = base
    return go_on(c)


# ---- FS.base and GS.base --------------------------------------------------------------------------------------------
def may_use_bases(c):
    """Status: #UD outside 64-bit mode and while CR4.FSGSBASE is 0."""
    if c.mode & MODE_CODE64 == W0 or c.cr4 & CR4_FSGSBASE == W0:
        return fault0(c, UD)
    return OK


def read_base(c, size, reg, seg):
    """A segment's base to a general register; status."""
    if may_use_bases(c) != OK:
        return c.status
    set_reg(c, reg, size, cut(size, c.base[seg]))
    return OK


def write_base(c, seg, v):
    """A segment's base: #GP(0) when it is not canonical; status."""
    if may_use_bases(c) != OK:
        return c.status
    if is_canonical(v) == W0:
        return fault(c, GP, W0)
    c.base[seg] = v
    return go_on(c)


def rdfsbase(c, size, reg):
    """RDFSBASE."""
    return read_base(c, size, reg, FS)


def rdgsbase(c, size, reg):
    """RDGSBASE."""
    return read_base(c, size, reg, GS)


def wrfsbase(c, a):
    """WRFSBASE; 32 bits are zero-extended."""
    return write_base(c, FS, a)


def wrgsbase(c, a):
    """WRGSBASE; 32 bits are zero-extended."""
    return write_base(c, GS, a)


# ---- MSRs -----------------------------------------------------------------------------------------------------------
def is_call_msr(c, n):
    """1 when MSR `n` is one of these, and announced."""
    f = c.features[2]
    if n >= SYSENTER_CS and n <= SYSENTER_EIP:
        return u64(c.features[0] & FEATURE_SEP != W0)
    if n == EFER:
        return u64(f & (FEATURE_SYSCALL | FEATURE_LM | FEATURE_NX) != W0)
    if n >= STAR and n <= FMASK:
        return u64(f & FEATURE_SYSCALL != W0)
    if n >= FS_BASE and n <= KERNEL_GS_BASE:
        return u64(f & FEATURE_LM != W0)
    if n == TSC_AUX:
        return u64(f & FEATURE_RDTSCP != W0)
    return W0


def read_call_msr(c, n):
    """Value of such an MSR."""
    v = c.efer
    if n == SYSENTER_CS:
        v = c.msr_sysenter_cs
    elif n == SYSENTER_ESP:
        v = c.msr_sysenter_esp
    elif n == SYSENTER_EIP:
        v = c.msr_sysenter_eip
    elif n == STAR:
        v = c.msr_star
    elif n == LSTAR:
        v = c.msr_lstar
    elif n == CSTAR:
        v = c.msr_cstar
    elif n == FMASK:
        v = c.msr_fmask
    elif n == FS_BASE:
        v = c.base[FS]
    elif n == GS_BASE:
        v = c.base[GS]
    elif n == KERNEL_GS_BASE:
        v = c.msr_kernel_gs_base
    elif n == TSC_AUX:
        v = c.msr_tsc_aux
    return v


def is_address_msr(n):
    """1 for those that hold a linear address."""
    return (
        u64(n == SYSENTER_ESP) | u64(n == SYSENTER_EIP) | u64(n == LSTAR) | u64(n == CSTAR)
        | (u64(n >= FS_BASE) & u64(n <= KERNEL_GS_BASE))
    )


def write_call_msr(c, n, v):
    """Write such an MSR: #GP(0) for an address that is not canonical, and for reserved bits; status."""
    if n == EFER:
        return set_efer(c, v)
    if is_address_msr(n) != W0 and is_canonical(v) == W0:
        return fault(c, GP, W0)
    if (n == FMASK or n == TSC_AUX) and v > M32:
        return fault(c, GP, W0)
    if n == SYSENTER_CS:
        c.msr_sysenter_cs = v
    elif n == SYSENTER_ESP:
        c.msr_sysenter_esp = v
    elif n == SYSENTER_EIP:
        c.msr_sysenter_eip = v
    elif n == STAR:
        c.msr_star = v
    elif n == LSTAR:
        c.msr_lstar = v
    elif n == CSTAR:
        c.msr_cstar = v
    elif n == FMASK:
        c.msr_fmask = v
    elif n == FS_BASE:
        c.base[FS] = v
    elif n == GS_BASE:
        c.base[GS] = v
    elif n == KERNEL_GS_BASE:
        c.msr_kernel_gs_base = v
    else:
        c.msr_tsc_aux = v
    return OK
