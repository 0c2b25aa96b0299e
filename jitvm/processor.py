"""A vCPU as its local APIC sees it: the pins by which interrupts, INIT and startup messages reach it.

What comes waits in the vCPU (`Vcpu.urgent`) until no instruction is half done.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from jitvm.engine import layout as lay
from jitvm.isa.apic_page import PRESENT

if TYPE_CHECKING:
    from jitvm.vcpu import Vcpu

PAGE_WORDS, LAST_VECTOR = 64, 0xFF
RULES = (
    ("priority", 0), ("look", 0), ("request", 2), ("acknowledge", 0), ("end_of_interrupt", 0), ("set_priority", 1),
)  # fmt: skip
"""Functions of jitvm/isa/apic_page.py, with their numbers of words besides the record."""


class ProcessorPins:
    """`jitvm.devices.lapic.Processor` for one vCPU."""

    def __init__(self, vcpu: Vcpu) -> None:
        self._vcpu = vcpu
        self._words = vcpu.engine.words
        self._tsc, self._nmi_blocked, first = (lay.at(name) // 8 for name in ("tsc_offset", "nmi_blocked", "apic"))
        self.page = self._words[first : first + PAGE_WORDS]
        """The local APIC's registers (jitvm/isa/apic_page.py)."""
        self.page[int(PRESENT)] = 1
        self._record, accel = vcpu.engine.address, vcpu.engine.accel
        self._priority, self._look, self._request, self._acknowledge, self._end, self._set_priority = (
            accel.code.function(f"apic_page.{name}", n, short=True) for name, n in RULES
        )

    def priority(self) -> int:
        """Processor priority."""
        return self._priority(self._record)

    def look(self) -> bool:
        """Whether something waits, found out again."""
        return bool(self._look(self._record))

    def request(self, vector: int, level: bool) -> None:
        """A fixed interrupt comes in."""
        self._request(self._record, vector, level)

    def take(self) -> int:
        """The vector that interrupts now, in service from now on; -1 for none."""
        vector = self._acknowledge(self._record)
        return vector if vector <= LAST_VECTOR else -1

    def end_of_interrupt(self) -> int:
        """The highest vector in service is so no longer; which, or -1."""
        vector = self._end(self._record)
        return vector if vector <= LAST_VECTOR else -1

    def tsc_offset(self) -> int:
        """TSC less virtual time."""
        return int(self._words[self._tsc])

    def set_tpr(self, value: int) -> None:
        """The task priority, in its register and in CR8."""
        self._set_priority(self._record, value)

    def interrupts_changed(self) -> None:
        """The vCPU looks at its interrupts before it enters translated code."""
        self._vcpu.notice()

    def at_rest(self, action: Callable[..., None], *arguments: object) -> None:
        """Call it when the vCPU runs no translated code that could reach the page; the lock is held."""
        self._vcpu.at_rest(action, *arguments)

    def nmi(self) -> None:
        """An NMI message or pin.

        One waits while a handler runs (SDM vol. 3, 6.7.1).  One that comes before another was taken waits behind it, too:
        silicon would have taken that one at once, between two instructions.
        """
        vcpu = self._vcpu
        waits_behind = vcpu.nmi_pending and not (self._words[self._nmi_blocked] or vcpu.engine.injecting)
        vcpu.nmi_pending = 2 if waits_behind else 1
        vcpu.notice()

    def smi(self) -> None:
        """An SMI message."""
        self._vcpu.assert_smi()

    def init(self) -> None:
        """INIT: the processor stops where it is."""
        self._vcpu.assert_init()

    def startup(self, vector: int) -> None:
        """SIPI: a processor that waits for it begins at page `vector`; others pay no attention."""
        self._vcpu.startup(vector)
