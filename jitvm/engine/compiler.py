"""The compiler process: regions become object code there, so that neither the guest nor an exit waits for LLVM.

A busy Python thread in the vCPU's process would cost each exit up to 210 microseconds (the interpreter's lock), a process
beside it costs nothing but its core.  It is started when the first region is wanted, reads nodes on its standard input,
writes object code to its standard output and to the cache, and ends with its input.

    python -m jitvm.engine.compiler CACHE_FOLDER
"""

from __future__ import annotations

import contextlib
import os
import pickle
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

from jitvm.engine.cache import Cache
from jitvm.engine.pack import Entry
from jitvm.engine.region import Node

NICE = 5
MOST_DEATHS = 4
"""Times that the process may end by itself."""
PIPE_BYTES = 1 << 20
"""What the process may be behind with before its writer waits."""
CLOSING = 2.0
"""Seconds for the writer to come to the end of what it was given."""
LENGTH = 8
"""Bytes of the length before each message."""


@dataclass(frozen=True)
class Made:
    """A compiled region: its symbol, object code, and the symbols that it needs."""

    name: str
    code: bytes
    imports: tuple[str, ...]
    seconds: float
    """What it took to compile."""
    start: float = 0.0
    """When that began, by `time.perf_counter`, which is the same for all processes of a host."""
    entry: Entry | None = None
    """Where the cache keeps it."""

    def kept(self, cache: Cache) -> Made:
        """The same, written to the cache."""
        return replace(self, entry=cache.write_object(self.code, [self.name], list(self.imports)))


_Outbox = queue.SimpleQueue[object]


def _send(stream: IO[bytes], value: object) -> None:
    data = pickle.dumps(value)
    stream.write(len(data).to_bytes(LENGTH, "little") + data)
    stream.flush()


def _receive(stream: IO[bytes]) -> Any:
    """The next message, None at the end."""
    head = stream.read(LENGTH)
    if len(head) < LENGTH:
        return None
    data = stream.read(int.from_bytes(head, "little"))
    return pickle.loads(data)  # our own child's or parent's


class Compiler:
    """The process as its parent sees it.  It is started and written to on a thread: who submits a region never waits.

    One that ends by itself (LLVM aborts where it finds itself wrong) is followed by another, which goes on behind the region
    that was being compiled.  When that happened too often `warn` is told, and regions are no longer made.
    """

    def __init__(self, folder: Path | None, warn: Callable[[str], None]) -> None:
        self._folder, self._warn = folder, warn
        self._outbox: _Outbox | None = None
        """What is to be written to the process, and None behind it; None: there is no process."""
        self._writer = threading.Thread()
        self._process: subprocess.Popen[bytes] | None = None
        self._waiting: dict[int, tuple[object, Callable[[Made], None]]] = {}
        """What was sent and not answered, oldest first."""
        self._n = self._deaths = 0
        self.seconds = 0.0
        """Spent by the process on what it delivered."""
        self._broken = False
        self._lock = threading.Lock()

    def submit(self, nodes: Sequence[Node], done: Callable[[Made], None], modes: Sequence[str] = ()) -> None:
        """Compile a region; `done` is called on a thread of the compiler's."""
        with self._lock:
            if self._broken:
                return
            if self._outbox is None:
                self._outbox = self._begin()
            self._n += 1
            message = (self._n, tuple(nodes), tuple(modes))
            self._waiting[self._n] = message, done
            self._outbox.put(message)

    def _begin(self) -> _Outbox:
        """Start a process; where to put what is meant for it."""
        outbox: _Outbox = queue.SimpleQueue()
        self._writer = threading.Thread(target=self._write, args=(outbox,), name="jitvm regions, out", daemon=True)
        self._writer.start()
        return outbox

    def _write(self, outbox: _Outbox) -> None:
        """Start the process, and write to it what comes."""
        process = self._process = self._start()
        assert process.stdin is not None
        threading.Thread(target=self._read, args=(process, outbox), name="jitvm regions", daemon=True).start()
        while (message := outbox.get()) is not None:
            with contextlib.suppress(OSError):  # it ended: the reader finds out
                _send(process.stdin, message)
        with contextlib.suppress(OSError):
            process.stdin.close()

    def _start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "jitvm.engine.compiler", str(self._folder or "")]
        package = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join([package, *filter(None, [os.environ.get("PYTHONPATH")])])
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,
            pipesize=PIPE_BYTES,
        )

    def _read(self, process: subprocess.Popen[bytes], outbox: _Outbox) -> None:
        assert process.stdout is not None
        while (message := _receive(process.stdout)) is not None:
            number, made = message
            self.seconds += made.seconds
            self._waiting.pop(number)[1](made)
        status = process.wait()
        with self._lock:
            if outbox is self._outbox:
                self._follow(status)

    def _follow(self, status: int) -> None:
        """The process ended by itself: another one, without what it was at."""
        assert self._outbox is not None
        self._outbox.put(None)
        self._outbox, self._process = None, None
        self._deaths += 1
        if self._deaths > MOST_DEATHS:
            self._broken = True
            self._warn(f"the compiler process ended (status {status}); hot loops stay with copied code")
            return
        if self._waiting:
            del self._waiting[min(self._waiting)]
        self._outbox = self._begin()
        for message, _ in self._waiting.values():
            self._outbox.put(message)

    def close(self) -> None:
        """Let the process end when it is through with what it was given, which the cache keeps; a later one starts anew."""
        with self._lock:
            outbox, self._outbox, self._process = self._outbox, None, None
        if outbox is not None:
            outbox.put(None)
            self._writer.join(CLOSING)


def main(folder: str) -> None:
    """The process itself."""
    from jitvm.engine.code import compile_region, source_epoch
    from jitvm.engine.units import Units

    os.nice(NICE)
    cache = Cache(Path(folder) if folder else None, source_epoch())
    units = Units(cache)
    output = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # nothing else may write to the pipe
    while (message := _receive(sys.stdin.buffer)) is not None:
        number, nodes, modes = message
        made = compile_region(units, nodes, modes).kept(cache)
        try:
            _send(output, (number, made))
        except OSError:
            return


if __name__ == "__main__":
    main(sys.argv[1])
