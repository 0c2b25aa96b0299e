"""The guest's debug registers, and instructions that run alone.

DR7 makes of DR0-DR3 data breakpoints (entries 0 to 3 of the watch tables), instruction breakpoints (`code_breaks`) and
I/O breakpoints (`port_breaks`).  `update_debug` derives all of it.

An instruction runs alone (`c.armed`, MODE_ALONE in its context) when somebody must look at its end: it makes a watched
access, it began with RF set, or a #DB was held off by a load of SS before it.  `arm` begins and `end_alone` ends that;
RF is taken out of EFLAGS meanwhile and put back unless the instruction is complete.

Traps wait in `step_armed`: TRAP_STEP for TF, TRAP_TASK for the T bit of a new task, B0-B3 above them.  DR6
takes them at delivery: B0-B3 are those of this #DB, what else was set stays (17.2.3).

Source: Intel SDM vol. 3, 17.2 (debug registers), 17.3.1 (#DB: which are faults, which traps), 6.8.3 (MOV SS, POP SS),
2.3 (RF); vol. 3, 6.9 (priority of traps, interrupts and faults).

Not modelled: B0-B3 of breakpoints that DR7 does not enable; BTF, RTM, bus locks.
"""

from __future__ import annotations

from jitvm.isa.flags import RF
from jitvm.isa.host import translations_changed
from jitvm.isa.memory import cut_linear
from jitvm.isa.state import (
    AGAIN,
    CR4_DE,
    CS,
    DB,
    EXIT,
    FAULT,
    MODE_ALONE,
    OK,
    TRAP_SHIFT,
    TRAP_STEP,
    TRAP_TASK,
    WATCH_READ,
    WATCH_WRITE,
    WATCHED,
    fault0,
    retired,
)
from jitvm.isa.tlb import flush_tlb_all
from jitvm.isa.words import ONES, W0, W1, W2, W3, W4, W16, u64

DR6, DR7, FOUR = u64(6), u64(7), u64(4)
BREAK_CODE, BREAK_WRITE, BREAK_PORT, BREAK_ACCESS = u64(0), u64(1), u64(2), u64(3)
"""R/W fields of DR7."""
DR6_B, DR6_BD, DR6_BS, DR6_BT = u64(0xF), u64(1 << 13), u64(1 << 14), u64(1 << 15)
DR7_GD = u64(1 << 13)
LENGTHS = u64(0x4_8_2_1)
"""Bytes by LEN field, four bits each."""


# ---- what DR7 says --------------------------------------------------------------------------------------------------
def break_kind(c, n):
    """R/W field of breakpoint n."""
    return (c.dr[DR7] >> (W16 + W4 * n)) & W3


def break_length(c, n):
    """Bytes that breakpoint n covers."""
    return (LENGTHS >> (((c.dr[DR7] >> (W16 + W2 + W4 * n)) & W3) << W2)) & u64(15)


def break_first(c, n):
    """First address that breakpoint n covers: the low bits that its length has are not looked at."""
    return c.dr[n] & ~(break_length(c, n) - W1)


def is_enabled(c, n):
    """1 when DR7 enables breakpoint n, locally or globally."""
    return u64((c.dr[DR7] >> (n + n)) & W3 != W0)


def debug_changed(c):
    """1 when DR0-DR3, DR7 or CR4.DE are not those that the tables were made from, which are replaced."""
    changed = W0
    k = W0
    while k < u64(6):
        v = c.cr4 & CR4_DE
        if k < FOUR:
            v = c.dr[k]
        elif k == FOUR:
            v = c.dr[DR7]
        if c.dr_seen[k] != v:
            changed = W1
            c.dr_seen[k] = v
        k += W1
    return changed


def set_data_break(c, n, kind):
    """Entry n of the watch tables; 1 when it watches something."""
    c.watch_kind[n] = W0
    if kind == BREAK_WRITE:
        c.watch_kind[n] = WATCH_WRITE
    elif kind == BREAK_ACCESS:
        c.watch_kind[n] = WATCH_READ | WATCH_WRITE
    c.watch_first[n] = break_first(c, n)
    c.watch_last[n] = break_first(c, n) + break_length(c, n) - W1
    return u64(c.watch_kind[n] != W0)


def count_watches(c, any_data):
    """`n_watch` from the entries that there are."""
    c.n_watch = W0
    if c.n_points != W0:
        c.n_watch = c.n_points + FOUR
    elif any_data != W0:
        c.n_watch = FOUR
    return W0


def update_debug(c):
    """The tables of the guest's breakpoints, after a change of DR0-DR3, DR7 or CR4."""
    if debug_changed(c) == W0:
        return W0
    watched = W0
    ports = W0
    code = W0
    n = W0
    while n < FOUR:
        kind = break_kind(c, n)
        if is_enabled(c, n) == W0:
            kind = BREAK_PORT
        elif kind == BREAK_CODE:
            code = code | (W1 << n)
        elif kind == BREAK_PORT and c.cr4 & CR4_DE != W0:
            ports = ports | (W1 << n)
        watched = watched | set_data_break(c, n, kind)
        n += W1
    c.port_breaks = ports
    if code | c.code_breaks != W0:
        c.forget = W1
        translations_changed(c)
    c.code_breaks = code
    if watched | c.n_watch != W0:
        flush_tlb_all(c)
    return count_watches(c, watched)


# ---- an instruction alone -------------------------------------------------------------------------------------------
def arm(c):
    """The next instruction runs alone."""
    c.armed = W1
    c.mode = c.mode | MODE_ALONE
    c.ctx = c.ctx | MODE_ALONE
    c.n_hits = W0
    c.watch_bits = W0
    if c.rflags & RF != W0:
        c.rf_taken = W1
        c.rflags = c.rflags & ~RF
    return W0


def disarm(c):
    """It does not, or no longer."""
    c.armed = W0
    c.mode = c.mode & ~MODE_ALONE
    c.ctx = c.ctx & ~MODE_ALONE
    return W0


def give_up(c):
    """The instruction that was to run alone is left before it began."""
    if c.rf_taken != W0:
        c.rflags = c.rflags | RF
    c.rf_taken = W0
    return disarm(c)


def end_alone(c):
    """The instruction that ran alone ended with c.status: what it hit counts when it, or an iteration, is complete."""
    status = c.status
    if c.rf_taken != W0 and (status == EXIT or status == AGAIN):
        c.rflags = c.rflags | RF
    c.rf_taken = W0
    if status == EXIT or status == FAULT:
        c.n_hits = W0
        c.watch_bits = W0
    return disarm(c)


def wants_alone(c):
    """1 when the next instruction has to run alone: RF is set, or a trap was held off until its end."""
    return u64(c.rflags & RF != W0) | u64(c.held_bits != W0)


# ---- #DB ------------------------------------------------------------------------------------------------------------
def collect_traps(c):
    """Guest breakpoints that the completed instruction, or the delivery of an event, has hit go to `step_armed`.

    Behind a load of SS they wait for the end of the next instruction.
    """
    bits = c.watch_bits
    c.watch_bits = W0
    if c.trap_shadow == retired(c):
        c.held_bits = c.held_bits | bits
        return W0
    bits = bits | c.held_bits
    c.held_bits = W0
    if bits != W0:
        c.step_armed = c.step_armed | (bits << TRAP_SHIFT)
    return W0


def code_bits(c, lin):
    """Bits of DR6 of the instruction breakpoints at a linear address.

    None with RF set, behind a load of SS, or when a string instruction goes on.
    """
    now = retired(c)
    if c.rf_taken != W0 or c.rflags & RF != W0 or c.trap_shadow == now or c.again_at == now:
        return W0
    bits = W0
    n = W0
    while n < FOUR:
        if (c.code_breaks >> n) & W1 != W0 and c.dr[n] == lin:
            bits = bits | (W1 << n)
        n += W1
    return bits


def tell_reasons(c, bits):
    """Status of a #DB for the reasons `bits` of DR6: B0-B3 of an earlier one go, its other bits only software clears."""
    c.dr[DR6] = (c.dr[DR6] & ~DR6_B) | bits
    return fault0(c, DB)


def raise_trap(c, trap):
    """The #DB of the traps in `trap`; between two iterations RF is set in its image (SDM vol. 3, 17.3.1.1).

    It tells of an instruction breakpoint at the next instruction, too (measured on silicon).
    """
    bits = (trap >> TRAP_SHIFT) & DR6_B
    if trap & TRAP_STEP != W0:
        bits = bits | DR6_BS
    if trap & TRAP_TASK != W0:
        bits = bits | DR6_BT
    if c.code_breaks != W0:
        bits = bits | code_bits(c, cut_linear(c, c.base[CS] + c.rip))
    c.trap_rf = W0
    if c.again_at == retired(c):
        c.trap_rf = RF
    return tell_reasons(c, bits)


def code_break(c, lin):
    """Status: #DB before the instruction at a linear address when an instruction breakpoint is there."""
    bits = code_bits(c, lin)
    if bits == W0:
        return OK
    c.trap_rf = W0
    return tell_reasons(c, bits)


def is_code_break(c, lin):
    """1 when a guest's instruction breakpoint is at a linear address."""
    n = W0
    while n < FOUR:
        if (c.code_breaks >> n) & W1 != W0 and c.dr[n] == lin:
            return W1
        n += W1
    return W0


def port_break(c, port, size):
    """Status of an access to `size` ports that is about to be made, as `watch_access`."""
    bits = W0
    n = W0
    while n < FOUR:
        first = break_first(c, n) & u64(0xFFFF)
        if (c.port_breaks >> n) & W1 != W0 and first < port + size and port < first + break_length(c, n):
            bits = bits | (W1 << n)
        n += W1
    if bits == W0:
        return OK
    if c.armed == W0:
        c.status = WATCHED
        return WATCHED
    c.watch_bits = c.watch_bits | bits
    return OK


def reset_debug(c):
    """Nothing is pending; the tables follow the registers, a debugger's entries stay."""
    give_up(c)
    c.noting = W0
    c.watch_bits = W0
    c.held_bits = W0
    c.n_hits = W0
    c.trap_rf = W0
    c.trap_shadow = ONES
    c.again_at = ONES
    c.stop_now = W0
    c.caught_at = ONES
    return update_debug(c)
