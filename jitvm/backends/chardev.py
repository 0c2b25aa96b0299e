"""Character backends: where serial ports and debug ports send to and get their input from.

Output goes out at once.  Input may arrive on any thread: `feed` puts it in a queue and calls `wake`; the vCPU loop
calls `pump` with the machine lock held, which hands the receiver (a device) as much as it takes.  A device calls `pump`
itself when it has room again.  A queue that is full holds up the thread that feeds it, never the machine.

`open_chardev` understands `null`, `stdio`, `file:PATH`, `pty`, `memory` and `tcp:HOST:PORT[,server][,nowait]`.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import sys
import threading
import tty
from collections.abc import Callable
from typing import BinaryIO, Protocol

from jitvm.errors import BackendError

QUEUE_LIMIT = 64 * 1024
SEND_TIMEOUT_S = 2
"""How long a peer that does not read may hold up the machine before it is taken for gone."""


class CharBackend(Protocol):
    """What a device and the vCPU loop know of a backend."""

    wake: Callable[[], None]
    """Called on any thread when input has arrived; set by the machine."""

    def write(self, data: bytes) -> None:
        """Output of the guest."""
        ...

    def connect(self, receiver: Callable[[bytes], int]) -> None:
        """Start input; the receiver says how many bytes it took."""
        ...

    def pump(self) -> int:
        """Hand queued input to the receiver; number of bytes taken.  Called with the machine lock held."""
        ...

    def close(self) -> None:
        """End input and output and release what the host gave."""
        ...


class QueuedBackend:
    """The input queue that all kinds share; by itself it drops output and has no input but what is fed."""

    def __init__(self) -> None:
        self.wake: Callable[[], None] = lambda: None
        self._receiver: Callable[[bytes], int] | None = None
        self._queue = bytearray()
        self._changed = threading.Condition()
        self._closed = False

    def write(self, data: bytes) -> None:
        """Output of the guest; dropped here."""

    def connect(self, receiver: Callable[[bytes], int]) -> None:
        self._receiver = receiver

    def feed(self, data: bytes) -> None:
        """Input from outside, on any thread; waits while the queue is full."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or len(self._queue) < QUEUE_LIMIT)
            self._queue += data
        self.wake()

    def pump(self) -> int:
        if not self._queue or self._receiver is None:
            return 0
        with self._changed:
            taken = self._receiver(bytes(self._queue[:256]))
            total = 0
            while taken:
                total += taken
                del self._queue[:taken]
                taken = self._receiver(bytes(self._queue[:256])) if self._queue else 0
            self._changed.notify_all()
        return total

    def pending(self) -> int:
        """Bytes that no receiver has taken yet."""
        return len(self._queue)

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()


class MemoryBackend(QueuedBackend):
    """Output is kept in `output`, input is fed; for tests and programs."""

    def __init__(self) -> None:
        super().__init__()
        self.output = bytearray()

    def write(self, data: bytes) -> None:
        self.output += data


class FdReader:
    """A thread that reads a descriptor until end of file or `stop`."""

    def __init__(self, fd: int, sink: Callable[[bytes], None], name: str) -> None:
        self._fd, self._sink = fd, sink
        self._wait, self._stop = os.pipe()
        self._thread = threading.Thread(target=self._run, name=f"chardev {name}", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        poll.register(self._wait, select.POLLIN)
        while True:
            ready = [fd for fd, _ in poll.poll()]
            if self._wait in ready:
                return
            try:
                data = os.read(self._fd, 4096)
            except BlockingIOError:
                continue
            except OSError:
                return
            if not data:
                return
            self._sink(data)

    def stop(self) -> None:
        """End the thread; the descriptor stays open."""
        os.write(self._stop, b"x")
        if self._thread is not threading.current_thread():
            self._thread.join(timeout=1)
        if not self._thread.is_alive():
            os.close(self._stop)
            os.close(self._wait)


class StreamBackend(QueuedBackend):
    """Output to a stream, input from a descriptor.

    Input starts when a device connects.  `on_input` sees what was typed before the guest does and gives back what the
    guest shall see: the place for the terminal's escape keys.  The terminal's mode is the caller's affair.
    """

    def __init__(
        self,
        output: BinaryIO | None,
        input_fd: int | None = None,
        on_input: Callable[[bytes], bytes] | None = None,
        name: str = "stream",
    ) -> None:
        super().__init__()
        self._output, self._input_fd, self._on_input, self.name = output, input_fd, on_input, name
        self._reader: FdReader | None = None

    def connect(self, receiver: Callable[[bytes], int]) -> None:
        super().connect(receiver)
        self.start()

    def start(self) -> None:
        """Begin to read, also when no device wants input (for the escape keys)."""
        if self._reader is None and self._input_fd is not None:
            self._reader = FdReader(self._input_fd, self._arrived, self.name)

    def _arrived(self, data: bytes) -> None:
        if self._on_input is not None:
            data = self._on_input(data)
        if data:
            self.feed(data)

    def write(self, data: bytes) -> None:
        if self._output is None:
            return
        try:
            self._output.write(data)
            self._output.flush()
        except OSError as e:
            raise BackendError(f"{self.name}: can't write: {e.strerror or e}") from None

    def close(self) -> None:
        super().close()
        if self._reader is not None:
            self._reader.stop()
            self._reader = None
        if self._output is not None and self._output not in (sys.stdout.buffer, sys.stderr.buffer):
            with contextlib.suppress(OSError):
                self._output.close()
            self._output = None


class PtyBackend(QueuedBackend):
    """A pseudo-terminal; `path` is the slave's name.  Output that nobody reads is dropped once its buffer is full."""

    def __init__(self) -> None:
        super().__init__()
        try:
            self._master, self._slave = os.openpty()
            self.path = os.ttyname(self._slave)
        except OSError as e:
            raise BackendError(f"pty: the host gives no pseudo-terminal ({e.strerror})") from None
        tty.setraw(self._slave)
        os.set_blocking(self._master, False)
        self._reader: FdReader | None = None

    def connect(self, receiver: Callable[[bytes], int]) -> None:
        super().connect(receiver)
        if self._reader is None:
            self._reader = FdReader(self._master, self.feed, self.path)

    def write(self, data: bytes) -> None:
        with contextlib.suppress(OSError):
            os.write(self._master, data)

    def close(self) -> None:
        super().close()
        if self._reader is not None:
            self._reader.stop()
            self._reader = None
        for fd in (self._master, self._slave):
            with contextlib.suppress(OSError):
                os.close(fd)


class TcpBackend(QueuedBackend):
    """A TCP connection, made by us or (`server`) by a peer, who may come, go and come again.

    Output without a peer is dropped.  A peer that does not read for two seconds is disconnected.
    """

    def __init__(self, host: str, port: int, *, server: bool = False, wait: bool = True) -> None:
        super().__init__()
        self._peer: socket.socket | None = None
        self._listener: socket.socket | None = None
        where = f"tcp:{host}:{port}"
        try:
            if server:
                self._listener = socket.create_server((host, port))
                self.port = int(self._listener.getsockname()[1])
                if wait:
                    print(f"waiting for a connection on tcp:{host or '*'}:{self.port}", file=sys.stderr, flush=True)
                    self._adopt(self._listener.accept()[0])
            else:
                self._adopt(socket.create_connection((host, port), timeout=10))
                self.port = port
        except (OSError, OverflowError) as e:
            self.close()
            reason = e.strerror or str(e) if isinstance(e, OSError) else str(e)
            raise BackendError(f"{where}: can't {'listen' if server else 'connect'}: {reason}") from None
        self._thread = threading.Thread(target=self._run, name=f"chardev {where}", daemon=True)
        self._thread.start()

    def _adopt(self, peer: socket.socket) -> None:
        peer.settimeout(None)
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", SEND_TIMEOUT_S, 0))
        self._peer = peer

    def _run(self) -> None:
        """Receive from one peer after the other."""
        while not self._closed:
            peer = self._peer
            if peer is None:
                if self._listener is None:
                    return
                try:
                    peer = self._listener.accept()[0]
                    self._adopt(peer)
                except OSError:
                    return
            try:
                while data := peer.recv(4096):
                    self.feed(data)
            except OSError:
                pass
            self._hang_up(peer)

    def _hang_up(self, peer: socket.socket) -> None:
        self._peer = None
        with contextlib.suppress(OSError):
            peer.shutdown(socket.SHUT_RDWR)
        peer.close()

    def write(self, data: bytes) -> None:
        peer = self._peer
        if peer is None:
            return
        try:
            peer.sendall(data)
        except OSError:
            with contextlib.suppress(OSError):
                peer.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        super().close()
        for end in (self._listener, self._peer):
            if end is not None:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
                end.close()
        self._listener = self._peer = None


def _open_file(path: str) -> StreamBackend:
    if not path:
        raise BackendError("file: no path given; write file:PATH")
    try:
        output = open(path, "wb", buffering=0)  # noqa: SIM115 - the backend closes it
    except OSError as e:
        raise BackendError(f"{path}: can't write: {e.strerror}") from None
    return StreamBackend(output, name=path)


def _open_stdio() -> StreamBackend:
    try:
        fd: int | None = sys.stdin.fileno()
    except (AttributeError, OSError, ValueError):
        fd = None
    return StreamBackend(sys.stdout.buffer, fd, name="stdio")


def _open_tcp(spec: str) -> TcpBackend:
    address, *options = spec.split(",")
    host, colon, port = address.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise BackendError(f"tcp:{spec}: write tcp:HOST:PORT[,server][,nowait] with a port from 0 to 65535")
    server, wait = False, True
    for option in options:
        if option in ("server", "server=on"):
            server = True
        elif option in ("nowait", "wait=off"):
            wait = False
        elif option not in ("server=off", "wait", "wait=on"):
            raise BackendError(f"tcp:{spec}: unknown option '{option}'; known: server, nowait")
    return TcpBackend(host.strip("[]"), int(port), server=server, wait=wait)


def open_chardev(spec: str) -> CharBackend:
    """The backend that a --serial or --debugcon value names; `BackendError` when that can't be."""
    kind, colon, rest = spec.partition(":")
    if kind == "file" and colon:
        return _open_file(rest)
    if kind == "tcp" and colon:
        return _open_tcp(rest)
    if spec == "null":
        return QueuedBackend()
    if spec == "memory":
        return MemoryBackend()
    if spec == "stdio":
        return _open_stdio()
    if spec == "pty":
        backend = PtyBackend()
        print(f"char device redirected to {backend.path}", file=sys.stderr, flush=True)
        return backend
    raise BackendError(f"unknown character device '{spec}'; known: null, stdio, file:PATH, pty, memory, tcp:HOST:PORT")
