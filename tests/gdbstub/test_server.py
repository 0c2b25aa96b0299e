"""The server over real sockets, pipes and files."""

from __future__ import annotations

import os
import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from gdbstub import OnDisconnect, ServerError, Session
from gdbstub import server as server_module
from gdbstub.framing import Decoder, Packet, frame
from gdbstub.server import (
    Server,
    StdioAddress,
    TcpAddress,
    UnixAddress,
    check_address,
    parse_address,
    without_given_up,
)
from gdbstub.stop import Exited
from gdbstub.target import Continue, Plan
from tests.fast_set import share
from tests.gdbstub.threaded_target import ThreadedTarget

TIMEOUT = 10.0


class Debugger:
    """A client with a socket."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self.socket.settimeout(TIMEOUT)
        self.decoder = Decoder(1 << 20, replies=True)

    def read(self) -> str:
        """The next packet; empty at the end of file."""
        while True:
            for event in self.decoder.events():
                if isinstance(event, Packet):
                    return event.payload.decode("latin-1")
            data = self.socket.recv(1 << 16)
            if not data:
                return ""
            self.decoder.feed(data)

    def send(self, packet: str) -> None:
        self.socket.sendall(b"+" + frame(packet.encode()))

    def ask(self, packet: str) -> str:
        self.send(packet)
        return self.read()


@pytest.fixture
def target() -> Iterator[ThreadedTarget]:
    made = ThreadedTarget()
    yield made
    made.close()


@pytest.fixture
def serve(target: ThreadedTarget) -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []
    bugs: list[str] = []

    def start(address: str = ":0", *, running: bool = False, policy: OnDisconnect = OnDisconnect.RUN) -> Server:
        session = Session(target, running=running, on_disconnect=policy, log=bugs.append)
        if running:
            target.resume({thread: Continue() for thread in target.cpu})
        server = Server(session, address)
        server.open()
        server.start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.close()
        assert server.join(TIMEOUT)
    assert bugs == []


@contextmanager
def connected(server: Server) -> Iterator[Debugger]:
    if isinstance(server.address, UnixAddress):
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(server.address.path)
    else:
        assert isinstance(server.address, TcpAddress)
        connection = socket.create_connection((server.address.host, server.address.port), TIMEOUT)
    with closing(connection):
        yield Debugger(connection)


def until(condition: Callable[[], object]) -> None:
    """Wait for something that another thread does."""
    end = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        (":1234", TcpAddress("", 1234)),
        ("localhost:1", TcpAddress("localhost", 1)),
        ("tcp::1234", TcpAddress("", 1234)),
        ("[::1]:99", TcpAddress("::1", 99)),
        ("0.0.0.0:0", TcpAddress("0.0.0.0", 0)),
        ("unix:/tmp/x:y", UnixAddress("/tmp/x:y")),
        ("-", StdioAddress()),
    ],
)
def test_addresses(text: str, address: object) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize("text", ["", "1234", ":", "host:", ":x", ":-1", ":65536", "unix:", ":\uff11"])
def test_bad_addresses_are_one_line(text: str) -> None:
    with pytest.raises(ServerError, match=r"^gdb: .+$"):
        parse_address(text)


@pytest.mark.parametrize(
    ("text", "warns"),
    [
        *((":0", False), ("localhost:0", False), ("127.0.0.1:0", False), ("127.9.9.9:0", False), ("[::1]:0", False)),
        *(
            ("0.0.0.0:0", True),
            ("192.0.2.1:1", True),
            ("127.example.org:1", True),
            ("[::]:1", True),
            ("unix:/x", False),
        ),
    ],
)
def test_warning(text: str, warns: bool, target: ThreadedTarget) -> None:
    server = Server(Session(target), text)
    assert bool(server.warning) == warns
    server.close()


def test_a_free_port_is_told(target: ThreadedTarget) -> None:
    server = Server(Session(target), ":0")
    host, _, port = server.open().rpartition(":")
    assert host == "localhost" and int(port) > 0
    server.close()


def test_a_busy_port_is_one_line(serve: Callable[..., Server], target: ThreadedTarget) -> None:
    first = serve()
    assert isinstance(first.address, TcpAddress)
    second = Server(Session(target), f":{first.address.port}")
    with pytest.raises(ServerError, match=r"^gdb: can't listen on .*: Address already in use$"):
        second.open()
    second.close()
    with pytest.raises(ServerError, match=r"^gdb: can't listen on"):
        Server(Session(target), "no.such.host.invalid:1").open()


@pytest.mark.parametrize("taken", [":0", "unix:taken"])
def test_whether_an_address_could_be_taken(
    taken: str, serve: Callable[..., Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked for, it is still free, or still the one's who has it."""
    monkeypatch.chdir(tmp_path)
    for free in (":0", "-", "unix:free"):
        check_address(free)
    assert list(tmp_path.iterdir()) == []
    server = serve(taken)
    with pytest.raises(ServerError, match=r"^gdb: can't listen on .*: Address already in use$"):
        check_address(str(server.address) if taken == ":0" else taken)
    with connected(server) as gdb:
        assert gdb.ask("qAttached") == "1"
    with pytest.raises(ServerError, match="is no address"):
        check_address("nowhere")


def test_attach_run_and_ctrl_c(serve: Callable[..., Server], target: ThreadedTarget) -> None:
    server = serve(running=True)
    with connected(server) as gdb:
        assert gdb.ask("?").startswith("T05")
        gdb.send("vCont;c")
        until(lambda: target.running)
        start = time.monotonic()
        gdb.socket.sendall(b"\x03")
        assert gdb.read().startswith("T02")
        assert time.monotonic() - start < 1


def test_a_bare_connect_stops_nothing(serve: Callable[..., Server], target: ThreadedTarget) -> None:
    server = serve(running=True)
    with connected(server) as first, connected(server) as second:
        assert second.ask("qAttached") == "1"
        assert first.read() == ""
    until(lambda: target.running)
    assert target.n_interrupts == 1


def test_a_second_client_is_sent_away(serve: Callable[..., Server]) -> None:
    server = serve()
    with connected(server) as first:
        assert first.ask("qAttached") == "1"
        with connected(server) as second:
            second.send("qAttached")
            assert second.read() == ""
        assert first.ask("qC") == "QC1"


def test_a_killed_debugger_makes_room_at_once(serve: Callable[..., Server], target: ThreadedTarget) -> None:
    server = serve(running=True)
    for n in range(10):
        with connected(server) as gdb:
            assert gdb.ask("Z0,9000,1") == "OK"
            gdb.send("vCont;c")
            if n % 3 == 0:
                gdb.socket.sendall(b"$m1000,")
    with connected(server) as gdb:
        assert gdb.ask("?").startswith("T05")
        assert target.points == set()


def test_who_comes_after_a_killed_debugger_waits_for_a_guest_that_is_slow_to_stop(
    serve: Callable[..., Server], target: ThreadedTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first one's end lies behind packets that wait for the stop."""
    waits = []
    hung_up = server_module._Wire.hung_up

    def counted(wire: server_module._Wire) -> bool:
        waits.append(hung_up(wire))
        return waits[-1]

    monkeypatch.setattr(server_module, "GRACE", 0.01)
    monkeypatch.setattr(server_module._Wire, "hung_up", counted)
    target.busy = True
    server = serve(running=True)
    with connected(server) as first:
        first.send("qAttached")
        until(lambda: target.n_interrupts)
    with connected(server) as second:
        second.send("qC")
        until(lambda: len(waits) > 3)
        target.busy = False
        assert second.read() == "QC1"
    assert all(waits)


def test_a_flood_that_is_not_read_fills_only_its_own_buffers(serve: Callable[..., Server]) -> None:
    server = serve()
    with connected(server) as gdb:
        gdb.socket.settimeout(0.3)
        flood = frame(b"g") * 1_000_000
        with pytest.raises(TimeoutError):
            gdb.socket.sendall(flood)
    with connected(server) as gdb:
        assert gdb.ask("qAttached") == "1"


def test_the_last_packet_is_delivered_before_close(serve: Callable[..., Server], target: ThreadedTarget) -> None:
    server = serve()
    with connected(server) as gdb:
        gdb.send("vCont;c")
        until(lambda: target.running)
        target.running = False
        target.listener.stopped(Exited(5))
        server.close()
        assert gdb.read() == "W05"
        assert gdb.read() == ""
    assert server.join(0)


def test_questions_after_the_end_are_answered_while_the_server_closes(
    target: ThreadedTarget, serve: Callable[..., Server]
) -> None:
    """gdb's extended-remote asks `?` when it has the W; a `c` may be under way when the machine ends."""
    server = serve()
    with connected(server) as gdb:
        gdb.send("vCont;c")
        until(lambda: target.running)
        target.stop(Exited(5))
        closer = threading.Thread(target=server.close)
        closer.start()
        assert [gdb.read(), gdb.ask("?"), gdb.ask("c"), gdb.ask("qfThreadInfo")] == ["W05", "W05", "W05", "l"]
    closer.join(TIMEOUT)
    assert not closer.is_alive()


def test_exit_policy_may_close_from_the_servers_own_thread(target: ThreadedTarget) -> None:
    session = Session(target, on_disconnect=OnDisconnect.EXIT)
    server = Server(session, ":0")
    target.kill = server.close  # type: ignore[method-assign]
    server.open()
    server.start()
    with connected(server) as gdb:
        assert gdb.ask("qAttached") == "1"
    assert server.join(TIMEOUT)


def test_stops_from_another_thread_are_all_delivered(serve: Callable[..., Server], target: ThreadedTarget) -> None:
    server = serve()
    with connected(server) as gdb:
        for _ in range(300):
            assert gdb.ask("vCont;s:1").startswith("T05")
        assert target.n_resumes == 300


def test_stops_that_come_before_resume_returns_are_all_delivered(
    serve: Callable[..., Server], target: ThreadedTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A target may run the guest on the server's thread: nobody is to be woken, and a client that goes meanwhile, with a
    breakpoint set, leaves the next one a guest that stands."""

    def at_once(plan: Plan) -> None:
        target.begin(plan)
        while target.running:
            target.advance()

    monkeypatch.setattr(target, "resume", at_once)
    server = serve(policy=OnDisconnect.STOP)
    for n in range(20):
        with connected(server) as gdb:
            assert gdb.ask("Z0,1003,1") == "OK"
            for _ in range(10):
                assert gdb.ask("vCont;s:1").startswith("T05")
            gdb.send("vCont;c:1")
            if n % 2:
                assert gdb.read().startswith("T05")
    assert target.n_resumes == 20 * 11 and not target.running


def test_ctrl_c_against_breakpoints(serve: Callable[..., Server], target: ThreadedTarget) -> None:
    """Whichever comes first is told, once; the late Ctrl-C is forgotten, also after the next resume."""
    server = serve()
    with connected(server) as gdb:
        assert gdb.ask("Z0,1003,1") == "OK"
        told = set()
        for n in range(200):
            gdb.send("vCont;c:1")
            if n % 3:
                gdb.socket.sendall(b"\x03")
            told.add(gdb.read()[:3])
            assert gdb.ask("qAttached") == "1"
        assert told <= {"T05", "T02"} and "T05" in told
        assert target.n_resumes == 200


@pytest.mark.parametrize("n", share([5, 25], 1))
def test_disconnects_anywhere_leave_the_next_client_in_order(
    serve: Callable[..., Server], target: ThreadedTarget, n: int
) -> None:
    rng = random.Random(5)
    server = serve(running=True)
    stream = (
        b"+" + b"".join(map(frame, (b"?", b"Z0,9000,1", b"X4000,3:abc", b"vCont;c", b"g"))) + b"\x03" + frame(b"D;1")
    )
    for _ in range(n):
        with connected(server) as gdb:
            gdb.socket.sendall(stream[: rng.randrange(len(stream))])
            if rng.random() < 0.5:
                gdb.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    with connected(server) as gdb:
        assert gdb.ask("?").startswith("T05")
        assert target.points == set()
    until(lambda: target.running)


def test_unix_socket(serve: Callable[..., Server], tmp_path: Path) -> None:
    path = tmp_path / "gdb.sock"
    server = serve(f"unix:{path}")
    assert path.stat().st_mode & 0o777 == 0o600
    with connected(server) as gdb:
        assert gdb.ask("qAttached") == "1"
    server.close()
    assert server.join(TIMEOUT) and not path.exists()


def test_unix_socket_left_behind_is_replaced_and_a_file_is_not(
    serve: Callable[..., Server], target: ThreadedTarget, tmp_path: Path
) -> None:
    path = tmp_path / "gdb.sock"
    with closing(socket.socket(socket.AF_UNIX)) as old:
        old.bind(str(path))
    server = serve(f"unix:{path}")
    with connected(server) as gdb:
        assert gdb.ask("qAttached") == "1"
    with pytest.raises(ServerError, match="in use"):
        Server(Session(target), f"unix:{path}").open()
    precious = tmp_path / "precious"
    precious.write_text("data")
    with pytest.raises(ServerError, match="in use"):
        Server(Session(target), f"unix:{precious}").open()
    assert precious.read_text() == "data"
    with pytest.raises(ServerError, match="No such file"):
        Server(Session(target), f"unix:{tmp_path}/none/x").open()


def two_replies(descriptor: int) -> list[bytes]:
    """What two packets were answered."""
    decoder = Decoder(1 << 20, replies=True)
    replies: list[bytes] = []
    while len(replies) < 2:
        decoder.feed(os.read(descriptor, 4096))
        replies += [event.payload for event in decoder.events() if isinstance(event, Packet)]
    return replies


def test_stdio(target: ThreadedTarget) -> None:
    (their_in, our_out), (our_in, their_out) = os.pipe(), os.pipe()
    server = Server(Session(target), "-", stdin=our_in, stdout=our_out)
    assert server.open() == "standard input and output"
    server.start()
    os.write(their_out, b"+" + frame(b"qAttached") + frame(b"g"))
    replies = two_replies(their_in)
    assert replies[0] == b"1" and len(replies[1]) > 1000
    os.close(their_out)
    assert server.join(TIMEOUT)
    assert target.running
    for descriptor in (their_in, our_in, our_out):
        os.close(descriptor)


SUPPORTED, EMPTY, WHY = frame(b"qSupported:multiprocess+"), frame(b"vMustReplyEmpty"), frame(b"?")


@pytest.mark.parametrize(
    ("sent", "answered"),
    [
        (b"+" + 4 * SUPPORTED, SUPPORTED),
        (b"+" + 4 * SUPPORTED + b"--" + 2 * EMPTY, EMPTY),
        (b"+" + SUPPORTED + b"-" + EMPTY + EMPTY[:4], EMPTY + EMPTY[:4]),
        (b"+" + SUPPORTED + EMPTY + WHY, b"+" + SUPPORTED + EMPTY + WHY),
        (b"+" + SUPPORTED, b"+" + SUPPORTED),
        (b"+" + SUPPORTED[:9], b"+" + SUPPORTED[:9]),
        (b"", b""),
    ],
)
def test_what_a_debugger_gave_up_before_the_server_was_there_is_not_answered(sent: bytes, answered: bytes) -> None:
    assert without_given_up(sent) == answered


def test_stdio_of_a_program_that_starts_slowly(target: ThreadedTarget) -> None:
    """gdb is in step again: its reply is that of the packet it waits for now."""
    (their_in, our_out), (our_in, their_out) = os.pipe(), os.pipe()
    os.write(their_out, b"+" + 4 * SUPPORTED + b"-" + 2 * EMPTY)
    server = Server(Session(target), "-", stdin=our_in, stdout=our_out)
    server.open()
    server.start()
    os.write(their_out, frame(b"qAttached"))
    assert two_replies(their_in) == [b"", b"1"]
    os.close(their_out)
    assert server.join(TIMEOUT)
    for descriptor in (their_in, our_in, our_out):
        os.close(descriptor)


def test_a_process_ends_although_its_server_was_never_closed() -> None:
    code = (
        "from gdbstub import Session; from gdbstub.server import Server; "
        "from tests.gdbstub.fake_target import FakeTarget; "
        "s = Server(Session(FakeTarget()), ':0'); s.open(); s.start(); print('done')"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=30, check=True
    )
    assert (done.stdout, done.stderr) == ("done\n", "")
