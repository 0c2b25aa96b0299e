"""Character backends: the queue, the kinds, and their errors."""

from __future__ import annotations

import io
import os
import socket
import threading
from pathlib import Path

import pytest

from jitvm.backends.chardev import (
    QUEUE_LIMIT,
    MemoryBackend,
    PtyBackend,
    QueuedBackend,
    StreamBackend,
    TcpBackend,
    open_chardev,
)
from jitvm.errors import BackendError


class Sink:
    """A receiver with limited room, and an event for each wake."""

    def __init__(self, backend: QueuedBackend, room: int = 1 << 20) -> None:
        self.data, self.room, self.woken = bytearray(), room, threading.Event()
        backend.wake = self.woken.set
        backend.connect(self.take)

    def take(self, data: bytes) -> int:
        n = min(len(data), self.room)
        self.data += data[:n]
        self.room -= n
        return n

    def wait(self, backend: QueuedBackend, n: int) -> bytes:
        """Pump until n bytes have come."""
        while len(self.data) < n:
            assert self.woken.wait(10), "no input"
            self.woken.clear()
            backend.pump()
        return bytes(self.data)


def test_queue_hands_over_what_the_device_takes() -> None:
    backend = MemoryBackend()
    backend.feed(b"before anybody listens ")
    assert backend.pump() == 0
    sink = Sink(backend, room=3)
    backend.feed(b"and after")
    assert sink.woken.is_set()
    assert backend.pump() == 3
    assert backend.pump() == 0
    sink.room = 1000
    assert backend.pump() == len("before anybody listens and after") - 3
    assert bytes(sink.data) == b"before anybody listens and after"


def test_a_full_queue_holds_up_the_feeder_not_the_machine() -> None:
    backend = MemoryBackend()
    sink = Sink(backend)
    done = threading.Event()

    def feeder() -> None:
        for _ in range(5):
            backend.feed(bytes(QUEUE_LIMIT))
        done.set()

    threading.Thread(target=feeder, daemon=True).start()
    sink.wait(backend, 5 * QUEUE_LIMIT)
    assert done.wait(10)


def test_close_frees_a_waiting_feeder() -> None:
    backend = MemoryBackend()
    backend.feed(bytes(QUEUE_LIMIT))
    thread = threading.Thread(target=backend.feed, args=(b"x",), daemon=True)
    thread.start()
    backend.close()
    thread.join(10)
    assert not thread.is_alive()


def test_stream_reads_a_descriptor_and_filters() -> None:
    readable, writable = os.pipe()
    output = io.BytesIO()
    backend = StreamBackend(output, readable, on_input=lambda data: data.replace(b"\x01x", b""))
    sink = Sink(backend)
    os.write(writable, b"ab\x01xcd")
    assert sink.wait(backend, 4) == b"abcd"
    backend.write(b"out")
    assert output.getvalue() == b"out"
    os.close(writable)
    backend.close()
    os.close(readable)


def test_stream_that_breaks_is_one_line() -> None:
    readable, writable = os.pipe()
    backend = StreamBackend(os.fdopen(writable, "wb", buffering=0), name="stdio")
    os.close(readable)
    with pytest.raises(BackendError, match=r"^stdio: can't write: Broken pipe$"):
        backend.write(b"x")


def test_file(tmp_path: Path) -> None:
    path = tmp_path / "log:1"
    backend = open_chardev(f"file:{path}")
    backend.write(b"one ")
    backend.write(b"two")
    assert path.read_bytes() == b"one two", "nothing is held back"
    backend.close()


def test_pty_both_ways() -> None:
    backend = PtyBackend()
    sink = Sink(backend)
    slave = os.open(backend.path, os.O_RDWR | os.O_NOCTTY)
    backend.write(b"login: ")
    assert os.read(slave, 100) == b"login: "
    os.write(slave, b"root\n")
    assert sink.wait(backend, 5) == b"root\n"
    os.close(slave)
    for _ in range(100):
        backend.write(bytes(4096))
    backend.close()


def test_pty_prints_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    backend = open_chardev("pty")
    assert "/dev/pts/" in capsys.readouterr().err
    backend.close()


def test_tcp_server_takes_one_peer_after_the_other() -> None:
    backend = TcpBackend("127.0.0.1", 0, server=True, wait=False)
    sink = Sink(backend)
    backend.write(b"to nobody")
    for n, text in enumerate((b"first", b"again"), 1):
        with socket.create_connection(("127.0.0.1", backend.port)) as peer:
            peer.sendall(text)
            sink.wait(backend, 5 * n)
            backend.write(text.upper())
            assert peer.recv(100) == text.upper()
    assert bytes(sink.data) == b"firstagain"
    backend.close()


def test_tcp_client() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        backend = open_chardev(f"tcp:127.0.0.1:{listener.getsockname()[1]}")
        peer = listener.accept()[0]
        assert isinstance(backend, QueuedBackend)
        sink = Sink(backend)
        backend.write(b"ping")
        assert peer.recv(100) == b"ping"
        peer.sendall(b"pong")
        assert sink.wait(backend, 4) == b"pong"
        peer.close()
        backend.write(b"gone")
        backend.write(b"gone")
        backend.close()


def test_null_and_memory() -> None:
    null = open_chardev("null")
    null.write(b"x")
    null.close()
    memory = open_chardev("memory")
    memory.write(b"x")
    assert isinstance(memory, MemoryBackend)
    assert bytes(memory.output) == b"x"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("telnet", "unknown character device 'telnet'"),
        ("file:", "no path given"),
        ("file:/nonexistent/log", "No such file or directory"),
        ("tcp:localhost", "write tcp:HOST:PORT"),
        ("tcp:localhost:99999", "write tcp:HOST:PORT"),
        ("tcp:localhost:1,telnet", "unknown option 'telnet'"),
        ("tcp:127.0.0.1:1", "can't connect: Connection refused"),
        ("null:x", "unknown character device"),
    ],
)
def test_errors_are_one_line(spec: str, message: str) -> None:
    with pytest.raises(BackendError) as caught:
        open_chardev(spec)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
