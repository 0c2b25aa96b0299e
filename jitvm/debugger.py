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

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np

from jitvm.engine.points import NONE, Hit, Point, Points, hits, set_catches
from jitvm.errors import ConfigError
from jitvm.exits import Outcome
from jitvm.faults import fault_words
from jitvm.isa.state import (
    CATCH_CR3,
    CATCH_MSR,
    CATCH_TRIPLE,
    PF_FAULT,
    STOP_CATCH,
    STOP_WATCH,
    WATCH_PHYSICAL,
    WATCH_READ,
    WATCH_WRITE,
)
from jitvm.memory import MAPPED, PAGE, weakly

if TYPE_CHECKING:
    from jitvm.machine import Machine
    from jitvm.run_result import RunResult

N_VECTORS, PF = 256, int(PF_FAULT)
TRAPS = (3, 4)
"""INT3 and INTO raise these exceptions."""

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

    def text(self) -> str:
        """In words."""
        who = "a device has made" if self.dma else "the instruction before made"
        where = "physical" if self.physical else "linear"
        return f"{who} a {self.kind} access to {where} {self.address:#x} (watched from {self.first:#x} on)"


@dataclass(frozen=True)
class Caught:
    """The vCPU stands before an event, of which nothing has happened yet.

    `vector`: an exception or interrupt, with its error code (None: it has none) and, for page faults, CR2; `software`: INT
    n, INT3 or INTO asks for it.  `triple`: the fault that ends the CPU, as `vector`.  `cr3`: `value` is about to be loaded.
    `msr`: register `number` is about to be read or (`write`) to be given `value`.
    """

    kind: CatchKind
    vector: int = 0
    error: int | None = None
    cr2: int = 0
    number: int = 0
    value: int = 0
    write: bool = False
    software: bool = False

    def text(self) -> str:
        """In words."""
        if self.kind == "cr3":
            return f"{self.value:#x} is about to be loaded into CR3"
        if self.kind == "msr":
            return f"MSR {self.number:#x} is about to be " + (f"given {self.value:#x}" if self.write else "read")
        what = "ends the CPU, a triple fault" if self.kind == "triple" else "is about to be delivered"
        if self.software and self.vector not in TRAPS:
            return f"vector {self.vector} {what}: INT {self.vector:02X}h"
        return f"vector {self.vector} {what}: {fault_words(self.vector, self.error, self.cr2)}"


Reason = Watched | Caught


KIND_BITS: dict[str, int] = {
    "write": int(WATCH_WRITE),
    "read": int(WATCH_READ),
    "access": int(WATCH_READ | WATCH_WRITE),
}
CATCH_BITS: dict[str, int] = {"triple": int(CATCH_TRIPLE), "cr3": int(CATCH_CR3), "msr": int(CATCH_MSR)}
ADDRESS_END = 1 << 64
N_MSRS = 1 << 32
ORDER = ("write", "access", "read")
"""Of several hits the first of these kinds is told."""


@dataclass(frozen=True)
class _Watch:
    """One entry of the tables."""

    first: int
    last: int
    kind: WatchKind
    physical: bool

    def point(self) -> Point:
        """As the vCPUs know it."""
        return Point(KIND_BITS[self.kind] | (int(WATCH_PHYSICAL) if self.physical else 0), self.first, self.last)


class Debugger:
    """What stops the vCPUs of a machine; every stop is a turn that ends with Outcome.DEBUG, and `reason` tells it.

    `Debugger.of(machine)` is the machine's one.
    """

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._watches: list[_Watch] = []
        """By their numbers in `_points`."""
        self._numbers: dict[_Watch, int] = {}
        self._times: Counter[_Watch] = Counter()
        """How often each was set."""
        self._physical: dict[_Watch, None] = {}
        """Those that see DMA."""
        self._points = Points()
        self._vectors: set[int] = set()
        self._others: set[str] = set()
        self._msr: int | None = None
        self._dma: Watched | None = None
        machine.memory.on_write.append(weakly(self._on_write))
        self._on_read = weakly(self._on_dma_read)

    @classmethod
    def of(cls, machine: Machine) -> Debugger:
        """The machine's debugger, made on first use."""
        gate = machine.gate
        if gate.points is None:
            gate.points = cls(machine)
        return gate.points

    # ---- watched memory
    def watch(self, address: int, length: int, kind: WatchKind = "write") -> None:
        """Stop after each instruction that makes such an access to one of these linear addresses.

        ConfigError: the range is empty or beyond the address space.
        """
        self._add(address, length, kind, False)

    def unwatch(self, address: int, length: int, kind: WatchKind = "write") -> None:
        """Undo it; nothing when there is no such watch."""
        self._remove(address, length, kind, False)

    def watch_physical(self, address: int, length: int, kind: WatchKind = "write") -> None:
        """The same for physical addresses, however they are reached: by any mapping, by the page walk, by DMA.

        A write that changes nothing counts.  DMA stops the machine as soon as its device has done it.  Of the page walk
        only writes are seen.
        """
        self._add(address, length, kind, True)

    def unwatch_physical(self, address: int, length: int, kind: WatchKind = "write") -> None:
        """Undo it; nothing when there is no such watch."""
        self._remove(address, length, kind, True)

    def _add(self, address: int, length: int, kind: WatchKind, physical: bool) -> None:
        if kind not in KIND_BITS:
            raise ConfigError(f"watch '{kind}': it is one of {', '.join(KIND_BITS)}")
        end = len(self._machine.memory.page_read) * PAGE if physical else ADDRESS_END
        if length < 1 or address < 0 or address + length > end:
            raise ConfigError(f"{address:#x}+{length:#x} is no range of addresses below {end:#x}")
        watch = _Watch(address, address + length - 1, kind, physical)
        self._times[watch] += 1
        if self._times[watch] == 1:
            self._numbers[watch] = len(self._watches)
            self._watches.append(watch)
            if physical:
                self._physical[watch] = None
            self._points.add(watch.point())
            self._push_watches()

    def _remove(self, address: int, length: int, kind: WatchKind, physical: bool) -> None:
        watch = _Watch(address, address + length - 1, kind, physical)
        if watch not in self._numbers:
            return
        self._times[watch] -= 1
        if self._times[watch] == 0:
            del self._times[watch]
            n, last = self._numbers.pop(watch), self._watches.pop()
            if last != watch:
                self._watches[n], self._numbers[last] = last, n
            self._physical.pop(watch, None)
            self._points.remove(n)
            self._push_watches()

    def _push_watches(self) -> None:
        reads = any(w.kind != "write" for w in self._physical)
        self._machine.memory.on_read[:] = [self._on_read] if reads else []
        for vcpu in self._machine.vcpus:
            self._points.watch(vcpu.engine)

    def _on_write(self, offset: int, size: int) -> None:
        """Guest memory was written by DMA; what a client writes while the machine stands does not count."""
        if self._physical and not self._machine.gate.held:
            self._note_dma("write", offset, size)

    def _on_dma_read(self, offset: int, size: int) -> None:
        """Guest memory is read by DMA."""
        self._note_dma("read", offset, size)

    def _note_dma(self, kind: WatchKind, offset: int, size: int) -> None:
        """Stop the machine when a device's access is watched."""
        for watch in self._physical:
            if watch.kind not in (kind, "access"):
                continue
            at = self._touched(watch, offset, size, write=kind == "write")
            if at is not None:
                self._dma = Watched(watch.kind, at, watch.first, physical=True, dma=True)
                for vcpu in self._machine.vcpus:
                    vcpu.request_exit()
                return

    def _touched(self, watch: _Watch, offset: int, size: int, *, write: bool) -> int | None:
        """First physical address of a watch among bytes in one page at an offset of guest memory, or None."""
        memory = self._machine.memory
        table = memory.page_write if write else memory.page_read
        low = watch.first // PAGE
        shown = np.flatnonzero(table[low : watch.last // PAGE + 1] == (offset & -PAGE | MAPPED))
        for page in shown:
            at = (low + int(page)) * PAGE + offset % PAGE
            first = max(at, watch.first)
            if first <= min(at + size - 1, watch.last):
                return first
        return None

    # ---- caught events
    def catch(self, kind: CatchKind, number: int | None = None) -> None:
        """Stop before an event: `vector` (`number`: which; None: all), `triple` (a third fault, before the machine resets),
        `cr3` (a MOV to it), `msr` (RDMSR or WRMSR of `number`; None: of any).

        Going on from such a stop lets the event happen.  ConfigError: a number that can't be, or no such kind.
        """
        if kind == "vector":
            if number is not None and not 0 <= number < N_VECTORS:
                raise ConfigError(f"{number} is no vector")
            self._vectors |= set(range(N_VECTORS)) if number is None else {number}
        elif kind in CATCH_BITS:
            if number is not None and (kind != "msr" or not 0 <= number < N_MSRS):
                raise ConfigError(f"catch {kind}: {number:#x} is no number of one")
            self._others.add(kind)
            if kind == "msr":
                self._msr = number
        else:
            raise ConfigError(f"catch '{kind}': it is one of vector, {', '.join(CATCH_BITS)}")
        self._push_catches()

    def uncatch(self, kind: CatchKind | None = None, number: int | None = None) -> None:
        """Undo `catch`: of this number, of all numbers (None), or everything (no kind)."""
        if kind in (None, "vector"):
            self._vectors -= self._vectors if number is None else {number}
        if kind is None:
            self._others.clear()
        else:
            self._others.discard(kind)
        self._push_catches()

    def _push_catches(self) -> None:
        others = sum(CATCH_BITS[kind] for kind in self._others)
        for vcpu in self._machine.vcpus:
            set_catches(vcpu.engine, self._vectors, others, self._msr)

    # ---- stops
    def reason(self, vcpu: int = 0) -> Reason | None:
        """Why the latest turn of a vCPU ended with Outcome.DEBUG; None: for a breakpoint or a step."""
        c = self._machine.vcpus[vcpu].engine.c
        if int(c.stop_why) == STOP_WATCH:
            found = [self._hit(hit) for hit in hits(c)]
            return min(found, key=lambda hit: ORDER.index(hit.kind), default=None)
        if int(c.stop_why) != STOP_CATCH:
            return None
        kind = next((name for name, bit in CATCH_BITS.items() if bit == int(c.caught_kind)), "vector")
        number, extra, value = int(c.caught_vector), int(c.caught_error), int(c.caught_value)
        if kind == "vector":
            error = None if extra == NONE else extra
            return Caught("vector", number, error, value if number == PF else 0, software=bool(c.caught_soft))
        if kind == "triple":
            return Caught("triple", number, cr2=value)
        return Caught("cr3" if kind == "cr3" else "msr", number=number, value=value, write=bool(extra))

    def take_dma(self) -> Watched | None:
        """What DMA has hit since it was asked last; the turn ended with Outcome.INTERRUPT."""
        hit, self._dma = self._dma, None
        return hit

    def _hit(self, hit: Hit) -> Watched:
        watch = self._watches[hit.point]
        return Watched(watch.kind, hit.address, watch.first, watch.physical)


class Client(Protocol):
    """What a machine asks of the one who commands it."""

    def standing(self, outcomes: Mapping[int, Outcome]) -> bool:
        """All vCPUs stand; their turns ended so, by index (none: that was asked before): True keeps them standing."""

    def ended(self, result: RunResult) -> None:
        """The run is over."""

    def attached(self) -> bool:
        """Somebody is there who can look at what went wrong."""

    def step(self, n: int, vcpu: int) -> str:
        """For the monitor: let a vCPU of a machine that stands do `n` instructions, and wait until it stands again.  What
        stopped it before; empty if nothing did.  ConfigError: that can't be now.
        """


class Gate:
    """`held`: the debugger keeps the vCPUs standing.  `frozen`: those that stand also while it lets the others go.

    When a turn ends all vCPUs come to a stand, and then the debugger is asked once for all of them.
    """

    def __init__(self) -> None:
        self.debugger: Client | None = None
        self.points: Debugger | None = None
        """What stops the vCPUs (`Debugger.of`)."""
        self.held = False
        self.frozen: frozenset[int] = frozenset()
        self._outcomes: dict[int, Outcome] = {}
        """How turns ended, by vCPU, until the debugger was asked about it."""

    @property
    def watched(self) -> bool:
        """A client of the debugger is there."""
        return self.debugger is not None and self.debugger.attached()

    def takes(self, outcome: Outcome) -> bool:
        """Whether the debugger sees to this end of a turn: its own stops, and errors when it is watched."""
        return self.debugger is not None and (outcome is Outcome.DEBUG or self.watched)

    def turn_ended(self, index: int, outcome: Outcome) -> None:
        """A vCPU's turn has ended; the machine brings the others to a stand."""
        if self.debugger is not None:
            self._outcomes[index] = outcome

    def is_open(self, index: int, all_stand: bool) -> bool:
        """A vCPU, which stands, may go on."""
        if self.debugger is not None and not self.held:
            if all_stand:
                outcomes, self._outcomes = self._outcomes, {}
                self.held = self.debugger.standing(outcomes)
            elif self._outcomes:
                return False
        return not self.held and index not in self.frozen

    def run_ended(self, result: RunResult) -> None:
        """Tell the debugger."""
        if self.debugger is not None:
            self.debugger.ended(result)
