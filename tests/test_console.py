"""The terminal: Ctrl-A keys, the monitor prompt, raw mode, and its end in every way that a run can end."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from jitvm.console import BACK, Console
from jitvm.errors import ConfigError
from jitvm.progress import Progress

ROOT = Path(__file__).resolve().parents[1]
DEADLINE_S = 30
ESCAPE = b"\x01"


# ---- keys, without a terminal --------------------------------------------------------------------------------------
class EchoMonitor:
    """Answers with what was asked."""

    tell: Callable[[str], None]

    def __init__(self) -> None:
        self.lines: list[str] = []

    def command(self, line: str) -> str:
        self.lines.append(line)
        if line == "bad":
            raise ConfigError("no such command")
        return f"you said {line}"


@pytest.fixture
def console() -> Console:
    found = Console()
    found.monitor = EchoMonitor()
    return found


def test_keys_go_to_the_guest(console: Console) -> None:
    assert console.on_input(b"ls\r\x03\x04\x1a\xff") == b"ls\r\x03\x04\x1a\xff"


@pytest.mark.parametrize("typed", [ESCAPE + ESCAPE, ESCAPE + b"a"])
def test_ctrl_a_can_be_sent(console: Console, typed: bytes) -> None:
    assert console.on_input(b"x" + typed + b"y") == b"x\x01y"


def test_the_key_after_ctrl_a_may_come_later_and_unknown_ones_are_dropped(console: Console) -> None:
    assert console.on_input(b"1" + ESCAPE) == b"1"
    assert console.on_input(b"z2") == b"2"


@pytest.mark.parametrize("key", [b"x", b"X"])
def test_x_quits(console: Console, key: bytes) -> None:
    quits: list[bool] = []
    console.on_quit = lambda: quits.append(True)
    assert console.on_input(ESCAPE + key) == b""
    assert quits == [True]


def test_h_shows_the_keys_on_lines_of_their_own(console: Console, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    console.backend().write(b"login: ")
    assert not console.at_line_start
    assert console.on_input(ESCAPE + b"h") == b""
    said = capfdbinary.readouterr().out
    assert said.startswith(b"login: \nCtrl-A h ") and b"Ctrl-A x " in said
    assert console.at_line_start


def test_the_monitor_takes_lines_until_ctrl_a_c(console: Console, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    monitor = console.monitor
    assert isinstance(monitor, EchoMonitor)
    typed = ESCAPE + b"cinfo q\x7fstatus\rwrong\x15\rbad\r" + ESCAPE + b"h" + ESCAPE + ESCAPE + b"help\r"
    assert console.on_input(typed) == b""
    assert monitor.lines == ["info status", "bad", "help"]
    said = capfdbinary.readouterr().out
    assert b"(jitvm) info q\x08 \x08status\nyou said info status\n(jitvm) " in said
    assert b"error: no such command\n" in said and said.endswith(b"you said help\n" + BACK.encode() + b"(jitvm) ")
    assert console.on_input(ESCAPE + b"cback") == b"back"


def test_a_stop_is_told_at_the_prompt_and_outside(console: Console, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    assert console.monitor is not None
    console.backend().write(b"half a line")
    console.monitor.tell("caught: #PF")
    assert capfdbinary.readouterr().out == b"half a line\njitvm: caught: #PF (Ctrl-A c, cont)\n"
    console.on_input(ESCAPE + b"cst")
    console.monitor.tell("caught: #GP")
    assert capfdbinary.readouterr().out.endswith(b"(jitvm) st\njitvm: caught: #GP\n(jitvm) st")


def test_quit_at_the_prompt_quits(console: Console, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    quits: list[bool] = []
    console.on_quit = lambda: quits.append(True)
    console.on_input(ESCAPE + b"cquit\n")
    assert quits == [True]
    console.monitor = None
    console.on_input(b"info status\n")
    assert b"not ready" in capfdbinary.readouterr().out


def test_output_tells_who_wants_to_know(console: Console, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    calls: list[bool] = []
    console.before_output = lambda: calls.append(True)
    backend = console.backend()
    assert console.backend() is backend
    backend.write(b"a\r\n")
    assert calls == [True] and console.at_line_start
    assert capfdbinary.readouterr().out == b"a\r\n"


def test_without_a_terminal_nothing_is_ours() -> None:
    reader, writer = os.pipe()
    try:
        console = Console(reader)
        assert not console.interactive
        console.start()
        backend = console.backend()
        got: list[bytes] = []

        def take(data: bytes) -> int:
            got.append(data)
            return len(data)

        woken = select.poll()
        ready, signal_ready = os.pipe()
        woken.register(ready, select.POLLIN)

        def wake() -> None:
            os.write(signal_ready, b"x")

        backend.wake = wake
        backend.connect(take)
        os.write(writer, b"\x01x")
        assert woken.poll(DEADLINE_S * 1000)
        backend.pump()
        assert got == [b"\x01x"]
        console.close()
        os.close(ready)
        os.close(signal_ready)
    finally:
        os.close(reader)
        os.close(writer)


# ---- at a terminal -------------------------------------------------------------------------------------------------
CHILD = """
import os, signal, sys
from jitvm.console import Console

class Monitor:
    def command(self, line):
        return "answer to " + line

console = Console()
assert console.interactive
console.monitor = Monitor()
ready, wakes = os.pipe()  # no Event: a signal handler must not wait for its lock
ended = False
def wake():
    os.write(wakes, b"x")
def quit():
    global ended
    ended = True
    wake()
def terminate(number, frame):
    console.restore()
    quit()
signal.signal(signal.SIGTERM, terminate)
console.on_quit = quit
backend = console.backend()
backend.wake = wake
console.start()
def take(data):
    backend.write(b"<" + data.hex().encode() + b">")
    if data == b"!":
        raise RuntimeError("the run fails")
    if data == b"@":
        os.abort()
    return len(data)
backend.connect(take)
backend.write(b"READY\\r\\n")
while not ended:
    os.read(ready, 1)
    backend.pump()
if len(sys.argv) > 1:
    console.close()
print("ended")
"""


class Terminal:
    """A pseudo-terminal with a program at it, and its mode as it was."""

    def __init__(self, *argv: str) -> None:
        self.master, self.slave = os.openpty()
        self.before = termios.tcgetattr(self.slave)
        self.seen = b""
        self.child = subprocess.Popen(
            [sys.executable, *argv],
            stdin=self.slave,
            stdout=self.slave,
            stderr=self.slave,
            cwd=ROOT,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0) and None,
        )

    def expect(self, text: bytes) -> None:
        """Read until `text` comes."""
        end = time.monotonic() + DEADLINE_S
        while text not in self.seen:
            ready, _, _ = select.select([self.master], [], [], max(0, end - time.monotonic()))
            assert ready, f"{text!r} did not come after {self.seen!r}"
            self.seen += os.read(self.master, 4096)
        self.seen = self.seen[self.seen.index(text) + len(text) :]

    def type(self, data: bytes) -> None:
        os.write(self.master, data)

    def mode(self) -> list[Any]:
        return termios.tcgetattr(self.slave)

    def wait_until_restored(self) -> None:
        """The guard restores from another process: look until it has, with a deadline."""
        end = time.monotonic() + DEADLINE_S
        while self.mode() != self.before:
            assert time.monotonic() < end, "the terminal was not given back"
            select.select([], [], [], 0.01)

    def close(self) -> None:
        self.child.kill()
        self.child.wait(DEADLINE_S)
        os.close(self.master)
        os.close(self.slave)


@contextlib.contextmanager
def terminal(*argv: str) -> Iterator[Terminal]:
    """The child, ready."""
    found = Terminal("-c", CHILD, *argv)
    try:
        found.expect(b"READY")
        yield found
    finally:
        found.close()


def test_keys_are_raw_and_line_ends_of_the_output_are_kept() -> None:
    with terminal() as tty:
        mode = tty.mode()
        assert not mode[3] & (termios.ICANON | termios.ECHO | termios.ISIG)
        assert mode[1] & termios.OPOST
        tty.type(b"\x03")
        tty.expect(b"<03>")
        tty.type(b"a\r")
        tty.expect(b"<610d>")
        tty.type(b"\x01\x01")
        tty.expect(b"<01>")
        tty.type(b"\x01h")
        tty.expect(b"Ctrl-A x")
        tty.type(b"\x01cinfo irq\r")
        tty.expect(b"answer to info irq")


@pytest.mark.parametrize("closes", [[], ["close"]], ids=["by atexit", "by close"])
def test_quitting_gives_the_terminal_back(closes: list[str]) -> None:
    with terminal(*closes) as tty:
        tty.type(b"\x01x")
        tty.expect(b"ended")
        assert tty.child.wait(DEADLINE_S) == 0
        assert tty.mode() == tty.before


def test_a_signal_gives_the_terminal_back() -> None:
    with terminal() as tty:
        tty.child.send_signal(signal.SIGTERM)
        tty.expect(b"ended")
        assert tty.child.wait(DEADLINE_S) == 0
        assert tty.mode() == tty.before


def test_an_exception_gives_the_terminal_back() -> None:
    with terminal() as tty:
        tty.type(b"!")
        tty.expect(b"the run fails")
        assert tty.child.wait(DEADLINE_S) == 1
        assert tty.mode() == tty.before


def test_a_crash_gives_the_terminal_back() -> None:
    with terminal() as tty:
        tty.type(b"@")
        assert tty.child.wait(DEADLINE_S) == -signal.SIGABRT
        tty.wait_until_restored()


def test_being_killed_gives_the_terminal_back() -> None:
    with terminal() as tty:
        tty.child.kill()
        assert tty.child.wait(DEADLINE_S) == -signal.SIGKILL
        tty.wait_until_restored()


def test_a_terminal_that_somebody_else_set_is_left_alone() -> None:
    with terminal() as tty:
        other = tty.mode()
        other[3] |= termios.ECHO
        termios.tcsetattr(tty.slave, termios.TCSANOW, other)
        guard = int(Path(f"/proc/{tty.child.pid}/task/{tty.child.pid}/children").read_text().split()[0])
        descriptor = os.pidfd_open(guard)
        tty.child.kill()
        assert select.select([descriptor], [], [], DEADLINE_S)[0]
        os.close(descriptor)
        assert tty.mode() == other


def test_a_person_at_the_console_of_a_real_machine() -> None:
    tty = Terminal("-m", "jitvm", "boot", str(ROOT / "firmware/images/guests/echo.bin"))
    try:
        tty.expect(b"q ends")
        tty.type(b"hello")
        tty.expect(b"hello")
        tty.type(b"\x01cinfo status\r")
        tty.expect(b"running")
        tty.type(b"nonsense\r")
        tty.expect(b"error: unknown command 'nonsense'")
        tty.type(b"\x01c\x01x")
        tty.expect(b"jitvm: terminated")
        assert tty.child.wait(DEADLINE_S) == 0
        assert tty.mode() == tty.before
    finally:
        tty.close()


# ---- progress ------------------------------------------------------------------------------------------------------
def test_progress_is_silent_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress()
    progress.step("u_add")
    progress.running()
    progress.close()
    assert capsys.readouterr().err == ""


def test_progress_is_plain_lines_under_debug(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    progress = Progress(plain=True)
    progress.step("u_add")
    progress.step("")
    progress.close()
    assert capsys.readouterr().err == "jitvm: compiling (first run; kept in ~/.cache/jitvm): u_add ...\n"


PROGRESS = """
from jitvm.progress import Progress
progress = Progress()
progress.step("u_add")
progress.step("u_sub")
print("VISIBLE", progress.visible, flush=True)
progress.hide()
print("HIDDEN", progress.visible, flush=True)
progress.step("again")
progress.close()
progress.step("too late")
print("CLOSED", progress.visible, flush=True)
"""


def test_progress_shows_a_line_on_a_terminal_and_takes_it_away() -> None:
    master, slave = os.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "200", "XDG_CACHE_HOME": "/kept"}
    with subprocess.Popen(
        [sys.executable, "-c", PROGRESS], cwd=ROOT, env=environment, stderr=slave, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        assert child.stdout.read().split("\n") == ["VISIBLE True", "HIDDEN False", "CLOSED False", ""]
    os.close(slave)
    shown = b""
    with contextlib.suppress(OSError):
        while data := os.read(master, 4096):
            shown += data
    os.close(master)
    assert b"compiling (first run; kept in /kept/jitvm): u_" in shown and b"too late" not in shown
    assert shown.count(b"\x1b[?25l") == shown.count(b"\x1b[?25h")  # the cursor is back
    assert shown.rstrip(b"\r").endswith(b"\x1b[2K")  # the line is gone
