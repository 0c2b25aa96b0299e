"""A vCPU as its local APIC sees it: the pins by which interrupts, INIT and startup messages reach it.

What comes waits in the vCPU (`Vcpu.urgent`) until no instruction is half done.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jitvm.engine import layout as lay

if TYPE_CHECKING:
    from jitvm.vcpu import Vcpu

TPR_SHIFT = 4


class ProcessorPins:
    """`jitvm.devices.lapic.Processor` for one vCPU."""

    def __init__(self, vcpu: Vcpu) -> None:
        self._vcpu = vcpu
        self._words = vcpu.engine.words
        self._cr8, self._tsc = lay.at("cr8") // 8, lay.at("tsc_offset") // 8

    def tsc_offset(self) -> int:
        """TSC less virtual time."""
        return int(self._words[self._tsc])

    def set_tpr(self, value: int) -> None:
        """The task priority, as CR8 has it."""
        self._words[self._cr8] = value >> TPR_SHIFT

    def interrupts_changed(self) -> None:
        """The vCPU looks at its interrupts before it enters translated code."""
        self._vcpu.notice()

    def nmi(self) -> None:
        """An NMI message or pin."""
        self._vcpu.nmi_pending = True
        self._vcpu.notice()

    def smi(self) -> None:
        """An SMI message."""
        self._vcpu.assert_smi()

    def init(self) -> None:
        """INIT: the processor stops where it is."""
        self._vcpu.assert_init()

    def startup(self, vector: int) -> None:
        """SIPI: a processor that waits for it begins at page `vector`; others pay no attention."""
        self._vcpu.startup(vector)
