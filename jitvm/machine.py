"""A machine: the board with its CPU, the threads that run it, and the Python API.

    from jitvm.config import MachineConfig
    from jitvm.machine import Machine

    with Machine(MachineConfig(serials=("memory",))) as m:
        result = m.run()                    # RunResult(reason="poweroff", code=0, message="the guest powered off")
        print(m.serial_output().decode())
        print(m.registers()["eip"], m.ram[0x400:0x500])

One thread a vCPU.  The machine lock protects everything that the guest can see; a vCPU's thread drops it while
translated code runs.  Other threads take it through the methods here, which also kick the vCPU.

Time: with `--clock icount` an instruction is a nanosecond and a halted CPU jumps to the next timer, so a run is
reproducible bit for bit, and the clock chip starts at `RTC_BASE`.  `auto` is the same, but for a person at the console,
or a peer behind a pty or TCP: for them a halted CPU waits in real time.  `realtime` follows the host's clock and date.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any, Protocol, TextIO

from jitvm import board_acpi, stats
from jitvm.access import Access
from jitvm.backends.chardev import CharBackend, open_chardev
from jitvm.backends.tail import Tail
from jitvm.board import DEBUG_MARKS_PORT, Board, Lines, Parts, find_vga_rom
from jitvm.clock import Clock
from jitvm.config import JITS, MachineConfig, read_bios
from jitvm.cpu_model import asked
from jitvm.debugger import Gate
from jitvm.devices.debugcon import Sink
from jitvm.drives import open_drives
from jitvm.engine.accel import Accelerator, Options, VcpuEngine
from jitvm.errors import BackendError, ConfigError
from jitvm.exits import Outcome
from jitvm.irq import Interrupts, IrqLine
from jitvm.kernel_boot import load as load_kernel
from jitvm.monitor import Monitor
from jitvm.observe import Watchers
from jitvm.pace import Pace
from jitvm.parallel import ThreadVcpu, World
from jitvm.processor import ProcessorPins
from jitvm.run_result import FINAL, RunResult
from jitvm.smp import Rotation, TurnVcpu, are_dead
from jitvm.trace import Trace
from jitvm.vcpu import NEVER, Vcpu

RTC_BASE = datetime(2026, 1, 1)
"""What the clock chip shows at virtual time 0, unless the clock is the host's."""
AT_ONCE = 1024
"""Instructions that a debugger's thread runs itself: those of an exit storm take a millisecond or two, by which a Ctrl-C
may be late."""


class Console(Protocol):
    """What the machine asks of a terminal (`jitvm.console.Console`)."""

    interactive: bool
    monitor: Any

    def backend(self) -> CharBackend:
        """The character device of every `stdio`."""
        ...


class Machine(Access):
    """A machine made from a config; it is ready to run and has not run yet.

    `accel`: an engine to use in place of the process's.  Attributes: `board` (chips), `memory`, `clock`, `vcpus`,
    `trace`, `monitor` (commands as text).

    Raises:
        JitvmError: something named in the config can't be had.
    """

    def __init__(
        self,
        config: MachineConfig | None = None,
        *,
        on_progress: Callable[[str], None] = lambda what: None,
        console: Console | None = None,
        accel: Accelerator | None = None,
    ) -> None:
        self.config = config = config or MachineConfig()
        self.lock = threading.Lock()
        self._changed = threading.Condition(self.lock)
        self._over = threading.Condition(self.lock)
        """`wait` waits here for the end of a run: not to be woken whenever a debugger lets the vCPUs go."""
        self._result: RunResult | None = None
        self._failure: BaseException | None = None
        self._reset_cause: str | None = None
        self._paused = config.start_paused
        self._running = self._closing = self._quit_early = False
        self._attention = False
        self.gate = Gate()
        self.on_shutdown: Callable[[Vcpu], None] = lambda vcpu: None
        """Told of a triple fault, with the lock held, while everything is as the CPU left it."""
        self._threads: list[threading.Thread] = []
        self._parked: set[int] = set()
        self._host_seconds = 0.0
        self._went = 0.0
        self._resources = contextlib.ExitStack()
        with contextlib.ExitStack() as undo:
            undo.callback(self._resources.close)
            self.clock = Clock()
            self.trace = self._open_trace()
            watchers = Watchers(config, self._resources)
            self._console = console
            interrupts = Interrupts()
            self._cpu = asked(config)
            self._has_apic = self._cpu.has("apic")
            lines = Lines(
                IrqLine(self._on_intr) if self._has_apic else interrupts.line, self._on_a20, self._on_reset,
                self._on_power_off, self._on_debug_exit, self._on_smi, self._on_smram, self._on_ignne,
            )  # fmt: skip
            self.vcpus: list[Vcpu] = []
            self.marks: stats.Marks | None = None
            self.serials = [self._open_chardev(spec) for spec in config.serials]
            self.serial_tails = [Tail(backend) for backend in self.serials]
            if config.smp > 1 and not self._has_apic:
                raise ConfigError(f"--smp: {config.smp} CPUs need a local APIC each, which --cpu {config.cpu} lacks")
            parts = self._parts()
            self.accel = watchers.observed(accel, on_progress)  # what can't be opened is told before anything is compiled
            self.board = Board(parts, self.clock, lines, self.trace)
            board_acpi.install(self.board)
            interrupts.inta = self.board.pic.acknowledge
            self.memory = self.board.memory
            self.rotation = Rotation()
            self.world: World | None = None
            """vCPUs that run at the same time; without it they take turns."""
            self.rotation.is_held = lambda index: index in self.gate.frozen
            if config.smp_threads and config.smp > 1:
                self.world = World(self.lock, self.clock, self.memory, config.smp)
                self.world.is_held = self.rotation.is_held
            for _ in range(config.smp):
                self._add_vcpu(interrupts)
            watchers.watch(self.vcpus)
            undo.pop_all()
        self.monitor = Monitor(self)
        if console is not None:
            console.monitor = self.monitor
        for backend in self._backends:
            backend.wake = self._input_arrived

    # ---- building
    def _open_trace(self) -> Trace:
        stream: TextIO | None = None
        if self.config.trace_file is not None:
            try:
                stream = self._resources.enter_context(self.config.trace_file.open("w", encoding="utf-8"))
            except OSError as e:
                raise BackendError(f"trace file '{self.config.trace_file}' can't be written: {e.strerror}") from None
        return Trace(self.config.trace, stream, lambda: self.clock.now_ns)

    def _open_chardev(self, spec: str) -> CharBackend:
        if spec == "stdio" and self._console is not None:
            return self._console.backend()
        backend = open_chardev(spec)
        self._resources.callback(backend.close)
        return backend

    def _parts(self) -> Parts:
        """What is plugged into the board."""
        config = self.config
        debugcons: list[tuple[int, Sink]] = []
        self._backends = list(self.serials)
        for port, spec in config.debugcons:
            backend = self._open_chardev(spec)
            self._backends.append(backend)
            sink: Sink = backend
            if port == DEBUG_MARKS_PORT:
                sink = self.marks = stats.Marks(backend, lambda: self.vcpus[0].retired)
            debugcons.append((port, sink))
        exits = [d for d in config.devices if d.name == "isa-debug-exit"]
        drives = open_drives(config.drives, self._resources, self.trace)
        self.disks = drives.disks
        return Parts(
            ram_size=config.memory,
            bios=b"" if drives.flashes else read_bios(config.bios),
            rtc_base=datetime.now(UTC).replace(tzinfo=None) if config.clock == "realtime" else RTC_BASE,
            vga_rom=find_vga_rom(),
            drives=drives.ide, floppies=drives.floppies, flashes=drives.flashes,
            serials=self.serial_tails,
            debugcons=debugcons,
            debug_exit=(exits[0].option("iobase"), exits[0].option("iosize")) if exits else None,
            boot=config.boot, boot_menu=config.boot_menu,
            kernel=load_kernel(config),
            apic_ids=[self._cpu.topology.apic_id(number) for number in range(config.smp)],
            apic=self._has_apic,
            fpu=self._cpu.has("fpu"),
        )  # fmt: skip

    def _add_vcpu(self, interrupts: Interrupts) -> None:
        config, board = self.config, self.board
        options = Options(**{**JITS[config.jit], **dict(config.engine)}, code_cache=config.code_cache // config.smp)
        common = self.world.common if self.world is not None else None
        engine = VcpuEngine(self.accel, self.memory, options, common)
        engine.set_cpu(*self._cpu)
        engine.reset()
        arguments = len(self.vcpus), engine, board.ports, board.mmio, self.clock, self.lock, self.trace, interrupts
        if self.world is not None:
            vcpu: Vcpu = ThreadVcpu(self.world, *arguments)
        else:
            vcpu = Vcpu(*arguments) if config.smp == 1 else TurnVcpu(self.rotation, *arguments)
        if self._has_apic:
            engine.set_apic_id(apic_id := board.parts.apic_ids[vcpu.index])
            vcpu.apic = vcpu.interrupts = board.add_apic(apic_id, ProcessorPins(vcpu))
            board.apic_window.current = vcpu.apic
            vcpu.apic_window = board.apic_window if config.smp > 1 else None
        vcpu.pump = self._pump
        vcpu.on_ferr = board.numeric_error.report
        self.vcpus.append(vcpu)
        peers = any(spec.startswith(("pty", "tcp")) for spec in config.serials)
        person = self._console is not None and self._console.interactive
        vcpu.real_time = config.clock == "realtime" or (config.clock == "auto" and (person or peers))
        self._pace = Pace(self.clock, self.world or vcpu) if config.clock == "realtime" else None

    # ---- what the board tells; the lock is held
    def _on_a20(self, level: bool) -> None:
        self._on_engines(lambda engine: engine.set_a20(level))

    def _on_engines(self, action: Callable[[VcpuEngine], None]) -> None:
        """Something that is on every CPU's way to memory has changed."""

        def do() -> None:
            for vcpu in self.vcpus:
                action(vcpu.engine)

        if self.world is not None:
            self.world.soon(do)
        else:
            do()

    def _on_intr(self, level: bool) -> None:
        """The 8259A's INTR leads to LINT0 of every local APIC."""
        for apic in self.board.apic_bus.locals:
            apic.set_lint(0, level)

    def _on_smi(self) -> None:
        """SMI# goes to the bootstrap processor, as on QEMU's "pc"."""
        self.vcpus[0].assert_smi()

    def _on_smram(self, seen: bool) -> None:
        self._on_engines(lambda engine: engine.set_smram(seen))

    def _on_ignne(self) -> None:
        for vcpu in self.vcpus:
            vcpu.engine.ignore_numeric_errors()

    def _on_reset(self, cause: str) -> None:
        if self.config.no_reboot:
            self._stop("poweroff", message=f"the guest reset the machine ({cause}; --no-reboot)")
        else:
            self._reset_cause = cause
            self._interrupt_vcpus()

    def _on_power_off(self) -> None:
        self._stop("poweroff", message="the guest powered off")

    def _on_debug_exit(self, status: int) -> None:
        self._stop("debug-exit", status & 0xFF, f"the guest left through isa-debug-exit with status {status & 0xFF}")

    # ---- ending a turn of the vCPU loop; the lock is held
    def _stop(self, reason: str, code: int = 0, message: str = "") -> None:
        """The run ends; the first reason counts."""
        if self._running:
            self._result = RunResult(reason, code, message)
            self._running = False
            self.gate.run_ended(self._result)
        self._interrupt_vcpus()
        self._changed.notify_all()
        self._over.notify_all()

    def _interrupt_vcpus(self) -> None:
        self._attention = True
        for vcpu in self.vcpus:
            vcpu.request_exit()

    def _from_outside(self, action: Callable[[], None]) -> None:
        """Do something under the lock, from any thread and from signal handlers, which must not wait for it."""
        if self.lock.acquire(blocking=False):
            try:
                action()
            finally:
                self.lock.release()
            return

        def later() -> None:
            with self.lock:
                action()

        threading.Thread(target=later, name="machine action", daemon=True).start()

    def _pump(self) -> None:
        """Take input; find out that the CPU waits for nothing."""
        for backend in self._backends:
            backend.pump()
        inside = self.world is not None and self.world.is_entered()  # who is may have a message waiting
        dead = not inside and are_dead(self.vcpus)
        if dead and not self.vcpus[0].real_time and not self._attention and not self.gate.watched:
            self._stop("shutdown", message="the CPU is halted with interrupts off: only a reset could wake it")

    def _input_arrived(self) -> None:
        """A backend has input; on its thread."""
        for vcpu in self.vcpus:
            vcpu.kick()
        with self.lock:
            for vcpu in self.vcpus:
                vcpu.wake()

    # ---- the vCPU threads
    def _vcpu_main(self, vcpu: Vcpu) -> None:
        try:
            while self._may_go(vcpu):
                outcome = vcpu.run_until_stopped()
                with self.lock:
                    self._turn_ended(vcpu, outcome)
        except BaseException as e:
            with self.lock:
                self._failed(vcpu, e)

    def _failed(self, vcpu: Vcpu, error: BaseException) -> None:
        """The thread that called run() raises it."""
        self._failure = error
        self._parked.add(vcpu.index)
        self._stop("error", message=str(error))

    def _may_go(self, vcpu: Vcpu) -> bool:
        """Wait until the machine runs; False when it is closed.  The last vCPU to stop does a reset that is due."""
        with self.lock:
            self._park(vcpu)
            self._changed.notify_all()
            while True:
                if vcpu.index in self._parked:  # else the debugger's thread runs it
                    if self._closing:
                        return False
                    if self._reset_cause is not None and self._all_stand():
                        self._reset_board(self._reset_cause)
                    if self._may_run() and self.gate.is_open(vcpu.index, self._all_stand()) and not self._paused:
                        self._parked.discard(vcpu.index)
                        self._attention = False
                        return True
                self._changed.wait()

    def _park(self, vcpu: Vcpu) -> None:
        self._parked.add(vcpu.index)
        if not self._running:
            self._over.notify_all()

    def _may_run(self) -> bool:
        return self._running and self._reset_cause is None

    def _all_stand(self) -> bool:
        return len(self._parked) == len(self.vcpus)

    def _turn_ended(self, vcpu: Vcpu, outcome: Outcome) -> None:
        if self.gate.debugger is not None:
            self.gate.turn_ended(vcpu.index, outcome)
            for other in self.vcpus:
                if other.index not in self._parked and other is not vcpu:
                    other.request_exit()
        if outcome is Outcome.SHUTDOWN:
            self.on_shutdown(vcpu)
            where = f"{int(vcpu.engine.c.sel[1]):04x}:{int(vcpu.engine.c.rip):08x}"
            if self.config.no_reboot:
                self._stop("shutdown", message=f"triple fault at {where} (--no-reboot)")
            else:
                self._reset_cause = f"triple fault at {where}"
        elif outcome is Outcome.ERROR or outcome is Outcome.DEBUG:
            if not self.gate.takes(outcome):
                self._stop("error", message=vcpu.error_text or f"vCPU {vcpu.index}: {outcome.name} without a debugger")
        elif vcpu.retired >= vcpu.limit:
            self._stop("max-insns", message=f"the limit of {vcpu.limit} instructions was reached")

    def _reset_board(self, cause: str) -> None:
        self._reset_cause = None
        self.trace("reset", cause=cause)
        self.board.reset()
        if self.rotation.vcpus:
            self.rotation.reset()
        for vcpu in self.vcpus:
            vcpu.engine.reset()
            vcpu.half_done = vcpu.exit_request = False
            vcpu.smi_pending = vcpu.nmi_pending = vcpu.init_pending = False
            vcpu.engine.park(vcpu.index != 0)
        self._changed.notify_all()

    # ---- running
    def run(self, max_insns: int | None = None) -> RunResult:
        """Run until the guest ends or somebody ends it, at most `max_insns` more instructions; why it ended.

        Call it again to go on, but after poweroff, shutdown and error: then `reset` comes first.

        Raises:
            ConfigError: the machine is closed or runs already; `max_insns` is negative.
            JitvmError: the host failed, a disk for example.
        """
        self.start(max_insns)
        timer: threading.Timer | None = None
        if self.config.timeout_s is not None:
            seconds = self.config.timeout_s
            timer = threading.Timer(seconds, self.quit, ("timeout", f"the time of {seconds:g} seconds is over"))
            timer.daemon = True
            timer.start()
        try:
            return self.wait()
        except BaseException:
            self.quit("interrupt")
            raise
        finally:
            if timer is not None:
                timer.cancel()

    def start(self, max_insns: int | None = None) -> None:
        """Begin to run, as `run`, but return at once; `wait` waits for the end.  With `start_paused`, `resume` begins."""
        if max_insns is not None and max_insns < 0:
            raise ConfigError(f"{max_insns} instructions can't be run")
        with self.lock:
            if self._closing:
                raise ConfigError("the machine is closed")
            if self._running:
                raise ConfigError("the machine runs already")
            if self._result is not None and self._result.reason in FINAL:
                return
            if self._quit_early:
                self._quit_early, self._result = False, RunResult("quit")
                return
            self._running, self._result = True, None
            for vcpu in self.vcpus:
                limit = NEVER if self.config.max_insns is None else self.config.max_insns
                vcpu.limit = limit if max_insns is None else min(limit, vcpu.retired + max_insns)
            self._went = time.perf_counter()
            if self._pace is not None:
                self._pace.start()
            if not self._threads:
                for vcpu in self.vcpus:
                    name = f"vCPU {vcpu.index}"
                    self._threads.append(threading.Thread(target=self._vcpu_main, args=(vcpu,), name=name, daemon=True))
                    self._threads[-1].start()
            self._changed.notify_all()

    def wait(self) -> RunResult:
        """Wait until the run has ended; what the vCPU threads raised is raised here."""
        with self.lock:
            while self._running or len(self._parked) < len(self._threads):
                self._over.wait()
            if self._went:
                self._host_seconds += time.perf_counter() - self._went
                self._went = 0.0
            failure, self._failure = self._failure, None
            if failure is not None:
                raise failure
            if self._result is None:
                raise ConfigError("the machine has not run yet")
            return self._result

    def quit(self, reason: str = "quit", message: str = "") -> None:
        """End the run; from any thread and from signal handlers, returns at once.  Before a run: the next one ends."""

        def end() -> None:
            self._quit_early = not self._running and reason == "quit"
            self._stop(reason, message=message)

        self._from_outside(end)

    def pause(self) -> None:
        """Stop the CPU between two instructions and wait until it stands; `run` goes on waiting."""
        with self.lock:
            self._paused = True
            self._interrupt_vcpus()
            while self._threads and len(self._parked) < len(self.vcpus):
                self._changed.wait()

    def resume(self) -> None:
        """Go on after `pause`, or begin after a start with `start_paused`."""
        with self.lock:
            self._paused = False
            if self._pace is not None:
                self._pace.start()
            self._changed.notify_all()

    @property
    def running(self) -> bool:
        """A run has begun and has not ended; it may be paused."""
        return self._running

    @property
    def paused(self) -> bool:
        """`pause` was called, or `start_paused` is not over."""
        return self._paused

    @property
    def result(self) -> RunResult | None:
        """How the last run ended, None while it lasts and before the first."""
        return self._result

    @contextlib.contextmanager
    def standing(self) -> Iterator[bool]:
        """The CPU stands while the block runs, which gets whether it was paused; then it is as before."""
        before = self._paused
        self.pause()
        try:
            yield before
        finally:
            if not before:
                self.resume()

    def reset(self, cause: str = "reset button") -> None:
        """Press the reset button; from any thread.  A machine that has ended can run again."""
        with self.lock:
            self._reset_cause = cause
            self._result = None
            if self._threads:
                self._interrupt_vcpus()
                self._changed.notify_all()
            else:
                self._reset_board(cause)

    def revived(self) -> None:
        """The state of an earlier moment was put back, whose run has not ended; the lock is held."""
        self._result = self._reset_cause = None

    def close(self) -> None:
        """End the threads, keep what the engine learned, give back what the host gave; a second call does nothing."""
        with self.lock:
            self._closing = True
            self._interrupt_vcpus()
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(timeout=10)
        self.accel.keep()
        self._resources.close()

    def __enter__(self) -> Machine:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    # ---- for a debugger, on its thread
    def release(self, frozen: frozenset[int] = frozenset(), last: int | None = None) -> None:
        """Let what the gate keeps standing go on, but for the `frozen` vCPUs; the lock is held.

        `last`: with vCPUs that take turns, the one that shall wait until the others had theirs.  A vCPU that goes alone runs
        its first instructions on this thread: most steps and many breakpoints are reached by then, and waking its own
        thread, and being woken by it, takes several times as long as all the rest.
        """
        self.gate.held = self._paused = False
        self.gate.frozen = frozen
        if last is not None and len(self.vcpus) > 1 and isinstance(self.vcpus[last], TurnVcpu):
            self.rotation.give_way(last)
        if self._pace is not None:
            self._pace.start()
        going = [vcpu for vcpu in self.vcpus if vcpu.index not in frozen]
        alone = len(going) == 1 and (len(self.vcpus) == 1 or isinstance(going[0], TurnVcpu))
        stands = self._all_stand() and not self._closing
        if not (alone and stands and self._may_run() and self._run_here(going[0])):
            self._changed.notify_all()

    def _run_here(self, vcpu: Vcpu) -> bool:
        """A short turn of a vCPU whose thread is parked; True if the debugger keeps it standing behind that."""
        self._parked.discard(vcpu.index)
        self._attention = False
        try:
            self._turn_ended(vcpu, vcpu.run_a_little(AT_ONCE))
        except BaseException as e:
            self._failed(vcpu, e)
        self._park(vcpu)
        stands = self._may_run() and not self.gate.is_open(vcpu.index, self._all_stand())
        return stands and not self._attention

    def bring_to_stand(self) -> None:
        """Make the vCPUs end their turns, so that the debugger is asked; returns at once."""
        for vcpu in self.vcpus:
            vcpu.request_exit()
        with self.lock:
            self._changed.notify_all()

    def reset_standing(self) -> bool:
        """Reset a machine that stands at the gate, and wait for it; False when it has ended."""
        with self.lock:
            self._reset_cause = "debugger"
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._reset_cause is None or not self._running)
            return self._running

    def stats(self) -> dict[str, Any]:
        """What the run cost: `jitvm.stats.collect`."""
        running = time.perf_counter() - self._went if self._went else 0.0
        return stats.collect(self.vcpus, self.accel, self.marks, self.clock.now_ns, self._host_seconds + running)
