"""When the guest crashes under `jitvm boot`: what is told of a triple fault, and when.

Where it ends the run, all of it is told, and then the way to it, from a second run (jitvm/replay.py).  Where the machine
resets and goes on, as some guests reset it on purpose, the first few are told in short.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from jitvm import crash, symbols
from jitvm.config import MachineConfig

if TYPE_CHECKING:
    from jitvm.machine import Machine
    from jitvm.run_result import RunResult
    from jitvm.vcpu import Vcpu

MOST = 3
"""Crashes of a machine that goes on which are told."""


class Crashes:
    """Counts a machine's triple faults; `say` gets each report, lines joined."""

    def __init__(self, cfg: MachineConfig, machine: Machine, say: Callable[[str], None]) -> None:
        self._cfg, self._machine, self._tell = cfg, machine, say
        self._n = 0
        machine.on_shutdown = self._on_shutdown

    def _say(self, lines: Sequence[str]) -> None:
        self._tell("\n  ".join(lines))

    def _on_shutdown(self, vcpu: Vcpu) -> None:
        self._n += 1
        if self._n <= MOST:
            names = symbols.load(self._cfg)
            self._say(crash.report(self._machine, vcpu, names, whole=self._cfg.no_reboot))
        elif self._n == MOST + 1:
            self._say(["further triple faults are not reported"])

    def tell_the_way(self, result: RunResult) -> None:
        """The blocks before the one that ended the run; the machine is closed for it."""
        if not (self._n and self._cfg.no_reboot and result.reason == "shutdown"):
            return
        from jitvm import replay  # a second machine is made only for this

        machine, vcpu = self._machine, self._machine.vcpus[0]
        if vcpu.real_time or self._cfg.smp_threads or machine.stats()["host_seconds"] > replay.MAX_SECONDS:
            return
        machine.close()
        blocks = replay.last_blocks(self._cfg, vcpu.retired, machine.registers())
        if not blocks:
            self._say(["the way to it can't be told: a second run did not come to the same end"])
            return
        names = symbols.load(self._cfg)
        places = [(crash.place(vcpu.engine.c, names, b.selector, b.base, b.ip), b.n) for b in blocks]
        lines = [f"{where}, {n} instruction{'s' if n > 1 else ''}" for where, n in places]
        self._say([f"the last {len(blocks)} blocks before it, from a second run of the same:", *lines])
