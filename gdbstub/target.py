"""What a session needs of the thing that is debugged: a small mandatory protocol and optional ones.

A target implements `Target` and as many of the optional protocols as it can; nothing is registered. A session asks by
`isinstance` (names of methods only, so none of these names may be used for something else) and announces what is there:
`qSupported`, `vCont?` and the empty reply for the rest follow from it. The register layout decides whether a target
description is served.

Threads and locks
-----------------

Three kinds of threads meet here.

* The **server thread** runs the session. It alone calls a target's methods, one at a time; a target needs no lock
  against itself. It holds no lock of this package while it calls, so a target may take any of its own (jitvm: the
  machine lock) and may wait in it.
* The **guest's threads** (vCPUs) call nothing here but `Listener.stopped`, from any thread, with or without any lock
  held: it appends to a queue, wakes the server thread and returns at once. It may also be called from inside a method
  of the target, on the server thread (a target whose `resume` runs the guest there and then is right, too).
* The **owner's thread** (the command line) makes the session and the server, and closes it.

Running and stopped are strict:

* `resume` is only called while the guest is stopped, and returns without waiting for it. Exactly one `stopped` call
  answers each `resume`: of several reasons at once the target tells one and keeps or drops the rest (a watchpoint goes
  before a breakpoint that has not been executed, which will be hit again). A thread that is not in the plan moves not
  one instruction.
* `stopped` is called when *all* threads stand still (all-stop), their state is final, and may be read and written at
  once.
* `interrupt` makes a running guest stop soon, with `Interrupted` if nothing else comes first. If the guest has stopped
  already, its `stopped` call made but not yet seen by the session, it does nothing: no second stop, neither now nor
  after the next `resume`.
* All other methods are only called while the guest is stopped, after `stopped` or before the first `resume`; the
  exceptions are `listen`, `threads`, `exec_file`, `memory_map`, `can_range_step` and `kill`, which must work at any
  time.
* `Exited` may be reported at any time, once, also when stopped (a monitor command that quits); after it only the
  methods of that last list and `reset` are called. The owner then closes the server, which still delivers the `W`
  packet.
* The session is told at its making whether the guest runs (`Session(running=...)`); a client's first packet then brings
  an `interrupt`. A bare connect brings nothing.
* A client's leaving, in whatever way, is seen by the target as `client_left`, where it has that and the client has
  changed something, and `remove_*` of every point still set; then, by policy, as a `resume` of all threads, nothing, or
  `kill`. A guest that stops by itself when nobody is there goes on, but after `Signalled` and `HistoryEnd` it waits for
  the next client.

A method refuses by raising `TargetError` with a text for the user. Any other exception is a bug: it is reported by the
session's `log` as one line with its place, the packet gets an error reply, and the session goes on.

Numbers: threads are positive integers, addresses are what the client's user writes (for x86: linear), 0 <= address <
2**64, and address + size <= 2**64; registers are numbered by the layout and their bytes are in the guest's order. Of a
layout only `own` registers are asked for: views are the session's work.

An example, a machine with one CPU that runs in a thread of its own::

    class Adapter:
        layout = x86.LAYOUTS["x86-64"]

        def listen(self, listener):
            self._listener = listener

        def read_registers(self, thread):
            return [None if r.view_of else self._cpu.read(r.name) for r in self.layout.registers]

        def write_registers(self, thread, values):
            for number, value in values.items():
                self._cpu.write(self.layout.registers[number].name, value)

        def read_memory(self, thread, address, size):
            return self._cpu.read_linear(address, size)      # shorter, or empty, at the first bad page

        def write_memory(self, thread, address, data):
            if not self._cpu.write_linear(address, data):
                raise TargetError(f"no memory at {address:#x}")

        def resume(self, plan):
            with self._lock:
                self._plan = plan
                self._lock.notify()                          # the CPU's thread wakes up and runs

        def interrupt(self):
            self._cpu.kick()                                 # sets a flag that the running guest looks at

        def _run(self):                                      # the CPU's thread
            while True:
                with self._lock:
                    self._lock.wait_for(lambda: self._plan is not None)
                    plan, self._plan = self._plan, None
                self._listener.stopped(self._cpu.run_until_stop(plan))

    session = Session(Adapter(machine), running=True)
    server = Server(session, "localhost:1234")
    print("gdb:", server.open())
    server.start()
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from gdbstub.layout import Layout
from gdbstub.stop import BreakpointKind, Signal, Stop, WatchKind


class Listener(Protocol):
    """Where a target reports; a session is one."""

    def stopped(self, stop: Stop) -> None:
        """All threads stand still (or the machine has ended). Any thread may call; it returns at once."""


@dataclass(frozen=True, slots=True)
class Continue:
    """Run until something happens."""

    signal: Signal | int = Signal.NONE


@dataclass(frozen=True, slots=True)
class Step:
    """Execute one instruction, then stop."""

    signal: Signal | int = Signal.NONE


@dataclass(frozen=True, slots=True)
class RangeStep:
    """One instruction, then run on while start <= pc < end, at full speed; only for a `RangeStepping` target."""

    start: int
    end: int


Action = Continue | Step | RangeStep
Plan = Mapping[int, Action]
"""What each thread is to do; one that is missing does not move. Signals are a wish that a bare machine ignores."""


class Target(Protocol):
    """The mandatory part."""

    @property
    def layout(self) -> Layout:
        """The register layout, the same for all threads and for the whole session."""

    def listen(self, listener: Listener) -> None:
        """Report every stop from now on to `listener`. Called once, when the session is made."""

    def read_registers(self, thread: int) -> Sequence[bytes | None]:
        """All registers by number, each of its layout's size; None where this machine has none such. Views may be None.
        """

    def write_registers(self, thread: int, values: Mapping[int, bytes]) -> None:
        """Write these registers, in the order of their numbers, with all effects (TLBs, blocks, modes)."""

    def read_memory(self, thread: int, address: int, size: int) -> bytes:
        """As many bytes from `address` as can be read up to the first that can't; touches no device."""

    def write_memory(self, thread: int, address: int, data: bytes) -> None:
        """Write all of `data` or raise `TargetError` having written nothing."""

    def resume(self, plan: Plan) -> None:
        """Let the threads in `plan` run and return; a stop may be told before."""

    def interrupt(self) -> None:
        """Stop a running guest soon; nothing if it is stopped."""


@runtime_checkable
class SingleRegister(Protocol):
    """Access to one register without the others."""

    def read_register(self, thread: int, number: int) -> bytes | None:
        """Its bytes, None where this machine has none such."""

    def write_register(self, thread: int, number: int, value: bytes) -> None:
        """As `write_registers`, of one."""


@dataclass(frozen=True, slots=True)
class ThreadInfo:
    """A thread as a user sees it: a number, a name ("CPU0 real16 halted"), the core it is, and more words if any."""

    thread: int
    name: str = ""
    core: int | None = None
    extra: str = ""


@runtime_checkable
class Threads(Protocol):
    """More than one thread. Without it there is one, number 1."""

    def threads(self) -> Sequence[ThreadInfo]:
        """All threads, at least one, the same set for the whole session. Called at any time."""


@runtime_checkable
class Breakpoints(Protocol):
    """Z0 and Z1. Any number; the same one may be inserted twice and is then still one."""

    def insert_breakpoint(self, kind: BreakpointKind, address: int, size: int) -> None:
        """Stop before the instruction at `address`; it survives guest writes, unmapped pages and resets."""

    def remove_breakpoint(self, kind: BreakpointKind, address: int, size: int) -> None:
        """Undo it."""


@runtime_checkable
class Watchpoints(Protocol):
    """Z2, Z3 and Z4. Any number, any length from 1 on."""

    def insert_watchpoint(self, kind: WatchKind, address: int, size: int) -> None:
        """Stop after the instruction that makes such an access to any of these bytes."""

    def remove_watchpoint(self, kind: WatchKind, address: int, size: int) -> None:
        """Undo it."""


@runtime_checkable
class RangeStepping(Protocol):
    """`vCont;r`: the target understands `RangeStep`."""

    def can_range_step(self) -> bool:
        """Asked once, when a client connects."""


@runtime_checkable
class Monitor(Protocol):
    """`monitor ...`."""

    def monitor(self, command: str, write: Callable[[str], None], thread: int) -> None:
        """Do a command line about a thread; its text goes to `write` in pieces. A wrong command raises `TargetError`."""


@dataclass(frozen=True, slots=True)
class MemoryRegion:
    """A range of addresses. gdb uses hardware breakpoints in ROM, and refuses all access outside the regions."""

    start: int
    size: int
    kind: Literal["ram", "rom"] = "ram"


@runtime_checkable
class MemoryMap(Protocol):
    """The memory map. A client reads it once, so it must cover all addresses that the guest may ever see at any of its
    mappings.
    """

    def memory_map(self) -> Sequence[MemoryRegion]:
        """The regions, in order, without overlaps; empty: none is told, all may be accessed."""


@runtime_checkable
class ExecFile(Protocol):
    """The guest's program, when a file with its symbols is known."""

    def exec_file(self) -> str | None:
        """Its absolute path; gdb loads it by itself, with a warning if it is for another architecture."""


@runtime_checkable
class Search(Protocol):
    """A faster search than reading the memory through the session."""

    def search_memory(self, thread: int, address: int, size: int, pattern: bytes) -> int | None:
        """The first address in the range at which `pattern` lies, all of it within the range."""


@runtime_checkable
class Crc(Protocol):
    """A faster checksum than reading the memory through the session (`compare-sections`)."""

    def crc32(self, thread: int, address: int, size: int) -> int | None:
        """CRC-32, polynomial 04C11DB7h, most significant bit first, from FFFFFFFFh, not inverted; None: unreadable."""


@runtime_checkable
class Reset(Protocol):
    """`vRun` and `R`."""

    def reset(self) -> None:
        """Put the machine into its reset state, stopped; breakpoints and watchpoints stay."""


@runtime_checkable
class Kill(Protocol):
    """`k`, `vKill` and the `exit` policy."""

    def kill(self) -> None:
        """End the machine, whether it runs or not. No `Exited` needs to follow."""


@runtime_checkable
class PhysicalMemory(Protocol):
    """`qqemu.PhyMemMode`: memory access by physical address."""

    def physical_memory(self) -> bool:
        """Whether it is on."""

    def set_physical_memory(self, on: bool) -> None:
        """`read_memory` and `write_memory` take physical addresses from now on, or linear ones."""


STEP_ENABLE, STEP_NOIRQ, STEP_NOTIMER = 1, 2, 4
"""QEMU's bits of qqemu.sstep: step at all, without interrupts, without timers."""


@runtime_checkable
class StepFlags(Protocol):
    """`qqemu.sstep`: what single-stepping keeps away from the guest."""

    def step_flags(self) -> int:
        """The bits in force."""

    def set_step_flags(self, flags: int) -> None:
        """Set them, of `supported_step_flags` only."""

    def supported_step_flags(self) -> int:
        """The bits this target knows."""


@runtime_checkable
class Leave(Protocol):
    """More to undo than what these protocols know of, such as what `monitor` commands have set."""

    def client_left(self) -> None:
        """Undo it; the guest stands, and goes on behind this."""


@runtime_checkable
class Reverse(Protocol):
    """`bs` and `bc`. Answered by one `stopped` call as `resume` is."""

    def reverse_step(self, thread: int) -> None:
        """Go back by one instruction of this thread."""

    def reverse_continue(self) -> None:
        """Go back to the last breakpoint or watchpoint, or to the begin of what is recorded (`HistoryEnd`)."""
