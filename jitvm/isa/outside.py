"""Asking the outside: port and MMIO accesses leave the CPU and come back with an answer.

An instruction that needs something from outside records what it wants and returns EXIT; nothing of it has happened yet.
The vCPU loop asks the device, appends the answer to the log (`io_key`, `io_value`, `io_n`) and enters again: the
instruction starts from its beginning, and every access that was already answered takes its answer from the log, in
order, so that no access is ever lost or doubled (KVM's emulator keeps a read cache for the same reason).  The log
belongs to one instruction: it is emptied when `retired` has moved on.

Accesses that need no device are answered at once (jitvm/isa/served.py), and stand in the log all the same.  One behind
which an interrupt is due begins its instruction again, alone (status WATCHED), so that it ends where the interrupt comes.
"""

from __future__ import annotations

from jitvm.isa.flags import IF
from jitvm.isa.served import serve
from jitvm.isa.state import (
    APIC_BASE_EN,
    APIC_BASE_RESET,
    EXIT,
    EXIT_INTERNAL_ERROR,
    EXIT_IO,
    EXIT_MMIO,
    WATCHED,
    retired,
)
from jitvm.isa.words import W0, W1, W2, W8, u64

LOG_SIZE = u64(256)
W3_, W40 = u64(3), u64(40)
PAGE_BITS = ~u64(0xFFF)
NOWHERE = u64(0xF_FFFF_FFFF_E000)
"""A page of the bus that no physical address reaches."""


def is_half_done(c):
    """1 when accesses of the instruction at rip were made already: nothing comes before its end."""
    return u64(c.io_n != W0) & u64(c.io_tag == retired(c))


def outside(c, reason, address, size, write, count, value):
    """One access (or a string of `count`): its answer, or c.status = EXIT."""
    now = retired(c)
    if c.io_tag != now:
        c.io_tag = now
        c.io_n = W0
        c.io_pos = W0
    key = (address << W8) | (size << W3_) | (u64(reason == EXIT_IO) << W2) | (write << W1) | u64(count > W1)
    pos = c.io_pos
    if pos < c.io_n:
        if c.io_key[pos] == key:
            c.io_pos = pos + W1
            return c.io_value[pos]
        c.io_n = pos
    if pos < LOG_SIZE and serve(c, reason, address, size, write, count, value) != W0:
        c.io_key[pos] = key
        c.io_value[pos] = c.answer
        c.io_n = pos + W1
        c.io_pos = pos + W1
        if c.want_window & write != W0 and c.rflags & IF != W0 and c.armed | c.noting == W0:
            c.status = WATCHED
        return c.answer
    c.status = EXIT
    c.exit_reason = reason
    if pos >= LOG_SIZE:
        c.exit_reason = EXIT_INTERNAL_ERROR
        return W0
    c.io_key[pos] = key
    c.io_address = address
    c.io_size = size
    c.io_write = write
    c.io_count = count
    if count == W1:
        c.io_data[0] = value
    return W0


def port_access(c, port, size, write, value):
    """One port access: the value read (0 for a write), or c.status = EXIT."""
    return outside(c, EXIT_IO, port, size, write, W1, value)


def port_string(c, port, size, write, count):
    """A string of port accesses, data packed in `io_data`: how many elements were moved, or c.status = EXIT."""
    return outside(c, EXIT_IO, port, size, write, count, W0)


def on_bus(c, address, size, write, value):
    """One access to an address of the bus."""
    return outside(c, EXIT_MMIO, address, size, write, W1, value)


def mmio(c, gpa, size, write, value):
    """One access to a physical address that is not memory.

    The bus has the local APIC's page where it is after a reset: one that IA32_APIC_BASE has moved is found there, and an
    access to the place that it has left goes where nobody is.
    """
    page, at = gpa & PAGE_BITS, c.msr_apic_base & PAGE_BITS
    if at != APIC_BASE_RESET and page == at and c.msr_apic_base & APIC_BASE_EN != W0:
        return on_bus(c, APIC_BASE_RESET | (gpa ^ page), size, write, value)
    if at != APIC_BASE_RESET and page == APIC_BASE_RESET:
        return on_bus(c, NOWHERE | (gpa ^ page), size, write, value)
    return on_bus(c, gpa, size, write, value)
