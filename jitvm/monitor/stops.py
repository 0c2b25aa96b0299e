"""The machine under the monitor's command, while no gdb is served: steps, and stops at what is caught or watched."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from jitvm.debugger import Debugger
from jitvm.errors import ConfigError
from jitvm.exits import Outcome
from jitvm.isa.state import STOP_STEP
from jitvm.vcpu import NEVER

if TYPE_CHECKING:
    from jitvm.machine import Machine
    from jitvm.run_result import RunResult

STEP_PATIENCE_S = 60.0
STEPPED = "stepped"


class Stops:
    """A `jitvm.debugger.Client`; `tell` gets a line when the machine stops by itself, on the vCPU's thread."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._stepped = machine.vcpus[0]
        """The vCPU that was stepped last."""
        self.tell: Callable[[str], None] = lambda line: None
        self.stopped = threading.Event()
        """Set by every stop."""
        self.words = ""
        """Why it stopped last."""

    def take(self) -> None:
        """Become the one who is asked, unless gdb is; the lock is held."""
        if self._machine.gate.debugger is None:
            self._machine.gate.debugger = self

    def step(self, n: int, vcpu: int) -> str:
        """Let a machine that stands do `n` instructions of a vCPU, and wait until it stands again."""
        machine = self._machine
        self._stepped = chosen = machine.vcpus[vcpu]
        with machine.lock:
            self.take()
            if not machine.running:
                raise ConfigError("step: the machine does not run")
            if not machine.gate.held and not machine.paused:
                raise ConfigError("step: the machine runs; stop it first")
            self.stopped.clear()
            chosen.halt_at = chosen.retired + n
            chosen.engine.c.step_stop = n == 1  # a step that ends in an event stops at its handler, as gdb's do
            machine.release(frozenset(other.index for other in machine.vcpus if other is not chosen))
        if not self.stopped.wait(STEP_PATIENCE_S):
            machine.pause()
            raise ConfigError(f"step: not done after {STEP_PATIENCE_S:g} seconds; the machine is stopped")
        return "" if self.words == STEPPED else self.words

    # ---- debugger.Client, with the lock held
    def standing(self, outcomes: Mapping[int, Outcome]) -> bool:
        """Whether the vCPU, which stands, stays so."""
        debugger, vcpu = Debugger.of(self._machine), self._stepped
        stopped = [index for index, outcome in outcomes.items() if outcome is Outcome.DEBUG]
        reasons = [reason for index in stopped if (reason := debugger.reason(index)) is not None]
        found = reasons[0] if reasons else None if stopped else debugger.take_dma()
        stepped = vcpu.halt_at <= vcpu.retired or (
            vcpu.index in stopped and int(vcpu.engine.c.stop_why) == int(STOP_STEP)
        )
        if found is None and not stepped:
            return False
        self.words = found.text() if found is not None else STEPPED
        vcpu.halt_at, vcpu.engine.c.step_stop = NEVER, 0
        if found is not None:
            self.tell(self.words)
        self.stopped.set()
        return True

    def ended(self, result: RunResult) -> None:
        """The run is over."""
        self.words = result.message or result.reason
        self.stopped.set()

    def attached(self) -> bool:
        """Nobody but the monitor: errors end the run."""
        return False
