"""What a monitor command is, and what all of them share."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from jitvm.checkpoint import Checkpoint
from jitvm.errors import ConfigError
from jitvm.gdb_memory import LinearMemory
from jitvm.monitor.stops import Stops
from jitvm.option_values import parse_number
from jitvm.symbols import Symbols, load

if TYPE_CHECKING:
    from jitvm.machine import Machine


@dataclass(frozen=True)
class Kept:
    """What is caught or watched, as it was written; `by_gdb`: until gdb leaves."""

    text: str
    by_gdb: bool


@dataclass
class Context:
    """The machine, and what commands remember.

    `chosen`: index of the vCPU that is looked at.
    `stops` commands the machine while no gdb does; `raw_pc`: program counters are shown without the base of CS.
    `catches` and `watches` are those set here; what gdb has set goes with it (`points.client_left`).
    `gdb_thread`: the thread that does a command of gdb's just now, 0: none.
    """

    machine: Machine
    stops: Stops
    raw_pc: bool = False
    chosen: int = 0
    checkpoints: dict[str, Checkpoint] = field(default_factory=dict)
    catches: list[Kept] = field(default_factory=list)
    watches: list[Kept] = field(default_factory=list)
    gdb_thread: int = 0
    _symbols: list[Symbols | None] = field(default_factory=list)

    @property
    def c(self) -> Any:
        """The CPU record of the vCPU that is looked at."""
        return self.machine.vcpus[self.chosen].engine.c

    def memory(self) -> LinearMemory:
        """Memory as that vCPU sees it."""
        return LinearMemory(self.machine.memory, self.c)

    @property
    def symbols(self) -> Symbols | None:
        """The guest's symbols, where they are known."""
        if not self._symbols:
            self._symbols.append(load(self.machine.config))
        return self._symbols[0]

    def kept(self, text: str) -> Kept:
        """What whoever gave this command has set."""
        return Kept(text, self.gdb_thread == threading.get_ident())

    def gdb(self) -> bool:
        """gdb is served."""
        return self.machine.gate.debugger not in (None, self.stops)

    def gdb_holds(self) -> bool:
        """gdb keeps the machine standing."""
        return self.gdb() and self.machine.gate.held


Run = Callable[[Context, Sequence[str]], str]


@dataclass(frozen=True)
class Command:
    """`usage` begins with the name; `about` says in a line what it does, `more` the rest."""

    usage: str
    about: str
    run: Run
    more: str = ""

    @property
    def name(self) -> str:
        """The word that calls it."""
        return self.usage.split()[0].partition("[")[0]

    @property
    def alone(self) -> bool:
        """It takes no argument."""
        return self.usage == self.name


def number(what: str, word: str, limit: int = 1 << 64) -> int:
    """A number from 0 up to `limit`, without it."""
    value = parse_number(what, word)
    if not 0 <= value < limit:
        raise ConfigError(f"{what}: {word} is not from 0 to {limit - 1:#x}")
    return value


def address(context: Context, what: str, word: str) -> int:
    """An address: a number, or a symbol's name with +N or without."""
    name, plus, offset = word.partition("+")
    found = context.symbols.address(name) if context.symbols is not None and not name[:1].isdigit() else None
    if found is None:
        return number(what, word)
    return (found + (number(what, offset) if plus else 0)) & 0xFFFF_FFFF_FFFF_FFFF
