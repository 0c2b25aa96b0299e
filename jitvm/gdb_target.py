"""One machine as gdbstub's `Target`, and its server: `jitvm boot --gdb`.

    with serve(machine, ":1234") as server:
        print("target remote", server.address)
        result = machine.run()

The server's thread calls the methods here.  It commands the vCPU under the machine lock and touches its state only while
the machine *holds* it (`Gate.held`): the vCPU's thread asks `standing` whenever its turn has ended, and stays where it
is while the answer is yes.

Breakpoints are linear addresses in the CPU record, by which the translator ends blocks; they are put there when the guest
goes on, not when a client sets them, as gdb takes all of them away for each step.  Watchpoints are those of the machine's
`Debugger`, which also tells of events that were caught.

A step ends behind its instruction, or at the first instruction of the handler of what came instead: a fault or an
interrupt.

Not modelled: more than one vCPU, steps without timers.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence

from gdbstub import x86
from gdbstub.errors import ServerError, TargetError
from gdbstub.layout import Layout
from gdbstub.server import Server
from gdbstub.session import OnDisconnect, Session
from gdbstub.stop import (
    BreakpointHit,
    BreakpointKind,
    Exited,
    Interrupted,
    Signal,
    Signalled,
    Stepped,
    Stop,
    WatchKind,
    WatchpointHit,
)
from gdbstub.target import (
    STEP_ENABLE,
    STEP_NOIRQ,
    Action,
    Continue,
    Listener,
    MemoryRegion,
    Plan,
    RangeStep,
    Step,
    ThreadInfo,
)
from jitvm.debugger import Debugger, Reason, Watched
from jitvm.debugger import WatchKind as Kind
from jitvm.engine.layout import N_BREAKPOINTS
from jitvm.engine.points import set_range
from jitvm.errors import ConfigError, JitvmError
from jitvm.exits import Outcome
from jitvm.gdb_memory import LinearMemory, memory_map
from jitvm.gdb_registers import CS, Registers, mode_name
from jitvm.isa.state import STOP_RANGE, STOP_STEP
from jitvm.machine import Machine, RunResult
from jitvm.symbols import file_for_gdb
from jitvm.vcpu import NEVER

THREAD = 1
KINDS: dict[WatchKind, Kind] = {WatchKind.WRITE: "write", WatchKind.READ: "read", WatchKind.ACCESS: "access"}
WORDS = {kind: word for word, kind in KINDS.items()}
ADDRESS_END = 1 << 32


def default_exit_code(result: RunResult) -> int:
    """The guest's own status, or 1 for an end that is none."""
    return result.code if result.code or result.reason in ("poweroff", "quit", "debug-exit") else 1


def event_stop(reason: Reason) -> Stop:
    """The stop for what a `Debugger` found; what gdb has no packet for is told in words."""
    if isinstance(reason, Watched) and not reason.physical:
        return WatchpointHit(THREAD, WORDS[reason.kind], reason.address)
    return Signalled(THREAD, Signal.TRAP, reason.text())


class GdbTarget:
    """A machine with one vCPU, for a session.

    `arch` is the register layout: x86-64, i386 or i8086.  `exit_code` makes the `W` packet's number of the end of a run.
    """

    def __init__(
        self, machine: Machine, arch: str = "x86-64", exit_code: Callable[[RunResult], int] = default_exit_code
    ) -> None:
        if arch not in x86.LAYOUTS:
            raise ConfigError(f"--gdb-arch: '{arch}' is none of {', '.join(x86.LAYOUTS)}")
        self.watched: Callable[[], bool] = lambda: False
        """Whether a client is there."""
        self.program: str | None = None
        """Path of the guest's ELF file for gdb."""
        self._layout = x86.LAYOUTS[arch]
        self._machine, self._vcpu, self._exit_code = machine, machine.vcpus[0], exit_code
        self._c = self._vcpu.engine.c
        self.memory = LinearMemory(machine.memory, self._c)
        self.registers = Registers(self._vcpu.engine, self.memory.read_linear)
        self._listener: Listener | None = None
        self._action: Action = Continue()
        self._interrupt = False
        self._steps = STEP_ENABLE
        self._points: dict[int, set[BreakpointKind]] = {}
        self._debugger = Debugger.of(machine)
        self._in_force: frozenset[int] = frozenset()
        """The breakpoints that the CPU record has."""
        self._stopped_at = self.registers.linear_pc()
        """Where the latest stop was reported: the next run begins there, breakpoint or not."""

    # ---- Target
    @property
    def layout(self) -> Layout:
        """The register layout."""
        return self._layout

    def listen(self, listener: Listener) -> None:
        """Who is told of stops."""
        self._listener = listener

    def read_registers(self, thread: int) -> Sequence[bytes | None]:
        """All registers; None for views."""
        return [None if r.view_of else self.read_register(thread, n) for n, r in enumerate(self._layout.registers)]

    def read_register(self, thread: int, number: int) -> bytes:
        """One register."""
        register = self._layout.registers[number]
        mask = (1 << 8 * register.size) - 1
        return (self.registers.read(register.name) & mask).to_bytes(register.size, "little")

    def write_registers(self, thread: int, values: Mapping[int, bytes]) -> None:
        """Write registers; the program counter last, as it counts from the new base of CS."""
        pc = self._layout.numbers[self._layout.pc]
        with self._machine.lock:
            for number in sorted(values, key=lambda n: (n == pc, n)):
                self.registers.write(self._layout.registers[number].name, int.from_bytes(values[number], "little"))
                if number != pc:
                    self.registers.take_effect()

    def write_register(self, thread: int, number: int, value: bytes) -> None:
        """Write one register."""
        self.write_registers(thread, {number: value})

    def read_memory(self, thread: int, address: int, size: int) -> bytes:
        """Memory as the CPU sees it now, up to the first byte that is none."""
        with self._machine.lock:
            return self.memory.read(address, size)

    def write_memory(self, thread: int, address: int, data: bytes) -> None:
        """Write memory, ROM too; translated code there is dropped."""
        with self._machine.lock:
            self.memory.write(address, data)

    def resume(self, plan: Plan) -> None:
        """Let the vCPU go on."""
        action = plan.get(THREAD)
        if action is None:
            raise TargetError(f"there is only thread {THREAD}")
        machine, vcpu, c = self._machine, self._vcpu, self._c
        with machine.lock:
            if not isinstance(action, Continue) and not self._steps & STEP_ENABLE:
                action = Continue()
            stepping = isinstance(action, Step) or (isinstance(action, RangeStep) and action.end <= action.start)
            vcpu.hold_interrupts = not isinstance(action, Continue) and bool(self._steps & STEP_NOIRQ)
            c.breaks_off = stepping
            c.step_stop = stepping
            start, size = self._range(action)
            set_range(vcpu.engine, start, size)
            if not stepping and self._in_force != self._points.keys():
                self._in_force = frozenset(self._points)
                vcpu.engine.set_breakpoints(self._in_force)
            c.resume_at, c.resume_lin = vcpu.retired, self.registers.linear_pc() if size else self._stopped_at
            self._action, self._interrupt = action, False
            vcpu.halt_at = vcpu.retired + 1 if stepping else NEVER
            machine.release()

    def interrupt(self) -> None:
        """Stop soon."""
        if not self._machine.gate.held:
            self._interrupt = True
            self._machine.bring_to_stand()

    # ---- debugger.Debugger, on the vCPU's thread
    def standing(self, outcome: Outcome | None) -> bool:
        """Whether the vCPU, which stands, stays so; then the stop is reported."""
        stop = self._reason(outcome)
        if stop is None:
            return False
        self._vcpu.halt_at = NEVER
        self._stopped_at = self.registers.linear_pc()
        self.registers.raw = self._machine.monitor.context.raw_pc
        self._tell(stop)
        return True

    def _reason(self, outcome: Outcome | None) -> Stop | None:
        vcpu = self._vcpu
        if outcome is Outcome.DEBUG:
            return self._debug_stop()
        if outcome is Outcome.ERROR:
            return Signalled(THREAD, Signal.ABRT, vcpu.error_text)
        dma = self._debugger.take_dma()
        if dma is not None:
            return event_stop(dma)
        if vcpu.halt_at <= vcpu.retired:
            return Stepped(THREAD)
        return Interrupted(THREAD) if self._interrupt else None

    def _range(self, action: Action) -> tuple[int, int]:
        """Linear address and size of the range that is stepped over; an empty range is a step."""
        if not isinstance(action, RangeStep):
            return 0, 0
        base = int(self._c.base[CS]) if self.registers.raw else 0
        return action.start + base, max(0, action.end - action.start)

    def _debug_stop(self) -> Stop:
        """What the vCPU left translated code for."""
        if int(self._c.stop_why) in (STOP_STEP, STOP_RANGE):
            return Stepped(THREAD)
        reason = self._debugger.reason()
        if reason is not None:
            return event_stop(reason)
        kinds = self._points.get(self.registers.linear_pc(), {BreakpointKind.SOFTWARE})
        soft = BreakpointKind.SOFTWARE in kinds
        return BreakpointHit(THREAD, BreakpointKind.SOFTWARE if soft else BreakpointKind.HARDWARE)

    def ended(self, result: RunResult) -> None:
        """The run is over."""
        self._tell(Exited(self._exit_code(result) & 0xFF, result.message))

    def attached(self) -> bool:
        """A client is there."""
        return self.watched()

    def _tell(self, stop: Stop) -> None:
        if self._listener is not None:
            self._listener.stopped(stop)

    # ---- optional protocols
    def threads(self) -> Sequence[ThreadInfo]:
        """The one vCPU and what it does."""
        state = " halted" if int(self._c.halted) else ""
        return [ThreadInfo(THREAD, f"CPU0 {mode_name(self._c)}{state}", 0)]

    def insert_breakpoint(self, kind: BreakpointKind, address: int, size: int) -> None:
        """Stop before the instruction at a linear address."""
        if address >= ADDRESS_END:
            raise TargetError(f"{address:#x} is above 4 GiB, where this CPU executes nothing")
        if address not in self._points and len(self._points) >= N_BREAKPOINTS:
            raise TargetError(f"there are {N_BREAKPOINTS} breakpoints already")
        self._points.setdefault(address, set()).add(kind)

    def remove_breakpoint(self, kind: BreakpointKind, address: int, size: int) -> None:
        """Undo it."""
        kinds = self._points.get(address, set())
        kinds.discard(kind)
        if not kinds:
            self._points.pop(address, None)

    def insert_watchpoint(self, kind: WatchKind, address: int, size: int) -> None:
        """Stop behind an instruction that makes such an access to a linear address."""
        try:
            self._debugger.watch(address, size, KINDS[kind])
        except ConfigError as e:
            raise TargetError(str(e)) from None

    def remove_watchpoint(self, kind: WatchKind, address: int, size: int) -> None:
        """Undo it."""
        self._debugger.unwatch(address, size, KINDS[kind])

    def can_range_step(self) -> bool:
        """`vCont;r` is understood."""
        return True

    def memory_map(self) -> Sequence[MemoryRegion]:
        """RAM, ROM and the hole."""
        return memory_map(self._machine.memory)

    def exec_file(self) -> str | None:
        """The guest's ELF file, where it is known, at the addresses where the guest has it."""
        return self.program

    def monitor(self, command: str, write: Callable[[str], None]) -> None:
        """The machine's monitor; a reset, here, stands at the reset vector."""
        words = command.split()
        if words in (["reset"], ["system_reset"]):
            self.reset()
            answer = "the machine stands at the reset vector; gdb sees it after: maintenance flush register-cache"
        else:
            try:
                answer = self._machine.monitor.command(command)
            except JitvmError as e:
                raise TargetError(str(e)) from None
            self.registers.raw = self._machine.monitor.context.raw_pc
            if words[:2] == ["checkpoint", "restore"]:
                self._stopped_at = self.registers.linear_pc()
        if answer:
            write(answer + "\n")

    def reset(self) -> None:
        """The reset button, and stand at the reset vector."""
        if not self._machine.reset_standing():
            raise TargetError("the machine has ended; start jitvm again")
        self._stopped_at = self.registers.linear_pc()

    def kill(self) -> None:
        """End the machine."""
        self._machine.quit()

    def step_flags(self) -> int:
        """What steps keep away from the guest: nothing at first, so that a run with steps is the same run."""
        return self._steps

    def set_step_flags(self, flags: int) -> None:
        """The same, from now on."""
        self._steps = flags

    def supported_step_flags(self) -> int:
        """Interrupts can be kept away, timers go on."""
        return STEP_ENABLE | STEP_NOIRQ

    def physical_memory(self) -> bool:
        """Whether memory is addressed physically."""
        return self.memory.physical

    def set_physical_memory(self, on: bool) -> None:
        """Address memory physically, or through the CPU's mapping."""
        self.memory.physical = on


@contextlib.contextmanager
def serve(
    machine: Machine,
    address: str,
    *,
    arch: str = "x86-64",
    wait: bool = False,
    on_disconnect: str = "run",
    exit_code: Callable[[RunResult], int] = default_exit_code,
    log: Callable[[str], None] = lambda line: None,
) -> Iterator[Server]:
    """A server for gdb while the block runs, which begins before the machine does.

    `wait` holds the machine at the reset vector until a client lets it go.  `ConfigError`: the address is bad or taken.
    """
    target = GdbTarget(machine, arch, exit_code)
    resources = contextlib.ExitStack()
    target.program = file_for_gdb(machine.config, resources, log)
    session = Session(target, running=not wait, on_disconnect=OnDisconnect(on_disconnect), log=log)
    try:
        server = Server(session, address)
        server.open()
    except ServerError as e:
        resources.close()
        raise ConfigError(str(e).replace("gdb:", "--gdb:", 1)) from None
    target.watched = lambda: session.attached
    machine.gate.held = wait
    machine.gate.debugger = target
    server.start()
    try:
        yield server
    finally:
        server.close()
        machine.gate.debugger = None
        resources.close()
