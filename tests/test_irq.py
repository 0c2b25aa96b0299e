"""Interrupt wires."""

from __future__ import annotations

from jitvm.irq import IrqLine, OrLine, unconnected


def wire() -> tuple[IrqLine, list[bool]]:
    levels: list[bool] = []
    return IrqLine(levels.append), levels


def test_the_sink_hears_changes_only() -> None:
    line, levels = wire()
    for level in (False, True, True, False, False, True):
        line.set(level)
    assert levels == [True, False, True] and line.level is True


def test_a_pulse_is_one_rising_edge_and_ends_low() -> None:
    line, levels = wire()
    line.pulse()
    assert levels == [True, False] and line.level is False
    line.set(True)
    levels.clear()
    line.pulse()
    assert levels == [False, True, False]


def test_a_shared_wire_is_high_while_any_input_is() -> None:
    line, levels = wire()
    shared = OrLine(line)
    a, b, c = (shared.input() for _ in range(3))
    a.set(True)
    b.set(True)
    a.set(False)
    assert levels == [True]
    c.set(True)
    b.set(False)
    c.set(False)
    assert levels == [True, False]


def test_an_edge_on_a_shared_wire_that_is_high_is_not_seen() -> None:
    line, levels = wire()
    shared = OrLine(line)
    a, b = shared.input(), shared.input()
    a.set(True)
    b.pulse()
    assert levels == [True]


def test_a_wire_that_leads_nowhere_still_has_a_level() -> None:
    line = unconnected()
    line.set(True)
    assert line.level is True
