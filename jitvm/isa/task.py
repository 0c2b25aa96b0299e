"""Hardware task switches: by JMP, CALL, IRET, exceptions and interrupts, through TSS descriptors and task gates.

Order of a switch: the TSS descriptor is checked; all words of the new TSS are read, and all that will be written is
probed; then comes the commit point.  A fault before it belongs to the old task, where nothing has changed.  Behind it
the old state is saved, links, busy and NT bits are set, the registers of the new task are loaded, and its segments are
checked (`task_segments.py`): a fault there belongs to the new task, whose first instruction has not run.

What happens to           JMP        CALL, event    IRET
busy bit of the new TSS   set        set            stays set
busy bit of the old TSS   cleared    stays set      cleared
NT of the new task        its own    set            its own
NT saved in the old TSS   as it is   as it is       cleared
link of the new TSS       as it is   old selector   as it is

The 16-bit TSS has no CR3, FS, GS and T bit, and fills the upper halves of the general registers with ones, as Bochs
has it (the manual leaves them open).  A current TSS too short for what is saved is #TS with its selector, as in
Bochs; the manual has no rule.  TF of the old task traps behind the switch, in the new one.

Source: Intel SDM vol. 3, 7.2 (TSS, descriptors, gates), 7.3 (switching, table 7-1: checks and their order), 7.4 (task
linking, table 7-2), 7.6 (16-bit TSS), 17.2.4 (DR7), 17.3.1.5 (T bit); vol. 2, JMP, CALL, INT, IRET.

Not modelled: descriptors of the new task's segments outside of memory, at MMIO addresses (INTERNAL_ERROR: the switch
can't begin again behind the commit point).  In long mode there are no tasks: #GP.
"""

from __future__ import annotations

from jitvm.isa.catch import catch_other
from jitvm.isa.control import is_pae_only
from jitvm.isa.debug import DR7, update_debug
from jitvm.isa.flags import NT, VIF, VIP, VM
from jitvm.isa.memory import load_system, probe_system, store_system
from jitvm.isa.mode import read_eflags, update_mode, vme_flags, write_eflags
from jitvm.isa.paging_long import load_pdptes
from jitvm.isa.registers import cut_sp, set_reg, set_sp
from jitvm.isa.segment import (
    INDEX,
    NOT_RPL,
    RPL,
    TI,
    TSS16,
    TSS16_BUSY,
    TSS32,
    TSS32_BUSY,
    TSS_BUSY,
    TYPE,
    desc_attr,
    desc_base,
    desc_limit,
    gate_selector,
    read_descriptor,
    selector_fault,
    set_null,
    set_system,
)
from jitvm.isa.shared import ask_alone, others_run
from jitvm.isa.state import (
    ATTR_P,
    CATCH_CR3,
    CR0_PG,
    CR0_TS,
    CS,
    EFER_LMA,
    EXIT,
    EXIT_INTERNAL_ERROR,
    FAULT,
    GP,
    JUMP,
    LDTR,
    NP,
    OK,
    RSP,
    SS,
    TR,
    TRAP_TASK,
    TS,
    fault,
)
from jitvm.isa.task_segments import load_task_segments
from jitvm.isa.tlb import flush_tlb
from jitvm.isa.tss import TYPE_32, probe_push, push, with_ext
from jitvm.isa.words import W0, W1, W2, W3, W4, W5, W6, W8, W10, cut, u64

BY_JMP, BY_CALL, BY_IRET, BY_EVENT = W0, W1, W2, W3
"""What brings a switch about."""
LINK, CR3_32, FIRST_32, SELECTORS_32, LDT_32, T_32 = u64(0), u64(0x1C), u64(0x20), u64(0x48), u64(0x60), u64(0x64)
FIRST_16, SELECTORS_16, LDT_16 = u64(0x0E), u64(0x22), u64(0x2A)
"""Offsets in a TSS: link; CR3; (E)IP, (E)FLAGS and the eight general registers; ES, CS, SS, DS (FS, GS); LDT; T bit."""
LIMIT_32, LIMIT_16, SAVED_32, SAVED_16 = u64(0x67), u64(0x2B), u64(0x5F), u64(0x29)
"""Least limits of a TSS that is switched to, and of one in which a task is saved."""
N_WORDS = W10
V_EIP, V_EFLAGS, V_GPR, V_SEL, V_LDT, V_CR3, V_T = (u64(n) for n in (0, 1, 2, 10, 16, 17, 18))
"""Where the words of the new TSS wait in the scratch words `io_data`."""
W40 = u64(40)
UPPER_ONES = u64(0xFFFF_0000)
DR7_LOCAL = u64(0x155)
"""L0-L3 and LE: a task switch clears them."""


# ---- the TSS descriptor ---------------------------------------------------------------------------------------------
def task_descriptor(c, selector, by, ext):
    """The TSS descriptor that a task gate, or the link of the current TSS, names, checked; c.status.

    #GP, for IRET #TS, unless it is one of the GDT and available (IRET: busy); #NP (SDM vol. 3, table 7-1).
    """
    vector = GP
    if by == BY_IRET:
        vector = TS
    if selector & TI != W0 or selector & NOT_RPL == W0:
        selector_fault(c, vector, selector, ext)
        return W0
    d = read_descriptor(c, selector, vector, ext)
    if c.status != OK:
        return W0
    kind = desc_attr(d) & TYPE
    good = u64(kind == TSS16) | u64(kind == TSS32)
    if by == BY_IRET:
        good = u64(kind == TSS16_BUSY) | u64(kind == TSS32_BUSY)
    if good == W0:
        selector_fault(c, vector, selector, ext)
    elif desc_attr(d) & ATTR_P == W0:
        selector_fault(c, NP, selector, ext)
    return d


def is_wide(attr):
    """1 for a 32-bit TSS."""
    return u64(attr & TYPE_32 != W0)


def busy_address(c, selector):
    """Linear address of the byte with the busy bit, of a TSS in the GDT (the current one may be beyond its limit by now)."""
    return c.gdt_base + (selector & INDEX) + W5


# ---- reading and probing --------------------------------------------------------------------------------------------
def read_words(c, at, size, n, to):
    """`n` words of `size` bytes from linear address `at` to `io_data[to]` and on; status."""
    k = W0
    while k < n:
        v = load_system(c, at + k * size, size)
        if c.status != OK:
            return c.status
        c.io_data[to + k] = v
        k += W1
    return OK


def read_selectors(c, at, step, n):
    """`n` selectors, `step` bytes apart, to `io_data`; status."""
    k = W0
    while k < n:
        v = load_system(c, at + k * step, W2)
        if c.status != OK:
            return c.status
        c.io_data[V_SEL + k] = v
        k += W1
    return OK


def read_task_32(c, base):
    """The words of a 32-bit TSS to `io_data`; status."""
    if read_words(c, base + CR3_32, W4, W1, V_CR3) != OK or read_words(c, base + FIRST_32, W4, N_WORDS, V_EIP) != OK:
        return c.status
    if read_selectors(c, base + SELECTORS_32, W4, W6) != OK or read_words(c, base + LDT_32, W2, W1, V_LDT) != OK:
        return c.status
    return read_words(c, base + T_32, W2, W1, V_T)


def read_task_16(c, base):
    """The words of a 16-bit TSS to `io_data`, and what it has not; status."""
    if read_words(c, base + FIRST_16, W2, N_WORDS, V_EIP) != OK:
        return c.status
    if read_selectors(c, base + SELECTORS_16, W2, W4) != OK or read_words(c, base + LDT_16, W2, W1, V_LDT) != OK:
        return c.status
    k = V_GPR
    while k < V_SEL:
        c.io_data[k] = c.io_data[k] | UPPER_ONES
        k += W1
    c.io_data[V_SEL + W4] = W0
    c.io_data[V_SEL + W5] = W0
    c.io_data[V_CR3] = c.cr3
    c.io_data[V_T] = W0
    return OK


def read_task(c, d):
    """The words of the TSS `d` to `io_data`; status."""
    if is_wide(desc_attr(d)) != W0:
        return read_task_32(c, desc_base(d))
    return read_task_16(c, desc_base(d))


def probe_words(c, at, step, size, n):
    """Status: may `n` words of `size` bytes, `step` apart, be written?"""
    k = W0
    while k < n:
        if probe_system(c, at + k * step, size) != OK:
            return c.status
        k += W1
    return OK


def probe_save(c):
    """Status: may the current task be saved?"""
    base = c.base[TR]
    if is_wide(c.attr[TR]) != W0:
        if probe_words(c, base + FIRST_32, W4, W4, N_WORDS) != OK:
            return c.status
        return probe_words(c, base + SELECTORS_32, W4, W2, W6)
    if probe_words(c, base + FIRST_16, W2, W2, N_WORDS) != OK:
        return c.status
    return probe_words(c, base + SELECTORS_16, W2, W2, W4)


def is_nesting(by):
    """1 when the new task will return to the old one."""
    return u64(by == BY_CALL) | u64(by == BY_EVENT)


def check_limits(c, selector, d, ext):
    """Status: #TS when the new TSS, or the current one, is too short."""
    least = LIMIT_16
    if is_wide(desc_attr(d)) != W0:
        least = LIMIT_32
    if desc_limit(d) < least:
        return selector_fault(c, TS, selector, ext)
    saved = SAVED_16
    if is_wide(c.attr[TR]) != W0:
        saved = SAVED_32
    if c.limit[TR] < saved:
        return selector_fault(c, TS, c.sel[TR], ext)
    return OK


def probe_switch(c, selector, d, by):
    """Status: can all that a switch to the TSS `d` writes be written?"""
    if probe_save(c) != OK:
        return c.status
    if is_nesting(by) != W0:
        if probe_system(c, desc_base(d) + LINK, W2) != OK:
            return c.status
    elif probe_system(c, busy_address(c, c.sel[TR]), W1) != OK:
        return c.status
    if by == BY_IRET:
        return OK
    return probe_system(c, busy_address(c, selector), W1)


def catch_cr3(c):
    """1 when a debugger catches writes to CR3, and the switch is going to make one."""
    v = c.io_data[V_CR3]
    if c.cr0 & CR0_PG == W0 or c.cr3 == v:
        return W0
    return catch_other(c, CATCH_CR3, c.cr3, v, W1)


# ---- saving ---------------------------------------------------------------------------------------------------------
def save_selectors(c, at, step, n):
    """Store `n` selectors, from ES on; status."""
    k = W0
    while k < n:
        if store_system(c, at + k * step, W2, c.sel[k]) != OK:
            return c.status
        k += W1
    return OK


def save_task(c, eip, eflags):
    """Save the current task in its TSS; status."""
    wide = is_wide(c.attr[TR])
    size = W2 + W2 * wide
    at = c.base[TR] + FIRST_16
    if wide != W0:
        at = c.base[TR] + FIRST_32
    if store_system(c, at, size, cut(size, eip)) != OK or store_system(c, at + size, size, cut(size, eflags)) != OK:
        return c.status
    k = W0
    while k < W8:
        if store_system(c, at + (k + W2) * size, size, cut(size, c.gpr[k])) != OK:
            return c.status
        k += W1
    if wide != W0:
        return save_selectors(c, c.base[TR] + SELECTORS_32, W4, W6)
    return save_selectors(c, c.base[TR] + SELECTORS_16, W2, W4)


def set_busy(c, selector, busy):
    """Write the busy bit (TSS_BUSY or 0) of a TSS descriptor; status."""
    at = busy_address(c, selector)
    v = load_system(c, at, W1)
    if c.status != OK:
        return c.status
    return store_system(c, at, W1, (v & ~TSS_BUSY) | busy)


def leave_task(c, selector, d, by, eip, eflags):
    """Save the old task and mark both; status."""
    if by == BY_IRET:
        eflags = eflags & ~NT
    if save_task(c, eip, eflags) != OK:
        return c.status
    if is_nesting(by) != W0:
        if store_system(c, desc_base(d) + LINK, W2, c.sel[TR]) != OK:
            return c.status
    elif set_busy(c, c.sel[TR], W0) != OK:
        return c.status
    if by == BY_IRET:
        return OK
    return set_busy(c, selector, TSS_BUSY)


# ---- loading --------------------------------------------------------------------------------------------------------
def load_registers(c, by):
    """EFLAGS, EIP, general registers, selectors and privilege level of the new task; no segment is valid yet."""
    eflags = c.io_data[V_EFLAGS]
    if is_nesting(by) != W0:
        eflags = eflags | NT
    write_eflags(c, eflags & ~((VIF | VIP) ^ vme_flags(c)))
    c.rip = c.io_data[V_EIP]
    c.next_rip = c.rip
    k = W0
    while k < W8:
        set_reg(c, k, W4, c.io_data[V_GPR + k])
        k += W1
    k = W0
    while k < W6:
        set_null(c, k, c.io_data[V_SEL + k])
        k += W1
    c.cpl = c.io_data[V_SEL + CS] & RPL
    if eflags & VM != W0:
        c.cpl = W3
    c.sel[LDTR] = c.io_data[V_LDT]
    c.attr[LDTR] = W0
    return W0


def begin_task(c, selector, d, by):
    """Behind the commit point: the registers of the new task, all but its segments."""
    set_system(c, TR, selector, d | (TSS_BUSY << W40))
    if is_wide(desc_attr(d)) != W0 and c.cr0 & CR0_PG != W0:
        c.cr3 = c.io_data[V_CR3]
        if is_pae_only(c, c.cr0, c.cr4) != W0:
            load_pdptes(c, c.cr3)
        flush_tlb(c)
    c.cr0 = c.cr0 | CR0_TS
    c.dr[DR7] = c.dr[DR7] & ~DR7_LOCAL
    load_registers(c, by)
    c.halted = W0
    update_debug(c)
    return update_mode(c)


def check_task_state(c, ext):
    """Segments and instruction pointer of the new task; OK or why not, in its context.

    A fault before SS could be loaded finds no stack there: the level counts as 3, so that its handler gets one from the
    TSS, as in Bochs (the manual warns that the state may not be consistent then: vol. 3, 6.15, #TS).
    """
    if c.status == OK and load_task_segments(c, c.io_data[V_LDT], ext) == FAULT and c.attr[SS] & ATTR_P == W0:
        c.cpl = W3
    update_mode(c)
    if c.status == EXIT:
        c.exit_reason = EXIT_INTERNAL_ERROR
    return c.status


def switch_task(c, selector, d, by, ext, eip, eflags):
    """Switch to the TSS that the checked descriptor `d` describes: OK, or FAULT, in whichever task, or EXIT.

    `eip`, `eflags`: what is saved for the old task.  The new instruction pointer has not been checked.
    With CPUs that run at the same time it is done while the others stand: they see a task that is busy, or is not.
    """
    if others_run(c) != W0:
        return ask_alone(c)
    if check_limits(c, selector, d, ext) != OK or read_task(c, d) != OK or probe_switch(c, selector, d, by) != OK:
        return c.status
    if c.n_catch != W0 and catch_cr3(c) != W0:
        return c.status
    noting = c.noting
    c.noting = W1
    if leave_task(c, selector, d, by, eip, eflags) == OK and read_task(c, d) == OK:
        begin_task(c, selector, d, by)
        if c.status == OK:
            check_task_state(c, ext)
    c.noting = noting
    return c.status


def start_task(c, ext):
    """The end of a switch: the instruction pointer is looked at, and the T bit arms a trap.  JUMP or FAULT."""
    if c.rip > c.limit[CS]:
        return fault(c, GP, ext)
    if c.io_data[V_T] & W1 != W0:
        c.step_armed = c.step_armed | TRAP_TASK
    return JUMP


# ---- instructions and events ----------------------------------------------------------------------------------------
def no_tasks(c, selector, ext):
    """1 in long mode, which has no task switches: #GP(selector)."""
    if c.efer & EFER_LMA == W0:
        return W0
    selector_fault(c, GP, selector, ext)
    return W1


def jump_task(c, selector, d, by):
    """JMP or CALL to the available TSS `d` whose use was checked."""
    if no_tasks(c, selector, W0) != W0:
        return c.status
    if switch_task(c, selector, d, by, W0, c.next_rip, read_eflags(c)) != OK:
        return c.status
    return start_task(c, W0)


def jump_gate(c, selector, gate, by):
    """JMP or CALL through a task gate whose use was checked; the DPL of its TSS does not count."""
    if no_tasks(c, selector, W0) != W0:
        return c.status
    d = task_descriptor(c, gate_selector(gate), by, W0)
    if c.status != OK:
        return c.status
    return jump_task(c, gate_selector(gate), d, by)


def return_task(c):
    """IRET with NT: back to the task that the link of the current TSS names."""
    if no_tasks(c, W0, W0) != W0:
        return c.status
    selector = load_system(c, c.base[TR] + LINK, W2)
    if c.status != OK:
        return c.status
    d = task_descriptor(c, selector, BY_IRET, W0)
    if c.status != OK:
        return c.status
    if switch_task(c, selector, d, BY_IRET, W0, c.next_rip, read_eflags(c)) != OK:
        return c.status
    return start_task(c, W0)


def push_error(c, ext, error):
    """Push the error code of an event on the stack of its task, as wide as the TSS; status."""
    size = W2 + W2 * is_wide(c.attr[TR])
    if probe_push(c, W1, size) != OK:
        return with_ext(c, ext)
    if push(c, W1, size, error) != OK:
        return c.status
    return set_sp(c, cut_sp(c, c.gpr[RSP] - size))


def task_event(c, gate, ext, ret, has_error, error, rf):
    """An event through a task gate of the IDT: JUMP, FAULT or EXIT."""
    d = task_descriptor(c, gate_selector(gate), BY_EVENT, ext)
    if c.status != OK:
        return c.status
    if switch_task(c, gate_selector(gate), d, BY_EVENT, ext, ret, read_eflags(c) | rf) != OK:
        return c.status
    if has_error != W0 and push_error(c, ext, error) != OK:
        if c.status == EXIT:
            c.exit_reason = EXIT_INTERNAL_ERROR
        return c.status
    return start_task(c, ext)
