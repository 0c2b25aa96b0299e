"""A machine and its debugger: where vCPUs that stand may be kept, and what makes them stop.

`Gate` asks a `Client` (gdb's adapter) whether vCPUs that stand go on.  `Debugger` is what stops them: watched memory and
events that are caught, for whoever commands the machine (gdb, the monitor, a test).

    debugger = Debugger.of(machine)
    debugger.catch("vector", 14)                      # before a page fault is delivered
    debugger.watch_physical(0x1000, 4, "write")       # the page directory's first entry: instructions, walks, DMA
    ...                                               # the vCPU's turn ends with Outcome.DEBUG
    debugger.reason()                                 # Caught(kind="vector", vector=14, error=2, cr2=0x1234, ...)

All of it is used with the machine lock held, or while the vCPUs stand.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from jitvm.exits import Outcome

if TYPE_CHECKING:
    from jitvm.machine import Machine, RunResult

WatchKind = Literal["write", "read", "access"]
CatchKind = Literal["vector", "triple", "cr3", "msr"]


@dataclass(frozen=True)
class Watched:
    """An instruction, or a device, has made an access to watched memory.

    `address`: the first byte of it that is watched, linear, or physical for `physical` watches.  `kind` and `first` are
    those of the watch.  `dma`: it was no instruction.
    """

    kind: WatchKind
    address: int
    first: int
    physical: bool = False
    dma: bool = False


@dataclass(frozen=True)
class Caught:
    """The vCPU stands before an event, of which nothing has happened yet.

    `vector`: an exception or interrupt, with its error code (None: it has none) and, for page faults, CR2.  `triple`: the
    fault that ends the CPU, as `vector`.  `cr3`: `value` is about to be loaded.  `msr`: register `number` is about to be
    read or (`write`) to be given `value`.
    """

    kind: CatchKind
    vector: int = 0
    error: int | None = None
    cr2: int = 0
    number: int = 0
    value: int = 0
    write: bool = False


Reason = Watched | Caught


class Debugger:
    """What stops the vCPUs of a machine; every stop is a turn that ends with Outcome.DEBUG, and `reason` tells it.

    `Debugger.of(machine)` is the machine's one.
    """

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    @classmethod
    def of(cls, machine: Machine) -> Debugger:
        """The machine's debugger, made on first use."""
        gate = machine.gate
        if gate.points is None:
            gate.points = cls(machine)
        return gate.points

    def watch(self, address: int, length: int, kind: WatchKind = "write") -> None:
        """Stop after each instruction that makes such an access to one of these linear addresses.

        ConfigError: the range is empty or beyond the address space, or the table is full.
        """
        raise NotImplementedError

    def unwatch(self, address: int, length: int, kind: WatchKind = "write") -> None:
        """Undo it; nothing when there is no such watch."""
        raise NotImplementedError

    def watch_physical(self, address: int, length: int, kind: WatchKind = "write") -> None:
        """The same for physical addresses, however they are reached: by any mapping, by the page walk, by DMA.

        A write that changes nothing counts.  DMA stops the machine as soon as its device has done it.
        """
        raise NotImplementedError

    def unwatch_physical(self, address: int, length: int, kind: WatchKind = "write") -> None:
        """Undo it; nothing when there is no such watch."""
        raise NotImplementedError

    def catch(self, kind: CatchKind, number: int | None = None) -> None:
        """Stop before an event: `vector` (`number`: which; None: all), `triple` (a third fault, before the machine resets),
        `cr3` (a MOV to it), `msr` (RDMSR or WRMSR of `number`; None: of any).

        Going on from such a stop lets the event happen.  ConfigError: a number that can't be, or no such kind.
        """
        raise NotImplementedError

    def uncatch(self, kind: CatchKind | None = None, number: int | None = None) -> None:
        """Undo `catch`: of this number, of all numbers (None), or everything (no kind)."""
        raise NotImplementedError

    def reason(self) -> Reason | None:
        """Why the latest turn ended with Outcome.DEBUG; None: for a breakpoint or a step."""
        raise NotImplementedError


class Client(Protocol):
    """What a machine asks of the one who commands it."""

    def standing(self, outcome: Outcome | None) -> bool:
        """The vCPUs stand, the latest turn ended so (None: that was asked before): True keeps them standing."""

    def ended(self, result: RunResult) -> None:
        """The run is over."""

    def attached(self) -> bool:
        """Somebody is there who can look at what went wrong."""


class Gate:
    """`held`: the debugger keeps the vCPUs standing.  `outcome`: how the latest turn ended, until it was asked about."""

    def __init__(self) -> None:
        self.debugger: Client | None = None
        self.points: Debugger | None = None
        """What stops the vCPUs (`Debugger.of`)."""
        self.held = False
        self.outcome: Outcome | None = None

    @property
    def watched(self) -> bool:
        """A client of the debugger is there."""
        return self.debugger is not None and self.debugger.attached()

    def takes(self, outcome: Outcome) -> bool:
        """Whether the debugger sees to this end of a turn: its own stops, and errors when it is watched."""
        return self.debugger is not None and (outcome is Outcome.DEBUG or self.watched)

    def is_open(self) -> bool:
        """The vCPUs, which stand, may go on."""
        if self.debugger is not None and not self.held:
            outcome, self.outcome = self.outcome, None
            self.held = self.debugger.standing(outcome)
        return not self.held

    def run_ended(self, result: RunResult) -> None:
        """Tell the debugger."""
        if self.debugger is not None:
            self.debugger.ended(result)
