"""Ports 61h, 92h and 80h."""

from __future__ import annotations

from jitvm.devices.pit8254 import Pit8254
from jitvm.devices.sysctl import REFRESH_NS, SystemControl
from tests.devices.conformance import Rig


class Board:
    """The ports with a real timer behind port 61h."""

    def __init__(self) -> None:
        self.rig = Rig()
        self.pit = Pit8254(self.rig.clock, self.rig.line())
        self.a20: list[bool] = []
        self.resets: list[str] = []
        self.chip = SystemControl(self.rig.clock, self.pit, self.a20.append, self.resets.append, self.rig.trace)


def test_refresh_bit_toggles_every_15_microseconds() -> None:
    """Firmware that waits by this bit: 66 changes are a millisecond."""
    b = Board()
    changes, last = 0, b.chip.port61.read(0, 1) & 0x10
    for now in range(0, 1_000_000, 1000):
        b.rig.clock.advance_to(now)
        bit = b.chip.port61.read(0, 1) & 0x10
        changes += bit != last
        last = bit
    assert changes == 1_000_000 // REFRESH_NS == 66


def test_gate_and_output_of_channel_2() -> None:
    b = Board()
    b.pit.write(3, 1, 0xB0)
    b.pit.write(2, 1, 100)
    b.pit.write(2, 1, 0)
    b.rig.clock.advance_to(1_000_000)
    assert not b.chip.port61.read(0, 1) & 0x20, "the gate is low"
    b.chip.port61.write(0, 1, 0x01)
    b.rig.clock.advance_to(1_080_000)
    assert not b.chip.port61.read(0, 1) & 0x20
    b.rig.clock.advance_to(1_090_000)
    assert b.chip.port61.read(0, 1) & 0x20


def test_port_61_keeps_its_low_bits() -> None:
    b = Board()
    b.chip.port61.write(0, 1, 0xFF)
    assert b.chip.port61.read(0, 1) & 0xCF == 0x0F
    assert b.chip.speaker_on()
    b.chip.port61.write(0, 1, 0x01)
    assert not b.chip.speaker_on()


def test_a20_and_fast_reset() -> None:
    b = Board()
    b.chip.port92.write(0, 1, b.chip.port92.read(0, 1) | 2)
    assert b.a20 == [True]
    assert b.chip.port92.read(0, 1) == 2
    b.chip.port92.write(0, 1, 0x00)
    assert b.a20 == [True, False]
    b.chip.port92.write(0, 1, 0x01)
    b.chip.port92.write(0, 1, 0x01)
    assert b.resets == ["port 92h"], "on the rising edge of bit 0"
    b.chip.reset()
    assert b.chip.port92.read(0, 1) == 0


def test_post_code_is_latched_and_traced() -> None:
    b = Board()
    b.chip.port80.write(0, 1, 0xA5)
    assert b.chip.port80.read(0, 1) == 0xA5
    assert b.rig.traced("device_state") == [{"device": "sysctl", "what": "POST code", "value": 0xA5}]


def test_reset_drops_the_gate() -> None:
    b = Board()
    b.chip.port61.write(0, 1, 0x03)
    b.chip.reset()
    b.pit.write(3, 1, 0xB4)
    b.pit.write(2, 1, 2)
    b.pit.write(2, 1, 0)
    b.rig.clock.advance_to(10_000)
    assert b.pit.output(2), "mode 2 with its gate low stands high"
