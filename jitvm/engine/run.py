"""Between blocks: what translated code calls when it can't go on by itself.

All of these take the state from the record: `rip` and `left` are exact, `status` says how the last instruction ended.
They return the micro-op to go on with, or 0: leave, `why` says why.
"""

from __future__ import annotations

from jitvm.engine.blocks import jump_slot
from jitvm.engine.layout import WHY_EXIT as WHY_EXIT_
from jitvm.engine.layout import WHY_FAULT as WHY_FAULT_
from jitvm.engine.layout import WHY_LIMIT as WHY_LIMIT_
from jitvm.engine.layout import WHY_WINDOW as WHY_WINDOW_
from jitvm.engine.translate import CHAIN, O_EIP, O_IMM, O_REST, O_SCALE, find_block, short_block
from jitvm.isa.apic_page import acknowledge, look_here, takes_here
from jitvm.isa.debug import arm, collect_traps, end_alone, give_up, raise_trap, wants_alone
from jitvm.isa.events import deliver, injected_event
from jitvm.isa.flags import IF
from jitvm.isa.host import peek, poke
from jitvm.isa.memory import code_linear
from jitvm.isa.outside import is_half_done
from jitvm.isa.registers import set_reg
from jitvm.isa.shared import serialize_memory
from jitvm.isa.state import (
    AGAIN,
    EXIT,
    EXIT_DEBUG,
    FAULT,
    GP,
    JUMP,
    OK,
    RCX,
    STOP,
    STOP_STEP,
    STOP_WATCH,
    WATCHED,
    fault,
    retired,
)
from jitvm.isa.words import ONES, W0, W1, W2, W8, i64, u64

WHY_EXIT, WHY_FAULT, WHY_LIMIT, WHY_WINDOW = u64(WHY_EXIT_), u64(WHY_FAULT_), u64(WHY_LIMIT_), u64(WHY_WINDOW_)
NO_BUDGET, ONE = i64(0), i64(1)
O_SLOT = O_IMM


def leave_debug(c, why):
    """Leave with EXIT_DEBUG for a reason STOP_*; 0."""
    c.status = EXIT
    c.exit_reason = EXIT_DEBUG
    c.stop_why = why
    c.why = WHY_EXIT
    return W0


def stops_between(c):
    """1 when a debugger is told something between two instructions: hits of watched memory, an event delivered by a step."""
    if c.n_hits != W0:
        c.n_told = c.n_hits
        c.n_hits = W0
        c.stop_now = W0
        leave_debug(c, STOP_WATCH)
        return W1
    if c.stop_now != W0:
        c.stop_now = W0
        leave_debug(c, STOP_STEP)
        return W1
    return W0


def run_again(c):
    """The instruction at rip, which is about to make a watched access, begins again, alone; its answers count again."""
    c.step_armed = W0
    c.io_pos = W0
    arm(c)
    c.status = OK
    return W1


def settle(c):
    """End of an instruction: deliver its fault or its traps; 1 to go on at `rip`, 0 to leave (`why`).

    A trap for which no budget is left, or whose delivery asks the outside, stays pending (`step_armed`); that of an
    instruction which asks the outside is forgotten, as it begins again.
    """
    if c.status == WATCHED:
        return run_again(c)
    if c.armed != W0:
        end_alone(c)
    if c.status == EXIT:
        c.step_armed = W0
    elif c.status != FAULT and c.watch_bits | c.held_bits != W0:
        collect_traps(c)
    if c.status == EXIT or c.status == STOP:
        c.why = WHY_EXIT
        return W0
    trap = W0
    if c.status != FAULT:
        c.status = OK
        if stops_between(c) != W0:
            return W0
        trap = c.step_armed
        if trap != W0 and c.left <= NO_BUDGET:
            return W1
        c.step_armed = W0
        if trap != W0:
            raise_trap(c, trap)
    while c.status == FAULT:
        c.step_armed = W0
        if c.deliver == W0:
            c.io_n = W0
            c.why = WHY_FAULT
            return W0
        c.stat_faults += W1
        if deliver(c) == EXIT:
            c.step_armed = trap
            c.status = EXIT
            c.why = WHY_EXIT
            return W0
        c.status = OK
        if c.watch_bits != W0:
            collect_traps(c)
        if stops_between(c) != W0:
            return W0
        trap = c.step_armed
        if trap != W0 and c.left > NO_BUDGET:
            raise_trap(c, trap)
    return W1


def complete(c, status):
    """Account for the instruction at rip that ended with `status`; OK moves rip behind it.

    A string instruction that goes on, and one that begins again, does not stop again at a breakpoint on it.
    """
    c.status = status
    serialize_memory(c)  # IRET, MOV to CR and DR, LLDT, LTR, WRMSR, INVLPG, RSM are among those that end here
    if status == OK:
        c.rip = c.next_rip
    if status == OK or status == JUMP or status == STOP:
        c.left = c.left - ONE
    if status == AGAIN:
        c.again_at = retired(c)
    if status == AGAIN or status == WATCHED or status == EXIT:
        c.resume_at = retired(c)
        c.resume_lin = code_linear(c, c.rip)
    return W0


def is_held_off(c):
    """1 when no interrupt comes before the next instruction: it is in a shadow, or half done."""
    return u64(c.shadow == retired(c)) | is_half_done(c)


def window_open(c):
    """1 when something waits for interrupts to be open and they are."""
    return u64(c.want_window != W0) & u64(c.rflags & IF != W0) & (is_held_off(c) ^ W1)


def window_near(c):
    """1 when interrupts are open behind the next instruction and more may run: that one has to run alone.

    A block that begins here would run over the boundary.
    """
    return u64(c.want_window != W0) & u64(c.rflags & IF != W0) & is_held_off(c) & u64(c.left > ONE)


def quiet(c):
    """1 when `next_block` would do nothing between two instructions but to look the second one up."""
    pending = c.step_armed | c.watch_bits | c.held_bits | c.n_hits | c.stop_now | c.want_window
    return u64(pending == W0 and wants_alone(c) == W0)


def take_interrupt(c):
    """The local APIC's interrupt is taken: it comes before the instruction at `rip`."""
    c.injected = acknowledge(c) + W1
    c.io_n = W0
    return look_here(c)


def between(c):
    """Between two instructions: 1 when the one at `rip` may begin, 0 to leave (`why`), 2 when an event came in between."""
    if c.injected != W0:
        injected_event(c)
        return W2
    near = window_near(c)
    if c.left <= NO_BUDGET or c.left < c.floor or (near != W0 and takes_here(c) == W0):
        give_up(c)
        c.why = WHY_LIMIT
        return W0
    if window_open(c) != W0:
        if takes_here(c) != W0:
            take_interrupt(c)
            return W2
        give_up(c)
        c.why = WHY_WINDOW
        return W0
    if near | wants_alone(c) != W0:
        arm(c)
    return W1


def next_block(c):
    """Micro-op of the block at rip, after what the last instruction's status asks for."""
    while True:
        if settle(c) == W0:
            return W0
        way = between(c)
        if way == W0:
            return W0
        if way != W1:
            continue
        u = block_or_leave(c)
        if u != W0 or c.status != FAULT:
            return u
    return W0


def block_or_leave(c):
    """Micro-op of the block at rip; 0 with status FAULT, or when the engine is left: no instruction is armed then.

    A fetch whose page walk touched watched memory leaves, too.
    """
    u = find_block(c)
    if u != W0 and c.n_hits != W0:
        stops_between(c)
        u = W0
    if u == W0 and c.status != FAULT:
        give_up(c)
    return u


def finish(c, status):
    """The instruction at rip ended with `status`: the micro-op to go on with."""
    complete(c, status)
    return next_block(c)


def next_short(c):
    """One instruction at rip: the budget does not hold the whole block."""
    if c.left <= NO_BUDGET or c.left < c.floor:
        give_up(c)
        c.why = WHY_LIMIT
        return W0
    u = short_block(c)
    if u == W0 and c.status == FAULT:
        return next_block(c)
    if u == W0:
        give_up(c)
    return u


def link_block(c, stub):
    """The block that a link stub leads to; from now on its jump goes there directly."""
    generation = c.generation
    c.rip = peek(stub + O_EIP, W8)
    slot = peek(stub + O_SLOT, W8)
    if c.left < c.floor or c.left <= NO_BUDGET:
        c.why = WHY_LIMIT
        return W0
    u = block_or_leave(c)
    if u == W0:
        if c.status == FAULT:
            return next_block(c)
        return W0
    if generation == c.generation and c.options & CHAIN != W0 and u != c.scratch_address:
        poke(slot, W8, u)
    return u


def stale_block(c, u):
    """A micro-op of a dropped block was reached: look its instruction up again."""
    c.left = c.left + i64(peek(u + O_REST, W2))
    c.rip = peek(u + O_EIP, W8)
    k = jump_slot(c.rip)
    c.jump_cache[k + W1] = ONES
    return next_block(c)


def beyond_limit(c, stub):
    """A direct branch whose target is no place for code: #GP(0) at the branch, as if it had not begun."""
    c.rip = peek(stub + O_IMM, W8)
    c.left = c.left + ONE
    undo = peek(stub + O_SCALE, W1)
    if undo != W0:
        set_reg(c, RCX, undo, c.gpr[RCX] + W1)
    fault(c, GP, W0)
    return next_block(c)
