"""`--perf-map`: names for Linux perf, in the file /tmp/perf-PID.map.

A line a piece of code: address and size in hex, then its name (tools/perf/Documentation/jit-interface.txt of Linux).
Named are units, special handlers, instructions' handlers, copied blocks and regions; the last two by the linear address of
the guest's code and its symbol, where an ELF file with the guest's symbols is known.

perf reads the file after the run and knows no time, so an address must mean one thing: with a map the room of forgotten
blocks is not used again, and regions stay linked (`Observer.addresses`).

Not modelled: code that was linked before the map was begun (by another machine of this process).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jitvm.engine.observer import Copied, Observer
from jitvm.errors import BackendError
from jitvm.symbols import Symbols

if TYPE_CHECKING:
    from jitvm.engine.accel import VcpuEngine
    from jitvm.engine.grow import Grown


def default_path() -> Path:
    """Where perf looks."""
    return Path(f"/tmp/perf-{os.getpid()}.map")


class PerfMap(Observer):
    """The map of this process; it is written when it has doubled, and at the end.  `BackendError` where it can't be."""

    addresses = True

    def __init__(self, symbols: Symbols | None, path: Path | None = None) -> None:
        self.path, self._symbols = path or default_path(), symbols
        self._functions: list[tuple[str, int, int]] = []
        self._names: dict[str, str] = {}
        self._copied: list[Copied] = []
        self._engines: dict[int, VcpuEngine] = {}
        self._written = 0
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
            self._file = os.open(self.path, flags, 0o600)
        except OSError as e:
            raise BackendError(f"--perf-map: '{self.path}' can't be written: {e.strerror}") from None

    # ---- what the engine tells ------------------------------------------------------------------------------------------
    def linked(self, functions: Sequence[tuple[str, int, int]]) -> None:
        self._functions += functions
        self._write_some()

    def described(self, symbol: str, text: str) -> None:
        self._names[symbol] = f"handler {text}"

    def copied(self, engine: VcpuEngine, blocks: Sequence[Copied]) -> None:
        self._copied += blocks
        self._write_some()

    def installed(self, engine: VcpuEngine, grown: Grown, symbol: str) -> None:
        n = len(grown.blocks)
        self._names[symbol] = f"region {self._place(grown.linear)}, {n} block{'s' * (n > 1)}"

    # ---- the file -----------------------------------------------------------------------------------------------------
    def _place(self, linear: int) -> str:
        symbol = self._symbols.at(linear) if self._symbols is not None else ""
        return f"{linear:#x} {symbol}".rstrip()

    def lines(self) -> list[str]:
        """The map's lines."""
        named = [f"{address:x} {size:x} {self._names.get(name, name)}" for name, address, size in self._functions]
        return named + [f"{b.address:x} {b.size:x} block {self._place(b.linear)}" for b in self._copied]

    def _write_some(self) -> None:
        if len(self._functions) + len(self._copied) >= 2 * self._written:
            self.write()

    def write(self) -> None:
        """Write the whole map; a full disk costs its end."""
        self._written = len(self._functions) + len(self._copied)
        data = "".join(f"{line}\n" for line in self.lines()).encode()
        with contextlib.suppress(OSError):
            os.ftruncate(self._file, os.pwrite(self._file, data, 0))

    def close(self) -> None:
        """The last words."""
        self.write()
        os.close(self._file)
