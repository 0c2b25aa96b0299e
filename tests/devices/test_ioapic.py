"""The I/O APIC by its registers, with local APICs behind it.

Source: Intel 82093AA datasheet, 3.2; SDM vol. 3, 10.8.5 (EOI broadcast).
"""

from __future__ import annotations

import pytest

from jitvm.devices.ioapic import IoApic
from jitvm.trace import Trace
from tests.devices.test_lapic import EOI, ISR, System

MASKED, LEVEL, REMOTE_IRR = 0x10000, 0x8000, 0x4000


class Board:
    def __init__(self, n: int = 1) -> None:
        self.system = System(n)
        self.chip = IoApic(self.system.bus, Trace())
        self.system.bus.on_eoi.append(self.chip.end_of_interrupt)
        self.apic = self.system.apic

    def get(self, index: int) -> int:
        self.chip.write(0, 4, index)
        return self.chip.read(0x10, 4)

    def put(self, index: int, value: int) -> None:
        self.chip.write(0, 4, index)
        self.chip.write(0x10, 4, value)

    def route(self, pin: int, low: int, destination: int = 0) -> None:
        self.put(0x11 + 2 * pin, destination << 24)
        self.put(0x10 + 2 * pin, low)


def test_registers() -> None:
    b = Board()
    assert (b.get(0), b.get(1), b.get(2)) == (0, 0x170020, 0)
    b.put(0, 0xFF00_0000)
    assert b.get(0) == b.get(2) == 0x0F00_0000
    assert [b.get(0x10 + 2 * pin) for pin in range(24)] == [MASKED] * 24
    b.put(0x16, 0xFFFF_FFFF)
    b.put(0x17, 0x12FF_FFFF)
    assert (b.get(0x16), b.get(0x17)) == (0x1AFFF, 0x1200_0000)
    b.put(0x40, 1)
    assert b.get(0x40) == 0
    assert b.chip.read(0, 4) == 0x40


def test_an_edge_sends_once() -> None:
    b = Board()
    b.route(4, 0x41)
    b.chip.set_input(4, True)
    b.chip.set_input(4, True)
    assert b.system.vectors(0) == [0x41]
    assert b.apic.acknowledge() == 0x41
    b.apic.write(EOI, 4, 0)
    assert b.system.vectors(0) == []
    b.chip.set_input(4, False)
    b.chip.set_input(4, True)
    assert b.system.vectors(0) == [0x41]


def test_an_edge_on_a_masked_pin_is_lost() -> None:
    b = Board()
    b.route(4, 0x41 | MASKED)
    b.chip.set_input(4, True)
    b.route(4, 0x41)
    assert b.system.vectors(0) == []


def test_a_level_is_held_until_its_end() -> None:
    b = Board()
    b.route(9, 0x51 | LEVEL)
    b.chip.set_input(9, True)
    assert b.get(0x22) == 0x51 | LEVEL | REMOTE_IRR
    assert b.apic.acknowledge() == 0x51
    assert b.system.vectors(0) == [] and b.system.vectors(0, ISR) == [0x51]
    b.apic.write(EOI, 4, 0)
    assert b.apic.acknowledge() == 0x51, "the line is still high"
    b.chip.set_input(9, False)
    b.apic.write(EOI, 4, 0)
    assert not b.apic.pending and b.get(0x22) == 0x51 | LEVEL


def test_a_level_that_is_high_when_its_pin_opens() -> None:
    b = Board()
    b.chip.set_input(9, True)
    b.route(9, 0x51 | LEVEL)
    assert b.apic.acknowledge() == 0x51
    b.put(0x22, 0x51 | MASKED)
    assert b.get(0x22) == 0x51 | MASKED, "an edge-triggered pin has no remote IRR"


def test_eoi_register() -> None:
    b = Board()
    b.route(9, 0x51 | LEVEL)
    b.chip.set_input(9, True)
    b.chip.set_input(9, False)
    b.chip.write(0x40, 4, 0x50)
    assert b.get(0x22) & REMOTE_IRR
    b.chip.write(0x40, 4, 0x51)
    assert not b.get(0x22) & REMOTE_IRR


@pytest.mark.parametrize(
    ("low", "destination", "expected"),
    [(0x41, 1, [1]), (0x41, 0xFF, [0, 1, 2]), (0x841, 0b110, [1, 2]), (0x941, 0b110, [1]), (0x441, 2, "nmi")],
)
def test_destinations(low: int, destination: int, expected: object) -> None:
    b = Board(3)
    b.route(1, low, destination)
    b.chip.set_input(1, True)
    if expected == "nmi":
        assert [cpu.seen for cpu in b.system.cpus] == [[], [], ["nmi"]]
    else:
        assert [k for k in range(3) if b.system.vectors(k)] == expected
