"""`jitvm` as a process whose start was made already: forked from a server that has loaded all and linked its code.

For tests of what a running machine does with the world around it (gdb's, signals'), of which there are hundreds: a start
takes as long as most of them.  Command line, streams, signals and exit status are those of `python -m jitvm`; the start
itself is tested where it is the subject (`tests/test_cli.py`).
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from jitvm import cli

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["tests.warm_modules"])


def _run(argv: Sequence[str], log: Path) -> None:
    """In the new process: the command, with nothing to read and `log` for both outputs."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, name, flags in ((0, os.devnull, os.O_RDONLY), (1, log, os.O_WRONLY | os.O_APPEND)):
        handle = os.open(name, flags)
        os.dup2(handle, number)
        os.close(handle)
    os.dup2(1, 2)
    for number, mode in enumerate("rww"):
        setattr(sys, ("stdin", "stdout", "stderr")[number], os.fdopen(os.dup(number), mode, buffering=1))
    sys.exit(cli.main(argv))


class WarmProcess:
    """What tests use of `subprocess.Popen`."""

    def __init__(self, argv: Sequence[str], log: Path) -> None:
        log.write_bytes(b"")
        self._process: ForkServerProcess = _CONTEXT.Process(target=_run, args=(list(argv), log), daemon=True)
        self._process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def poll(self) -> int | None:
        """The exit status, None while it runs."""
        return self._process.exitcode

    def wait(self, timeout: float) -> int:
        """The exit status, when it has ended."""
        self._process.join(timeout)
        status = self.poll()
        if status is None:
            raise subprocess.TimeoutExpired(self._process.name, timeout)
        return status

    def send_signal(self, number: int) -> None:
        """A signal, if it runs."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """As kill -9 does."""
        self.send_signal(signal.SIGKILL)
