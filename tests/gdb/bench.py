"""A machine under a debugger that is not gdb: the target's methods called directly, stops taken from a queue."""

from __future__ import annotations

import queue
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gdbstub.stop import Stepped, Stop
from gdbstub.target import Action, Continue, RangeStep, Step
from jitvm.config import MachineConfig
from jitvm.gdb_target import GdbTarget
from jitvm.machine import Machine
from tests.boot.guests import config, need

PATIENCE_S = 60.0
"""How long a test waits for a stop before it fails."""


def symbol(elf: Path, name: str) -> int:
    """A symbol's value."""
    need("nm")
    lines = subprocess.run(["nm", elf], check=True, capture_output=True, text=True, timeout=30).stdout.splitlines()
    return next(int(line.split()[0], 16) for line in lines if line.split()[2] == name)


class Bench:
    """`target` of `machine`, which is held at the reset vector."""

    def __init__(self, machine: Machine, arch: str = "x86-64") -> None:
        self.machine, self.target = machine, GdbTarget(machine, arch)
        self.stops: queue.Queue[Stop] = queue.Queue()
        self.target.watched = lambda: True
        self.target.listen(self)
        machine.gate.debugger, machine.gate.held = self.target, True
        self.numbers = self.target.layout.numbers
        self._thread = threading.Thread(target=machine.run, daemon=True)
        self._thread.start()

    def stopped(self, stop: Stop) -> None:
        self.stops.put(stop)

    # ---- what a session does
    def go(self, action: Action) -> None:
        """Resume."""
        self.target.resume({1: action})

    def stop(self) -> Stop:
        """The next stop."""
        return self.stops.get(timeout=PATIENCE_S)

    def run(self) -> Stop:
        """Continue to a stop."""
        self.go(Continue())
        return self.stop()

    def step(self, n: int = 1) -> Stop:
        """Steps, and the last one's stop."""
        for _ in range(n - 1):
            self.go(Step())
            assert self.stop() == Stepped(1)
        self.go(Step())
        return self.stop()

    def range_step(self, start: int, end: int) -> Stop:
        """One step, and on while in the range."""
        self.go(RangeStep(start, end))
        return self.stop()

    def read(self, name: str) -> int:
        """A register."""
        return int.from_bytes(self.target.read_register(1, self.numbers[name]), "little")

    def write(self, values: Mapping[str, int]) -> None:
        """Registers, in one packet."""
        sizes = self.target.layout.registers
        data = {self.numbers[n]: v.to_bytes(sizes[self.numbers[n]].size, "little") for n, v in values.items()}
        self.target.write_registers(1, data)

    @property
    def pc(self) -> int:
        """The linear program counter."""
        return self.target.registers.linear_pc()

    def finish(self) -> None:
        """Wait until the machine's run is over."""
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()


@contextmanager
def bench(bios: Path, arch: str = "x86-64", **more: Any) -> Iterator[Bench]:
    """A held machine with these options."""
    made: MachineConfig = config(bios, **more)
    with Machine(made) as machine:
        yield Bench(machine, arch)
        machine.quit()
