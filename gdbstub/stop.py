"""Why the guest stopped, as values that know nothing of packets.

Every stop but `Exited` names the thread it happened in. `message` is shown to the user before the stop is reported: a
caught exception in words, for instance.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum


class Signal(IntEnum):
    """gdb's own signal numbers (`include/gdb/signals.def`), which for these are the usual ones."""

    NONE = 0
    INT = 2
    ILL = 4
    TRAP = 5
    ABRT = 6
    FPE = 8
    KILL = 9
    BUS = 10
    SEGV = 11


class BreakpointKind(Enum):
    """What a client asked for by Z0 and Z1; which one is hit is told back to it."""

    SOFTWARE = "swbreak"
    HARDWARE = "hwbreak"


class WatchKind(Enum):
    """What a client asked for by Z2, Z3 and Z4; the value is the word in the stop reply."""

    WRITE = "watch"
    READ = "rwatch"
    ACCESS = "awatch"


@dataclass(frozen=True, slots=True)
class Stepped:
    """The thread did its one instruction, or left its range."""

    thread: int
    message: str = ""


@dataclass(frozen=True, slots=True)
class Interrupted:
    """`Target.interrupt` was obeyed."""

    thread: int
    message: str = ""


@dataclass(frozen=True, slots=True)
class BreakpointHit:
    """The program counter is at a breakpoint whose instruction has not been executed."""

    thread: int
    kind: BreakpointKind = BreakpointKind.SOFTWARE
    message: str = ""


@dataclass(frozen=True, slots=True)
class WatchpointHit:
    """The access to `address` is done; the program counter is behind its instruction."""

    thread: int
    kind: WatchKind
    address: int
    message: str = ""


@dataclass(frozen=True, slots=True)
class Signalled:
    """Any other reason, as the signal that comes nearest: a caught exception, an engine error."""

    thread: int
    signal: Signal = Signal.TRAP
    message: str = ""


@dataclass(frozen=True, slots=True)
class HistoryEnd:
    """Reverse execution came to the begin of what is recorded, or forward replay to its end."""

    thread: int
    at_begin: bool
    message: str = ""


@dataclass(frozen=True, slots=True)
class Exited:
    """The guest ended the machine; there is no thread any more."""

    code: int
    message: str = ""


ThreadStop = Stepped | Interrupted | BreakpointHit | WatchpointHit | Signalled | HistoryEnd
Stop = ThreadStop | Exited
