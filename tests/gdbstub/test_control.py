"""Running and stopping: vCont and its older kin, stop replies, Ctrl-C, the guest's end, start and kill, reverse."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from gdbstub import Session
from gdbstub.session import State
from gdbstub.stop import (
    BreakpointHit,
    BreakpointKind,
    Exited,
    Interrupted,
    Signal,
    Signalled,
    Stepped,
    WatchKind,
    WatchpointHit,
)
from gdbstub.target import Continue, RangeStep, Step
from gdbstub.x86 import LAYOUTS
from tests.gdbstub.client import Client
from tests.gdbstub.fake_target import CODE, DATA, FakeTarget, MandatoryTarget

ENDS = bytes.fromhex("ffc0 e600")
"""inc eax; out: the guest ends with 1."""


def fields(reply: str) -> dict[str, str]:
    """A T packet as signal and words."""
    assert reply[0] == "T", reply
    pairs = [item.partition(":") for item in reply[3:].rstrip(";").split(";")]
    return {"signal": reply[1:3]} | {key: value for key, _, value in pairs}


def test_question_mark_has_the_registers_that_gdb_shows(client: Client) -> None:
    reply = fields(client.ask("?"))
    numbers = LAYOUTS["x86-64"].numbers
    assert reply["signal"] == "05"
    assert reply["thread"] == "p1.1"
    assert reply["core"] == "0"
    assert reply[f"{numbers['rip']:02x}"] == "0010000000000000"
    assert {f"{numbers[name]:02x}" for name in ("rsp", "rbp", "eflags", "cs")} <= set(reply)


def test_a_bare_target_tells_less(make: Callable[..., Session]) -> None:
    reply = fields(Client(make(MandatoryTarget())).ask("?"))
    assert reply["thread"] == "1"
    assert "core" not in reply
    assert reply["10"] == "0010000000000000"


def test_step(client: Client, target: FakeTarget) -> None:
    assert fields(client.ask("vCont;s:p1.2;c:p1.-1"))["thread"] == "p1.2"
    assert target.plan == {1: Continue(), 2: Step()}
    assert client.ask("qC") == "QCp1.2"
    assert fields(client.ask("vCont;s:p1.1"))["thread"] == "p1.1"
    assert target.cpu[2].values["rip"] == CODE + 2


@pytest.mark.parametrize(
    ("packet", "plan"),
    [
        ("vCont;c", {1: Continue(), 2: Continue()}),
        ("vCont;s:p1.2", {2: Step()}),
        ("vCont;s:2;c", {1: Continue(), 2: Step()}),
        ("vCont;t:1;c", {2: Continue()}),
        ("vCont;c:p1.1;s:p1.-1;t", {1: Continue(), 2: Step()}),
        ("vCont;c:1;s:1", {1: Continue()}),
        ("vCont;S05:p1", {1: Step(5), 2: Step(5)}),
        ("vCont;C0b:p-1.-1", {1: Continue(11), 2: Continue(11)}),
        ("vCont;r1000,1003:p1.1", {1: RangeStep(0x1000, 0x1003)}),
        ("vCont;c:0", {1: Continue()}),
        ("c", {1: Continue(), 2: Continue()}),
        ("s", {1: Step(), 2: Continue()}),
        ("C05", {1: Continue(5), 2: Continue()}),
        ("S1f;1002", {1: Step(0x1F), 2: Continue()}),
    ],
)
def test_plans(client: Client, target: FakeTarget, packet: str, plan: object) -> None:
    client.send(packet)
    assert target.plan == plan


def test_Hc_lets_one_thread_move(client: Client, target: FakeTarget) -> None:
    client.ask("Hcp1.2")
    client.send("s")
    assert target.plan == {2: Step()}
    client.ask("Hc-1")
    client.send("s")
    assert target.plan == {1: Continue(), 2: Step()}


def test_going_on_at_an_address(client: Client, target: FakeTarget) -> None:
    client.ask("s1006")
    assert target.cpu[1].values["rip"] == CODE
    client.ask("S05;1003")
    assert target.cpu[1].values["rip"] == CODE + 5


@pytest.mark.parametrize(
    "packet",
    "vCont vCont; vCont;x vCont;c: vCont;c:p2.1 vCont;s:7 vCont;C vCont;C100 vCont;r1:1 C S5;x cfffffffffffffffff".split(),
)
def test_refusals_leave_the_guest_alone(client: Client, target: FakeTarget, packet: str) -> None:
    assert client.ask(packet).startswith("E.")
    assert target.n_resumes == 0
    assert fields(client.ask("?"))["signal"] == "05"


def test_an_address_too_wide_for_the_program_counter(make: Callable[..., Session]) -> None:
    client = Client(make(FakeTarget(LAYOUTS["i386"])))
    assert client.ask("c100000000") == "E.eip can't hold 0x100000000"


def test_only_t_moves_nothing(client: Client, target: FakeTarget) -> None:
    assert fields(client.ask("vCont;t"))["signal"] == "00"
    assert target.n_resumes == 0


def test_range_step_stops_outside(client: Client, target: FakeTarget) -> None:
    assert fields(client.ask("vCont;r1000,1003:p1.1"))["signal"] == "05"
    assert target.cpu[1].values["rip"] == CODE + 3
    client = Client(client.session)
    assert client.ask("vCont;r1000,1003:1")[:3] == "T05"


@pytest.mark.parametrize(("number", "word"), [(0, "swbreak"), (1, "hwbreak")])
def test_breakpoint(client: Client, target: FakeTarget, number: int, word: str) -> None:
    client.ask(f"Z{number},1003,1")
    for _ in range(3):
        reply = fields(client.ask("vCont;c:p1.1"))
        assert reply[word] == "" and reply["signal"] == "05"
        assert target.cpu[1].values["rip"] == CODE + 3


def test_breakpoint_words_go_only_to_who_knows_them(make: Callable[..., Session], target: FakeTarget) -> None:
    client = Client(make(target))
    client.ask("Z0,1003,1")
    assert set(fields(client.ask("vCont;c:1"))) == {"signal", "thread", "core", "06", "07", "10", "11", "12"}


@pytest.mark.parametrize(("number", "word"), [(2, "watch"), (4, "awatch")])
def test_watchpoint(client: Client, target: FakeTarget, number: int, word: str) -> None:
    client.ask(f"Z{number},3ff0,20")
    reply = fields(client.ask("vCont;c:p1.1"))
    assert reply[word] == "4000"
    assert target.cpu[1].values["rip"] == CODE + 5
    assert target.ram[DATA] == 1


def test_read_watchpoint(make: Callable[..., Session]) -> None:
    target = FakeTarget(program=bytes.fromhex("8a03 ebfc"))
    client = Client(make(target))
    client.ask("Z3,4000,1")
    assert fields(client.ask("vCont;c:1"))["rwatch"] == "4000"


def test_ctrl_c(client: Client, target: FakeTarget) -> None:
    assert client.send("vCont;c") == []
    assert target.running
    assert fields(client.wire(b"\x03")[0])["signal"] == "02"
    assert not target.running
    assert client.wire(b"\x03\x03") == []
    assert target.n_interrupts == 1
    client.send("c")
    client.session.feed(b"\x03\x03\x03")
    assert len(client.pump()) == 1


def test_vCtrlC(client: Client, target: FakeTarget) -> None:
    assert client.ask("vCtrlC") == "OK"
    client.send("c")
    assert client.send("vCtrlC")[0] == "OK"
    assert not target.running


def test_a_stop_that_comes_before_the_ctrl_c_is_told_once(client: Client, target: FakeTarget) -> None:
    client.send("c")
    target.stop(Stepped(1))
    client.session.feed(b"\x03")
    assert len(client.pump()) == 1
    assert target.n_interrupts == 0
    assert client.send("c") == []


def test_while_the_guest_runs_it_is_not_touched(client: Client, target: FakeTarget) -> None:
    client.send("c")
    for packet in ("g", "p0", "P0=0000000000000000", "M0,1:00", "c", "?", "Z0,1,1", "qRcmd,68656c70", "vRun;", "bs"):
        assert client.ask(packet).startswith("E"), packet
    assert client.ask("m0,1") == "E01"
    assert client.ask("qfThreadInfo") == "mp1.1,p1.2"
    assert client.ask("Hg1") == "OK"
    assert len(client.wire(b"\x03")) == 1


def test_a_message_is_shown_before_the_stop(client: Client, target: FakeTarget) -> None:
    client.send("c")
    target.stop(Signalled(2, Signal.SEGV, "page fault at 0x1234, error code 2"))
    text, stop = client.pump()
    assert bytes.fromhex(text[1:]) == b"page fault at 0x1234, error code 2\n"
    assert fields(stop)["signal"] == "0b"
    assert fields(stop)["thread"] == "p1.2"
    assert fields(client.ask("?"))["signal"] == "0b"


def test_after_a_stop_its_thread_is_chosen(client: Client, target: FakeTarget) -> None:
    client.ask("Hgp1.1")
    client.send("c")
    target.cpu[2].values["rax"] = 0x77
    target.stop(Interrupted(2))
    client.pump()
    assert client.ask("p0") == "7700000000000000"


@pytest.mark.parametrize(
    "stop",
    [BreakpointHit(1, BreakpointKind.HARDWARE), WatchpointHit(1, WatchKind.READ, 5), Signalled(1), Interrupted(1)],
)
def test_the_last_stop_can_be_asked_for_again(client: Client, target: FakeTarget, stop: Stepped) -> None:
    client.send("c")
    target.stop(stop)
    told = client.pump()
    assert client.send("?") == told


def test_the_end_of_the_guest(make: Callable[..., Session]) -> None:
    target = FakeTarget(program=ENDS, cpus=1)
    client = Client(make(target), "multiprocess+")
    text, end = client.send("vCont;c")
    assert bytes.fromhex(text[1:]) == b"the guest said goodbye\n"
    assert end == "W01;process:1"
    for packet in ("?", "c", "vCont;s"):
        assert client.ask(packet) == "W01;process:1"
    assert client.ask("g") == "E.the guest has ended"
    client = Client(client.session)
    assert client.ask("?") == "W01"


def test_a_wide_exit_code(client: Client, target: FakeTarget) -> None:
    client.send("c")
    target.stop(Exited(0x1FE))
    assert client.pump() == ["W1fe;process:1"]


def test_the_end_while_stopped_is_told_at_the_next_resume(client: Client) -> None:
    assert client.send("qRcmd," + b"quit".hex())[-1] == "OK"
    assert client.session.state is State.EXITED
    assert client.ask("c") == "W07;process:1"


def test_restart_keeps_breakpoints(client: Client, target: FakeTarget) -> None:
    client.ask("Z0,1003,1")
    client.ask("vCont;c:1")
    assert client.ask("!") == "OK"
    assert fields(client.ask("vRun;"))["10"] == "0010000000000000"
    assert len(target.points) == 1
    assert fields(client.ask("vCont;c:1"))["swbreak"] == ""
    assert client.send("R00") == []
    assert target.cpu[1].values["rip"] == CODE


def test_restart_after_the_end(make: Callable[..., Session]) -> None:
    client = Client(make(FakeTarget(program=ENDS, cpus=1)))
    client.send("c")
    assert client.ask("vRun;").startswith("T05")
    assert client.ask("s").startswith("T05")


@pytest.mark.parametrize("packet", ["k", "vKill;1"])
def test_kill(client: Client, target: FakeTarget, packet: str) -> None:
    assert client.send(packet) == (["OK"] if packet != "k" else [])
    assert target.n_kills == 1
    assert client.ask("?") == "W00;process:1"


def test_kill_of_a_running_guest(client: Client, target: FakeTarget) -> None:
    client.send("c")
    client.send("k")
    assert target.n_kills == 1


def test_kill_in_extended_mode_holds_the_guest_until_it_is_run_again(client: Client, target: FakeTarget) -> None:
    client.ask("!")
    client.send("c")
    assert client.ask("vKill;1") == "OK"
    assert (target.n_kills, target.running) == (0, False)
    assert client.ask("?") == "W00"
    assert client.ask("g") == "E.the guest was killed; run it again"
    assert client.ask("vRun;").startswith("T05")
    assert client.ask("s").startswith("T05")
    client.send("k")
    client.session.disconnect()
    assert target.n_kills == 1


def test_vKill_of_another_process(client: Client, target: FakeTarget) -> None:
    assert client.ask("vKill;2") == "E.no process 2, there is only 1"
    assert client.ask("vAttach;2").startswith("E.")
    assert target.n_kills == 0


def test_reverse(client: Client, target: FakeTarget) -> None:
    for _ in range(3):
        client.ask("vCont;s:1")
    assert target.cpu[1].values["rip"] == CODE + 5
    assert fields(client.ask("bs"))["10"] == "0310000000000000"
    client.ask("Z0,1002,1")
    assert fields(client.ask("bc"))["swbreak"] == ""
    assert target.cpu[1].values["rip"] == CODE + 2
    client.ask("z0,1002,1")
    assert fields(client.ask("bc"))["replaylog"] == "begin"
    assert fields(client.ask("bs"))["replaylog"] == "begin"
    assert target.cpu[1].values["rax"] == 0


def test_a_refused_resume_leaves_the_guest_stopped(client: Client, target: FakeTarget, bugs: list[str]) -> None:
    def fail(plan: object) -> None:
        raise OSError("engine on fire")

    target.resume = fail  # type: ignore[method-assign]  # a target that fails
    assert client.ask("c") == "E.internal error: OSError: engine on fire"
    assert client.ask("p0") == "0000000000000000"
    assert "engine on fire" in bugs.pop()


def test_a_client_without_a_guest_sees_no_threads(client: Client, target: FakeTarget) -> None:
    """gdb would read registers of threads that are listed."""
    client.ask("!")
    assert client.ask("vKill;1") == "OK"
    assert client.ask("qfThreadInfo") == "l" and "<thread " not in client.ask("qXfer:threads:read::0,1000")
    assert client.ask("vRun;")[0] == "T" and client.ask("qfThreadInfo") == "mp1.1,p1.2"
    client.send("c")
    target.stop(Exited(1))
    assert client.pump() == ["W01;process:1"] and client.ask("qfThreadInfo") == "l"
