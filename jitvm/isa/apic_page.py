"""The local APIC's registers that a kernel touches at every interrupt: priorities, requests, acknowledge, end of interrupt.

`c.apic` holds the page of registers, a word for each 16 bytes: register `offset` is word `offset >> 4`, of 32 bits.  It is
all the state that processor and device share (jitvm/devices/lapic.py, which calls the functions here).  Words of offsets
without a register: 0 is 1 when there is a local APIC (a board put it there; the bare form has none), 1 is 1 while nobody
looks at each access and each interrupt, 4 is 1 while something waits for the processor, 5 is IA32_APIC_BASE.EN, 6 is 1 while
the 8259A's INTR reaches the processor.

What needs the device is not served here: an end of interrupt that the I/O APIC must hear of, messages to other processors,
timers, and the vector of the 8259A.

Source: Intel SDM vol. 3, 10.4.1 (register addresses), 10.6.1 (interrupt command register), 10.8.3 (priorities), 10.8.4 (IRR,
ISR, TMR), 10.8.5 (EOI), 10.8.6 (CR8).

Not modelled: two APICs to which the guest gave one ID (a message that one of them sends to it goes to that one alone).
"""

from __future__ import annotations

from jitvm.isa.words import M8, ONES, W0, W1, W4, W5, W8, W16, W31, u64

PRESENT, QUIET, PENDING, ENABLED, EXTINT = u64(0), u64(1), u64(4), u64(5), u64(6)
ID, TPR, PPR, EOI, SVR = u64(0x02), u64(0x08), u64(0x0A), u64(0x0B), u64(0x0F)
ISR, TMR, IRR = u64(0x10), u64(0x18), u64(0x20)
ICR, ICR_HIGH = u64(0x30), u64(0x31)
READABLE = u64(sum(1 << n for n in (2, 3, 8, 0xA, 0xD, 0xE, 0xF, *range(0x10, 0x29), *range(0x30, 0x39), 0x3E)))
"""Bit n: register n reads as its word; of others, the current count is the device's, and no register is an error."""
SVR_ENABLE, CLASS, DESTINATION = u64(0x100), u64(0xF0), u64(0xFF00_0000)
FIXED, MODE, LOGICAL, ICR_BITS = u64(0), u64(0x700), u64(0x800), u64(0xC_CFFF)
SHORTHAND, TO_SELF = u64(0xC_0000), u64(0x4_0000)
"""In the interrupt command register: delivery mode, destination mode, shorthand; the bits that it keeps."""
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


def look(c):
    """Find out again whether something waits for the processor; 1 when it does."""
    c.apic[PENDING] = u64(deliverable(c) != NONE) | c.apic[EXTINT]
    return c.apic[PENDING]


def request(c, vector, level):
    """A fixed interrupt comes in (10.8.4)."""
    at, bit = vector >> W5, W1 << (vector & W31)
    c.apic[IRR + at] = c.apic[IRR + at] | bit
    c.apic[TMR + at] = (c.apic[TMR + at] & ~bit) | (bit * level)
    return W0


def acknowledge(c):
    """The processor takes the interrupt that is deliverable: its vector, which is in service from now on; NONE."""
    vector = deliverable(c)
    if vector != NONE:
        at, bit = vector >> W5, W1 << (vector & W31)
        c.apic[IRR + at] = c.apic[IRR + at] & ~bit
        c.apic[ISR + at] = c.apic[ISR + at] | bit
    return vector


def end_of_interrupt(c):
    """The highest vector in service is so no longer; which, or NONE."""
    vector = highest(c, ISR)
    if vector != NONE:
        at = ISR + (vector >> W5)
        c.apic[at] = c.apic[at] & ~(W1 << (vector & W31))
    return vector


# ---- what the processor does itself ----------------------------------------------------------------------------------
def takes_here(c):
    """1 when the next interrupt is taken without the device: it is this APIC's, and nobody looks."""
    return u64(c.apic[QUIET] != W0) & u64(deliverable(c) != NONE)


def look_here(c):
    """Find out again whether something waits, and wait for it; 1: the access is done."""
    c.want_window = look(c)
    return W1


def ends_here(c):
    """EOI: 1 when it is done, 0 when it needs the device and nothing has happened."""
    vector = highest(c, ISR)
    if vector != NONE and (c.apic[TMR + (vector >> W5)] >> (vector & W31)) & W1 != W0:
        return W0
    end_of_interrupt(c)
    return look_here(c)


def sent_here(c, v):
    """A write of the interrupt command register: 1 when it is done, 0 when it is for others, or no plain interrupt."""
    short = v & SHORTHAND
    to = c.apic[ICR_HIGH]
    own = u64(short == W0) & u64(v & LOGICAL == W0) & u64(to == c.apic[ID]) & u64(to != DESTINATION)
    if (short != TO_SELF and own == W0) or v & MODE != FIXED or v & M8 < W16:
        return W0
    c.apic[ICR] = v & ICR_BITS
    if c.apic[SVR] & SVR_ENABLE != W0:
        request(c, v & M8, W0)
    return look_here(c)


def written_here(c, n, v):
    """A write of register `n`: 1 when it is done, 0 when it needs the device."""
    if n == EOI:
        return ends_here(c)
    if n == TPR:
        set_priority(c, v)
        return look_here(c)
    if n == ICR:
        return sent_here(c, v)
    if n == ICR_HIGH:
        c.apic[ICR_HIGH] = v & DESTINATION
        return W1
    return W0


def register(c, n):
    """A register that is `READABLE`."""
    if n == PPR:
        return priority(c)
    return c.apic[n]
