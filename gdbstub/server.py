"""The only file with sockets: a session's server, in a thread of its own.

An address is `:PORT`, `HOST:PORT` or `[HOST]:PORT` (TCP; port 0 takes a free one), `unix:PATH`, or `-` for standard
input and output, as in `target remote | program -`. Without a host the server listens on loopback only. The protocol
has no password: who can connect can do everything with the guest, and through its devices with the host's files that it
has, so any other address gets a warning.

One client at a time. While one is attached another is kept waiting for a moment, because a killed debugger's end of
file may be just behind it, and is then sent away; a client that has said nothing is replaced. If the first one has hung
up, and only what it sent before is still to be answered, the other one waits as long as that takes.

One loop waits for the client, for the listening socket and for the target's stops, which come over a pipe: whatever
comes first is done first, and nothing is polled. Bytes are only read when all before them are answered and the answers
are sent, so a client that floods or does not read fills its own buffers, not this process.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import re
import select
import socket
import stat
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from gdbstub.errors import ServerError
from gdbstub.session import Session

READ_SIZE = 0x10000
GRACE = 0.5
"""Seconds that a second client waits for the first one's end of file."""
HANG_UP: int = getattr(select, "POLLRDHUP", 0)
"""Linux tells of it before all bytes are read; others behind them only."""
FLUSH = 2.0
"""Seconds that `close` gives a client to take the last packet."""
LINGER = 0.3
"""Seconds that `close` gives a client to go by itself after the last packet, as gdb does after a W. What it asks until
then is answered when the guest has ended: gdb's extended-remote sends a `?` after the W, and a `c` may be under way."""
STUCK = 30.0
"""Seconds after which a client that does not take its reply is dropped."""
_LOOPBACK = ("", "::1", "localhost")
_PACKET = re.compile(rb"\$[^$#]*#[0-9a-fA-F]{2}")


@dataclass(frozen=True, slots=True)
class TcpAddress:
    """A host and a port; an empty host is loopback."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def loopback(self) -> bool:
        """Only this computer can reach it."""
        return self.host in _LOOPBACK or re.fullmatch(r"127(\.\d+){3}", self.host) is not None


@dataclass(frozen=True, slots=True)
class UnixAddress:
    """A socket in the file system."""

    path: str

    def __str__(self) -> str:
        return self.path


@dataclass(frozen=True, slots=True)
class StdioAddress:
    """Standard input and output: one client, which is there already."""

    def __str__(self) -> str:
        return "standard input and output"


Address = TcpAddress | UnixAddress | StdioAddress


def parse_address(text: str) -> Address:
    """An address from what a user wrote."""
    if text == "-":
        return StdioAddress()
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        if not path:
            raise ServerError("gdb: unix: needs the path of a socket, such as unix:/tmp/gdb.sock")
        return UnixAddress(path)
    host, colon, port = text.removeprefix("tcp:").rpartition(":")
    if not colon or not (port.isascii() and port.isdigit()) or int(port) > 0xFFFF:
        raise ServerError(f"gdb: {text!r} is no address; write :1234, HOST:PORT, unix:PATH or -")
    return TcpAddress(host.removeprefix("[").removesuffix("]"), int(port))


def check_address(text: str) -> None:
    """Raise `ServerError` if a server could not take an address now: a mistake is told before much is done."""
    address = parse_address(text)
    if not isinstance(address, StdioAddress):
        _listen(address).close()
        if isinstance(address, UnixAddress):
            Path(address.path).unlink()


def _listen(address: TcpAddress | UnixAddress) -> socket.socket:
    try:
        return _listen_unix(address.path) if isinstance(address, UnixAddress) else _listen_tcp(address)
    except (OSError, UnicodeError) as error:
        why = error.strerror or str(error) if isinstance(error, OSError) else str(error)
        raise ServerError(f"gdb: can't listen on {address}: {why}") from error


def _listen_tcp(address: TcpAddress) -> socket.socket:
    family, kind, protocol, _, where = socket.getaddrinfo(
        address.host or "127.0.0.1", address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(where)
        listener.listen(8)
    except OSError:
        listener.close()
        raise
    return listener


def _listen_unix(path: str) -> socket.socket:
    """A socket file that nobody listens on any more is replaced; nothing else is."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        try:
            listener.bind(path)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or not _is_dead_socket(path):
                raise
            Path(path).unlink()
            listener.bind(path)
        os.chmod(path, 0o600)
        listener.listen(8)
    except OSError:
        listener.close()
        raise
    return listener


def without_given_up(data: bytes) -> bytes:
    """What came before the server could answer, as a program that a debugger starts may take longer than its patience.

    gdb sends a packet again when no acknowledgment comes, and goes on to the next one in the end; it takes the first reply
    that comes for the last packet's.  So if the first one was repeated, or the lack of a reply complained of (-), only the
    last one is still to be answered.
    """
    packets = list(_PACKET.finditer(data))
    if len(packets) < 2:
        return data
    complained = b"-" in data[packets[0].end() : packets[1].start()] or packets[0][0] == packets[1][0]
    return data[packets[-1].start() :] if complained else data


def _ready(readers: Sequence[int], writers: Sequence[int], seconds: float) -> set[int]:
    """The descriptors that can be read or written, or whose other end is gone, within a time."""
    poll = select.poll()
    for descriptor in readers:
        poll.register(descriptor, select.POLLIN)
    for descriptor in writers:
        poll.register(descriptor, select.POLLOUT)
    return {descriptor for descriptor, _ in poll.poll(math.ceil(seconds * 1000))}


class _Wire:
    """A client's bytes: a socket, or a pair of file descriptors.

    Those are left as they are, as others may share them: what is written at once is what a pipe that is ready takes.
    `may_try`: writing never waits.
    """

    def __init__(
        self,
        reader: int,
        writer: int,
        close: Callable[[], None],
        limit: int = select.PIPE_BUF,
        *,
        may_try: bool = False,
    ) -> None:
        self.reader, self.writer, self._close, self._limit = reader, writer, close, limit
        self.may_try = may_try

    @classmethod
    def of_socket(cls, connection: socket.socket) -> _Wire:
        connection.setblocking(False)
        if connection.family != socket.AF_UNIX:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

        def close() -> None:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_WR)
            connection.close()

        return cls(connection.fileno(), connection.fileno(), close, READ_SIZE, may_try=True)

    def read(self) -> bytes | None:
        """What is there; empty at the end of file, None if nothing is there."""
        try:
            return os.read(self.reader, READ_SIZE)
        except BlockingIOError:
            return None
        except OSError:
            return b""

    def hung_up(self) -> bool:
        """The other end has gone, though bytes of it may be left to read."""
        poll = select.poll()
        poll.register(self.reader, HANG_UP)
        return bool(poll.poll(0))

    def write(self, data: bytes) -> int:
        """How many bytes were taken; -1 if the client is gone."""
        try:
            return os.write(self.writer, data[: self._limit])
        except BlockingIOError:
            return 0
        except OSError:
            return -1

    def finish(self, seconds: float) -> None:
        """Wait a little until the client has gone: a socket closed over unread bytes takes what was sent back."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0 and _ready((self.reader,), (), left):
            if not self.read():
                break

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._close()


class Server:
    """Serves a session at an address: `open`, `start`, and at the end `close`.

    `stdin` and `stdout` are the descriptors of the address `-`; nothing else of the process may write to the latter.
    """

    def __init__(self, session: Session, address: str, *, stdin: int = 0, stdout: int = 1) -> None:
        self._session = session
        self.address = parse_address(address)
        self._stdio = (stdin, stdout)
        self._listener: socket.socket | None = None
        self._wire: _Wire | None = None
        self._waiting: tuple[_Wire, float] | None = None
        """A second client, and until when it may wait."""
        self._out = b""
        self._closing = False
        self._wake_reader, self._wake_writer = os.pipe()
        os.set_blocking(self._wake_reader, False)
        os.set_blocking(self._wake_writer, False)
        self._thread = threading.Thread(target=self._serve, name="gdb", daemon=True)
        self._lock = threading.Lock()
        """Held to write into the wake pipe or to close it."""
        self._sources: list[int] = []
        self._poll = select.poll()
        """What `_wait` waits for: mostly the same as before."""
        self._again = False
        """The session was woken by this thread itself, as by a target that stops at once."""
        session.wake = self._wake

    @property
    def warning(self) -> str:
        """What the user should know about the address; empty if nothing."""
        if isinstance(self.address, TcpAddress) and not self.address.loopback:
            return (
                f"gdb: everyone who can reach {self.address} controls the guest; there is no password. "
                "Leave the host out to listen on this computer only"
            )
        return ""

    def open(self) -> str:
        """Take the address; returns it as gdb's `target remote` wants it, with the port that was taken."""
        if isinstance(self.address, StdioAddress):
            stdin, stdout = self._stdio
            wire = _Wire(stdin, stdout, lambda: None)
            self._accept(wire)
            if _ready((stdin,), (), 0):
                self._session.feed(without_given_up(wire.read() or b""))
            return str(self.address)
        self._listener = _listen(self.address)
        self._listener.setblocking(False)
        if isinstance(self.address, TcpAddress):
            self.address = TcpAddress(self.address.host or "localhost", self._listener.getsockname()[1])
        return str(self.address)

    def start(self) -> None:
        """Serve from now on, in a thread."""
        self._thread.start()

    def close(self) -> None:
        """Deliver the stops reported so far, let the client go without telling the session, and end the thread.

        Called on the server's own thread (by a target's `kill`, say) it only asks for that. On any other thread the
        caller must hold no lock that the target's methods take: the server may be inside of one.
        """
        self._closing = True
        self._wake()
        if self._thread is threading.current_thread():
            return
        if self._thread.ident is not None:
            self._thread.join(STUCK)  # not for ever: a target that hangs must not keep the process from ending
        else:
            self._clean_up()

    def _clean_up(self) -> None:
        """Give everything back."""
        for wire in (self._wire, self._waiting[0] if self._waiting is not None else None):
            if wire is not None:
                wire.close()
        self._wire = self._waiting = None
        with self._lock:
            if self._wake_writer >= 0:
                os.close(self._wake_writer)
                os.close(self._wake_reader)
                self._wake_writer = self._wake_reader = -1
        if self._listener is not None:
            self._listener.close()
            self._listener = None
            if isinstance(self.address, UnixAddress):
                Path(self.address.path).unlink(missing_ok=True)

    def join(self, timeout: float | None = None) -> bool:
        """Wait for the thread's end: by `close`, or with `-` by the end of the input. True if it has ended."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _wake(self) -> None:
        """Called from any thread. A full pipe is as good as a byte in it."""
        if threading.get_ident() == self._thread.ident:
            self._again = True
            return
        with self._lock, contextlib.suppress(BlockingIOError):
            if self._wake_writer >= 0:
                os.write(self._wake_writer, b"!")

    # the thread

    def _serve(self) -> None:
        try:
            while not self._closing and (self._wire is not None or self._listener is not None):
                self._pump()
                if not self._closing:
                    self._wait()
            self._pump()
            self._flush(FLUSH)
            if self._wire is not None and self._listener is not None:
                self._say_goodbye(time.monotonic() + LINGER)
        finally:
            self._clean_up()

    def _say_goodbye(self, deadline: float) -> None:
        """Answer until the client has gone or the time is over."""
        while self._wire is not None and self._session.ended and self._session.wants_input:
            left = deadline - time.monotonic()
            if left <= 0 or not _ready((self._wire.reader,), (), left):
                return
            data = self._wire.read()
            if data:
                self._session.feed(data)
                self._pump()
            elif data is not None:
                return
        if self._wire is not None:
            self._wire.finish(max(0.0, deadline - time.monotonic()))

    def _pump(self) -> None:
        """Let the session do what it can, sending as it goes."""
        for data in self._session.pump():
            self._out += data
            if not self._flush(STUCK):
                return
        self._again = False

    def _flush(self, seconds: float) -> bool:
        """Send what is to be sent; False if the client is gone or does not take it."""
        if self._out and self._wire is not None and self._wire.may_try:
            taken = self._wire.write(self._out)
            self._out = self._out[max(taken, 0) :]
            if taken < 0:
                self._drop()
                return False
        deadline = time.monotonic() + seconds if self._out else 0.0
        while self._out and self._wire is not None:
            if self._closing:
                deadline = min(deadline, time.monotonic() + FLUSH)
            left = deadline - time.monotonic()
            taken = 0
            if _ready((), (self._wire.writer,), max(0.0, min(left, 0.1))):
                taken = self._wire.write(self._out)
            self._out = self._out[max(taken, 0) :]
            if taken < 0 or left <= 0:
                self._drop()
                return False
        return self._wire is not None

    def _wait(self) -> None:
        """Wait for whatever comes first, and take it in."""
        if self._again:
            return
        sources = [self._wake_reader]
        wire, listener = self._wire, self._listener
        if wire is not None and self._session.wants_input:
            sources.append(wire.reader)
        if listener is not None and self._waiting is None:
            sources.append(listener.fileno())
        if sources != self._sources:
            self._sources, self._poll = sources, select.poll()
            for descriptor in sources:
                self._poll.register(descriptor, select.POLLIN)
        timeout = None if self._waiting is None else math.ceil(max(0.0, self._waiting[1] - time.monotonic()) * 1000)
        ready = [descriptor for descriptor, _ in self._poll.poll(timeout)]
        if self._wake_reader in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(self._wake_reader, READ_SIZE)
        if wire is not None and wire.reader in ready:
            data = wire.read()
            if data:
                self._session.feed(data)
            elif data is not None:
                self._drop()
        if listener is not None and listener.fileno() in ready:
            with contextlib.suppress(OSError):
                self._arrived(_Wire.of_socket(listener.accept()[0]))
        if self._waiting is not None and time.monotonic() >= self._waiting[1]:
            if self._wire is not None and self._wire.hung_up():
                self._waiting = self._waiting[0], time.monotonic() + GRACE
                return
            self._waiting[0].finish(0.001)
            self._waiting[0].close()
            self._waiting = None

    def _arrived(self, wire: _Wire) -> None:
        if self._wire is not None and not self._session.attached:
            self._drop()
        if self._wire is None:
            self._accept(wire)
        else:
            self._waiting = (wire, time.monotonic() + GRACE)

    def _accept(self, wire: _Wire) -> None:
        self._wire = wire
        self._out = b""
        self._session.connect()

    def _drop(self) -> None:
        """The client is gone; who waits is next."""
        if self._wire is not None:
            self._wire.close()
            self._wire = None
            self._out = b""
            self._session.disconnect()
        if self._waiting is not None:
            wire, self._waiting = self._waiting[0], None
            self._accept(wire)


def _is_dead_socket(path: str) -> bool:
    """A socket file whose server has gone."""
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            return False
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.connect(path)
    except ConnectionRefusedError:
        return True
    except OSError:
        return False
    return False
