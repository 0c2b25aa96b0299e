"""The compiler process: regions and stencils are made there, so that neither the guest nor an exit waits for LLVM.

A busy Python thread in the vCPU's process would cost each exit up to 210 microseconds (the interpreter's lock), a process
beside it costs nothing but its core.  It is started when the first region or stencil is wanted, reads nodes or forms on its
standard input, writes code to its standard output and to the cache, and ends behind its input.  One region, or one batch of
stencils, may take it so many seconds of CPU time; what takes more ends it (SIGPROF), as that does on which LLVM aborts or
for which memory is too small.

It is given one thing at a time, stencils before regions: blocks that wait for stencils run with handlers, those that wait
for a region with copied code.  At the end it is given all that is left, which it reads on a thread, so that nobody waits;
when nobody listens any more it makes the stencils, for the cache, and ends before the first region.

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
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

from jitvm.engine.cache import Cache
from jitvm.engine.forms import Shape
from jitvm.engine.pack import Entry
from jitvm.engine.region import Node

NICE = 5
MOST_DEATHS = 4
"""Times that the process may end by itself."""
MOST_SECONDS = 60.0
"""CPU time that one answer may take; a usual region takes a tenth of a second, a hundred stencils half a one."""
PIPE_BYTES = 1 << 20
"""What may wait in the pipe to the process."""
RANKS = {"stencils": 0, "region": 1}
"""What goes before what.  Of regions the last one goes first: it is where the guest is now."""
NOW, LAST = -1, 2
"""The rank of the end: before all that waits, behind it."""
COMPLAINT_BYTES = 1 << 20
"""What is read of the processes' complaints."""
CLOSING = 2.0
"""Seconds for the writer to come to the end of what it was given."""
LENGTH = 8
"""Bytes of the length before each message."""


@dataclass(frozen=True)
class Made:
    """A region's symbol, object code, and the symbols that it needs; or stencils, as the cache keeps them."""

    exports: tuple[str, ...]
    code: bytes
    imports: tuple[str, ...]
    seconds: float
    """What it took to compile."""
    start: float = 0.0
    """When that began, by `time.perf_counter`, which is the same for all processes of a host."""
    entry: Entry | None = None
    """Where the cache keeps it."""

    @property
    def name(self) -> str:
        """A region's symbol."""
        return self.exports[0]

    def kept(self, cache: Cache) -> Made:
        """The same, written to the cache."""
        return replace(self, entry=cache.write_object(self.code, self.exports, self.imports))


@dataclass(frozen=True)
class Question:
    """What was given to the process, and who is told of the answer, or that there will be none."""

    rank: int
    message: object
    done: Callable[[Made], None]
    lost: Callable[[bool], None]


_Waiting = dict[int, Question]


class Outbox:
    """What is to be written to a process: the next one when the one before was answered."""

    def __init__(self) -> None:
        self._sorted: queue.PriorityQueue[tuple[int, int, object]] = queue.PriorityQueue()
        self._turns = threading.Semaphore()
        self.given: deque[int] = deque()
        """Numbers of what was written and not answered, in its order."""

    def put(self, number: int, question: Question) -> None:
        """Let it wait among the others."""
        self._sorted.put((question.rank, -number if question.rank else number, question.message))

    def end(self, rank: int) -> None:
        """Nothing more is to be written: of what waits nothing (`NOW`), or first all of it at once (`LAST`)."""
        self._sorted.put((rank, 0, None))
        self._turns.release(1 if rank == NOW else self._sorted.qsize())

    def take(self) -> object:
        """The next message, waited for; None at the end."""
        self._turns.acquire()
        _, number, message = self._sorted.get()
        if message is not None:
            self.given.append(abs(number))
        return message

    def answered(self, number: int) -> None:
        """The process is through with that."""
        self.given.remove(number)
        self._turns.release()


def send(stream: IO[bytes], value: object) -> None:
    """Write a message."""
    data = pickle.dumps(value)
    stream.write(len(data).to_bytes(LENGTH, "little") + data)
    stream.flush()


def _next(stream: IO[bytes]) -> bytes | None:
    """The next message as it was sent, None at the end, which may be in the middle of one."""
    head = stream.read(LENGTH)
    size = int.from_bytes(head, "little")
    if len(head) < LENGTH or len(data := stream.read(size)) < size:
        return None
    return data


def _opened(data: bytes) -> Any:
    """What a message says."""
    return pickle.loads(data)  # our own child's or parent's


class Compiler:
    """The process as its parent sees it.  It is started and written to on a thread: who submits a region never waits.

    One that ends by itself (LLVM aborts where it finds itself wrong) is followed by another, which goes on behind what was
    being compiled.  When that happened too often, or where the host starts no process, `warn` is told, regions are no longer
    made, and stencils are made by who wants them (`jitvm.engine.stencil_store`).
    """

    def __init__(self, folder: Path | None, warn: Callable[[str], None], seconds: float = MOST_SECONDS) -> None:
        self._folder, self._warn, self._limit = folder, warn, seconds
        self._outbox: Outbox | None = None
        """What is to be written to the process, and None behind it; None: there is no process."""
        self._writer = threading.Thread()
        self._process: subprocess.Popen[bytes] | None = None
        self._complaints = -1
        """A file in memory: what the processes say on their standard error."""
        self._waiting: _Waiting = {}
        """What was given to the process and not answered, oldest first."""
        self._n = self._deaths = 0
        self.broken = False
        """There is no process any more."""
        self._lock = threading.Lock()

    def submit(self, nodes: Sequence[Node], done: Callable[[Made], None], modes: Sequence[str] = ()) -> None:
        """Compile a region; `done` is called on a thread of the compiler's."""
        self._ask("region", (tuple(nodes), tuple(modes)), done, lambda at_it: None)

    def stamp(
        self,
        names: Sequence[str],
        shapes: Sequence[Shape],
        keys: Sequence[int],
        done: Callable[[Made], None],
        lost: Callable[[bool], None],
    ) -> None:
        """Stamp stencils by keys whose shapes are numbered as in `shapes`; `done` is called on a thread of the compiler's.

        `lost` in its place, on any thread, which must not ask then: no answer will come, True when the process ended
        while it was at these.
        """
        self._ask("stencils", (tuple(names), tuple(shapes), tuple(keys)), done, lost)

    def _ask(
        self, what: str, of: tuple[object, ...], done: Callable[[Made], None], lost: Callable[[bool], None]
    ) -> None:
        with self._lock:
            if self.broken:
                lost(False)
                return
            self._n += 1
            question = self._waiting[self._n] = Question(RANKS[what], (self._n, what, of), done, lost)
            if self._outbox is None:
                self._begin()
            else:
                self._outbox.put(self._n, question)

    def _begin(self) -> None:
        """Start a process for all that waits."""
        outbox = self._outbox = Outbox()
        for number, question in self._waiting.items():
            outbox.put(number, question)
        args = outbox, self._waiting
        self._writer = threading.Thread(target=self._write, args=args, name="jitvm compiler, out", daemon=True)
        try:
            self._writer.start()
        except RuntimeError as e:  # the host has no room for another thread
            self._give_up(f"no compiler process ({e})")

    def _give_up(self, why: str) -> None:
        """No process any more."""
        self.broken, self._outbox, self._process = True, None, None
        _lose(self._waiting)
        self._warn(f"{why}; hot loops stay with copied code")

    def _write(self, outbox: Outbox, waiting: _Waiting) -> None:
        """Start the process, and write to it what comes."""
        try:
            process = self._start()
            args = process, outbox, waiting
            threading.Thread(target=self._read, args=args, name="jitvm compiler", daemon=True).start()
        except (OSError, RuntimeError) as e:  # no process, or no thread
            with self._lock:
                self._give_up(f"no compiler process ({getattr(e, 'strerror', None) or e})")
            return
        self._process = process
        assert process.stdin is not None
        while (message := outbox.take()) is not None:
            with contextlib.suppress(OSError):  # it ended: the reader finds out
                send(process.stdin, message)
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

    def _read(self, process: subprocess.Popen[bytes], outbox: Outbox, waiting: _Waiting) -> None:
        assert process.stdout is not None
        while (message := _next(process.stdout)) is not None:
            number, made = _opened(message)
            outbox.answered(number)
            waiting.pop(number).done(made)
        status = process.wait()
        with self._lock:
            if outbox.given:
                waiting.pop(outbox.given[0]).lost(True)
            if outbox is self._outbox:
                self._follow(status)
            else:  # it was closed, and ended before it was through
                _lose(waiting)

    def _follow(self, status: int) -> None:
        """The process ended by itself: another one, without what it was at."""
        assert self._outbox is not None
        self._outbox.end(NOW)
        self._outbox, self._process = None, None
        self._deaths += 1
        if self._deaths > MOST_DEATHS:
            self._give_up(f"the compiler process ended (status {status}{self._last_complaint()})")
            return
        self._begin()

    def _last_complaint(self) -> str:
        """The last line about an error that a process wrote."""
        if self._complaints < 0:
            return ""
        text = os.pread(self._complaints, COMPLAINT_BYTES, 0).decode(errors="replace")
        found = [line.strip() for line in text.splitlines() if "error" in line.lower()]
        return f": {found[-1]}" if found else ""

    def close(self) -> None:
        """Give the process all that is left, and let it end behind its stencils; a later one starts anew."""
        with self._lock:
            outbox, self._outbox, self._process, self._waiting = self._outbox, None, None, {}
        if outbox is not None:
            outbox.end(LAST)
            self._writer.join(CLOSING)


def _lose(waiting: _Waiting) -> None:
    """Nobody will come to what waits."""
    while waiting:
        waiting.pop(min(waiting)).lost(False)


def _take_in(stream: IO[bytes], inbox: queue.SimpleQueue[bytes | None]) -> None:
    """Read all messages of a stream as they come; None behind the last one."""
    while (message := _next(stream)) is not None:
        inbox.put(message)
    inbox.put(None)


def main(folder: str, limit: float) -> None:
    """The process itself."""
    from jitvm.engine.code import compile_region, source_epoch
    from jitvm.engine.stencil_store import compile_stencils
    from jitvm.engine.units import Units

    os.nice(NICE)
    cache = Cache(Path(folder) if folder else None, source_epoch())
    units = Units(cache)
    makers: dict[str, Callable[..., Made]] = {"region": compile_region, "stencils": compile_stencils}
    output = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # nothing else may write to the pipe
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    inbox: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    stream = os.fdopen(os.dup(0), "rb")  # not `sys.stdin`, which an exit under way would close below the thread
    threading.Thread(target=_take_in, args=(stream, inbox), daemon=True).start()
    heard = True
    while True:
        signal.setitimer(signal.ITIMER_PROF, limit)  # waiting for a message takes none of it
        message = inbox.get()
        if message is None:
            return
        number, what, of = _opened(message)
        if what == "region" and not heard:
            return
        made = makers[what](units, *of).kept(cache)
        if heard:
            try:
                send(output, (number, made))
            except OSError:
                heard = False


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
