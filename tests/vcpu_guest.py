"""A vCPU with everything that its loop touches, for tests: RAM, two recording devices, an interrupt source, a clock.

The guest runs in real mode: RAM from 0 to 9FFFFh, code at 0:1000h, stack below 0:8000h, handlers of interrupts at
0:4000h + 100h * vector, ES = A000h, where physical memory is the device `window`.  The device `card` has ports 60h to 67h.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jitvm.bare import accelerator
from jitvm.bus import Bus
from jitvm.clock import Clock
from jitvm.engine.accel import Options, VcpuEngine
from jitvm.exits import Outcome, Run
from jitvm.isa.mode import read_eflags, update_mode
from jitvm.isa.words import u64
from jitvm.memory import GuestMemory
from jitvm.trace import Trace
from jitvm.vcpu import Vcpu

START, STACK, HANDLERS, RAM, WINDOW, CARD = 0x1000, 0x8000, 0x4000, 0xA_0000, 0xA_0000, 0x60
GPRS = "ax cx dx bx sp bp si di".split()
SEGMENTS = "es cs ss ds".split()
PATIENCE_S = 60.0
"""How long a test waits for another thread before it fails."""


def code(*lines: str) -> bytes:
    """Machine code from lines `hex bytes ; comment`."""
    return b"".join(bytes.fromhex(line.partition(";")[0]) for line in lines)


class Card:
    """Records what it is asked; a read gives the next of `answers`, else counts up.  `on_access` is called first."""

    def __init__(self) -> None:
        self.log: list[tuple[str, int, int, int]] = []
        """("read" or "write", offset, size, value)."""
        self.answers: list[int] = []
        self.on_access: Callable[[], None] = lambda: None
        self._next = 0

    def read(self, offset: int, size: int) -> int:
        self.on_access()
        self._next += 1
        value = (self.answers.pop(0) if self.answers else 0x0101_0101 * (self._next & 0xFF)) & ((1 << 8 * size) - 1)
        self.log.append(("read", offset, size, value))
        return value

    def write(self, offset: int, size: int, value: int) -> None:
        self.on_access()
        self.log.append(("write", offset, size, value))


class Interrupts:
    """Vectors that wait, oldest first."""

    def __init__(self) -> None:
        self.pending = False
        self.vectors: list[int] = []
        self.taken: list[int] = []

    def raise_(self, vector: int) -> None:
        self.vectors.append(vector)
        self.pending = True

    def acknowledge(self) -> int:
        vector = self.vectors.pop(0)
        self.taken.append(vector)
        self.pending = bool(self.vectors)
        return vector


class Guest:
    """`program` at 0:1000h, `handlers` by vector; `flags` are EFLAGS at the start."""

    def __init__(
        self,
        program: bytes,
        handlers: Mapping[int, bytes] | None = None,
        *,
        flags: int = 0x2,
        make: type[VcpuEngine] = VcpuEngine,
        options: Options | None = None,
    ) -> None:
        self.memory = GuestMemory(1 << 20)
        self.memory.map(0, RAM, 0)
        self.engine = make(accelerator(), self.memory, options)
        self.c: Any = self.engine.c
        self.memory.write(START, program)
        for vector, body in (handlers or {}).items():
            at = HANDLERS + 0x100 * vector
            self.memory.write(at, body)
            self.memory.write(4 * vector, at.to_bytes(4, "little"))
        self._set_up(flags)
        self.clock, self.interrupts, self.lock, self.trace = Clock(), Interrupts(), threading.Lock(), Trace()
        self.card, self.window = Card(), Card()
        self.ports, self.mmio = Bus("port", 1 << 16, direct=True), Bus("mmio", 1 << 52)
        self.ports.map(CARD, 8, self.card, name="card", max_size=4)
        self.mmio.map(WINDOW, 0x1000, self.window, name="window", max_size=4)
        self.vcpu = Vcpu(0, self.engine, self.ports, self.mmio, self.clock, self.lock, self.trace, self.interrupts)
        self.runs: list[tuple[int, Run]] = []
        """(retired, run) of every exit."""
        self.trace.listeners.append(self._on_trace)

    def _set_up(self, flags: int) -> None:
        c = self.c
        with np.errstate(over="ignore"):
            for k in range(4):
                c.sel[k], c.base[k] = (0xA000, WINDOW) if k == 0 else (0, 0)
            c.gpr[4] = STACK
            c.rip = START
            c.rflags = u64(flags)
            update_mode(c)

    def _on_trace(self, event: str, fields: dict[str, object]) -> None:
        if event == "exit":
            run, retired = fields["run"], fields["retired"]
            assert isinstance(run, Run) and isinstance(retired, int)
            self.runs.append((retired, run))

    # ---- running ------------------------------------------------------------------------------------------------------
    def execute(self) -> Outcome:
        """One turn of the loop."""
        with self.lock:
            return self.vcpu.execute()

    def thread(self) -> Turn:
        """The vCPU's thread, started."""
        return Turn(self.vcpu)

    def at(self, deadline: int, vector: int) -> None:
        """A timer that raises an interrupt."""
        self.clock.timer(f"vector {vector:#x}", lambda: self.interrupts.raise_(vector)).arm(deadline)

    # ---- looking ------------------------------------------------------------------------------------------------------
    @property
    def reasons(self) -> list[int]:
        """Reasons of all exits."""
        return [run.reason for _, run in self.runs]

    def word(self, gpa: int, size: int = 2) -> int:
        """Little-endian value in RAM."""
        return int.from_bytes(self.memory.read(gpa, size), "little")

    def reg(self, name: str) -> int:
        """A 16-bit register, or eip, eflags."""
        if name in SEGMENTS:
            return int(self.c.sel[SEGMENTS.index(name)])
        with np.errstate(over="ignore"):
            return {"eip": int(self.c.rip), "eflags": int(read_eflags(self.c))}.get(name) or int(
                self.c.gpr[GPRS.index(name)]
            ) & 0xFFFF

    def state(self) -> tuple[object, ...]:
        """All that a guest could find out."""
        with np.errstate(over="ignore"):
            flags = int(read_eflags(self.c))
        gprs = tuple(int(v) for v in self.c.gpr)
        ram = hash(self.memory.bytes[:RAM].tobytes())
        devices = (tuple(self.card.log), tuple(self.window.log), tuple(self.interrupts.taken))
        return gprs, int(self.c.rip), flags, self.vcpu.retired, self.vcpu.now(), self.clock.now_ns, ram, devices


class Turn:
    """A vCPU's thread: `join` gives how it ended."""

    def __init__(self, vcpu: Vcpu) -> None:
        self._vcpu, self._outcomes = vcpu, list[Outcome]()
        self._thread = threading.Thread(target=self._main, daemon=True)
        self._thread.start()

    def _main(self) -> None:
        self._outcomes.append(self._vcpu.run_until_stopped())

    def join(self) -> Outcome:
        """Wait for the end."""
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive(), f"the vCPU does not stop: {self._vcpu.last_run}"
        return self._outcomes[0]

    def alive(self) -> bool:
        """Whether it still runs."""
        return self._thread.is_alive()
