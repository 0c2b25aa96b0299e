"""Z and z."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from gdbstub import Session, points
from gdbstub.stop import BreakpointKind, WatchKind
from tests.gdbstub.client import Client
from tests.gdbstub.fake_target import FakeTarget, MandatoryTarget


def test_every_kind(client: Client, target: FakeTarget) -> None:
    for number, kind in enumerate([*BreakpointKind, *WatchKind]):
        assert client.ask(f"Z{number},4000,3") == "OK"
        assert target.points == {(kind, 0x4000, 3)}
        assert client.ask(f"Z{number},4000,3") == "OK"
        assert client.ask(f"z{number},4000,3") == "OK"
        assert client.ask(f"z{number},4000,3") == "OK"
        assert target.points == set()


def test_refusals(client: Client) -> None:
    assert client.ask("Z5,0,1") == ""
    assert client.ask("Z2,0,0").startswith("E.a watchpoint needs")
    assert client.ask("Z0,bad,1") == "E.nobody breaks at 0xbad"
    assert client.ask("Z0,1000") == "E.TYPE,ADDRESS,KIND needed"
    assert client.ask("Z2,ffffffffffffffff,2").startswith("E.")
    assert client.session.points == set()


def test_a_target_without_them(make: Callable[..., Session]) -> None:
    client = Client(make(MandatoryTarget()))
    for packet in ("Z0,1,1", "z0,1,1", "Z2,1,1", "z2,1,1"):
        assert client.ask(packet) == ""


def test_their_number_is_bounded(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(points, "MAX_POINTS", 3)
    assert [client.ask(f"Z0,{n},1") for n in range(3)] == ["OK"] * 3
    assert client.ask("Z0,3,1").startswith("E.there are 3")
    assert client.ask("Z0,2,1") == "OK"
