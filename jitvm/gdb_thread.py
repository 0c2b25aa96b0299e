"""One vCPU as a thread of gdb's: its registers and its view of memory, how it is let go, and why it stands.

Breakpoints are linear addresses in the CPU record, by which the translator ends blocks; they are put there when the vCPU
goes on, not when a client sets them, as gdb takes all of them away for each step.
"""

from __future__ import annotations

from collections.abc import Mapping

from gdbstub.stop import BreakpointHit, BreakpointKind, Signal, Signalled, Stepped, ThreadStop, WatchKind, WatchpointHit
from gdbstub.target import Action, Continue, RangeStep, Step, ThreadInfo
from jitvm.debugger import Debugger, Reason, Watched
from jitvm.debugger import WatchKind as Kind
from jitvm.engine.layout import at
from jitvm.engine.points import set_range
from jitvm.exits import Outcome
from jitvm.gdb_memory import LinearMemory
from jitvm.gdb_registers import CODE32, CODE64, CS, LMA, PE, VM, Registers, mode_name
from jitvm.isa.state import STOP_RANGE, STOP_STEP
from jitvm.memory import GuestMemory
from jitvm.vcpu import NEVER, Vcpu

KINDS: dict[WatchKind, Kind] = {WatchKind.WRITE: "write", WatchKind.READ: "read", WatchKind.ACCESS: "access"}
WORDS = {kind: word for word, kind in KINDS.items()}
NOWHERE = (1 << 64) - 1
"""Nothing begins at the last linear address."""
NAMED_BY = tuple(
    (at(name) // 8, mask)
    for name, mask in (
        *(("cr0", PE), ("rflags", VM), ("mode", CODE64 | CODE32), ("efer", LMA)),
        *(("smm", NOWHERE), ("halted", NOWHERE)),
    )
)
"""Words of the record, and their bits, on which a thread's name depends (`mode_name`)."""
Points = Mapping[int, set[BreakpointKind]]
"""Breakpoints by linear address."""


def event_stop(thread: int, reason: Reason) -> ThreadStop:
    """The stop for what a `Debugger` found; what gdb has no packet for is told in words."""
    if isinstance(reason, Watched) and not reason.physical:
        return WatchpointHit(thread, WORDS[reason.kind], reason.address)
    return Signalled(thread, Signal.TRAP, reason.text())


class CpuThread:
    """A vCPU; `number` is gdb's, from 1 on.  All is used while the vCPU stands, `start` with the lock held."""

    def __init__(self, vcpu: Vcpu, memory: GuestMemory) -> None:
        self.vcpu, self.number = vcpu, vcpu.index + 1
        self._c = vcpu.engine.c
        self.memory = LinearMemory(memory, self._c)
        self.registers = Registers(vcpu.engine, self.memory.read_linear)
        self._words = vcpu.engine.words
        self._state: list[int] = []
        self._info = ThreadInfo(self.number)
        """What it was called when the words that name it were these: every packet asks for it."""
        self._in_force: frozenset[int] = frozenset()
        """The breakpoints that the CPU record has."""
        self._told = (NOWHERE, 0)
        """Where a stop of this thread was reported, and after how many instructions: while it has not moved since, its
        next run begins there, breakpoint or not."""
        self.stands_here()

    def info(self) -> ThreadInfo:
        """What it is called and does."""
        words = self._words
        state = [words[at] & mask for at, mask in NAMED_BY]
        if state != self._state:
            self._state = state
            halted = " halted" if int(self._c.halted) else ""
            name = f"CPU{self.vcpu.index} {mode_name(self._c)}{halted}"
            self._info = ThreadInfo(self.number, name, self.vcpu.index)
        return self._info

    def stands_here(self) -> None:
        """A client was told that it stands where it does."""
        self._told = self.registers.linear_pc(), self.vcpu.retired

    def start(self, action: Action, points: Points, hold_interrupts: bool) -> None:
        """Prepare an action; a step may keep interrupts away."""
        vcpu, c = self.vcpu, self._c
        stepping = isinstance(action, Step) or (isinstance(action, RangeStep) and action.end <= action.start)
        vcpu.hold_interrupts = not isinstance(action, Continue) and hold_interrupts
        c.breaks_off = stepping
        c.step_stop = stepping
        start, size = self._range(action)
        set_range(vcpu.engine, start, size)
        if not stepping and self._in_force != points.keys():
            self._in_force = frozenset(points)
            vcpu.engine.set_breakpoints(self._in_force)
        told_at, after = self._told
        c.resume_at = vcpu.retired
        c.resume_lin = self.registers.linear_pc() if size else told_at if after == vcpu.retired else NOWHERE
        vcpu.halt_at = vcpu.retired + 1 if stepping else NEVER

    def _range(self, action: Action) -> tuple[int, int]:
        """Linear address and size of the range that is stepped over; an empty range is a step."""
        if not isinstance(action, RangeStep):
            return 0, 0
        base = int(self._c.base[CS]) if self.registers.raw else 0
        return action.start + base, max(0, action.end - action.start)

    def event(self, outcome: Outcome | None, debugger: Debugger, points: Points) -> ThreadStop | None:
        """What the end of its turn tells by itself; None: nothing."""
        if outcome is Outcome.ERROR:
            return Signalled(self.number, Signal.ABRT, self.vcpu.error_text)
        if outcome is not Outcome.DEBUG:
            return None
        if int(self._c.stop_why) in (STOP_STEP, STOP_RANGE):
            return Stepped(self.number)
        reason = debugger.reason(self.vcpu.index)
        if reason is not None:
            return event_stop(self.number, reason)
        kinds = points.get(self.registers.linear_pc(), {BreakpointKind.SOFTWARE})
        soft = BreakpointKind.SOFTWARE in kinds
        return BreakpointHit(self.number, BreakpointKind.SOFTWARE if soft else BreakpointKind.HARDWARE)

    def stepped(self) -> bool:
        """Its step is done."""
        return self.vcpu.halt_at <= self.vcpu.retired
