"""One machine as gdbstub's `Target`, and its server: `jitvm boot --gdb`.

    with serve(machine, ":1234") as server:
        print("target remote", server.address)
        result = machine.run()

The server's thread calls the methods here.  It commands the vCPU under the machine lock and touches its state only while
the machine *holds* it (`Gate.held`): `standing` is asked whenever a turn has ended, on the thread that ran it (a vCPU's, or
the server's: `Machine.release`), and all stay where they are while the answer is yes.

A thread is a vCPU (`gdb_thread.CpuThread`).  When one stops all do, and of several reasons one is told.  Watchpoints are
those of the machine's `Debugger`, which also tells of events that were caught.

A step ends behind its instruction, or at the first instruction of the handler of what came instead: a fault, an
interrupt or an SMI.  A trap that its instruction leaves behind (the guest's own TF, DR0-DR3) comes with the next step, as
processors have it: the exit by which they are stepped goes before debug traps (SDM vol. 3, 26.5.2, monitor trap flag).
"""

from __future__ import annotations

import contextlib
import queue
import threading
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
    Stepped,
    Stop,
    ThreadStop,
    WatchKind,
    WatchpointHit,
)
from gdbstub.target import (
    STEP_ENABLE,
    STEP_NOIRQ,
    STEP_NOTIMER,
    Continue,
    Listener,
    MemoryRegion,
    Plan,
    Step,
    ThreadInfo,
)
from jitvm.config import gdb_error
from jitvm.debugger import Debugger
from jitvm.errors import ConfigError, JitvmError
from jitvm.exits import Outcome
from jitvm.gdb_memory import LinearMemory, memory_map
from jitvm.gdb_registers import Registers
from jitvm.gdb_thread import KINDS, CpuThread, event_stop
from jitvm.machine import Machine
from jitvm.monitor import points as monitor_points
from jitvm.monitor.stops import STEP_PATIENCE_S
from jitvm.run_result import RunResult
from jitvm.symbols import file_for_gdb
from jitvm.vcpu import NEVER


def default_exit_code(result: RunResult) -> int:
    """The guest's own status, or 1 for an end that is none."""
    return result.code if result.code or result.reason in ("poweroff", "quit", "debug-exit") else 1


class GdbTarget:
    """A machine, for a session; a thread is a vCPU, counted from 1 on.

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
        self._machine, self._exit_code = machine, exit_code
        self._threads = [CpuThread(vcpu, machine.memory) for vcpu in machine.vcpus]
        self._listener: Listener | None = None
        self._running = 1
        """The first of the threads that go; a Ctrl-C stops all, and is told of this one."""
        self._told = 0
        """The thread of the latest stop: another one's turn comes first."""
        self._broke: int | None = None
        """The thread that stopped at a breakpoint, until it goes on with others: these come first then."""
        self._interrupt = False
        self._steps = STEP_ENABLE
        self._asked = False
        """A monitor command is being done for the client."""
        self._monitored = 0
        """The thread of the latest one."""
        self._silent: queue.SimpleQueue[Stop] | None = None
        """Where stops go of which the client is not told."""
        self._points: dict[int, set[BreakpointKind]] = {}
        self._debugger = Debugger.of(machine)
        self._by_number: dict[int, Sequence[Callable[[], bytes] | None]] = {}
        self._whole: dict[int, Callable[[], list[bytes | None]]] = {}
        """How one register, or all of them, are read, by thread."""

    # ---- the vCPUs
    @property
    def registers(self) -> Registers:
        """The first vCPU's."""
        return self._threads[0].registers

    @property
    def memory(self) -> LinearMemory:
        """Memory as the first vCPU sees it."""
        return self._threads[0].memory

    def _thread(self, number: int) -> CpuThread:
        if not 1 <= number <= len(self._threads):
            raise TargetError(f"there is no thread {number}")
        return self._threads[number - 1]

    def _take_raw(self) -> None:
        """`monitor pc` has a say in what the program counter is."""
        for thread in self._threads:
            thread.registers.raw = self._machine.monitor.context.raw_pc

    def _stand_here(self) -> None:
        for thread in self._threads:
            thread.stands_here()

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
        read = self._whole.get(thread)
        if read is None:
            read = self._whole[thread] = self._thread(thread).registers.all_of(self._layout.registers)
        return read()

    def read_register(self, thread: int, number: int) -> bytes:
        """One register."""
        read = self._readers(thread)[number]
        if read is None:
            raise TargetError(f"register {self._layout.registers[number].name} is a view, of which a session knows")
        return read()

    def _readers(self, thread: int) -> Sequence[Callable[[], bytes] | None]:
        """How each register of a thread is read, by number."""
        found = self._by_number.get(thread)
        if found is None:
            reader = self._thread(thread).registers.reader
            found = [None if r.view_of else reader(r.name, r.size) for r in self._layout.registers]
            self._by_number[thread] = found
        return found

    def write_registers(self, thread: int, values: Mapping[int, bytes]) -> None:
        """Write registers; the program counter last, as it counts from the new base of CS."""
        pc = self._layout.numbers[self._layout.pc]
        registers = self._thread(thread).registers
        with self._machine.lock:
            for number in sorted(values, key=lambda n: (n == pc, n)):
                registers.write(self._layout.registers[number].name, int.from_bytes(values[number], "little"))
                if number != pc:
                    registers.take_effect()

    def write_register(self, thread: int, number: int, value: bytes) -> None:
        """Write one register."""
        self.write_registers(thread, {number: value})

    def read_memory(self, thread: int, address: int, size: int) -> bytes:
        """Memory as the CPU sees it now, up to the first byte that is none."""
        with self._machine.lock:
            return self._thread(thread).memory.read(address, size)

    def write_memory(self, thread: int, address: int, data: bytes) -> None:
        """Write memory, ROM too; translated code there is dropped."""
        with self._machine.lock:
            self._thread(thread).memory.write(address, data)

    def resume(self, plan: Plan) -> None:
        """Let vCPUs go on; one that is not in the plan stays where it is."""
        going = [self._thread(number) for number in sorted(plan)]
        if not going:
            raise TargetError("no thread is to go on")
        machine = self._machine
        with machine.lock:
            for thread in going:
                action = plan[thread.number] if self._steps & STEP_ENABLE else Continue()
                thread.start(action, self._points, bool(self._steps & STEP_NOIRQ))
            stepping = any(not isinstance(action, Continue) for action in plan.values())
            machine.clock.hold(stepping and self._steps & (STEP_ENABLE | STEP_NOTIMER) == STEP_ENABLE | STEP_NOTIMER)
            self._running, self._interrupt = going[0].number, False
            last = None
            if self._broke is not None and len(plan) > 1 and isinstance(plan.get(self._broke), Continue):
                last, self._broke = self._thread(self._broke).vcpu.index, None
            machine.release(frozenset(t.vcpu.index for t in self._threads if t not in going), last)

    def interrupt(self) -> None:
        """Stop soon."""
        if not self._machine.gate.held:
            self._interrupt = True
            self._machine.bring_to_stand()

    # ---- debugger.Client, on the thread whose turn has ended
    def standing(self, outcomes: Mapping[int, Outcome]) -> bool:
        """Whether the vCPUs, which stand, stay so; then the stop is reported."""
        stop = self._reason(outcomes)
        if stop is None:
            return False
        self._machine.clock.hold(False)
        for thread in self._threads:
            thread.vcpu.halt_at = NEVER
        self._told = stop.thread
        if not isinstance(stop, Stepped):
            self._broke = stop.thread if isinstance(stop, BreakpointHit) else None
        self._thread(stop.thread).stands_here()
        self._take_raw()
        self._tell(stop)
        return True

    def _reason(self, outcomes: Mapping[int, Outcome]) -> ThreadStop | None:
        """One of the reasons; a breakpoint that is not told of is hit again, as nothing of it was executed."""
        threads = self._threads
        found = [t.event(outcomes.get(t.vcpu.index), self._debugger, self._points) for t in threads]
        stops = [stop for stop in found if stop is not None]
        if stops:
            return min(stops, key=lambda stop: (not isinstance(stop, WatchpointHit), stop.thread == self._told))
        dma = self._debugger.take_dma()
        if dma is not None:
            return event_stop(self._running, dma)
        stepped = next((t for t in threads if t.stepped()), None)
        if stepped is not None:
            return Stepped(stepped.number)
        return Interrupted(self._running) if self._interrupt else None

    def ended(self, result: RunResult) -> None:
        """The run is over."""
        self._tell(Exited(self._exit_code(result) & 0xFF, result.message))

    def attached(self) -> bool:
        """A client is there."""
        return self.watched()

    def step(self, n: int, vcpu: int) -> str:
        """For `monitor step`: steps of which the client is not told."""
        if not self._asked:
            raise ConfigError("step: gdb holds the machine; use its stepi")
        for _ in range(n):
            self._silent = queue.SimpleQueue()
            self.resume({vcpu + 1: Step()})
            try:
                stop = self._silent.get(timeout=STEP_PATIENCE_S)
            except queue.Empty:
                self.interrupt()
                stop = self._silent.get()
            finally:
                self._silent = None
            if not isinstance(stop, Stepped):
                return stop.message or f"stopped: {type(stop).__name__}"
        return ""

    def _tell(self, stop: Stop) -> None:
        if self._silent is not None:
            self._silent.put(stop)
            if not isinstance(stop, Exited):
                return
        if self._listener is not None:
            self._listener.stopped(stop)

    # ---- optional protocols
    def threads(self) -> Sequence[ThreadInfo]:
        """The vCPUs and what they do."""
        return [thread.info() for thread in self._threads]

    def insert_breakpoint(self, kind: BreakpointKind, address: int, size: int) -> None:
        """Stop before the instruction at a linear address."""
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
        wide = self._layout.registers[self._layout.numbers[self._layout.pc]].size == 8
        return memory_map(self._machine.memory, 1 << 64 if wide else 1 << 32)

    def exec_file(self) -> str | None:
        """The guest's ELF file, where it is known, at the addresses where the guest has it."""
        return self.program

    def monitor(self, command: str, write: Callable[[str], None], thread: int = 1) -> None:
        """The machine's monitor, about a thread's vCPU; a reset, here, stands at the reset vector."""
        words = command.split()
        if thread != self._monitored:  # else it is what `monitor cpu N` has chosen since
            self._monitored = thread
            self._machine.monitor.context.chosen = self._thread(thread).vcpu.index
        if words in (["reset"], ["system_reset"]):
            self.reset()
            answer = "the machine stands at the reset vector; gdb sees it after: maintenance flush register-cache"
        else:
            context = self._machine.monitor.context
            try:
                self._asked, context.gdb_thread = True, threading.get_ident()
                answer = self._machine.monitor.command(command)
            except JitvmError as e:
                raise TargetError(str(e)) from None
            finally:
                self._asked, context.gdb_thread = False, 0
            self._take_raw()
            if words[:2] == ["checkpoint", "restore"]:
                self._stand_here()
        if answer:
            write(answer + "\n")

    def client_left(self) -> None:
        """What gdb's `monitor catch` and `monitor watch` have set goes with it."""
        monitor_points.client_left(self._machine.monitor.context)

    def reset(self) -> None:
        """The reset button, and stand at the reset vector."""
        if not self._machine.reset_standing():
            raise TargetError("the machine has ended; start jitvm again")
        self._stand_here()

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
        """Interrupts can be kept away, and timers stopped."""
        return STEP_ENABLE | STEP_NOIRQ | STEP_NOTIMER

    def physical_memory(self) -> bool:
        """Whether memory is addressed physically."""
        return self.memory.physical

    def set_physical_memory(self, on: bool) -> None:
        """Address memory physically, or through the CPU's mapping."""
        for thread in self._threads:
            thread.memory.physical = on


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
        raise gdb_error(e) from None
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
