"""What the processor itself does with its local APIC: CR8 and two MSRs reach it as writes to its page.

The page's offsets FE0h and FF0h are not the manual's: by them the device learns what was written to IA32_APIC_BASE and
IA32_TSC_DEADLINE (jitvm/devices/lapic.py).

Source: Intel SDM vol. 3, 10.8.6 (CR8), 10.4.3-10.4.4 (IA32_APIC_BASE), 10.5.4.1 (IA32_TSC_DEADLINE).
"""

from __future__ import annotations

from jitvm.isa.apic_page import ENABLED, PRESENT, set_priority
from jitvm.isa.outside import mmio
from jitvm.isa.state import OK
from jitvm.isa.words import W0, W1, W4, W8, u64

PAGE = u64(0xFEE0_0000)
TPR, BASE, DEADLINE = u64(0x80), u64(0xFE0), u64(0xFF0)


def tell_priority(c, v):
    """CR8 becomes `v`: the task priority is 16 times that, also of an APIC that is switched off; status."""
    if c.apic[PRESENT] == W0:
        return OK
    if c.apic[ENABLED] == W0:
        set_priority(c, v << W4)
        return OK
    mmio(c, PAGE + TPR, W4, W1, v << W4)
    return c.status


def tell_base(c, v):
    """IA32_APIC_BASE becomes `v`; status."""
    if c.apic[PRESENT] == W0:
        return OK
    mmio(c, PAGE + BASE, W8, W1, v)
    return c.status


def write_deadline(c, v):
    """WRMSR to IA32_TSC_DEADLINE; status."""
    if c.apic[PRESENT] == W0:
        return OK
    mmio(c, PAGE + DEADLINE, W8, W1, v)
    return c.status


def read_deadline(c):
    """RDMSR of IA32_TSC_DEADLINE: 0 when it has passed; look at c.status."""
    if c.apic[PRESENT] == W0:
        return W0
    return mmio(c, PAGE + DEADLINE, W8, W0, W0)
