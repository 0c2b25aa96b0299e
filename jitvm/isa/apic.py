"""What the processor itself does with its local APIC: CR8 and two MSRs reach it as accesses of the bus.

CR8 is the page's task priority; of IA32_APIC_BASE, IA32_TSC_DEADLINE and a new TSC, by which deadlines go, the device learns
by a page that is not the manual's, at an address beyond any that a guest can form (jitvm/devices/lapic.py).

Source: Intel SDM vol. 3, 10.8.6 (CR8), 10.4.3-10.4.4 (IA32_APIC_BASE), 10.5.4.1 (IA32_TSC_DEADLINE).
"""

from __future__ import annotations

from jitvm.isa.apic_page import ENABLED, PRESENT, set_priority
from jitvm.isa.outside import on_bus
from jitvm.isa.state import APIC_BASE_RESET, OK
from jitvm.isa.words import W0, W1, W4, W8, u64

TPR = APIC_BASE_RESET | u64(0x80)
BASE, DEADLINE, OFFSET = u64(0xF_FFFF_FFFF_F000), u64(0xF_FFFF_FFFF_F008), u64(0xF_FFFF_FFFF_F010)


def tell_priority(c, v):
    """CR8 becomes `v`: the task priority is 16 times that, also of an APIC that is switched off; status."""
    if c.apic[PRESENT] == W0:
        return OK
    if c.apic[ENABLED] == W0:
        set_priority(c, v << W4)
        return OK
    on_bus(c, TPR, W4, W1, v << W4)
    return c.status


def tell_base(c, v):
    """IA32_APIC_BASE becomes `v`; status."""
    if c.apic[PRESENT] == W0:
        return OK
    on_bus(c, BASE, W8, W1, v)
    return c.status


def write_deadline(c, v):
    """WRMSR to IA32_TSC_DEADLINE; status."""
    if c.apic[PRESENT] == W0:
        return OK
    on_bus(c, DEADLINE, W8, W1, v)
    return c.status


def read_deadline(c):
    """RDMSR of IA32_TSC_DEADLINE: 0 when it has passed; look at c.status."""
    if c.apic[PRESENT] == W0:
        return W0
    return on_bus(c, DEADLINE, W8, W0, W0)


def tell_offset(c, v):
    """The TSC's offset from virtual time becomes `v`; status."""
    if c.apic[PRESENT] == W0:
        return OK
    on_bus(c, OFFSET, W8, W1, v)
    return c.status
