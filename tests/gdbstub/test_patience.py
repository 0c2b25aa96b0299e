"""A debugger behind a pipe, and a program that needs long to start."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gdbstub.framing import frame
from gdbstub.patience import Patience
from tests.needs import needs

ROOT = Path(__file__).resolve().parents[2]
FIRST = b"+" + frame(b"qSupported:multiprocess+")
SLOW = """
import sys, threading
from contextlib import nullcontext
sys.path.insert(0, sys.argv[2])
from gdbstub import Session
from gdbstub.patience import Patience
from gdbstub.server import Server
from tests.gdbstub.fake_target import FakeTarget
with Patience() if sys.argv[1] == "patience" else nullcontext():
    threading.Event().wait(9)
server = Server(Session(FakeTarget()), "-")
server.open()
server.start()
server.join()
"""


@contextmanager
def pipes() -> Iterator[tuple[int, int, int, int]]:
    """(their input, our output, our input, their output)."""
    descriptors = (*os.pipe(), *os.pipe())
    try:
        yield descriptors
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def test_nothing_is_said_before_the_debugger_has_spoken() -> None:
    with pipes() as (their_in, our_out, our_in, _):
        with Patience(our_in, our_out, 0.001):
            pass
        assert not select.select([their_in], [], [], 0)[0]


def test_acknowledgments_come_until_it_is_over_and_what_was_sent_is_still_there() -> None:
    with pipes() as (their_in, our_out, our_in, their_out):
        os.write(their_out, FIRST)
        with Patience(our_in, our_out, 0.001):
            said = b"".join(os.read(their_in, 1) for _ in range(5))
        assert said == b"+++++"
        assert os.read(our_in, 100) == FIRST


def test_a_debugger_that_has_gone_ends_it() -> None:
    (their_in, our_out), (our_in, their_out) = os.pipe(), os.pipe()
    os.close(their_in)
    os.close(their_out)
    with Patience(our_in, our_out, 0.001) as patience:
        patience._thread.join(10)
        assert not patience._thread.is_alive()
    os.close(our_out)
    os.close(our_in)


@pytest.mark.slow
@needs("gdb")
@pytest.mark.parametrize("way", ["patience", "none"])
def test_gdb_waits_for_a_program_that_takes_longer_than_its_patience(tmp_path: Path, way: str) -> None:
    """gdb's patience is cut to a second here, four times; without acknowledgments it gives up asking what there is."""
    program = tmp_path / "slow.py"
    program.write_text(SLOW)
    script = [
        "set remotetimeout 1",
        f"target remote | {sys.executable} {program} {way} {ROOT}",
        "p/x $gdtr_base",
        "detach",
    ]
    done = subprocess.run(
        ["gdb", "-q", "-nx", "-batch", *(word for each in script for word in ("-ex", each))],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "DEBUGINFOD_URLS": ""},
        check=False,
    )
    assert ("$1 = 0x" in done.stdout) is (way == "patience"), done.stdout + done.stderr
