"""The interrupt descriptor table: its gates, their targets, and what every entry to a handler has in common.

Source: Intel SDM vol. 3, 6.10 (IDT), 6.11 (IDT descriptors), 6.12.1.3 (flags), 6.14.1 (64-bit IDT).
"""

from __future__ import annotations

from jitvm.isa.flags import IF, NT, RF, TF, VM
from jitvm.isa.memory import load_system
from jitvm.isa.segment import (
    desc_attr,
    desc_dpl,
    is_code,
    is_conforming,
    is_long_code,
    is_null,
    read_descriptor,
    selector_fault,
)
from jitvm.isa.state import ATTR_P, GP, JUMP, NP, OK, fault
from jitvm.isa.words import ONES, W0, W1, W2, W3, W7, W8, u64

W40, W45, W47 = u64(40), u64(45), u64(47)
GATE_IDT = W2
"""Bit of an error code: the index is one of the IDT."""
GATE_TYPE, TASK_GATE = u64(0x1F), u64(5)
GATE_TYPES = u64(0xC0E0)
"""The types that may stand in the IDT (bit n: type n): task gate, 16- and 32-bit interrupt and trap gates."""


# ---- gates ----------------------------------------------------------------------------------------------------------
def read_gate(c, vector, soft, ext):
    """The IDT's gate for `vector`, checked; `soft`: INT n, INT3, INTO need CPL <= gate DPL.  c.status on a fault."""
    at = vector * W8
    code = at | GATE_IDT | ext
    if at + W7 > c.idt_limit:
        fault(c, GP, code)
        return W0
    gate = load_system(c, c.idt_base + at, W8)
    if c.status != OK:
        return W0
    kind = (gate >> W40) & GATE_TYPE
    if (GATE_TYPES >> kind) & W1 == W0 or (soft != W0 and (gate >> W45) & W3 < c.cpl):
        fault(c, GP, code)
    elif (gate >> W47) & W1 == W0:
        fault(c, NP, code)
    return gate


def read_target(c, selector, ext):
    """Descriptor of an interrupt handler's code segment, checked; c.status on a fault."""
    if is_null(selector) != W0:
        fault(c, GP, ext)
        return W0
    d = read_descriptor(c, selector, GP, ext)
    if c.status != OK:
        return W0
    attr = desc_attr(d)
    dpl = desc_dpl(d)
    v86 = u64(c.rflags & VM != W0)
    if is_code(attr) == W0 or dpl > c.cpl or is_long_code(c, attr) == W0:
        selector_fault(c, GP, selector, ext)
    elif attr & ATTR_P == W0:
        selector_fault(c, NP, selector, ext)
    elif v86 != W0 and (is_conforming(attr) != W0 or dpl != W0):
        selector_fault(c, GP, selector, ext)
    return d


# ---- entering a handler ---------------------------------------------------------------------------------------------
def entered(c, rip):
    """The last step of a successful delivery."""
    c.rip = rip
    c.halted = W0
    c.io_n = W0
    c.delivering = W0
    c.step_armed = W0
    c.again_at = ONES
    c.stop_now = c.step_stop
    return JUMP


def clear_flags(c, gate):
    """TF, NT, RF, VM and, through an interrupt gate, IF (SDM vol. 3, 6.12.1.3)."""
    flags = c.rflags & ~(TF | NT | RF | VM)
    if (gate >> W40) & W1 == W0:
        flags = flags & ~IF
    c.rflags = flags
    return W0
