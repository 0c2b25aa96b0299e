"""One run of one emulator process, timed at what it writes to its output.

Standard output is a pipe that is read as it comes; each piece keeps the time
of its arrival, so the time of a mark is the time at which its byte came.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jitvm.bench.errors import RunError

GUEST_OUTPUT = re.compile(rb"bench ([a-z0-9_]+)\n(S)(E)([0-9a-f]{8})\n")
"""What a bench guest prints: its name, the marks, the checksum."""

GRACE = 5.0
"""Seconds that an emulator has to end after the output that was waited for."""


@dataclass(frozen=True)
class Run:
    """One finished run.

    Attributes:
        match: the output that was waited for.
        times: seconds from the start of the process to each group of `match`.
        wall: seconds from its start to its end.
        output: standard output as a whole.
        messages: standard error.
        complete: whether the process ended by itself.
    """

    match: re.Match[bytes]
    times: tuple[float, ...]
    wall: float
    output: bytes
    messages: str
    complete: bool

    @property
    def seconds(self) -> float:
        """Time between the marks of a bench guest."""
        return self.times[2] - self.times[1]

    @property
    def checksum(self) -> str:
        """The checksum that a bench guest printed."""
        return self.match[4].decode("ascii")


class _Output:
    """The output of a process with the time at which each piece came."""

    def __init__(self) -> None:
        self.content = b""
        self.arrivals: list[tuple[int, float]] = []

    def add(self, piece: bytes, now: float) -> None:
        self.content += piece
        self.arrivals.append((len(self.content), now))

    def time_of(self, offset: int) -> float:
        """When the byte at `offset` came."""
        return next(now for end, now in self.arrivals if offset < end)


def run(
    command: Sequence[str],
    pattern: re.Pattern[bytes] = GUEST_OUTPUT,
    *,
    timeout: float = 60.0,
    environment: Mapping[str, str] | None = None,
    until_match: bool = False,
) -> Run:
    """Run `command` until it ends, and time the groups of `pattern` in its output.

    With `until_match` the process is ended as soon as the pattern was seen.
    No process outlives the call. Raises RunError when the program can't be
    started, the time is up or the pattern does not appear.
    """
    with tempfile.TemporaryFile() as messages:
        start = time.perf_counter()
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=messages,
                env=None if environment is None else dict(environment),
                start_new_session=True,
            )
        except OSError as error:
            raise RunError(f"{command[0]}: {error.strerror}") from error
        output = _Output()
        try:
            match = _read(process, output, pattern, start + timeout, until_match=until_match)
            if until_match and match:
                complete = False
            else:
                complete = _wait(process)
            wall = time.perf_counter() - start
        finally:
            _end(process)
        messages.seek(0)
        text = messages.read().decode("utf-8", "replace")
    if match is None:
        raise RunError(_reason(process, output.content, text, time.perf_counter() - start, timeout))
    groups = range(1, (match.re.groups or 0) + 1)
    times = tuple(output.time_of(match.start(group)) - start for group in groups)
    return Run(match, times, wall, output.content, text, complete)


def _read(
    process: subprocess.Popen[bytes],
    output: _Output,
    pattern: re.Pattern[bytes],
    deadline: float,
    *,
    until_match: bool,
) -> re.Match[bytes] | None:
    """Read until the output ends or the time is up; what the pattern found.

    After a match the rest is still read (statistics follow the checksum), but
    for no longer than GRACE.
    """
    assert process.stdout is not None
    descriptor = process.stdout.fileno()
    match = None
    while (remaining := deadline - time.perf_counter()) > 0:
        ready, _, _ = select.select([descriptor], [], [], remaining)
        if not ready:
            break
        piece = os.read(descriptor, 1 << 16)
        now = time.perf_counter()
        if not piece:
            break
        output.add(piece, now)
        if match is None and (match := pattern.search(output.content)):
            if until_match:
                break
            deadline = min(deadline, now + GRACE)
    return match


def _wait(process: subprocess.Popen[bytes]) -> bool:
    """Whether the process ended by itself after it closed its output."""
    try:
        process.wait(0.5)
    except subprocess.TimeoutExpired:
        return False
    return True


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the process with its children; it leads a session of its own.

    Asked first: what it is about to write to its cache is of use to the next.
    """
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is not None:
            break
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(2.0)
    if process.stdout is not None:
        process.stdout.close()


def _reason(
    process: subprocess.Popen[bytes], output: bytes, messages: str, took: float, timeout: float
) -> str:
    """Why a run has no result, in one line."""
    if took >= timeout:
        return f"no end within {timeout:g} s"
    tail = (messages.strip() or output.decode("utf-8", "replace").strip()).splitlines()
    return f"ended with status {process.returncode}: {tail[-1][:160] if tail else 'no output'}"
