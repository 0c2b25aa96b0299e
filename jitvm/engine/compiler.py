"""The compiler process: regions become object code there, so that neither the guest nor an exit waits for LLVM.

A busy Python thread in the vCPU's process would cost each exit up to 210 microseconds (the interpreter's lock), a process
beside it costs nothing but its core.  It is started when the first region is wanted, reads nodes on its standard input,
writes object code to its standard output and to the cache, and ends with its input.  One region may take it so many seconds
of CPU time; a region that takes more ends it (SIGPROF), as one does on which LLVM aborts or for which memory is too small.

    python -m jitvm.engine.compiler CACHE_FOLDER SECONDS
"""

from __future__ import annotations

import contextlib
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
import weakref
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
REGION_SECONDS = 60.0
"""CPU time that a region may take; a usual one takes a tenth of a second."""
PIPE_BYTES = 1 << 20
"""What the process may be behind with before its writer waits."""
COMPLAINT_BYTES = 1 << 20
"""What is read of the processes' complaints."""
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
_Waiting = dict[int, tuple[object, Callable[["Made"], None]]]


def _send(stream: IO[bytes], value: object) -> None:
    data = pickle.dumps(value)
    stream.write(len(data).to_bytes(LENGTH, "little") + data)
    stream.flush()


def _receive(stream: IO[bytes]) -> Any:
    """The next message, None at the end, which may be in the middle of one."""
    head = stream.read(LENGTH)
    size = int.from_bytes(head, "little")
    if len(head) < LENGTH or len(data := stream.read(size)) < size:
        return None
    return pickle.loads(data)  # our own child's or parent's


class Compiler:
    """The process as its parent sees it.  It is started and written to on a thread: who submits a region never waits.

    One that ends by itself (LLVM aborts where it finds itself wrong) is followed by another, which goes on behind the region
    that was being compiled.  When that happened too often, or where the host starts no process, `warn` is told, and regions
    are no longer made.
    """

    def __init__(self, folder: Path | None, warn: Callable[[str], None], seconds: float = REGION_SECONDS) -> None:
        self._folder, self._warn, self._limit = folder, warn, seconds
        self._outbox: _Outbox | None = None
        """What is to be written to the process, and None behind it; None: there is no process."""
        self._writer = threading.Thread()
        self._process: subprocess.Popen[bytes] | None = None
        self._complaints = -1
        """A file in memory: what the processes say on their standard error."""
        self._waiting: _Waiting = {}
        """What was given to the process and not answered, oldest first."""
        self._n = self._deaths = 0
        self._broken = False
        self._lock = threading.Lock()

    def submit(self, nodes: Sequence[Node], done: Callable[[Made], None], modes: Sequence[str] = ()) -> None:
        """Compile a region; `done` is called on a thread of the compiler's."""
        with self._lock:
            if self._broken:
                return
            self._n += 1
            message = (self._n, tuple(nodes), tuple(modes))
            self._waiting[self._n] = message, done
            if self._outbox is None:
                self._begin()
            else:
                self._outbox.put(message)

    def _begin(self) -> None:
        """Start a process for all that waits."""
        outbox = self._outbox = queue.SimpleQueue()
        for message, _ in self._waiting.values():
            outbox.put(message)
        args = outbox, self._waiting
        self._writer = threading.Thread(target=self._write, args=args, name="jitvm regions, out", daemon=True)
        try:
            self._writer.start()
        except RuntimeError as e:  # the host has no room for another thread
            self._give_up(f"no compiler process ({e})")

    def _give_up(self, why: str) -> None:
        """No regions any more."""
        self._broken, self._outbox, self._process = True, None, None
        self._waiting.clear()
        self._warn(f"{why}; hot loops stay with copied code")

    def _write(self, outbox: _Outbox, waiting: _Waiting) -> None:
        """Start the process, and write to it what comes."""
        try:
            process = self._start()
            args = process, outbox, waiting
            threading.Thread(target=self._read, args=args, name="jitvm regions", daemon=True).start()
        except (OSError, RuntimeError) as e:  # no process, or no thread
            with self._lock:
                self._give_up(f"no compiler process ({getattr(e, 'strerror', None) or e})")
            return
        self._process = process
        assert process.stdin is not None
        while (message := outbox.get()) is not None:
            with contextlib.suppress(OSError):  # it ended: the reader finds out
                _send(process.stdin, message)
        with contextlib.suppress(OSError):
            process.stdin.close()

    def _start(self) -> subprocess.Popen[bytes]:
        if self._complaints < 0:
            self._complaints = os.memfd_create("jitvm compiler")
            weakref.finalize(self, os.close, self._complaints)
        command = [sys.executable, "-m", "jitvm.engine.compiler", str(self._folder or ""), str(self._limit)]
        package = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join([package, *filter(None, [os.environ.get("PYTHONPATH")])])
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._complaints,
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,
            pipesize=PIPE_BYTES,
        )

    def _read(self, process: subprocess.Popen[bytes], outbox: _Outbox, waiting: _Waiting) -> None:
        assert process.stdout is not None
        while (message := _receive(process.stdout)) is not None:
            number, made = message
            waiting.pop(number)[1](made)
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
            self._give_up(f"the compiler process ended (status {status}{self._last_complaint()})")
            return
        if self._waiting:
            del self._waiting[min(self._waiting)]
        self._begin()

    def _last_complaint(self) -> str:
        """The last line about an error that a process wrote."""
        if self._complaints < 0:
            return ""
        text = os.pread(self._complaints, COMPLAINT_BYTES, 0).decode(errors="replace")
        found = [line.strip() for line in text.splitlines() if "error" in line.lower()]
        return f": {found[-1]}" if found else ""

    def close(self) -> None:
        """Let the process end when it is through with what it was given, which the cache keeps; a later one starts anew."""
        with self._lock:
            outbox, self._outbox, self._process, self._waiting = self._outbox, None, None, {}
        if outbox is not None:
            outbox.put(None)
            self._writer.join(CLOSING)


def main(folder: str, limit: float) -> None:
    """The process itself."""
    from jitvm.engine.code import compile_region, source_epoch
    from jitvm.engine.units import Units

    os.nice(NICE)
    cache = Cache(Path(folder) if folder else None, source_epoch())
    units = Units(cache)
    output = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # nothing else may write to the pipe
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    while True:
        signal.setitimer(signal.ITIMER_PROF, limit)  # waiting for a message takes none of it
        message = _receive(sys.stdin.buffer)
        if message is None:
            return
        number, nodes, modes = message
        made = compile_region(units, nodes, modes).kept(cache)
        try:
            _send(output, (number, made))
        except OSError:
            return


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
