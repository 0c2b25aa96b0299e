"""The vCPU loop, shaped after QEMU's `kvm_cpu_exec`: enter translated code, serve its exit, enter again.

One thread a vCPU; a debugger's may take a turn in its place.  The machine lock is held but while translated code runs.
Virtual time is `retired + extra_ns`: one instruction is 1 ns, each port or MMIO access adds `ACCESS_NS` (also one that
translated code serves itself), a halted vCPU adds the time to the next timer.

An instruction whose access was answered but that is not complete yet is *half done*: nothing comes before its end, no
interrupt, no exit request, no limit.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from copy import copy
from dataclasses import asdict
from operator import attrgetter

import numpy as np

from jitvm.bus import MASKS, Bus
from jitvm.clock import NEVER as NEVER
from jitvm.clock import Clock
from jitvm.engine import layout as lay
from jitvm.engine.accel import VcpuEngine
from jitvm.engine.entry import SLICE as SLICE
from jitvm.engine.entry import Enter
from jitvm.engine.points import trace_msrs, traced_msr
from jitvm.errors import JitvmError
from jitvm.exits import HANDLED, INTR, IO, MMIO, Buses, ExitReason, Outcome, Run, handle_exit, reason_name
from jitvm.irq import Apic, ApicPage, InterruptSource, NoInterrupts
from jitvm.isa import served
from jitvm.isa.apic_page import QUIET
from jitvm.trace import SILENT, Trace

ACCESS_NS = int(served.ACCESS_NS)
"""Virtual time of a port or MMIO access: a bus cycle."""
IDLE_S = 0.5
"""How long a halted vCPU sleeps at most before it pumps again."""
WHY_FAILED = -1
"""In place of a WHY_* code: the engine raised an error."""
WHY_EXIT = lay.WHY_EXIT
REASON_OF_WHY = {
    lay.WHY_LIMIT: INTR,
    lay.WHY_WINDOW: int(ExitReason.IRQ_WINDOW_OPEN),
    WHY_FAILED: int(ExitReason.INTERNAL_ERROR),
}
IF, NMI_VECTOR, NO_STARTUP = 0x200, 2, -1
EXTRA_NS, WANT_WINDOW, RFLAGS, HALTED, SMM = (
    lay.at(name) // 8 for name in ("extra_ns", "want_window", "rflags", "halted", "smm")
)
NMI_BLOCKED, PARKED, SHADOW, STEP_ARMED, IO_N, IO_TAG, PORT_TABLE = (
    lay.at(name) // 8 for name in ("nmi_blocked", "parked", "shadow", "step_armed", "io_n", "io_tag", "port_table")
)
APIC_QUIET = lay.at("apic") // 8 + int(QUIET)
"""Words of the CPU record."""
IO_DATA = lay.at("io_data")
PAGE, UNKNOWN, FERR, DEBUG = ~0xFFF, int(ExitReason.UNKNOWN), int(ExitReason.FERR), int(ExitReason.DEBUG)


def count(counts: dict[int, int], key: int) -> None:
    """One more of these."""
    try:
        counts[key] += 1
    except KeyError:
        counts[key] = 1


def noticed(slot: str) -> property:
    """A mark, kept in `slot`, that the loop must not pass by: when one is set it looks at all before it enters again.

    From any thread: the mark is there before the loop is told to look.  0 is none; of NMIs there may be two.
    """

    def mark(vcpu: Vcpu, value: int) -> None:
        setattr(vcpu, slot, value)
        vcpu.attention = True

    return property(attrgetter(slot), mark)  # a getter that is not Python's: the loop reads marks at every turn


class Vcpu:
    """One virtual CPU with its loop.

    `pump`: called with the lock held when translated code was kicked, and while halted, to take input from the host.
    `real_time`: a halted vCPU waits in real time for its next timer instead of jumping to it.
    """

    __slots__ = (
        "__weakref__", "_access", "_bell", "_bytes", "_counts", "_end", "_exit_request", "_halt_at", "_in_turn",
        "_init_pending", "_limit", "_nmi_pending", "_now", "_port_table", "_registers_dirty", "_retired", "_smi_pending",
        "_startup", "_string", "_window_asked", "_words", "apic", "apic_window", "attention", "buses", "clock",
        "come_out", "engine", "enter", "error_text", "go_in", "go_on", "half_done", "hold_interrupts", "index",
        "interrupts", "last_run", "lock", "on_ferr", "pump", "real_time", "trace",
    )  # fmt: skip
    exit_request, registers_dirty = noticed("_exit_request"), noticed("_registers_dirty")
    smi_pending, nmi_pending, init_pending = noticed("_smi_pending"), noticed("_nmi_pending"), noticed("_init_pending")
    """A debugger or the machine wants the turn to end; SMI, NMI and INIT wait for an instruction's end, SMI and INIT also
    for RSM, an NMI for IRET; registers were changed from outside: push them before the next entry."""

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
        self.go_in: Callable[[], object] = lock.release
        self.come_out: Callable[[], object] = lock.acquire
        """Around translated code."""
        self.buses = Buses(ports, mmio)
        self.interrupts: InterruptSource = interrupts or NoInterrupts()
        self.enter: Enter = engine.enter
        self.go_on: Callable[[], int] = engine.go_on
        """Run guest code (`Entry.enter`), and go on with what was no plain access (`VcpuEngine.go_on`); who measures them
        may put others in their places."""
        self.attention = True
        """Something may stand against just entering again: the loop looks what it is."""
        self._limit = self._halt_at = self._end = NEVER
        self.smi_pending = self.nmi_pending = self.init_pending = False
        self.apic: Apic | None = None
        self.apic_window: ApicPage | None = None
        """The page that shows the APIC of the processor whose access is served."""
        self._startup = NO_STARTUP
        self.hold_interrupts = False
        """A debugger's step keeps them away."""
        self.real_time = False
        self.pump: Callable[[], None] = lambda: None
        self.on_ferr: Callable[[], None] = lambda: None
        """FERR# is asserted: an x87 exception is pending, and the processor waits for an interrupt."""
        self._counts: defaultdict[int, dict[int, int]] = defaultdict(dict)
        self.error_text = ""
        self.last_run, self._access = Run(INTR), Run(IO)
        """The latest exit, one `Run` for all of them, as in KVM; that of plain accesses."""
        self._retired = self._now = 0
        """`retired` and virtual time at the latest exit of this turn; the record's may be half written."""
        self._in_turn = self._window_asked = False
        self.exit_request = False
        self.half_done = False
        self._string = False
        """The latest access is one of a string I/O."""
        self.registers_dirty = False
        self._bell = threading.Lock()
        """Locked until a kick rings: what a halted vCPU sleeps on."""
        self._bell.acquire()
        self._words, self._bytes = engine.words, engine.array.view(np.uint8).data
        self._port_table = 0
        if engine.options.latches and ports.table.size:
            self._port_table = int(ports.table.ctypes.data)

    # ---- from any thread, with or without the lock, also from signal handlers --------------------------------------------
    def kick(self) -> None:
        """Make the loop look at what changed: leave translated code within one block, or wake from HLT.

        A kick is kept until the loop has looked, wherever the loop is when it comes.
        """
        self.engine.kick()
        self.ring()

    def ring(self) -> None:
        """End a sleep."""
        try:
            self._bell.release()
        except RuntimeError:
            return  # it is ringing already

    def wake(self) -> None:
        """The same."""
        self.kick()

    def assert_smi(self) -> None:
        """SMI#: it is taken before the next instruction that this vCPU begins; with the lock held."""
        self.smi_pending = True
        self.notice()

    def notice(self) -> None:
        """Something changed that this vCPU looks at before it enters translated code; with the lock held."""
        if not self._in_turn:
            self.kick()

    def at_rest(self, action: Callable[..., None], *arguments: object) -> None:
        """Call it when this vCPU runs no translated code: always so while another thread has the lock, but in `parallel`."""
        action(*arguments)

    def assert_init(self) -> None:
        """INIT, with the lock held: at once, or when the turn ends if it is this vCPU's own."""
        if not self._in_turn and not self._words[SMM]:
            self._init()
            return
        self.init_pending = True
        self.request_exit()

    def _init(self) -> None:
        """An application processor waits for SIPI, the bootstrap processor begins at the reset vector."""
        self.init_pending = self.smi_pending = self.nmi_pending = self.half_done = False
        self.engine.init(park=self.index != 0)
        if self.apic is not None:
            self.apic.init()
        vector, self._startup = self._startup, NO_STARTUP
        if vector != NO_STARTUP:
            self.startup(vector)

    def startup(self, vector: int) -> None:
        """SIPI, with the lock held: a processor that waits for it begins at page `vector`."""
        if self.init_pending:
            self._startup = vector
        elif self._words[PARKED]:
            self.engine.startup(vector)
            self.notice()

    def request_exit(self) -> None:
        """The loop leaves with Outcome.INTERRUPT as soon as no instruction is half done."""
        self.exit_request = True
        self.kick()

    # ---- state between two runs -------------------------------------------------------------------------------------------
    @property
    def retired(self) -> int:
        """Instructions retired.

        Exact while the vCPU stands, while it is halted and, for a device, while an exit is served.  While guest code
        runs, another thread gets the count at the latest exit, which is at most `SLICE` instructions ago.
        """
        return self._retired if self._in_turn else self.engine.retired()

    @property
    def limit(self) -> int:
        """Instructions after which the loop stops (`--max-insns`), as a value of `retired`."""
        return self._limit

    @limit.setter
    def limit(self, value: int) -> None:
        self._limit = value
        self._end = self._earlier_end()
        self.attention = True

    @property
    def halt_at(self) -> int:
        """The same for a debugger's step."""
        return self._halt_at

    @halt_at.setter
    def halt_at(self, value: int) -> None:
        self._halt_at = value
        self._end = self._earlier_end()
        self.attention = True

    @property
    def exits(self) -> Counter[tuple[int, int]]:
        """Number of exits by (reason, port or 4 KiB-aligned address)."""
        counts = self._counts.items()
        return Counter({(reason, where): n for reason, places in counts for where, n in places.items()})

    def now(self) -> int:
        """Virtual nanoseconds of this vCPU, as exact as `retired`."""
        return self._now if self._in_turn else self.engine.retired() + self._words[EXTRA_NS]

    def skip(self, ns: int) -> None:
        """Let virtual time go on by `ns` without instructions; with the lock held."""
        self._words[EXTRA_NS] += ns
        self._now = self.retired + self._words[EXTRA_NS]

    def interrupts_open(self) -> bool:
        """IF is set, and neither STI, MOV SS nor a single-step trap holds interrupts off."""
        words = self._words
        return bool(words[RFLAGS] & IF) and words[SHADOW] != self.retired and not words[STEP_ARMED]

    def is_halted(self) -> bool:
        """HLT, or waiting for SIPI."""
        return bool(self._words[HALTED])

    def is_half_done(self) -> bool:
        """Whether the instruction at rip has answers from outside that it has not used up."""
        words = self._words
        return words[IO_N] != 0 and words[IO_TAG] == self.retired

    # ---- the loop -----------------------------------------------------------------------------------------------------
    def run_until_stopped(self) -> Outcome:
        """The thread function: take turns until one ends with anything but HLT; the lock is taken here."""
        with self.lock:
            while True:
                outcome = self.execute()
                if outcome is not Outcome.HLT:
                    return outcome
                if self.halt_at <= self.retired:
                    return Outcome.INTERRUPT
                self.wait()

    def _earlier_end(self) -> int:
        """Of both limits the one that is reached first, as a number that translated code can be given."""
        return min(self._limit, self._halt_at, NEVER)

    def run_a_little(self, n: int) -> Outcome:
        """A turn of at most `n` instructions that never waits, on a thread that has the lock while the vCPU's own stands."""
        self._end = min(self._end, self.retired + n)
        try:
            outcome = self.execute()
        finally:
            self._end = self._earlier_end()
        return Outcome.INTERRUPT if outcome is Outcome.HLT else outcome

    def execute(self) -> Outcome:
        """Run until something must be told to the caller, which holds the lock (QEMU's kvm_cpu_exec)."""
        if self.process_async_events():
            return Outcome.HLT
        self.begin_turn()
        buses, trace, clock, interrupts, enter = self.buses, self.trace, self.clock, self.interrupts, self.enter
        release, acquire, answer, run = self.go_in, self.come_out, self.engine.answer, self._access
        ports, pages = self._counts[IO], self._counts[MMIO]
        why = WHY_EXIT
        try:
            while True:
                due, end = clock.due, self._end
                if self.attention or interrupts.pending:
                    self.attention = False
                    if self.registers_dirty:
                        self.push_registers()
                    if (self.exit_request or self._end <= self._retired or self.takes_init()) and not self.half_done:
                        self.exit_request = False
                        return Outcome.INTERRUPT
                    due, end = self.pre_run()
                release()
                try:
                    access = enter(due, end)
                    if not access:
                        why = self.go_on()
                except JitvmError as e:
                    access, why = (), self.run_failed(e)
                finally:
                    acquire()
                if not access:
                    outcome = self.serve_other(why)
                    if outcome is not HANDLED:
                        return outcome
                    continue
                self._retired, now, run.reason, address, run.size, run.write, run.data = access
                self._now, run.address = now, address
                if clock.due <= now:
                    clock.advance_to(now)
                elif clock.now_ns < now:
                    clock.now_ns = now
                try:
                    if run.reason == IO:
                        ports[address] += 1
                    else:
                        pages[address & PAGE] += 1
                except KeyError:
                    count(self._counts[run.reason], address if run.reason == IO else address & PAGE)
                if trace.selected or trace.listeners:
                    self.serve_traced(run)
                else:
                    handle_exit(run, buses)
                answer(run.data)
                self.half_done = True
        finally:
            self._in_turn = False

    def serve_traced(self, run: Run) -> Outcome:
        """`handle_exit`, told to the trace: a read when it has been answered, all others before anything is done."""
        told = self.trace.wants("exit")
        if told and not run.reads():
            self.record(run)
        outcome = handle_exit(run, self.buses)
        if told and run.reads():
            self.record(run)
        return outcome

    def serve_other(self, why: int) -> Outcome:
        """An exit that is not a plain access, or was found only behind something that translated code lacked."""
        self.attention = True
        run = self.post_run(why)
        if run.reason == DEBUG and (access := traced_msr(self.engine)) is not None:
            self.trace("msr", vcpu=self.index, **asdict(access))
            return HANDLED
        outcome = self.serve_traced(run)
        if run.reason == INTR:
            return self.look_around()
        if run.reason == IO or run.reason == MMIO:
            self.answer(run)
        elif outcome is Outcome.ERROR:
            self.error_text = self.describe_error(run)
        return outcome

    def begin_turn(self) -> None:
        """Take over what the record says: it may have been changed while the vCPU stood."""
        self.error_text = ""
        self._retired = self.engine.retired()
        self._now = self._retired + self._words[EXTRA_NS]
        self._words[WANT_WINDOW] = 0
        self._window_asked = False
        self._in_turn = self.attention = True
        self.show_apic()
        self.serve_ports()

    def serve_ports(self) -> None:
        """Let translated code serve what needs no device, unless somebody looks at each access or keeps interrupts away."""
        trace_msrs(self.engine, self.trace.wants("msr"))
        quiet = not (self.trace.selected or self.trace.listeners)
        self._words[PORT_TABLE] = self._port_table if quiet else 0
        quiet = quiet and not self.hold_interrupts
        self._words[APIC_QUIET] = quiet and self.apic is not None and self.engine.options.latches

    def record(self, run: Run) -> None:
        """Put an exit into the trace."""
        reason = reason_name(run.reason)
        self.trace("exit", vcpu=self.index, reason=reason, retired=self._retired, run=copy(run))

    def process_async_events(self) -> bool:
        """Asynchronous events first: True while the vCPU is halted and nothing wakes it."""
        if self.takes_init() and not self.half_done:
            self._init()
        if not self._words[HALTED] or self.exit_request or self._end <= self.retired:
            return False
        if self.wakes():
            if not self.urgent():  # else the save area says that the CPU was halted; an NMI ends it itself
                self._words[HALTED] = 0
            return False
        return True

    def wakes(self) -> bool:
        """Whether something ends HLT: an SMI, an NMI, an interrupt that is let in, the trap of a single-stepped HLT."""
        words, source = self._words, self.interrupts
        if words[PARKED]:
            return False
        if self.urgent() and not words[SMM]:
            return True
        return bool(words[STEP_ARMED] or (source.pending and words[RFLAGS] & IF))

    def push_registers(self) -> None:
        """Make registers that were changed from outside take effect, once."""
        self.engine.registers_changed()
        self.registers_dirty = False

    def pre_run(self) -> tuple[int, int]:
        """Offer what is pending; virtual time and `retired` at which this entry ends: next timer and limit."""
        alone = self.init_pending or (self.urgent() and self.offer_urgent())
        if (self.interrupts.pending or self._window_asked) and self.offer_interrupt():
            alone = True
        if alone or self._window_asked or self.exit_request or self.urgent() or self.engine.injecting:
            self.attention = True
        if alone or (self.half_done and self.exit_request):
            return self.clock.due, self._retired + 1
        return self.clock.due, self._end

    def takes_init(self) -> bool:
        """Whether an INIT waits that RSM need not let in."""
        return bool(self.init_pending and not self._words[SMM])

    def urgent(self) -> bool:
        """Whether an SMI or an NMI waits."""
        return bool(self.smi_pending or self.nmi_pending)

    def offer_urgent(self) -> bool:
        """Take SMI or NMI; True when one instruction must be entered alone before (SDM vol. 3, 6.9, 34.3.1)."""
        words = self._words
        if words[SMM] or self.half_done or self.engine.injecting or words[STEP_ARMED]:
            return True
        if self.smi_pending:
            self.smi_pending = False
            self.trace("smi", vcpu=self.index)
            self.engine.smi()
        elif words[NMI_BLOCKED] or words[SHADOW] == self.retired:
            return True
        else:
            self.nmi_pending -= 1
            if self.trace.wants("irq_inject"):
                self.trace("irq_inject", vcpu=self.index, vector=NMI_VECTOR)
            self.engine.inject_nmi()
        return False

    def offer_interrupt(self) -> bool:
        """Inject a pending interrupt or ask for the window; True when one instruction must be entered alone."""
        words, source, alone, ask = self._words, self.interrupts, False, False
        if self.apic is not None:
            self.apic.look()
        if source.pending and not self.hold_interrupts:
            if not self.interrupts_open():
                ask = True
                alone = bool(words[RFLAGS] & IF)  # they open behind one instruction
            elif self.half_done or self.engine.injecting:
                alone = True  # no window is asked for: it would be found before the instruction's end
            else:
                vector = source.acknowledge()
                if self.trace.wants("irq_inject"):
                    self.trace("irq_inject", vcpu=self.index, vector=vector)
                self.engine.inject(vector)
                ask = source.pending
        words[WANT_WINDOW] = self._window_asked = ask
        return alone

    def post_run(self, why: int) -> Run:
        """Publish what the run left behind: time, due timers (so interrupts), and the exit as a value."""
        retired, extra, reason, address, size, write, elements, data = self.engine.boundary()
        self._retired, run = retired, self.last_run
        if why == WHY_EXIT and (reason == IO or reason == MMIO):
            run.reason, run.address, run.size, run.write = reason, address, size, write
            run.count, run.data = elements, data
            if elements != 1:
                self.begin_string(run, retired + extra)
            extra += ACCESS_NS * run.count
            self._words[EXTRA_NS] = extra
            count(self._counts[reason], address if reason == IO else address & PAGE)
            self.show_apic()
        else:
            run.reason = reason if why == WHY_EXIT else REASON_OF_WHY.get(why, UNKNOWN)
            self.half_done = why != WHY_EXIT and self.is_half_done()
            count(self._counts[run.reason], 0)
            if self.apic is not None:
                self.apic.look()
            if run.reason == FERR:
                self.on_ferr()
        self._now = now = retired + extra
        clock = self.clock
        if clock.due <= now:
            clock.advance_to(now)
        elif clock.now_ns < now:
            clock.now_ns = now
        return run

    def show_apic(self) -> None:
        """The page of local APICs, if there are several, is this processor's."""
        if self.apic_window is not None:
            self.apic_window.current = self.apic

    def begin_string(self, run: Run, now: int) -> None:
        """A string I/O: ends with the element during whose access the next timer is due."""
        self._string = True
        run.count = max(1, min(run.count, -(-(self.clock.due - now + 1) // (ACCESS_NS + 1))))
        run.block = self._bytes[IO_DATA : IO_DATA + run.count * run.size].tobytes()
        run.data = int.from_bytes(run.block[: run.size], "little")

    def answer(self, run: Run) -> None:
        """Hand the outside's answer to the instruction, which completes when the vCPU is entered again."""
        if not self._string:
            self.engine.answer(run.data)
        else:
            self._string = False
            if not run.write:
                block = run.block if run.count != 1 else (run.data & MASKS[run.size]).to_bytes(8, "little")
                self._bytes[IO_DATA : IO_DATA + len(block)] = block
            self.engine.answer(run.count)
        self.half_done = True

    def look_around(self) -> Outcome:
        """The budget was used up or somebody kicked: take input; nothing is lost, so go on."""
        if self.engine.kicked:
            self.engine.unkick()
            self.pump()
            self.serve_ports()
        return Outcome.HANDLED

    # ---- halted -------------------------------------------------------------------------------------------------------
    def wait(self) -> None:
        """Halted: jump to the next timer, or wait for it, or for a kick, in real time; the lock is held but for that."""
        self._bell.acquire(blocking=False)
        self.engine.unkick()
        self.pump()
        if self.exit_request or self.wakes():
            return
        now, deadline = self.now(), self.clock.deadline()
        if self.real_time:
            passed = self._sleep(IDLE_S if deadline is None else min(IDLE_S, max(0, deadline - now) / 1e9))
        elif deadline is None:
            self._sleep(IDLE_S)
            return
        else:
            self._sleep(0)
            passed = max(0, deadline - now)
        self.skip(passed)
        self.clock.advance_to(now + passed)

    def _sleep(self, seconds: float) -> int:
        """Drop the lock until a kick, at most for `seconds`; nanoseconds that passed."""
        start = time.monotonic_ns()
        self.lock.release()
        try:
            self._bell.acquire(timeout=seconds)
        finally:
            self.lock.acquire()
        return time.monotonic_ns() - start

    # ---- errors -------------------------------------------------------------------------------------------------------
    def run_failed(self, error: JitvmError) -> int:
        """The engine can't go on: `post_run` makes an INTERNAL_ERROR of it."""
        self.error_text = str(error)
        return WHY_FAILED

    def describe_error(self, run: Run) -> str:
        """A run error in words, with the state."""
        what = f"{reason_name(run.reason)}: {self.error_text}" if self.error_text else reason_name(run.reason)
        return f"vCPU {self.index}: {what}\n{self.engine.dump()}"
