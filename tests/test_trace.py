"""Trace events: selection by pattern, lines, listeners."""

from __future__ import annotations

import io

import pytest

from jitvm.errors import ConfigError
from jitvm.trace import EVENTS, SILENT, Trace


def test_nothing_is_wanted_at_first() -> None:
    assert not any(Trace().wants(event) or SILENT.wants(event) for event in EVENTS)


def test_patterns_select_events() -> None:
    trace = Trace("unassigned_*, exit")
    assert trace.selected == {"unassigned_read", "unassigned_write", "exit"}
    trace.select("*")
    assert trace.selected == frozenset(EVENTS)


def test_a_pattern_that_matches_nothing_names_the_events() -> None:
    with pytest.raises(ConfigError, match=r"no event matches 'exits'; known events: exit, irq_inject"):
        Trace("irq_*,exits")


def test_lines_show_fields_and_addresses_in_hex() -> None:
    out = io.StringIO()
    trace = Trace("*", out)
    trace("unassigned_write", space="port", address=0x80, size=1, value=255)
    trace("irq_inject", vcpu=0, vector=32)
    assert out.getvalue().splitlines() == [
        "unassigned_write space=port address=0x80 size=0x1 value=0xff",
        "irq_inject vcpu=0 vector=0x20",
    ]


def test_lines_are_stamped_with_virtual_time() -> None:
    out = io.StringIO()
    trace = Trace("reset", out)
    now = [5]
    trace.use_clock(lambda: now[0])
    trace("reset", cause="power")
    now[0] = 7
    trace("reset", cause="port 92h")
    assert out.getvalue() == "5 reset cause=power\n7 reset cause=port 92h\n"


def test_an_event_that_was_not_selected_writes_nothing() -> None:
    out = io.StringIO()
    Trace("reset", out)("exit", vcpu=0)
    assert out.getvalue() == ""


def test_a_listener_gets_every_event_whatever_is_selected() -> None:
    out = io.StringIO()
    trace = Trace("", out)
    got: list[tuple[str, dict[str, object]]] = []
    trace.listeners.append(lambda event, fields: got.append((event, fields)))
    assert trace.wants("exit")
    trace("exit", vcpu=1)
    assert got == [("exit", {"vcpu": 1})] and out.getvalue() == ""


def test_every_event_says_what_it_is_and_its_fields() -> None:
    assert all(": " in text for text in EVENTS.values())
