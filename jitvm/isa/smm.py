"""System management mode: the entry by SMI#, and RSM.

The save area is AMD64's, as QEMU lays it out at SMBASE + FE00h (jitvm/isa/smm_save.py).  The handler begins at SMBASE:8000h
in real mode with 4 GiB segments; interrupts and NMI are held off, and while the chipset says so A0000h is RAM for this
CPU alone (`smram`, `smm_window`).

Source: Intel SDM vol. 3, 34.3-34.11; AMD APM vol. 2, 10.2-10.3 (SMM state-save area, AMD64), table 10-1.

Not modelled: restart of I/O instructions (an SMI comes behind the instruction that caused it), the dual-monitor
treatment, FPU state (which the handler saves itself, as the manuals say), SMRAM outside of memory: its stores are lost.
"""

from __future__ import annotations

from jitvm.isa.control import cr4_bits, is_pae_only
from jitvm.isa.debug import DR7, update_debug
from jitvm.isa.flags import RESERVED, VM, put_flags
from jitvm.isa.mode import update_mode
from jitvm.isa.paging_long import load_pdptes
from jitvm.isa.smm_save import load_area, save_area
from jitvm.isa.state import (
    CR0_CD,
    CR0_EM,
    CR0_NW,
    CR0_PE,
    CR0_PG,
    CR0_TS,
    CS,
    EXIT,
    EXIT_HLT,
    EXIT_SHUTDOWN,
    JUMP,
    OK,
    SS,
    STOP,
    UD,
    fault0,
)
from jitvm.isa.tlb import flush_tlb_all
from jitvm.isa.words import M16, M32, ONES, W0, W1, W3, W4, W5, W6, u64

HANDLER = u64(0x8000)
SMM_ATTR = u64(0x8093)
"""Present, writable data, 4 GiB: CS, too."""
CLEARED_CR0 = CR0_PE | CR0_EM | CR0_TS | CR0_PG
DR7_RESET = u64(0x400)
SLOT_SMI_COUNT = u64(53)
"""Place in `c.msr_misc` (jitvm/isa/msr.py) of MSR_SMI_COUNT: since RESET#, 32 bits."""


def set_window(c):
    """Whether A0000h is RAM for this CPU; all translations are forgotten."""
    c.smm_window = c.smm & c.smram
    return flush_tlb_all(c)


def smi(c):
    """SMI#, between instructions and outside of the mode: OK."""
    c.status = OK
    c.smm = W1
    c.msr_misc[SLOT_SMI_COUNT] = (c.msr_misc[SLOT_SMI_COUNT] + W1) & M32
    set_window(c)
    save_area(c)
    c.smm_nmi = c.nmi_blocked
    c.nmi_blocked = W1
    c.halted = W0
    put_flags(c.lazy, W0)
    c.rflags = RESERVED
    c.efer = W0
    c.cr0 = c.cr0 & ~CLEARED_CR0
    c.cr4 = W0
    c.dr[DR7] = DR7_RESET
    c.cpl = W0
    k = W0
    while k < W6:
        c.sel[k] = W0
        c.base[k] = W0
        c.limit[k] = M32
        c.attr[k] = SMM_ATTR
        k += W1
    c.sel[CS] = (c.smbase >> W4) & M16
    c.base[CS] = c.smbase
    c.rip = HANDLER
    c.next_rip = HANDLER
    c.shadow = ONES
    c.trap_shadow = ONES
    c.again_at = ONES
    c.io_n = W0
    c.stop_now = c.step_stop
    update_debug(c)
    update_mode(c)
    return OK


def is_bad_state(c):
    """1 when the state that RSM has loaded is one that shuts the CPU down (SDM vol. 3, 34.3.2)."""
    bad = u64(c.cr0 & (CR0_PG | CR0_PE) == CR0_PG) | u64(c.cr0 & (CR0_NW | CR0_CD) == CR0_NW)
    return bad | u64(c.cr4 & ~cr4_bits(c) != W0)


def loaded_level(c):
    """Privilege level of the loaded state: DPL of SS, 3 in virtual-8086 mode, 0 in real mode."""
    if c.cr0 & CR0_PE == W0:
        return W0
    if c.rflags & VM != W0:
        return W3
    return (c.attr[SS] >> W5) & W3


def rsm(c):
    """RSM: #UD outside of the mode; else the saved state is back, and the CPU halted again if the area says so."""
    if c.smm == W0:
        return fault0(c, UD)
    halted = load_area(c)
    c.smm = W0
    c.nmi_blocked = c.smm_nmi
    set_window(c)
    c.cpl = loaded_level(c)
    update_debug(c)
    update_mode(c)
    if is_bad_state(c) != W0 or (is_pae_only(c, c.cr0, c.cr4) != W0 and load_pdptes(c, c.cr3) != OK):
        c.status = EXIT
        c.exit_reason = EXIT_SHUTDOWN
        return EXIT
    if halted == W0:
        return JUMP
    c.halted = W1
    c.exit_reason = EXIT_HLT
    return STOP
