"""The local APIC's registers that a kernel touches at every interrupt: priorities, the end of an interrupt, what is read.

`c.apic` holds the page of registers, a word for each 16 bytes: register `offset` is word `offset >> 4`, of 32 bits.  It is
all the state that processor and device share (jitvm/devices/lapic.py, which calls the functions here).  Words of offsets
without a register: 0 is 1 when there is a local APIC (a board put it there; the bare form has none), 1 is 1 while nobody
looks at each access, 4 is 1 while something waits for the processor, 5 is IA32_APIC_BASE.EN.

What needs the device is not served here: an end of interrupt that the I/O APIC must hear of, and every write after which an
interrupt waits.

Source: Intel SDM vol. 3, 10.4.1 (register addresses), 10.8.3 (priorities), 10.8.4 (IRR, ISR, TMR), 10.8.5 (EOI),
10.8.6 (CR8).
"""

from __future__ import annotations

from jitvm.isa.words import M8, ONES, W0, W1, W4, W5, W8, W31, u64

PRESENT, QUIET, PENDING, ENABLED = u64(0), u64(1), u64(4), u64(5)
TPR, PPR, EOI, SVR, ISR, TMR, IRR = u64(0x08), u64(0x0A), u64(0x0B), u64(0x0F), u64(0x10), u64(0x18), u64(0x20)
ICR_HIGH = u64(0x31)
READABLE = u64(sum(1 << n for n in (2, 3, 8, 0xA, 0xD, 0xE, 0xF, *range(0x10, 0x29), *range(0x30, 0x39), 0x3E)))
"""Bit n: register n reads as its word; of others, the current count is the device's, and no register is an error."""
SVR_ENABLE, CLASS, DESTINATION = u64(0x100), u64(0xF0), u64(0xFF00_0000)
NONE = ONES
"""No vector."""


def highest(c, first):
    """Highest vector of the set of 8 words from `first` on; NONE when it is empty."""
    k = W8
    while k != W0:
        k = k - W1
        bits = c.apic[first + k]
        if bits != W0:
            n = W31
            while (bits >> n) & W1 == W0:
                n = n - W1
            return (k << W5) | n
    return NONE


def priority(c):
    """Processor priority: the higher of task priority and served class (10.8.3.1)."""
    served = highest(c, ISR)
    if served == NONE or c.apic[TPR] & CLASS >= served & CLASS:
        return c.apic[TPR]
    return served & CLASS


def deliverable(c):
    """The vector that would interrupt now; NONE."""
    vector = highest(c, IRR)
    if vector == NONE or c.apic[SVR] & SVR_ENABLE == W0 or c.apic[ENABLED] == W0:
        return NONE
    if vector & CLASS > priority(c) & CLASS:
        return vector
    return NONE


def set_priority(c, v):
    """The task priority, which CR8 shows, too."""
    c.apic[TPR] = v & M8
    c.cr8 = (v & M8) >> W4
    return W0


def end_of_interrupt(c):
    """The highest vector in service is so no longer; which, or NONE."""
    vector = highest(c, ISR)
    if vector != NONE:
        at = ISR + (vector >> W5)
        c.apic[at] = c.apic[at] & ~(W1 << (vector & W31))
    return vector


def ends_here(c):
    """EOI: 1 when it is done, 0 when it needs the device and nothing has happened."""
    vector = end_of_interrupt(c)
    if vector == NONE:
        return W1
    bit = W1 << (vector & W31)
    if c.apic[TMR + (vector >> W5)] & bit == W0 and deliverable(c) == NONE:
        return W1
    at = ISR + (vector >> W5)
    c.apic[at] = c.apic[at] | bit
    return W0


def prioritized_here(c, v):
    """A write of the task priority: 1 when it is done, 0 when it lets an interrupt in and nothing has happened."""
    before = c.apic[TPR]
    set_priority(c, v)
    if deliverable(c) == NONE:
        return W1
    set_priority(c, before)
    return W0


def written_here(c, n, v):
    """A write of register `n`: 1 when it is done, 0 when it needs the device."""
    if c.apic[PENDING] != W0:
        return W0
    if n == EOI:
        return ends_here(c)
    if n == TPR:
        return prioritized_here(c, v)
    if n == ICR_HIGH:
        c.apic[ICR_HIGH] = v & DESTINATION
        return W1
    return W0


def register(c, n):
    """A register that is `READABLE`."""
    if n == PPR:
        return priority(c)
    return c.apic[n]
