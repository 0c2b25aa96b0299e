"""The segments of a new task: what a task switch checks behind its commit point.

The order is that of the P6 family (SDM vol. 3, table 7-1): LDT, DPL of the code segment, stack segment, code segment,
RPL of the stack segment, data segments; but the presence of the LDT is looked at with its type, as it may hold the
others.  Each register becomes usable when its own checks passed; the selectors are there from the start.  Error codes
name the selector; most faults are #TS.

Source: Intel SDM vol. 3, 7.3 and table 7-1, 6.15 (#TS, #NP, #SS), 20.2.5 (a task in virtual-8086 mode).
"""

from __future__ import annotations

from jitvm.isa.flags import VM
from jitvm.isa.memory import load_system
from jitvm.isa.segment import (
    LDT,
    RPL,
    TI,
    TYPE,
    desc_attr,
    desc_dpl,
    descriptor_address,
    is_code,
    is_conforming,
    is_null,
    is_readable,
    is_writable_data,
    mark_accessed,
    read_descriptor,
    selector_fault,
    set_null,
    set_segment,
    set_system,
    set_v86,
)
from jitvm.isa.state import ATTR_P, CS, DS, ES, FS, GS, LDTR, NP, OK, SS, SS_FAULT, TS
from jitvm.isa.words import ONES, W0, W1, W6, W8, u64


def is_fitting_code(c, d):
    """1 when a code segment's DPL fits the privilege level: equal, or at most that of a conforming one."""
    if is_conforming(desc_attr(d)) != W0:
        return u64(desc_dpl(d) <= c.cpl)
    return u64(desc_dpl(d) == c.cpl)


def load_task_ldt(c, selector, ext):
    """LDTR; status."""
    if is_null(selector) != W0:
        return OK
    if selector & TI != W0:
        return selector_fault(c, TS, selector, ext)
    d = read_descriptor(c, selector, TS, ext)
    if c.status != OK:
        return c.status
    if desc_attr(d) & (TYPE | ATTR_P) != LDT | ATTR_P:
        return selector_fault(c, TS, selector, ext)
    return set_system(c, LDTR, selector, d)


def task_code(c, ext):
    """Descriptor of the code segment if it can be read, and a fault when its DPL is wrong; c.status."""
    selector = c.sel[CS]
    if is_null(selector) != W0 or descriptor_address(c, selector) == ONES:
        return W0
    d = load_system(c, descriptor_address(c, selector), W8)
    if c.status == OK and is_code(desc_attr(d)) != W0 and is_fitting_code(c, d) == W0:
        selector_fault(c, TS, selector, ext)
    return d


def load_task_stack(c, ext):
    """SS but for the RPL of its selector; status."""
    selector = c.sel[SS]
    if is_null(selector) != W0:
        return selector_fault(c, TS, selector, ext)
    d = read_descriptor(c, selector, TS, ext)
    if c.status != OK:
        return c.status
    attr = desc_attr(d)
    if is_writable_data(attr) == W0:
        return selector_fault(c, TS, selector, ext)
    if attr & ATTR_P == W0:
        return selector_fault(c, SS_FAULT, selector, ext)
    if desc_dpl(d) != c.cpl:
        return selector_fault(c, TS, selector, ext)
    if mark_accessed(c, selector, d) != OK:
        return c.status
    set_segment(c, SS, selector, d)
    return OK


def load_task_code(c, d, ext):
    """CS from its descriptor (0: it could not be read); status."""
    selector = c.sel[CS]
    attr = desc_attr(d)
    if is_code(attr) == W0 or is_fitting_code(c, d) == W0:
        return selector_fault(c, TS, selector, ext)
    if attr & ATTR_P == W0:
        return selector_fault(c, NP, selector, ext)
    if mark_accessed(c, selector, d) != OK:
        return c.status
    set_segment(c, CS, selector, d)
    return OK


def load_task_data(c, seg, ext):
    """DS, ES, FS or GS; status."""
    selector = c.sel[seg]
    if is_null(selector) != W0:
        return OK
    d = read_descriptor(c, selector, TS, ext)
    if c.status != OK:
        return c.status
    attr, dpl = desc_attr(d), desc_dpl(d)
    if is_readable(attr) == W0:
        return selector_fault(c, TS, selector, ext)
    if attr & ATTR_P == W0:
        return selector_fault(c, NP, selector, ext)
    if is_conforming(attr) == W0 and (dpl < c.cpl or dpl < selector & RPL):
        return selector_fault(c, TS, selector, ext)
    if mark_accessed(c, selector, d) != OK:
        return c.status
    set_segment(c, seg, selector, d)
    return OK


def load_stack_and_code(c, ext):
    """SS and CS; status."""
    code = task_code(c, ext)
    if c.status != OK or load_task_stack(c, ext) != OK or load_task_code(c, code, ext) != OK:
        return c.status
    if c.sel[SS] & RPL != c.cpl:
        set_null(c, SS, c.sel[SS])
        return selector_fault(c, TS, c.sel[SS], ext)
    return OK


def load_task_segments(c, ldt, ext):
    """LDTR and the six segment registers, whose selectors are there, with EFLAGS and privilege level: status."""
    if load_task_ldt(c, ldt, ext) != OK:
        return c.status
    if c.rflags & VM != W0:
        k = W0
        while k < W6:
            set_v86(c, k, c.sel[k])
            k += W1
        return OK
    if load_stack_and_code(c, ext) != OK or load_task_data(c, DS, ext) != OK or load_task_data(c, ES, ext) != OK:
        return c.status
    if load_task_data(c, FS, ext) != OK:
        return c.status
    return load_task_data(c, GS, ext)
