"""Debuggers come and go: attaching, detaching, being killed, and what becomes of the guest."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from gdbstub import GdbStubError, OnDisconnect, Session
from gdbstub.framing import frame
from gdbstub.session import State
from gdbstub.stop import BreakpointKind, Exited, Interrupted
from tests.gdbstub.client import Client
from tests.gdbstub.fake_target import CODE, FakeTarget, MandatoryTarget

Make = Callable[..., Session]


def test_a_bare_connect_is_no_attach(target: FakeTarget, make: Make) -> None:
    session = make(target, running=True)
    session.connect()
    session.feed(b"+\x00garbage-")
    assert list(session.pump()) == []
    assert (session.attached, target.n_interrupts) == (False, 0)
    session.disconnect()
    assert target.running and target.n_resumes == 0


def test_the_first_packet_stops_a_running_guest(target: FakeTarget, make: Make) -> None:
    client = Client(make(target, running=True), no_ack=False)
    assert client.ask("qSupported:xmlRegisters=i386").startswith("PacketSize")
    assert (target.n_interrupts, target.running) == (1, False)
    assert client.ask("?").startswith("T05thread:1")


def test_a_guest_that_stands_still_is_not_interrupted(target: FakeTarget, make: Make) -> None:
    client = Client(make(target))
    assert client.ask("?").startswith("T05")
    assert target.n_interrupts == 0


def test_packets_wait_until_the_guest_has_stopped(target: FakeTarget, make: Make) -> None:
    target.interrupt = lambda: None  # type: ignore[method-assign]  # one that does not stop
    session = make(target, running=True)
    session.connect()
    assert session.wants_input
    session.feed(frame(b"?") + frame(b"qAttached"))
    assert list(session.pump()) == [b"+"]
    assert session.state is State.HALTING and not session.wants_input
    target.stop(Interrupted(2))
    replies = list(session.pump())
    assert replies[0].startswith(b"$T05thread:2") and replies[1].startswith(b"+$1#")
    assert session.wants_input


@pytest.mark.parametrize(
    ("policy", "runs", "kills"),
    [(OnDisconnect.RUN, True, 0), (OnDisconnect.STOP, False, 0), (OnDisconnect.EXIT, False, 1)],
)
@pytest.mark.parametrize(
    "how", ["detach", "detach pid", "gone", "gone while running", "gone with breakpoints", "gone in a packet"]
)
def test_policies(target: FakeTarget, make: Make, policy: OnDisconnect, runs: bool, kills: int, how: str) -> None:
    session = make(target, running=True, policy=policy)
    client = Client(session)
    if "breakpoints" in how:
        assert client.ask("Z0,5000,1") == client.ask("Z2,5000,4") == "OK"
    if "running" in how or "breakpoints" in how:
        assert client.send("vCont;c") == []
    if "detach" in how:
        assert client.ask("D;1" if "pid" in how else "D") == "OK"
    if "packet" in how:
        client.wire(b"$m1000,")
    session.disconnect()
    assert list(session.pump()) == []
    assert (target.running, target.n_kills) == (runs, kills)
    assert kills or not (session.points or target.points)


def test_a_client_gone_without_breakpoints_does_not_disturb_the_guest(target: FakeTarget, make: Make) -> None:
    session = make(target)
    Client(session).send("c")
    session.disconnect()
    assert list(session.pump()) == []
    assert (target.n_interrupts, target.n_resumes, target.running) == (0, 1, True)


@pytest.mark.parametrize("running", [False, True])
def test_settings_end_with_their_client(target: FakeTarget, make: Make, running: bool) -> None:
    client = Client(make(target))
    client.ask("Qqemu.PhyMemMode:1")
    client.ask("Qqemu.sstep=1")
    if running:
        client.send("c")
    client.session.disconnect()
    assert list(client.session.pump()) == []
    assert (target.is_physical, target.flags, target.running) == (False, 7, True)


@pytest.mark.parametrize("running", [False, True])
@pytest.mark.parametrize("asked", [False, True])
def test_what_monitor_commands_have_set_ends_with_their_client(
    target: FakeTarget, make: Make, running: bool, asked: bool
) -> None:
    """The target is asked to undo it while the guest stands; who gave no command leaves a running guest alone."""
    client = Client(make(target))
    if asked:
        client.send("qRcmd,68656c70")
    if running:
        client.send("c")
    client.session.disconnect()
    assert list(client.session.pump()) == []
    assert (target.n_left, target.n_interrupts, target.running) == (int(asked), int(asked and running), True)


def test_the_end_while_a_client_is_being_cleaned_up(target: FakeTarget, make: Make) -> None:
    client = Client(make(target))
    client.ask("Z0,5000,1")
    client.send("c")
    target.interrupt = lambda: None  # type: ignore[method-assign]  # one that does not stop
    client.session.disconnect()
    target.stop(Exited(2))
    assert list(client.session.pump()) == []
    client = Client(client.session)
    assert client.ask("?") == "W02"
    assert client.ask("vRun;").startswith("T05")
    assert not target.points
    assert client.ask("s").startswith("T05")


def test_the_exit_policy_needs_a_target_that_can_end(make: Make) -> None:
    with pytest.raises(GdbStubError, match="use run or stop"):
        make(MandatoryTarget(), policy=OnDisconnect.EXIT)


def test_many_clients_one_after_the_other(target: FakeTarget, make: Make) -> None:
    session = make(target, running=True)
    for n in range(20):
        client = Client(session, "multiprocess+")
        assert client.ask("?").startswith("T05thread:p1.")
        assert client.ask("Z0,1003,1") == "OK"
        assert "swbreak" not in client.ask("vCont;c:1")
        if n % 2:
            assert client.ask("D;1") == "OK"
        session.disconnect()
        list(session.pump())
        assert target.running and not target.points


def test_a_client_that_comes_while_the_last_one_is_being_cleaned_up(target: FakeTarget, make: Make) -> None:
    session = make(target)
    client = Client(session)
    client.ask("Z0,5000,1")
    client.send("c")
    real, target.interrupt = target.interrupt, lambda: None  # type: ignore[method-assign]  # one that does not stop
    session.disconnect()
    session.connect()
    session.feed(frame(b"qAttached"))
    assert list(session.pump()) == []
    target.interrupt = real  # type: ignore[method-assign]  # put back
    target.stop(Interrupted(1))
    assert list(session.pump()) == [b"+", b"$1#31"]
    assert target.points == set()
    assert not target.running


def test_after_detach_the_guest_is_left_alone_until_attach(target: FakeTarget, make: Make) -> None:
    client = Client(make(target, running=True))
    assert client.ask("D") == client.ask("D") == "OK"
    assert target.running
    assert client.ask("?") == "W00"
    assert client.ask("g") == client.ask("c") == "E.detached from the guest"
    assert client.send("k") == []
    assert target.running and target.n_kills == 0
    assert client.ask("vAttach;1").startswith("T05")
    assert not target.running
    assert client.ask("s").startswith("T05")


def test_the_end_with_nobody_there(target: FakeTarget, make: Make) -> None:
    session = make(target, running=True)
    target.stop(Exited(3))
    assert list(session.pump()) == []
    assert Client(session).ask("?") == "W03"


def test_breakpoints_of_a_client_that_left_after_the_end_do_not_come_back(target: FakeTarget, make: Make) -> None:
    client = Client(make(target))
    client.ask("Z0,1003,1")
    client.ask("Z0,5000,1")
    target.listener.stopped(Exited(0))
    client.session.disconnect()
    client = Client(client.session)
    assert client.ask("vRun;").startswith("T05")
    assert not (target.points or client.session.points)


def test_a_stop_that_nobody_waits_for_lets_the_guest_go_on(target: FakeTarget, make: Make) -> None:
    session = make(target, running=True)
    target.stop(Interrupted(1))
    list(session.pump())
    assert target.running


def test_a_guest_that_can_not_go_on_waits_for_the_next_client(target: FakeTarget, make: Make, bugs: list[str]) -> None:
    target.ram[CODE] = 0x06
    session = make(target)
    Client(session).ask("qAttached")
    session.disconnect()
    assert list(session.pump()) == []
    assert not target.running and target.n_resumes == 1
    assert "undefined instruction 06" in bugs.pop()
    assert Client(session).ask("?").startswith("T04")


def test_a_target_that_refuses_to_let_go_is_told_of(target: FakeTarget, make: Make, bugs: list[str]) -> None:
    def refuse(kind: BreakpointKind, address: int, size: int) -> None:
        raise OSError("no")

    session = make(target)
    Client(session).ask("Z0,5000,1")
    target.remove_breakpoint = refuse  # type: ignore[method-assign]  # one that fails
    session.disconnect()
    assert len(bugs) == 1 and "OSError: no" in bugs.pop()
    assert target.running and session.points == set()
