"""The machine under the monitor's command, while no gdb is served: steps, and stops at what is caught or watched."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from jitvm.debugger import Caught, Debugger, Reason, Watched
from jitvm.errors import ConfigError
from jitvm.exits import Outcome
from jitvm.faults import fault_words
from jitvm.vcpu import NEVER

if TYPE_CHECKING:
    from jitvm.machine import Machine, RunResult

STEP_PATIENCE_S = 60.0


def reason_words(reason: Reason | None) -> str:
    """Why a vCPU stands."""
    if isinstance(reason, Watched):
        where = f"{'physical ' if reason.physical else ''}{reason.address:08x}"
        return f"{reason.kind} of {where} (watched from {reason.first:08x} on){', by DMA' if reason.dma else ''}"
    if not isinstance(reason, Caught):
        return "stopped"
    if reason.kind == "cr3":
        return f"caught: CR3 is about to become {reason.value:08x}"
    if reason.kind == "msr":
        what = f"get {reason.value:016x}" if reason.write else "be read"
        return f"caught: MSR {reason.number:08x} is about to {what}"
    words = fault_words(reason.vector, reason.error, reason.cr2)
    return f"caught: {'a triple fault, by ' if reason.kind == 'triple' else ''}{words}, before its delivery"


class Stops:
    """A `jitvm.debugger.Client`; `tell` gets a line when the machine stops by itself, on the vCPU's thread."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self.tell: Callable[[str], None] = lambda line: None
        self.stopped = threading.Event()
        """Set by every stop."""
        self.words = ""
        """Why it stopped last."""

    def take(self) -> None:
        """Become the one who is asked, unless gdb is; the lock is held."""
        if self._machine.gate.debugger is None:
            self._machine.gate.debugger = self

    def step(self, n: int) -> None:
        """Let a machine that stands do `n` instructions, and wait until it stands again."""
        machine, vcpu = self._machine, self._machine.vcpus[0]
        with machine.lock:
            self.take()
            if not machine.running:
                raise ConfigError("step: the machine does not run")
            if not machine.gate.held and not machine.paused:
                raise ConfigError("step: the machine runs; stop it first")
            self.stopped.clear()
            vcpu.halt_at = vcpu.retired + n
            machine.release()
        if not self.stopped.wait(STEP_PATIENCE_S):
            machine.pause()
            raise ConfigError(f"step: not done after {STEP_PATIENCE_S:g} seconds; the machine is stopped")

    # ---- debugger.Client, with the lock held
    def standing(self, outcome: Outcome | None) -> bool:
        """Whether the vCPU, which stands, stays so."""
        vcpu = self._machine.vcpus[0]
        if outcome is Outcome.DEBUG:
            self.words = reason_words(Debugger.of(self._machine).reason())
            self.tell(self.words)
        elif vcpu.halt_at <= vcpu.retired:
            self.words = "stepped"
        else:
            return False
        vcpu.halt_at = NEVER
        self.stopped.set()
        return True

    def ended(self, result: RunResult) -> None:
        """The run is over."""
        self.words = result.message or result.reason
        self.stopped.set()

    def attached(self) -> bool:
        """Nobody but the monitor: errors end the run."""
        return False
