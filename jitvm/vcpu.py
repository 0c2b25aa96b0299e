"""The vCPU loop, shaped after QEMU's `kvm_cpu_exec`: enter translated code, serve its exit, enter again.

One thread a vCPU.  The machine lock is held but while translated code runs.  Virtual time is `retired + extra_ns`: one
instruction is 1 ns, each port or MMIO access adds `ACCESS_NS`, a halted vCPU adds the time to the next timer.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Protocol

from jitvm.bus import Bus
from jitvm.clock import Clock
from jitvm.engine import layout as lay
from jitvm.engine.accel import VcpuEngine
from jitvm.exits import HANDLED, IO, MMIO, Buses, ExitReason, Outcome, Run, handle_exit, reason_name
from jitvm.trace import SILENT, Trace

ACCESS_NS = 1000
"""Virtual time of a port or MMIO access: a bus cycle."""
SLICE = 1 << 40
"""Budget when no timer is armed."""
REASON_OF_WHY = {lay.WHY_LIMIT: ExitReason.INTR, lay.WHY_WINDOW: ExitReason.IRQ_WINDOW_OPEN}
NEVER = 1 << 62


class InterruptSource(Protocol):
    """The interrupt controller's output as a vCPU sees it."""

    pending: bool

    def acknowledge(self) -> int:
        """INTA cycle: the vector."""
        ...


class Vcpu:
    """One virtual CPU with its loop.

    `pump`: called with the lock held at every return from translated code that took long, and while halted, to take
    input from the host.  `real_time`: a halted vCPU waits in real time for its next timer instead of jumping to it.
    """

    def __init__(
        self,
        index: int,
        engine: VcpuEngine,
        ports: Bus,
        mmio: Bus,
        clock: Clock,
        lock: threading.Lock,
        trace: Trace = SILENT,
        interrupts: InterruptSource | None = None,
    ) -> None:
        self.index, self.engine, self.clock, self.lock, self.trace = index, engine, clock, lock, trace
        self.buses = Buses(ports, mmio)
        self.interrupts = interrupts
        self.limit = NEVER
        """Instructions after which the loop stops (`--max-insns`), as a value of `retired`."""
        self.real_time = False
        self.pump: Callable[[], None] = lambda: None
        self.after_exit: Callable[[], bool] = lambda: False
        """Asked with the lock held after each handled exit: True ends the loop's turn (reset, power-off, quit)."""
        self.exits: Counter[tuple[int, int]] = Counter()
        """Exits by (reason, port or 4 KiB-aligned address)."""
        self.error_text = ""
        self.last_run = Run(ExitReason.INTR)
        self.exit_request = False
        self.half_done = False
        self.registers_dirty = False
        """Registers were changed from outside: push them before the next entry."""
        self.wakeup = threading.Condition(lock)
        self._extra = lay.at("extra_ns") // 8
        self._window = lay.at("want_window") // 8
        self._rflags, self._halted = lay.at("rflags") // 8, lay.at("halted") // 8
        self._shadow = lay.at("shadow") // 8
        self._step = lay.at("step_armed") // 8
        self._reason = lay.at("exit_reason") // 8
        self._data, self._io_n = lay.at("io_data") // 8, lay.at("io_n") // 8
        self._io_tag = lay.at("io_tag") // 8
        self._value, self._status = lay.at("io_value") // 8, lay.at("status") // 8
        self._bytes = memoryview(engine.array).cast("B")

    # ---- from other threads -------------------------------------------------------------------------------------------
    def kick(self) -> None:
        """Make the loop look at what changed: leave translated code within one block, or wake from HLT."""
        self.engine.kick()

    def wake(self) -> None:
        """Like `kick`, also for a halted vCPU; the caller holds the lock."""
        self.engine.kick()
        self.wakeup.notify_all()

    def request_exit(self) -> None:
        """The loop leaves with Outcome.INTERRUPT as soon as no instruction is half done; the caller holds the lock."""
        self.exit_request = True
        self.wake()

    # ---- time ---------------------------------------------------------------------------------------------------------
    @property
    def retired(self) -> int:
        """Instructions retired."""
        return self.engine.retired()

    def now(self) -> int:
        """Virtual nanoseconds of this vCPU."""
        return self.engine.retired() + self.engine.words[self._extra]

    def _budget(self) -> int:
        """Instructions to the next timer or the limit, whichever is nearer; at least 1."""
        retired = self.engine.retired()
        deadline = self.clock.deadline()
        n = SLICE if deadline is None else deadline - retired - self.engine.words[self._extra]
        return max(1, min(n, self.limit - retired))

    # ---- the loop -----------------------------------------------------------------------------------------------------
    def run_until_stopped(self) -> Outcome:
        """The thread function: take turns until one ends with anything but HLT; the lock is taken here."""
        with self.lock:
            while True:
                outcome = self.execute()
                if outcome is not Outcome.HLT:
                    return outcome
                self.wait()

    def execute(self) -> Outcome:
        """Run until something must be told to the caller, which holds the lock (QEMU's kvm_cpu_exec)."""
        if self.process_async_events():
            return Outcome.HLT
        engine, buses = self.engine, self.buses
        while True:
            if self.registers_dirty:
                self.push_registers()
            if self.exit_request and not self.half_done:
                self.exit_request = False
                return Outcome.INTERRUPT
            budget = 1 if self.half_done and self.exit_request else self.pre_run()
            if self.limit <= engine.retired():
                return Outcome.INTERRUPT
            self.lock.release()
            why = engine.run(budget)
            self.lock.acquire()
            run = self.post_run(why)
            if run.reason != IO and run.reason != MMIO:
                self.half_done = self.is_half_done()
            if self.trace.wants("exit"):
                self.trace("exit", vcpu=self.index, reason=reason_name(run.reason), retired=engine.retired(), run=run)
            outcome = self.complete_limit() if run.reason == ExitReason.INTR else handle_exit(run, buses)
            if outcome is HANDLED:
                if run.reason == IO or run.reason == MMIO:
                    self.answer(run)
                if self.after_exit():
                    self.exit_request = True
                continue
            if outcome is Outcome.ERROR:
                self.error_text = self.describe_error(run)
            return outcome

    def process_async_events(self) -> bool:
        """Asynchronous events first: True while the vCPU is halted and nothing wakes it."""
        words = self.engine.words
        if not words[self._halted]:
            return False
        if self.interrupts is not None and self.interrupts.pending and words[self._rflags] & 0x200:
            words[self._halted] = 0
            return False
        return not self.exit_request

    def push_registers(self) -> None:
        """Make registers that were changed from outside take effect, once."""
        self.engine.registers_changed()
        self.registers_dirty = False

    def pre_run(self) -> int:
        """Inject a pending interrupt or ask for the window; the budget of this entry."""
        words, source = self.engine.words, self.interrupts
        if source is not None and source.pending and self.half_done and words[self._rflags] & 0x200:
            words[self._window] = 0  # an open window would be found before the instruction has completed
            return 1
        if source is not None and source.pending:
            held = words[self._shadow] == self.engine.retired() or words[self._step]
            if words[self._rflags] & 0x200 and not held:
                vector = source.acknowledge()
                if self.trace.wants("irq_inject"):
                    self.trace("irq_inject", vcpu=self.index, vector=vector)
                self.engine.inject(vector)
                words[self._window] = 1 if source.pending else 0
            else:
                words[self._window] = 1
                if held:
                    return 1
        else:
            words[self._window] = 0
        return self._budget()

    def post_run(self, why: int) -> Run:
        """Publish what the run left behind: time, interrupts, and the exit as a value."""
        engine = self.engine
        if why == lay.WHY_EXIT:
            run = self._exit_of_record()
            if run.reason == IO or run.reason == MMIO:
                engine.words[self._extra] += ACCESS_NS * run.count
                self.exits[run.reason, run.address if run.reason == IO else run.address & ~0xFFF] += 1
            else:
                self.exits[run.reason, 0] += 1
        else:
            run = Run(REASON_OF_WHY.get(why, ExitReason.UNKNOWN))
            self.exits[run.reason, 0] += 1
        self.last_run = run
        self.clock.advance_to(engine.retired() + engine.words[self._extra])
        return run

    def _exit_of_record(self) -> Run:
        words, k = self.engine.words, self._reason
        run = Run(words[k], words[k + 1], words[k + 2], words[k + 3], words[k + 4], words[k + 5])
        if run.count != 1 and run.reason == IO and run.write:
            start = 8 * self._data
            run.block = self._bytes[start : start + run.count * run.size].tobytes()
        return run

    def answer(self, run: Run) -> None:
        """Hand the outside's answer to the instruction, which completes when the vCPU is entered again."""
        words = self.engine.words
        n = words[self._io_n]
        if run.count == 1:
            words[self._value + n] = run.data & 0xFFFF_FFFF_FFFF_FFFF
        else:
            words[self._value + n] = run.count
            if not run.write:
                start = 8 * self._data
                self._bytes[start : start + len(run.block)] = run.block
        words[self._io_n] = n + 1
        self.half_done = True

    def complete_limit(self) -> Outcome:
        """The budget was used up or somebody kicked: nothing is lost, look around and go on unless asked to leave."""
        if self.engine.kicked:
            self.engine.unkick()
            self.pump()
        if self.after_exit() or self.exit_request:
            self.exit_request = self.half_done
            return Outcome.HANDLED if self.half_done else Outcome.INTERRUPT
        return Outcome.HANDLED

    def is_half_done(self) -> bool:
        """Whether the instruction at rip has answers from outside that it has not used up: a kick came in between."""
        words = self.engine.words
        return words[self._io_n] != 0 and words[self._io_tag] == self.engine.retired()

    # ---- halted -------------------------------------------------------------------------------------------------------
    def wait(self) -> None:
        """Halted: jump to the next timer, or wait for it, or for input, in real time; the lock is held."""
        self.engine.unkick()
        self.pump()
        if self.exit_request or self.after_exit():
            self.exit_request = True
            return
        if self.interrupts is not None and self.interrupts.pending:
            return
        deadline, words = self.clock.deadline(), self.engine.words
        if deadline is None:
            self.wakeup.wait(0.5)
            return
        now = self.now()
        if self.real_time and deadline > now:
            start = time.monotonic_ns()
            self.wakeup.wait((deadline - now) / 1e9)
            deadline = min(deadline, now + time.monotonic_ns() - start)
        words[self._extra] += max(0, deadline - now)
        self.clock.advance_to(max(deadline, now))

    # ---- errors -------------------------------------------------------------------------------------------------------
    def describe_error(self, run: Run) -> str:
        """A run error in words, with the state."""
        return f"vCPU {self.index}: {reason_name(run.reason)}\n{self.engine.dump()}"
