"""The terminal as the guest's serial console: raw keys, the Ctrl-A keys of QEMU -nographic, a monitor prompt.

With a person at it (standard input and output are terminals and we are in the foreground) every key goes to the guest,
Ctrl-C too, but for those behind Ctrl-A.  Else standard input is passed on as it is.

The terminal's mode is given back by `close`, at exit, on SIGTERM and SIGHUP (the command line's handlers call
`restore`), and by a small child process when this one is killed or crashes.

Not modelled: Ctrl-A b (break), s (save disks) and t (timestamps).
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import sys
import termios
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, Protocol

from jitvm.backends.chardev import StreamBackend
from jitvm.errors import JitvmError

ESCAPE = 0x01
PROMPT = b"(jitvm) "
HELP = """\
Ctrl-A h    this help
Ctrl-A x    end the run
Ctrl-A c    to the monitor and back
Ctrl-A a, Ctrl-A Ctrl-A    send Ctrl-A
"""
BACK = "Ctrl-A c goes back to the guest\n"
IFLAG, OFLAG, CFLAG, LFLAG, CC = 0, 1, 2, 3, 6
"""Places in what `termios.tcgetattr` gives."""


class Monitor(Protocol):
    """What answers the lines typed at the prompt; a machine has one.

    `tell` is called, on any thread, with a line when the machine stops by itself.
    """

    tell: Callable[[str], None]

    def command(self, line: str) -> str:
        """The answer to a command, lines without the last line end; `JitvmError` for one that there is not."""
        ...


class ConsoleBackend(StreamBackend):
    """The console as a character device; tells the console what goes out."""

    def __init__(self, console: Console, input_fd: int | None) -> None:
        on_input = console.on_input if console.interactive else None
        super().__init__(sys.stdout.buffer, input_fd, on_input, name="stdio")
        self._console = console

    def write(self, data: bytes) -> None:
        self._console.before_output()
        super().write(data)
        if data:
            self._console.at_line_start = data[-1] in b"\r\n"


class Console:
    """The process's terminal.

    Attributes:
        interactive: a person sits at it.
        monitor: answers at the prompt, and tells of stops; the machine sets it.
        on_quit: ends the machine; called on another thread.
        before_output: called before each output.
        at_line_start: whether the cursor is at the beginning of a line.
    """

    def __init__(self, input_fd: int | None = None) -> None:
        self._fd = _stdin_fd() if input_fd is None else input_fd
        self.interactive = self._fd is not None and _is_foreground(self._fd) and _isatty(sys.stdout)
        self._monitor: Monitor | None = None
        self.on_quit: Callable[[], None] = lambda: None
        self.before_output: Callable[[], None] = lambda: None
        self.at_line_start = True
        self._saved: list[Any] | None = None
        self._raw: list[Any] = []
        self._guard: Guard | None = None
        self._old_continue: Any = None
        self._lock = threading.RLock()
        self._escaped = False
        self._prompting = False
        self._line = bytearray()
        self._backend: ConsoleBackend | None = None

    def backend(self) -> ConsoleBackend:
        """The character device of every `stdio`; the same one each time, for input and output are one."""
        if self._backend is None:
            background = self._fd is not None and os.isatty(self._fd) and not _is_foreground(self._fd)
            self._backend = ConsoleBackend(self, None if background else self._fd)
        return self._backend

    # ---- the terminal's mode ----------------------------------------------------------------------------------------
    def start(self) -> None:
        """Raw keys, if a person is there; output keeps its line ends, as messages of ours go there too."""
        if not self.interactive or self._saved is not None or self._fd is None:
            return
        self._saved = termios.tcgetattr(self._fd)
        raw = termios.tcgetattr(self._fd)
        raw[IFLAG] &= ~(
            termios.IGNBRK | termios.BRKINT | termios.PARMRK | termios.ISTRIP
            | termios.INLCR | termios.IGNCR | termios.ICRNL | termios.IXON
        )  # fmt: skip
        raw[LFLAG] &= ~(termios.ECHO | termios.ECHONL | termios.ICANON | termios.IEXTEN | termios.ISIG)
        raw[CFLAG] = raw[CFLAG] & ~(termios.CSIZE | termios.PARENB) | termios.CS8
        raw[CC][termios.VMIN], raw[CC][termios.VTIME] = 1, 0
        self._raw = raw
        self._guard = Guard(self._fd, self._saved)
        atexit.register(self.restore)
        self._old_continue = signal.signal(signal.SIGCONT, self._continued)
        termios.tcsetattr(self._fd, termios.TCSADRAIN, raw)
        self._guard.watch(termios.tcgetattr(self._fd))

    def _continued(self, number: int, frame: FrameType | None) -> None:
        """SIGCONT: the shell has changed the mode meanwhile."""
        with contextlib.suppress(termios.error):
            if self._saved is not None and self._fd is not None and _is_foreground(self._fd):
                termios.tcsetattr(self._fd, termios.TCSADRAIN, self._raw)

    def restore(self) -> None:
        """Give the terminal back as it was; a second call does nothing."""
        with self._lock:
            saved, self._saved = self._saved, None
            if saved is None or self._fd is None:
                return
            with contextlib.suppress(termios.error):
                termios.tcsetattr(self._fd, termios.TCSADRAIN, saved)
            if self._guard is not None:
                self._guard.dismiss()
                self._guard = None
            with contextlib.suppress(ValueError):  # not on the main thread: the handler does nothing any more
                signal.signal(signal.SIGCONT, self._old_continue or signal.SIG_DFL)
            atexit.unregister(self.restore)

    def close(self) -> None:
        """End input and give the terminal back."""
        try:
            if self._backend is not None:
                self._backend.close()
        finally:
            self.restore()

    # ---- keys -------------------------------------------------------------------------------------------------------
    def on_input(self, data: bytes) -> bytes:
        """What was typed: keeps what is ours, gives back what is the guest's."""
        to_guest = bytearray()
        for byte in data:
            if self._escaped:
                self._escaped = False
                to_guest += self._command_key(byte)
            elif byte == ESCAPE:
                self._escaped = True
            elif self._prompting:
                self._edit(byte)
            else:
                to_guest.append(byte)
        return bytes(to_guest)

    def _command_key(self, byte: int) -> bytes:
        """The key after Ctrl-A; what the guest gets."""
        key = chr(byte).lower()
        if key in ("\x01", "a"):
            return b"" if self._prompting else bytes([ESCAPE])
        if key == "x":
            self.say("jitvm: terminated\n")
            self.on_quit()
        elif key == "c":
            self._toggle_prompt()
        elif key in ("h", "?"):
            self.say(HELP)
            self._show_prompt()
        return b""

    def say(self, text: str) -> None:
        """A message of ours, on lines of its own."""
        self.before_output()
        if not self.at_line_start:
            text = "\n" + text
        self._emit(text.encode(errors="replace"))

    def _emit(self, data: bytes) -> None:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
        if data:
            self.at_line_start = data[-1] in b"\r\n"

    # ---- the monitor ------------------------------------------------------------------------------------------------
    @property
    def monitor(self) -> Monitor | None:
        """Answers at the prompt."""
        return self._monitor

    @monitor.setter
    def monitor(self, monitor: Monitor | None) -> None:
        self._monitor = monitor
        if monitor is not None:
            monitor.tell = self._tell

    def _tell(self, line: str) -> None:
        """The machine has stopped by itself."""
        self.say(f"jitvm: {line}{'' if self._prompting else ' (Ctrl-A c, cont)'}\n")
        self._show_prompt()

    def _toggle_prompt(self) -> None:
        self._prompting = not self._prompting
        self._line.clear()
        if self._prompting:
            self.say("jitvm monitor: help lists the commands, Ctrl-A c goes back to the guest\n")
            self._show_prompt()
        else:
            self.say("jitvm: back to the guest\n")

    def _show_prompt(self) -> None:
        if self._prompting:
            self._emit(PROMPT + bytes(self._line))

    def _edit(self, byte: int) -> None:
        """A key at the prompt."""
        if byte in b"\r\n":
            line = self._line.decode(errors="replace").strip()
            self._line.clear()
            self._emit(b"\n")
            if line:
                self._answer(line)
            self._show_prompt()
        elif byte in b"\x7f\x08":
            if self._line:
                self._line.pop()
                self._emit(b"\x08 \x08")
        elif byte in b"\x03\x15":
            self._line.clear()
            self._emit(b"\n")
            self._show_prompt()
        elif 0x20 <= byte < 0x7F:
            self._line.append(byte)
            self._emit(bytes([byte]))

    def _answer(self, line: str) -> None:
        if line in ("quit", "q"):
            self.on_quit()
        elif self.monitor is None:
            self.say("the machine is not ready\n")
        else:
            try:
                answer = self.monitor.command(line)
            except JitvmError as error:
                answer = f"error: {error}"
            if answer:
                self.say(answer.rstrip("\n") + "\n")
            if line in ("help", "?"):
                self.say(BACK)


class Guard:
    """A child process that gives the terminal back when this process dies without doing so.

    It waits for the end of a pipe whose other end only we hold, and touches the terminal only if it is still as we set
    it: a shell that has taken it back is left alone.  It is forked before there are threads.
    """

    def __init__(self, fd: int, saved: list[Any]) -> None:
        reader, self._writer = os.pipe()
        self._pid: int | None = None
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # the child keeps them all blocked
        try:
            pid = os.fork()
        except OSError:  # no process to spare: go without
            pid = -1
        if pid != 0:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            os.close(reader)
            self._pid = pid if pid > 0 else None
            return
        try:
            _guard(fd, reader, saved)
        finally:
            os._exit(0)

    def watch(self, raw: list[Any]) -> None:
        """From now on the terminal is ours as long as its mode is `raw`."""
        with contextlib.suppress(OSError):
            os.write(self._writer, bytes(1) + repr(_flags(raw)).encode())

    def dismiss(self) -> None:
        """The terminal is back: no more need of it."""
        with contextlib.suppress(OSError):
            os.write(self._writer, b"x")
        os.close(self._writer)
        if self._pid is not None:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(self._pid, 0)
            self._pid = None


def _guard(fd: int, reader: int, saved: list[Any]) -> None:
    """The child's life."""
    os.setsid()
    keep = sorted((fd, reader))
    for start, end in zip([0, keep[0] + 1, keep[1] + 1], [*keep, os.sysconf("SC_OPEN_MAX")], strict=True):
        if start < end:  # an empty range from 0 closes everything in CPython 3.11
            os.closerange(start, end)
    heard = b""
    while data := os.read(reader, 4096):
        heard += data
    if heard.endswith(b"x") or not heard:
        return
    if repr(_flags(termios.tcgetattr(fd))).encode() == heard[1:]:
        termios.tcsetattr(fd, termios.TCSANOW, saved)


def _flags(mode: list[Any]) -> list[Any]:
    """The part of a terminal's mode that tells ours from others'."""
    return mode[:4]


def _stdin_fd() -> int | None:
    try:
        return sys.stdin.fileno()
    except (AttributeError, OSError, ValueError):
        return None


def _isatty(stream: Any) -> bool:
    try:
        return bool(stream.isatty())
    except (AttributeError, ValueError):
        return False


def _is_foreground(fd: int) -> bool:
    """Whether a descriptor is a terminal that we may read: a job in the background would be stopped."""
    try:
        return os.isatty(fd) and os.tcgetpgrp(fd) == os.getpgrp()
    except OSError:
        return False
