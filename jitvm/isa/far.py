"""Far JMP, CALL and RET.

Direct and through call gates, at the same privilege level, to an inner one (with a stack from the TSS and a copy of the
parameters) and back to an outer one.  What IRET has in common with RET is here too.

Source: Intel SDM vol. 2, JMP, CALL, RET; vol. 3, 5.8 (control transfers between code segments), 20.1, 20.2.

Not modelled: 64-bit mode.
"""

from __future__ import annotations

from jitvm.isa.memory import is_canonical, is_user, load
from jitvm.isa.mode import is_protected, update_context
from jitvm.isa.registers import cut_sp, set_sp
from jitvm.isa.segment import (
    GATE_CALL16,
    GATE_CALL32,
    GATE_TASK,
    RPL,
    TI,
    TSS16,
    TSS32,
    TYPE,
    bad_long_code,
    desc_attr,
    desc_dpl,
    gate_offset,
    gate_selector,
    gate_size,
    go_to,
    is_code,
    is_conforming,
    is_long_code,
    is_null,
    is_outside,
    is_writable_data,
    load_cs,
    load_cs_plain,
    mark_accessed,
    read_descriptor,
    read_second_half,
    selector_fault,
    set_null,
    set_segment,
)
from jitvm.isa.state import (
    ATTR_L,
    ATTR_P,
    CS,
    DS,
    EFER_LMA,
    ES,
    FS,
    GP,
    GS,
    JUMP,
    NP,
    OK,
    RSP,
    SS,
    SS_FAULT,
    fault,
)
from jitvm.isa.task import BY_CALL, BY_JMP, jump_gate, jump_task
from jitvm.isa.tlb import SUPERVISOR
from jitvm.isa.tss import inner_ss, inner_stack, probe_inner, probe_push, push, push_inner
from jitvm.isa.tss_long import RSP0, inner_rsp, probe_long, push_long
from jitvm.isa.words import M16, M32, W0, W1, W2, W3, W4, W5, W8, W32, cut, mask, u64

PARAMS = u64(0x1F)
"""Parameter count of a call gate."""


# ---- targets --------------------------------------------------------------------------------------------------------
def check_direct(c, selector, d):
    """Status: may JMP or CALL go straight to the code segment `d`? (SDM vol. 3, 5.8.1)"""
    dpl = desc_dpl(d)
    if is_conforming(desc_attr(d)) != W0:
        bad = u64(dpl > c.cpl)
    else:
        bad = u64(dpl != c.cpl) | u64(selector & RPL > c.cpl)
    if bad | bad_long_code(c, desc_attr(d)) != W0:
        return selector_fault(c, GP, selector, W0)
    if desc_attr(d) & ATTR_P == W0:
        return selector_fault(c, NP, selector, W0)
    return OK


def check_system(c, selector, d):
    """Status: may CPL and RPL use this gate or TSS, and is it present? (SDM vol. 3, 5.8.4, 7.3)"""
    dpl = desc_dpl(d)
    if dpl < c.cpl or dpl < selector & RPL:
        return selector_fault(c, GP, selector, W0)
    if desc_attr(d) & ATTR_P == W0:
        return selector_fault(c, NP, selector, W0)
    return OK


def gate_target(c, gate, call):
    """Descriptor of the code segment that a call gate names; `call` 1: it may be of an inner level.  c.status.

    That it is 64-bit code in long mode is asked before its presence (SDM vol. 2, CALL, CALL-GATE).
    """
    selector = gate_selector(gate)
    if is_null(selector) != W0:
        fault(c, GP, W0)
        return W0
    d = read_descriptor(c, selector, GP, W0)
    if c.status != OK:
        return W0
    attr = desc_attr(d)
    dpl = desc_dpl(d)
    inner = u64(is_conforming(attr) == W0 and dpl < c.cpl)
    if is_code(attr) == W0 or dpl > c.cpl or (call == W0 and inner != W0) or is_long_code(c, attr) == W0:
        selector_fault(c, GP, selector, W0)
    elif attr & ATTR_P == W0:
        selector_fault(c, NP, selector, W0)
    return d


def target(c, selector):
    """Descriptor that a far JMP or CALL names; c.status."""
    if is_null(selector) != W0:
        fault(c, GP, W0)
        return W0
    return read_descriptor(c, selector, GP, W0)


def is_call_gate(c, attr):
    """1 for a call gate; the 16-bit one is none in long mode."""
    old = u64(attr & TYPE == GATE_CALL16) & u64(c.efer & EFER_LMA == W0)
    return old | u64(attr & TYPE == GATE_CALL32)


def enter_task(c, selector, d, by):
    """JMP or CALL to what is neither code nor a call gate: a task, or #GP."""
    kind = desc_attr(d) & TYPE
    if c.efer & EFER_LMA != W0:
        return selector_fault(c, GP, selector, W0)
    tss = u64(kind == TSS16) | u64(kind == TSS32)
    if (tss == W0 and kind != GATE_TASK) or (tss != W0 and selector & TI != W0):
        return selector_fault(c, GP, selector, W0)
    if check_system(c, selector, d) != OK:
        return c.status
    if tss != W0:
        return jump_task(c, selector, d, by)
    return jump_gate(c, selector, d, by)


# ---- call gates of long mode ------------------------------------------------------------------------------------------
def through_long_gate(c, selector, gate, call):
    """JMP or CALL (`call` 1) through a checked 64-bit call gate (SDM vol. 3, 5.8.3.1, 5.8.5.1): to 64-bit code."""
    upper = read_second_half(c, selector)
    if c.status != OK:
        return c.status
    d = gate_target(c, gate, call)
    if c.status != OK:
        return c.status
    cs = gate_selector(gate)
    rip = gate_offset(gate) | (upper << W32)
    cpl = c.cpl
    if call != W0 and is_conforming(desc_attr(d)) == W0:
        cpl = desc_dpl(d)
    if call == W0:
        if is_canonical(rip) == W0:
            return fault(c, GP, W0)
        if mark_accessed(c, cs, d) != OK:
            return c.status
    elif push_long_call(c, cs, d, cpl, rip) != OK:
        return c.status
    load_cs(c, cs, d, cpl)
    c.rip = rip
    return JUMP


def push_long_call(c, cs, d, cpl, rip):
    """The frame of a call through a 64-bit gate to privilege level `cpl`; SS becomes null when that changes.  Status."""
    rsp, n, part = c.gpr[RSP], W2, is_user(c)
    if cpl != c.cpl:
        rsp = inner_rsp(c, RSP0 + cpl * W8, W0)
        n = W4
        part = SUPERVISOR
    if c.status != OK or probe_long(c, rsp, n, part, W0) != OK:
        return c.status
    if is_canonical(rip) == W0:
        return fault(c, GP, W0)
    if mark_accessed(c, cs, d) != OK:
        return c.status
    if n == W4:
        push_long(c, rsp, W1, c.sel[SS], part)
        push_long(c, rsp, W2, c.gpr[RSP], part)
    push_long(c, rsp, n - W1, c.sel[CS], part)
    if push_long(c, rsp, n, c.next_rip, part) != OK:
        return c.status
    c.gpr[RSP] = rsp - n * W8
    if n == W4:
        set_null(c, SS, cpl)
    return OK


# ---- JMP ------------------------------------------------------------------------------------------------------------
def jump_plain(c, selector, rip):
    """To selector:rip in real or virtual-8086 mode, after all checks."""
    load_cs_plain(c, selector)
    c.rip = rip
    return JUMP


def jump_code(c, selector, d, rip):
    """To a checked code segment at the current privilege level."""
    if is_outside(c, d, rip) != W0:
        return fault(c, GP, W0)
    if mark_accessed(c, selector, d) != OK:
        return c.status
    load_cs(c, selector, d, c.cpl)
    return go_to(c, rip)


def far_jmp(c, size, imm, imm2):
    """JMP imm2:imm."""
    rip, selector = cut(size, imm), imm2 & M16
    if is_protected(c) == W0:
        if rip > c.limit[CS]:
            return fault(c, GP, W0)
        return jump_plain(c, selector, rip)
    d = target(c, selector)
    if c.status != OK:
        return c.status
    if is_code(desc_attr(d)) != W0:
        if check_direct(c, selector, d) != OK:
            return c.status
        return jump_code(c, selector, d, rip)
    if is_call_gate(c, desc_attr(d)) == W0:
        return enter_task(c, selector, d, BY_JMP)
    if check_system(c, selector, d) != OK:
        return c.status
    if c.efer & EFER_LMA != W0:
        return through_long_gate(c, selector, d, W0)
    code = gate_target(c, d, W0)
    if c.status != OK:
        return c.status
    return jump_code(c, gate_selector(d), code, gate_offset(d))


def far_jmp_mem(c, size, asize, seg, off):
    """JMP through a far pointer in memory."""
    rip = load(c, seg, off, size)
    if c.status != OK:
        return c.status
    selector = load(c, seg, (off + size) & mask(asize), W2)
    if c.status != OK:
        return c.status
    return far_jmp(c, size, rip, selector)


# ---- CALL -----------------------------------------------------------------------------------------------------------
def push_return(c, size):
    """Push CS and the return address, which were probed; the stack pointer moves.  Status."""
    push(c, W1, size, c.sel[CS])
    if push(c, W2, size, c.next_rip) != OK:
        return c.status
    set_sp(c, cut_sp(c, c.gpr[RSP] - W2 * size))
    return OK


def call_plain(c, size, selector, rip):
    """In real or virtual-8086 mode."""
    if probe_push(c, W2, size) != OK:
        return c.status
    if rip > c.limit[CS]:
        return fault(c, GP, W0)
    if push_return(c, size) != OK:
        return c.status
    return jump_plain(c, selector, rip)


def call_code(c, size, selector, d, rip):
    """To a checked code segment at the current privilege level."""
    if probe_push(c, W2, size) != OK:
        return c.status
    if is_outside(c, d, rip) != W0:
        return fault(c, GP, W0)
    if mark_accessed(c, selector, d) != OK:
        return c.status
    if push_return(c, size) != OK:
        return c.status
    load_cs(c, selector, d, c.cpl)
    return go_to(c, rip)


def read_params(c, n, size):
    """`n` words from the current stack to the scratch words `io_data`; status."""
    k = W0
    while k < n:
        v = load(c, SS, cut_sp(c, c.gpr[RSP] + k * size), size)
        if c.status != OK:
            return c.status
        c.io_data[k] = v
        k += W1
    return OK


def push_inner_call(c, sd, sp, n, size):
    """The frame of a call to an inner level: old stack, `n` parameters, return address (SDM vol. 3, 5.8.5); status."""
    push_inner(c, sd, sp, W1, size, c.sel[SS])
    push_inner(c, sd, sp, W2, size, c.gpr[RSP])
    k = W0
    while k < n and c.status == OK:
        push_inner(c, sd, sp, k + W3, size, c.io_data[n - W1 - k])
        k += W1
    push_inner(c, sd, sp, n + W3, size, c.sel[CS])
    return push_inner(c, sd, sp, n + W4, size, c.next_rip)


def call_inner(c, gate, d):
    """Through a checked call gate to an inner privilege level."""
    size, dpl, n = gate_size(gate), desc_dpl(d), (gate >> W32) & PARAMS
    stack = inner_stack(c, dpl, W0)
    if c.status != OK:
        return c.status
    sp, ss = stack & M32, stack >> W32
    sd = inner_ss(c, ss, dpl, W0)
    if c.status != OK:
        return c.status
    if probe_inner(c, ss, sd, sp, n + W4, size, W0) != OK:
        return c.status
    if is_outside(c, d, gate_offset(gate)) != W0:
        return fault(c, GP, W0)
    if read_params(c, n, size) != OK:
        return c.status
    if mark_accessed(c, gate_selector(gate), d) != OK or mark_accessed(c, ss, sd) != OK:
        return c.status
    if push_inner_call(c, sd, sp, n, size) != OK:
        return c.status
    set_segment(c, SS, ss, sd)
    load_cs(c, gate_selector(gate), d, dpl)
    set_sp(c, cut_sp(c, sp - (n + W4) * size))
    c.rip = gate_offset(gate)
    return JUMP


def far_call(c, size, imm, imm2):
    """CALL imm2:imm."""
    rip, selector = cut(size, imm), imm2 & M16
    if is_protected(c) == W0:
        return call_plain(c, size, selector, rip)
    d = target(c, selector)
    if c.status != OK:
        return c.status
    if is_code(desc_attr(d)) != W0:
        if check_direct(c, selector, d) != OK:
            return c.status
        return call_code(c, size, selector, d, rip)
    if is_call_gate(c, desc_attr(d)) == W0:
        return enter_task(c, selector, d, BY_CALL)
    if check_system(c, selector, d) != OK:
        return c.status
    if c.efer & EFER_LMA != W0:
        return through_long_gate(c, selector, d, W1)
    code = gate_target(c, d, W1)
    if c.status != OK:
        return c.status
    if is_conforming(desc_attr(code)) == W0 and desc_dpl(code) < c.cpl:
        return call_inner(c, d, code)
    return call_code(c, gate_size(d), gate_selector(d), code, gate_offset(d))


def far_call_mem(c, size, asize, seg, off):
    """CALL through a far pointer in memory."""
    rip = load(c, seg, off, size)
    if c.status != OK:
        return c.status
    selector = load(c, seg, (off + size) & mask(asize), W2)
    if c.status != OK:
        return c.status
    return far_call(c, size, rip, selector)


# ---- RET, and what IRET shares ---------------------------------------------------------------------------------------
def stack_word(c, n, size):
    """The word `n` bytes above the stack pointer, unless c.status is set; look at c.status."""
    if c.status != OK:
        return W0
    return load(c, SS, cut_sp(c, c.gpr[RSP] + n), size)


def drop(c, n):
    """Move the stack pointer up by `n` bytes."""
    return set_sp(c, cut_sp(c, c.gpr[RSP] + n))


def return_cs(c, selector):
    """Descriptor of the code segment to return to, checked; c.status."""
    d = target(c, selector)
    if c.status != OK:
        return W0
    attr, dpl, rpl = desc_attr(d), desc_dpl(d), selector & RPL
    if is_conforming(attr) != W0:
        bad = u64(dpl > rpl)
    else:
        bad = u64(dpl != rpl)
    if is_code(attr) == W0 or rpl < c.cpl or bad | bad_long_code(c, attr) != W0:
        selector_fault(c, GP, selector, W0)
    elif attr & ATTR_P == W0:
        selector_fault(c, NP, selector, W0)
    return d


def return_stack(c, selector, cs, d):
    """As `return_ss` to the code segment `d`; 64-bit code below level 3 may have a null selector, which gives 0."""
    if is_null(selector) != W0 and c.efer & EFER_LMA != W0 and desc_attr(d) & ATTR_L != W0 and cs & RPL != W3:
        if selector & RPL != cs & RPL:
            fault(c, GP, W0)
        return W0
    return return_ss(c, selector, cs & RPL)


def mark_stack(c, ss, sd):
    """`mark_accessed` for what `return_stack` gave."""
    if is_null(ss) != W0:
        return OK
    return mark_accessed(c, ss, sd)


def return_ss(c, selector, cpl):
    """Descriptor of the stack segment to return to at privilege level `cpl`, checked; c.status."""
    d = target(c, selector)
    if c.status != OK:
        return W0
    attr = desc_attr(d)
    if selector & RPL != cpl or desc_dpl(d) != cpl or is_writable_data(attr) == W0:
        selector_fault(c, GP, selector, W0)
    elif attr & ATTR_P == W0:
        selector_fault(c, SS_FAULT, selector, W0)
    return d


def hide(c, seg):
    """After a return to an outer level: a register with a segment that this level may not use becomes null.

    A null selector loses its RPL, and the base stays as it was (both seen on silicon): 64-bit code may go on using it.
    """
    attr = c.attr[seg]
    if attr & ATTR_P == W0:
        c.sel[seg] = W0
    elif is_conforming(attr) == W0 and (attr >> W5) & W3 < c.cpl:
        base = c.base[seg]
        set_null(c, seg, W0)
        c.base[seg] = base
    return W0


def load_stack(c, cs, d, ss, sd, sp):
    """CS, SS and the stack pointer of whom a return goes to."""
    if is_null(ss) != W0:
        set_null(c, SS, ss)
    else:
        set_segment(c, SS, ss, sd)
    load_cs(c, cs, d, cs & RPL)
    return set_sp(c, cut_sp(c, sp))


def load_outer(c, cs, d, ss, sd, sp):
    """CS, SS and the stack pointer of an outer privilege level (SDM vol. 3, 5.8.6).

    A 16-bit stack segment takes SP alone: the upper half of ESP stays that of the inner level, as on every processor.
    """
    load_stack(c, cs, d, ss, sd, sp)
    hide(c, ES)
    hide(c, DS)
    hide(c, FS)
    hide(c, GS)
    return update_context(c)


def ret_plain(c, size, imm, rip, selector):
    """In real or virtual-8086 mode."""
    if rip > c.limit[CS]:
        return fault(c, GP, W0)
    drop(c, W2 * size + imm)
    return jump_plain(c, selector, rip)


def ret_same(c, size, imm, rip, selector, d):
    """At the current privilege level."""
    if is_outside(c, d, rip) != W0:
        return fault(c, GP, W0)
    if mark_accessed(c, selector, d) != OK:
        return c.status
    drop(c, W2 * size + imm)
    load_cs(c, selector, d, c.cpl)
    return go_to(c, rip)


def ret_outer(c, size, imm, rip, selector, d):
    """To an outer privilege level, whose stack is found above the parameters."""
    sp = stack_word(c, W2 * size + imm, size)
    ss = stack_word(c, W3 * size + imm, W2)
    if c.status != OK:
        return c.status
    sd = return_stack(c, ss, selector, d)
    if c.status != OK:
        return c.status
    if is_outside(c, d, rip) != W0:
        return fault(c, GP, W0)
    if mark_accessed(c, selector, d) != OK or mark_stack(c, ss, sd) != OK:
        return c.status
    load_outer(c, selector, d, ss, sd, sp + imm)
    return go_to(c, rip)


def far_ret(c, size, imm):
    """RET far, releasing `imm` bytes of parameters; of a selector 2 bytes are read, as on silicon."""
    rip = stack_word(c, W0, size)
    selector = stack_word(c, size, W2)
    if c.status != OK:
        return c.status
    if is_protected(c) == W0:
        return ret_plain(c, size, imm, rip, selector)
    d = return_cs(c, selector)
    if c.status != OK:
        return c.status
    if selector & RPL == c.cpl:
        return ret_same(c, size, imm, rip, selector, d)
    return ret_outer(c, size, imm, rip, selector, d)
