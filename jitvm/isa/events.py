"""Exceptions and interrupts: from the event to the first instruction of its handler.

`deliver` takes the fault that c.vector, c.error and c.has_error describe; `interrupt`, `int3`, `into` and `int1` are
instructions; `external_interrupt` and `nmi` are called between instructions.  All but `deliver` may themselves end in
a fault (status FAULT), which is then delivered like that of an instruction; when `deliver` meets a fault on its own
way, it comes to the double fault and to shutdown (SDM vol. 3, 6.15, table 6-5).

Order: the gate, the target, the new stack and all words of the frame are read and probed, then accessed bits, frame and
registers are written.

Source: Intel SDM vol. 3, 6 (interrupts and exceptions), 20.1.4 (real mode), 20.3 (virtual-8086 mode), 17.3.1.1 (RF);
vol. 2, "INT n/INTO/INT3/INT1".

Long mode's own way is in jitvm/isa/events_long.py.
"""

from __future__ import annotations

from jitvm.isa.catch import catch_other, catch_vector
from jitvm.isa.debug import DR7, DR7_GD
from jitvm.isa.events_long import enter_long
from jitvm.isa.flags import AC, IF, IOPL, RF, TF, VM, get_of
from jitvm.isa.idt import GATE_TYPE, TASK_GATE, W40, clear_flags, entered, read_gate, read_target
from jitvm.isa.memory import load_system
from jitvm.isa.mode import read_eflags
from jitvm.isa.registers import cut_sp, set_sp
from jitvm.isa.segment import (
    desc_attr,
    desc_dpl,
    desc_limit,
    gate_offset,
    gate_selector,
    gate_size,
    is_conforming,
    load_cs,
    load_cs_plain,
    mark_accessed,
    set_null,
    set_segment,
)
from jitvm.isa.state import (
    BP,
    CATCH_TRIPLE,
    CR0_PE,
    CR4_VME,
    CS,
    DB,
    DE,
    DF_FAULT,
    DS,
    EFER_LMA,
    ES,
    EXIT,
    EXIT_DEBUG,
    EXIT_SHUTDOWN,
    FAULT,
    FAULT_LOG,
    FAULT_WORDS,
    FS,
    GP,
    GS,
    JUMP,
    NMI,
    OF_TRAP,
    OK,
    PF_FAULT,
    RSP,
    SS,
    TS,
    fault,
    fault0,
    retired,
)
from jitvm.isa.task import task_event
from jitvm.isa.tss import inner_ss, inner_stack, probe_inner, probe_push, push, push_inner, with_ext
from jitvm.isa.vme import is_redirected, redirect
from jitvm.isa.words import M16, M32, W0, W1, W2, W3, W4, W5, W7, W8, W16, W32, i64, u64

LOG_SIZE, LOG_WORDS = u64(FAULT_LOG), u64(FAULT_WORDS)
INJECTED_NMI = u64(0x101)
BENIGN, CONTRIBUTORY, PAGE, DOUBLE = u64(0), u64(1), u64(2), u64(3)


# ---- entering a handler ---------------------------------------------------------------------------------------------
def enter_real(c, vector, ret):
    """Through the interrupt vector table (SDM vol. 3, 20.1.4); error codes are not pushed."""
    at = vector * W4
    if at + W3 > c.idt_limit:
        return fault0(c, GP)
    entry = load_system(c, c.idt_base + at, W4)
    if c.status != OK:
        return c.status
    if probe_push(c, W3, W2) != OK:
        return c.status
    push(c, W1, W2, read_eflags(c))
    push(c, W2, W2, c.sel[CS])
    if push(c, W3, W2, ret) != OK:
        return c.status
    set_sp(c, cut_sp(c, c.gpr[RSP] - u64(6)))
    c.rflags = c.rflags & ~(IF | TF | RF | AC)
    load_cs_plain(c, entry >> W16)
    return entered(c, entry & M16)


def enter_same(c, gate, d, ext, ret, has_error, error, rf):
    """To a handler at the current privilege level, on the current stack."""
    size = gate_size(gate)
    n = W3 + has_error
    if probe_push(c, n, size) != OK:
        return with_ext(c, ext)
    if gate_offset(gate) > desc_limit(d):
        return fault(c, GP, ext)
    if mark_accessed(c, gate_selector(gate), d) != OK:
        return c.status
    push(c, W1, size, read_eflags(c) | rf)
    push(c, W2, size, c.sel[CS])
    push(c, W3, size, ret)
    if has_error != W0:
        push(c, W4, size, error)
    if c.status != OK:
        return c.status
    set_sp(c, cut_sp(c, c.gpr[RSP] - n * size))
    clear_flags(c, gate)
    load_cs(c, gate_selector(gate), d, c.cpl)
    return entered(c, gate_offset(gate))


def push_v86(c, sd, sp, size):
    """The four words on top of a frame from virtual-8086 mode (SDM vol. 3, 20.3.1)."""
    push_inner(c, sd, sp, W1, size, c.sel[GS])
    push_inner(c, sd, sp, W2, size, c.sel[FS])
    push_inner(c, sd, sp, W3, size, c.sel[DS])
    return push_inner(c, sd, sp, W4, size, c.sel[ES])


def push_inner_frame(c, sd, sp, k, size, ret, has_error, error, rf):
    """The frame of a change of privilege, behind `k` words; status."""
    push_inner(c, sd, sp, k + W1, size, c.sel[SS])
    push_inner(c, sd, sp, k + W2, size, c.gpr[RSP])
    push_inner(c, sd, sp, k + W3, size, read_eflags(c) | rf)
    push_inner(c, sd, sp, k + W4, size, c.sel[CS])
    push_inner(c, sd, sp, k + W5, size, ret)
    if has_error != W0:
        push_inner(c, sd, sp, k + u64(6), size, error)
    return c.status


def enter_inner(c, gate, d, ext, ret, has_error, error, rf):
    """To a handler at an inner privilege level, on the stack that the TSS names; also from virtual-8086 mode."""
    size = gate_size(gate)
    dpl = desc_dpl(d)
    stack = inner_stack(c, dpl, ext)
    if c.status != OK:
        return c.status
    sp, ss = stack & M32, stack >> W32
    sd = inner_ss(c, ss, dpl, ext)
    if c.status != OK:
        return c.status
    v86 = u64(c.rflags & VM != W0)
    k = v86 * W4
    n = k + W5 + has_error
    if probe_inner(c, ss, sd, sp, n, size, ext) != OK:
        return c.status
    if gate_offset(gate) > desc_limit(d):
        return fault(c, GP, ext)
    if mark_accessed(c, gate_selector(gate), d) != OK or mark_accessed(c, ss, sd) != OK:
        return c.status
    if v86 != W0:
        push_v86(c, sd, sp, size)
    if push_inner_frame(c, sd, sp, k, size, ret, has_error, error, rf) != OK:
        return c.status
    clear_flags(c, gate)
    if v86 != W0:
        set_null(c, GS, W0)
        set_null(c, FS, W0)
        set_null(c, DS, W0)
        set_null(c, ES, W0)
    set_segment(c, SS, ss, sd)
    load_cs(c, gate_selector(gate), d, dpl)
    set_sp(c, cut_sp(c, sp - n * size))
    return entered(c, gate_offset(gate))


def stopped(c, vector, ret):
    """The bare form delivers nothing: a software interrupt stops the run with rip behind the instruction."""
    c.rip = ret
    return fault0(c, vector)


def enter(c, vector, soft, ext, ret, has_error, error, rf):
    """Bring an event to its handler: JUMP, FAULT or EXIT.

    soft: the gate's DPL is checked.  ext: EXT in the error codes of faults on the way.  ret: the return address.
    rf: RF or 0, set in the pushed EFLAGS.
    """
    if c.deliver == W0:
        return stopped(c, vector, ret)
    if c.n_catch != W0 and catch_vector(c, vector, soft, has_error, error) != W0:
        return EXIT
    c.step_armed = W0
    if c.cr0 & CR0_PE == W0:
        return enter_real(c, vector, ret)
    if c.efer & EFER_LMA != W0:
        return enter_long(c, vector, soft, ext, ret, has_error, error, rf)
    gate = read_gate(c, vector, soft, ext)
    if c.status != OK:
        return c.status
    if (gate >> W40) & GATE_TYPE == TASK_GATE:
        if task_event(c, gate, ext, ret, has_error, error, rf) != JUMP:
            return c.status
        trap = c.step_armed
        entered(c, c.rip)
        c.step_armed = trap
        return JUMP
    d = read_target(c, gate_selector(gate), ext)
    if c.status != OK:
        return c.status
    if is_conforming(desc_attr(d)) == W0 and desc_dpl(d) < c.cpl:
        return enter_inner(c, gate, d, ext, ret, has_error, error, rf)
    return enter_same(c, gate, d, ext, ret, has_error, error, rf)


# ---- faults ---------------------------------------------------------------------------------------------------------
def event_class(vector):
    """Class of an exception in table 6-4 (SDM vol. 3, 6.15)."""
    if vector == DF_FAULT:
        return DOUBLE
    if vector == PF_FAULT:
        return PAGE
    if vector == DE or (vector >= TS and vector <= GP):
        return CONTRIBUTORY
    return BENIGN


def escalate(c, first):
    """The fault in c.vector hit the delivery of `first`: what is delivered now?  1 when it is the third (table 6-5)."""
    a, b = event_class(first), event_class(c.vector)
    if a == DOUBLE:
        return W1
    if (a == CONTRIBUTORY and b == CONTRIBUTORY) or (a == PAGE and b != BENIGN):
        fault(c, DF_FAULT, W0)
    return W0


def note_fault(c, during):
    """Remember the fault in c.vector; `during`: vector + 1 of the event whose delivery it hit, 0 for none.

    Words: vector, has_error in bit 8, `during` from bit 16 on; error code; CR2; CS and its base; RIP; retired; CR0.
    """
    k = (c.n_faults % LOG_SIZE) * LOG_WORDS
    c.fault_log[k] = c.vector | (c.has_error << W8) | (during << W16)
    c.fault_log[k + W1] = c.error
    c.fault_log[k + W2] = c.cr2
    c.fault_log[k + W3] = c.sel[CS]
    c.fault_log[k + W4] = c.base[CS]
    c.fault_log[k + W5] = c.rip
    c.fault_log[k + u64(6)] = retired(c)
    c.fault_log[k + W7] = c.cr0
    c.n_faults = c.n_faults + W1
    return W0


def shutdown(c):
    """A third fault: the CPU stops (SDM vol. 3, 6.15, interrupt 8); nothing else has changed."""
    c.delivering = W0
    if c.n_catch != W0 and catch_other(c, CATCH_TRIPLE, c.vector, c.cr2, W0) != W0:
        return EXIT
    c.status = EXIT
    c.exit_reason = EXIT_SHUTDOWN
    return EXIT


def deliver(c):
    """Deliver the fault in c.vector, c.error, c.has_error: JUMP, or EXIT (shutdown; an access outside memory).

    It counts as one retired instruction.  RF is set in the image but for #DB, which says itself (`trap_rf`); the handler
    of #DB finds DR7.GD clear.  Watched memory that the delivery touches is noted; that of #DB itself is not the guest's.
    """
    s = FAULT
    logged = c.n_faults
    note_fault(c, W0)
    c.noting = W1
    while s == FAULT:
        vector = c.vector
        c.status = OK
        c.delivering = vector + W1
        rf = RF
        if vector == DB:
            rf = c.trap_rf
        s = enter(c, vector, W0, W1, c.rip, c.has_error, c.error, rf)
        if s == FAULT:
            note_fault(c, vector + W1)
            if escalate(c, vector) != W0:
                s = shutdown(c)
    c.delivering = W0
    c.noting = W0
    if s == JUMP:
        c.left = c.left - i64(1)
        if vector == DB:
            c.dr[DR7] = c.dr[DR7] & ~DR7_GD
            c.watch_bits = W0
    elif c.exit_reason == EXIT_DEBUG:
        c.n_faults = logged
    return s


# ---- interrupts -----------------------------------------------------------------------------------------------------
def interrupt_redirected(c, vector):
    """INT n to the virtual-8086 program's own handler."""
    if c.n_catch != W0 and catch_vector(c, vector, W1, W0, W0) != W0:
        return EXIT
    if redirect(c, vector) != JUMP:
        return c.status
    return entered(c, c.rip)


def interrupt(c, imm):
    """INT n; in virtual-8086 mode only with IOPL 3, or by the program's own vectors (SDM vol. 3, 20.3.3)."""
    if c.rflags & VM != W0:
        own = W0
        if c.cr4 & CR4_VME != W0:
            own = is_redirected(c, imm)
        if c.status != OK:
            return c.status
        if own != W0 and c.deliver != W0:
            return interrupt_redirected(c, imm)
        if own == W0 and c.rflags & IOPL != IOPL:
            return fault(c, GP, W0)
    return enter(c, imm, W1, W0, c.next_rip, W0, W0, W0)


def int3(c):
    """INT3: no look at IOPL."""
    return enter(c, BP, W1, W0, c.next_rip, W0, W0, W0)


def into(c):
    """INTO: #OF as a trap when OF is set."""
    if get_of(c.lazy) == W0:
        return OK
    return enter(c, OF_TRAP, W1, W0, c.next_rip, W0, W0, W0)


def int1(c):
    """INT1 (ICEBP): #DB as a trap, without a look at the gate's DPL; DR6 stays, DR7.GD goes (SDM vol. 3, 17.2.4).

    A data breakpoint that a load of SS before it has held off is not told any more (measured on a Xeon of 2023, family 6
    model 207).
    """
    s = enter(c, DB, W0, W1, c.next_rip, W0, W0, W0)
    if s == JUMP:
        c.held_bits = W0
        c.dr[DR7] = c.dr[DR7] & ~DR7_GD
    return s


def injected_event(c):
    """Bring the interrupt that `injected` names to its handler, or the fault on the way there: JUMP, or EXIT.

    A delivery that asks the outside begins again, with the answers that it has got, when the CPU is entered again.
    """
    c.io_pos = W0
    if c.injected == INJECTED_NMI:
        s = nmi(c)
    else:
        s = external_interrupt(c, c.injected - W1)
    if s == FAULT:
        s = deliver(c)
    c.status = s
    if s != EXIT:
        c.injected = W0
        c.io_n = W0
        c.io_pos = W0
    return s


def external_interrupt(c, vector):
    """An interrupt from the interrupt controller, between instructions: JUMP; FAULT (to be delivered) or EXIT.

    Between two iterations of a string instruction RF is set in the image (SDM vol. 3, 17.3.1.1).
    """
    c.status = OK
    rf = W0
    if c.again_at == retired(c):
        rf = RF
    c.noting = W1
    s = enter(c, vector, W0, W1, c.rip, W0, W0, rf)
    c.noting = W0
    return s


def nmi(c):
    """A non-maskable interrupt, between instructions; further ones wait for IRET (SDM vol. 3, 6.7.1)."""
    c.status = OK
    rf = W0
    if c.again_at == retired(c):
        rf = RF
    c.noting = W1
    s = enter(c, NMI, W0, W1, c.rip, W0, W0, rf)
    c.noting = W0
    if s != EXIT:
        c.nmi_blocked = W1
    return s
