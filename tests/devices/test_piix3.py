"""Interrupt routing and the reset control register."""

from __future__ import annotations

from jitvm.devices.piix3 import Piix3Isa
from jitvm.irq import IrqLine
from jitvm.trace import Trace


class Board:
    def __init__(self) -> None:
        self.events: list[tuple[int, bool]] = []
        self.resets: list[bool] = []
        self.traced: list[tuple[str, dict[str, object]]] = []
        trace = Trace()
        trace.listeners.append(lambda event, fields: self.traced.append((event, fields)))
        self.irqs = [self.irq(n) for n in range(16)]
        self.chip = Piix3Isa(self.irqs, self.resets.append, trace)

    def irq(self, n: int) -> IrqLine:
        return IrqLine(lambda level: self.events.append((n, level)))


def test_identity_and_reset_values_are_qemus() -> None:
    chip = Board().chip
    identity = [0x7000_8086, 0x0200_0000, 0x0601_0000, 0x80_0000, 0x1100_1AF4]
    assert [chip.register(o, 4) for o in (0, 4, 8, 0x0C, 0x2C)] == identity
    assert chip.register(0x60, 4) == 0x8080_8080 and chip.register(0x4C, 4) == 0x0003_004D
    assert chip.register(0x74, 4) == 0x0C0C_0000
    assert [chip.register(o, 1) for o in (0x69, 0x70, 0x78, 0xA0, 0xA8)] == [2, 0x80, 2, 8, 0x0F]


def test_an_unrouted_pirq_goes_nowhere() -> None:
    b = Board()
    b.chip.pirq(0).set(True)
    assert b.events == []


def test_routing_follows_the_register() -> None:
    b = Board()
    wire = b.chip.pirq(2)
    b.chip.config_write(0x62, 1, 0x0B)
    wire.set(True)
    b.chip.config_write(0x62, 1, 0x0A)
    wire.set(False)
    assert sorted(b.events[:3]) == [(10, True), (11, False), (11, True)] and b.events[3:] == [(10, False)]


def test_two_pirqs_share_an_irq() -> None:
    b = Board()
    first, second = b.chip.pirq(0), b.chip.pirq(1)
    b.chip.config_write(0x60, 2, 0x0A0A)
    first.set(True)
    second.set(True)
    first.set(False)
    assert b.events == [(10, True)]
    second.set(False)
    assert b.events == [(10, True), (10, False)]


def test_two_cards_share_a_pirq() -> None:
    b = Board()
    first, second = b.chip.pirq(3), b.chip.pirq(3)
    b.chip.config_write(0x63, 1, 0x05)
    first.set(True)
    second.set(True)
    second.set(False)
    assert b.events == [(5, True)]


def test_reserved_irqs_are_refused() -> None:
    b = Board()
    wire = b.chip.pirq(0)
    b.chip.config_write(0x60, 1, 0x08)
    wire.set(True)
    assert b.events == [] and b.traced[0][0] == "guest_error"


def test_route_registers_keep_five_bits() -> None:
    b = Board()
    b.chip.config_write(0x60, 4, 0xFFFF_FFFF)
    assert b.chip.register(0x60, 4) == 0x8F8F_8F8F


def test_reset_control() -> None:
    b = Board()
    control = b.chip.reset_control
    control.write(0, 1, 0x02)
    assert b.resets == [] and control.read(0, 1) == 0x02
    control.write(0, 1, 0x06)
    assert b.resets == [True] and control.read(0, 1) == 0x02
    control.write(0, 1, 0x04)
    assert b.resets == [True, False] and control.read(0, 1) == 0


def test_reset_drops_the_routing() -> None:
    b = Board()
    b.chip.config_write(0x60, 1, 0x0A)
    b.chip.pirq(0).set(True)
    b.chip.reset()
    assert b.events == [(10, True), (10, False)]


def test_restore_raises_the_line_again() -> None:
    b = Board()
    b.chip.pirq(0).set(True)
    b.chip.config_write(0x60, 1, 0x0A)
    state = b.chip.snapshot()
    b.chip.config_write(0x60, 1, 0x80)
    b.chip.restore(state)
    assert b.events == [(10, True), (10, False), (10, True)]


def test_what_linux_writes_is_a_latch() -> None:
    """Passive release, by its quirk for PIIX3 bridges."""
    b = Board()
    b.chip.config_write(0x82, 1, 0x02)
    assert b.chip.register(0x82, 1) == 0x02 and b.traced == []


def test_registers_without_a_model_say_so() -> None:
    b = Board()
    b.chip.config_write(0x4E, 1, 0xFF)
    assert b.traced == [("unmodelled", {"device": "piix3", "what": "register 4eh", "value": 0xFF})]
