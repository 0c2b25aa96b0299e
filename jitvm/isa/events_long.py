"""Exceptions and interrupts in long mode: 16-byte gates, stacks of the 64-bit TSS, frames that always hold SS and RSP.

Source: Intel SDM vol. 3, 6.14 (64-bit mode), 6.14.1 (IDT), 6.14.2 (stack frame, alignment), 6.14.4 (stack switching), 6.14.5
(interrupt stack table); vol. 2, "INT n/INTO/INT3/INT1".
"""

from __future__ import annotations

from jitvm.isa.idt import GATE_IDT, GATE_TYPE, W40, W45, W47, clear_flags, entered, read_target
from jitvm.isa.memory import is_canonical, is_user, load_system
from jitvm.isa.mode import read_eflags
from jitvm.isa.segment import (
    desc_attr,
    desc_dpl,
    gate_offset,
    gate_selector,
    is_conforming,
    load_cs,
    mark_accessed,
    set_null,
)
from jitvm.isa.state import CS, GP, NP, OK, RSP, SS, fault
from jitvm.isa.tlb import SUPERVISOR
from jitvm.isa.tss_long import IST1, RSP0, inner_rsp, probe_long, push_long
from jitvm.isa.words import M32, W0, W1, W2, W3, W4, W5, W7, W8, W15, W16, W32, u64

GATE_TYPES_LONG = u64(0xC000)
"""The types that may stand in the IDT of long mode (bit n: type n): 64-bit interrupt and trap gates."""
W6 = u64(6)


def read_long_gate(c, vector, soft, ext):
    """The lower half of the IDT's gate for `vector`, checked; `soft`: CPL <= gate DPL is asked.  c.status on a fault."""
    at = vector * W16
    code = (vector << W3) | GATE_IDT | ext
    if at + W15 > c.idt_limit:
        fault(c, GP, code)
        return W0
    gate = load_system(c, c.idt_base + at, W8)
    if c.status != OK:
        return W0
    kind = (gate >> W40) & GATE_TYPE
    if (GATE_TYPES_LONG >> kind) & W1 == W0 or (soft != W0 and (gate >> W45) & W3 < c.cpl):
        fault(c, GP, code)
    elif (gate >> W47) & W1 == W0:
        fault(c, NP, code)
    return gate


def handler_stack(c, gate, cpl, ext):
    """Top of the frame of a handler at privilege level `cpl`: by the gate's IST, by the TSS, or the current one; c.status.

    It is aligned to 16 bytes.
    """
    ist = (gate >> W32) & W7
    rsp = c.gpr[RSP]
    if ist != W0:
        rsp = inner_rsp(c, IST1 + ((ist - W1) << W3), ext)
    elif cpl != c.cpl:
        rsp = inner_rsp(c, RSP0 + (cpl << W3), ext)
    return rsp & ~W15


def push_long_frame(c, rsp, part, ret, has_error, error, rf):
    """SS, RSP, RFLAGS, CS, RIP, and the error code; status."""
    push_long(c, rsp, W1, c.sel[SS], part)
    push_long(c, rsp, W2, c.gpr[RSP], part)
    push_long(c, rsp, W3, read_eflags(c) | rf, part)
    push_long(c, rsp, W4, c.sel[CS], part)
    push_long(c, rsp, W5, ret, part)
    if has_error != W0:
        push_long(c, rsp, W6, error, part)
    return c.status


def enter_long(c, vector, soft, ext, ret, has_error, error, rf):
    """`events.enter` in long mode: a handler is 64-bit code; SS becomes null when the privilege level changes."""
    gate = read_long_gate(c, vector, soft, ext)
    if c.status != OK:
        return c.status
    upper = load_system(c, c.idt_base + vector * W16 + W8, W8) & M32
    if c.status != OK:
        return c.status
    cs, rip = gate_selector(gate), gate_offset(gate) | (upper << W32)
    d = read_target(c, cs, ext)
    if c.status != OK:
        return c.status
    cpl, part = c.cpl, is_user(c)
    if is_conforming(desc_attr(d)) == W0 and desc_dpl(d) < cpl:
        cpl = desc_dpl(d)
        part = SUPERVISOR
    rsp = handler_stack(c, gate, cpl, ext)
    n = W5 + has_error
    if c.status != OK or probe_long(c, rsp, n, part, ext) != OK:
        return c.status
    if is_canonical(rip) == W0:
        return fault(c, GP, ext)
    if mark_accessed(c, cs, d) != OK:
        return c.status
    if push_long_frame(c, rsp, part, ret, has_error, error, rf) != OK:
        return c.status
    clear_flags(c, gate)
    if cpl != c.cpl:
        set_null(c, SS, cpl)
    load_cs(c, cs, d, cpl)
    c.gpr[RSP] = rsp - (n << W3)
    return entered(c, rip)
