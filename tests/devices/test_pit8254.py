"""The 8254's modes, latches and edges."""

from __future__ import annotations

import pytest

from jitvm.devices.pit8254 import PIT_HZ, Pit8254
from tests.devices.conformance import Rig


def make() -> tuple[Pit8254, Rig]:
    rig = Rig()
    return Pit8254(rig.clock, rig.line(), rig.trace), rig


def to_tick(rig: Rig, tick: int) -> None:
    """Let time pass to the first nanosecond of a tick, timer by timer as the vCPU loop does."""
    end = -(-tick * 10**9 // PIT_HZ)
    while (due := rig.clock.deadline()) is not None and due <= end:
        rig.clock.advance_to(due)
    rig.clock.advance_to(end)


def program(pit: Pit8254, channel: int, mode: int, count: int, *, bcd: bool = False) -> None:
    pit.write(3, 1, channel << 6 | 0x30 | mode << 1 | bcd)
    pit.write(channel, 1, count & 0xFF)
    pit.write(channel, 1, count >> 8)


def count(pit: Pit8254, channel: int) -> int:
    pit.write(3, 1, channel << 6)
    return pit.read(channel, 1) | pit.read(channel, 1) << 8


def outputs(pit: Pit8254, rig: Rig, channel: int, first: int, n: int) -> str:
    """OUT over n ticks as a string of 0 and 1."""
    text = ""
    for tick in range(first, first + n):
        to_tick(rig, tick)
        text += "01"[pit.output(channel)]
    return text


def test_mode_0_interrupts_once() -> None:
    pit, rig = make()
    program(pit, 0, 0, 1000)
    assert count(pit, 0) == 1000
    assert rig.edges == []
    to_tick(rig, 1000)
    assert count(pit, 0) == 1
    assert rig.edges == []
    to_tick(rig, 1001)
    assert rig.edges == [("irq", True)]
    assert count(pit, 0) == 0
    to_tick(rig, 1003)
    assert count(pit, 0) == 0xFFFE
    assert rig.clock.deadline() is None


def test_mode_0_first_byte_stops_counting() -> None:
    pit, rig = make()
    program(pit, 0, 0, 5)
    to_tick(rig, 10)
    assert pit.output(0)
    pit.write(0, 1, 100)
    assert not pit.output(0)
    to_tick(rig, 20)
    pit.write(0, 1, 0)
    to_tick(rig, 120)
    assert not pit.output(0)
    to_tick(rig, 121)
    assert pit.output(0)


def test_mode_0_gate_suspends() -> None:
    pit, rig = make()
    program(pit, 2, 0, 100)
    to_tick(rig, 50)
    assert count(pit, 2) == 100, "gate low: loaded, not counting"
    pit.set_gate(2, True)
    to_tick(rig, 90)
    assert count(pit, 2) == 60
    pit.set_gate(2, False)
    to_tick(rig, 500)
    assert count(pit, 2) == 60
    pit.set_gate(2, True)
    assert outputs(pit, rig, 2, 558, 4) == "0011"


def test_mode_1_is_retriggerable() -> None:
    pit, rig = make()
    program(pit, 2, 1, 4)
    to_tick(rig, 10)
    assert pit.output(2)
    pit.set_gate(2, True)
    assert outputs(pit, rig, 2, 11, 6) == "000011"
    pit.set_gate(2, False)
    pit.set_gate(2, True)
    to_tick(rig, 18)
    pit.set_gate(2, False)
    pit.set_gate(2, True)
    assert outputs(pit, rig, 2, 19, 6) == "000011"


def test_mode_2_rate_generator() -> None:
    pit, rig = make()
    program(pit, 2, 2, 3)
    pit.set_gate(2, True)
    assert outputs(pit, rig, 2, 1, 9) == "110110110"
    pit.set_gate(2, False)
    assert outputs(pit, rig, 2, 10, 4) == "1111"
    pit.set_gate(2, True)
    assert outputs(pit, rig, 2, 14, 6) == "110110"


def test_mode_2_new_count_waits_for_the_end_of_the_period() -> None:
    pit, rig = make()
    program(pit, 0, 2, 1000)
    to_tick(rig, 501)
    pit.write(0, 1, 10)
    pit.write(0, 1, 0)
    assert count(pit, 0) == 500
    rig.edges.clear()
    to_tick(rig, 1000)
    assert rig.edges == []
    to_tick(rig, 1001)
    assert rig.edges == [("irq", False), ("irq", True)]
    assert count(pit, 0) == 10
    to_tick(rig, 1031)
    assert rig.edges.count(("irq", True)) == 4


def test_mode_3_square_wave_even_and_odd() -> None:
    pit, rig = make()
    pit.set_gate(2, True)
    program(pit, 2, 3, 4)
    assert outputs(pit, rig, 2, 1, 8) == "11001100"
    program(pit, 2, 3, 5)
    assert outputs(pit, rig, 2, 9, 10) == "1110011100"


def test_mode_3_counts_by_two() -> None:
    pit, rig = make()
    pit.set_gate(2, True)
    program(pit, 2, 3, 5)
    seen = []
    for tick in range(1, 7):
        to_tick(rig, tick)
        seen.append(count(pit, 2))
    assert seen == [4, 2, 0, 4, 2, 4]


def test_mode_3_new_count_at_the_half_period() -> None:
    pit, rig = make()
    pit.set_gate(2, True)
    program(pit, 2, 3, 8)
    to_tick(rig, 2)
    pit.write(2, 1, 4)
    pit.write(2, 1, 0)
    assert outputs(pit, rig, 2, 3, 8) == "11001100"


def test_mode_3_drives_irq0_without_drift() -> None:
    pit, rig = make()
    program(pit, 0, 3, 0)
    rig.edges.clear()
    to_tick(rig, 1 + 65536 * 1000)
    rises = [edge for edge in rig.edges if edge[1]]
    assert len(rises) == 1000
    assert rig.clock.deadline() == -(-(1 + 65536 * 1000 + 32768) * 10**9 // PIT_HZ)


def test_mode_4_and_5_strobe() -> None:
    pit, rig = make()
    pit.set_gate(2, True)
    program(pit, 2, 4, 3)
    assert outputs(pit, rig, 2, 1, 6) == "111011"
    program(pit, 2, 5, 3)
    assert outputs(pit, rig, 2, 7, 3) == "111"
    pit.set_gate(2, False)
    pit.set_gate(2, True)
    assert outputs(pit, rig, 2, 10, 6) == "111011"


def test_mode_4_interrupts_on_channel_0() -> None:
    pit, rig = make()
    program(pit, 0, 4, 50)
    rig.edges.clear()
    to_tick(rig, 51)
    assert rig.edges == []
    to_tick(rig, 52)
    assert rig.edges == [("irq", False), ("irq", True)]
    assert rig.clock.deadline() is None


def test_late_clock_coalesces_but_never_loses() -> None:
    pit, rig = make()
    program(pit, 0, 2, 100)
    rig.edges.clear()
    rig.clock.advance_to(10**9)
    assert rig.edges == [("irq", False), ("irq", True)]
    deadline = rig.clock.deadline()
    assert deadline is not None and 10**9 < deadline <= 10**9 + 100 * 839


def test_bcd() -> None:
    pit, rig = make()
    program(pit, 0, 2, 0x1000, bcd=True)
    to_tick(rig, 2)
    assert count(pit, 0) == 0x0999
    program(pit, 0, 0, 0, bcd=True)
    to_tick(rig, 4)
    assert count(pit, 0) == 0x9999


def test_latch_holds_until_both_bytes_are_read() -> None:
    pit, rig = make()
    program(pit, 0, 2, 0x1234)
    to_tick(rig, 1)
    pit.write(3, 1, 0)
    to_tick(rig, 0x35)
    pit.write(3, 1, 0)
    assert pit.read(0, 1) == 0x34
    assert pit.read(0, 1) == 0x12
    assert pit.read(0, 1) == 0x00
    assert pit.read(0, 1) == 0x12


@pytest.mark.parametrize(("rw", "value"), [(1, 0x34), (2, 0x3400)])
def test_single_byte_access(rw: int, value: int) -> None:
    pit, rig = make()
    pit.write(3, 1, rw << 4 | 4)
    pit.write(0, 1, 0x34)
    to_tick(rig, 1)
    want = value & 0xFF if rw == 1 else value >> 8
    assert pit.read(0, 1) == want
    assert pit.read(0, 1) == want


def test_read_back_status_then_count() -> None:
    pit, rig = make()
    pit.write(3, 1, 0x74)
    pit.write(3, 1, 0xE4)
    assert pit.read(1, 1) == 0xF4, "output high, null count, mode 2, both bytes"
    pit.write(1, 1, 0x10)
    pit.write(1, 1, 0x00)
    to_tick(rig, 5)
    pit.write(3, 1, 0xC4)
    assert [pit.read(1, 1) for _ in range(3)] == [0xB4, 12, 0]


def test_port_61_calibration_as_linux_does() -> None:
    """quick_pit_calibrate and pit_calibrate_tsc: channel 2 in mode 0, watch the output or the high byte."""
    pit, rig = make()
    pit.set_gate(2, True)
    pit.write(3, 1, 0xB0)
    latch = PIT_HZ // 20
    pit.write(2, 1, latch & 0xFF)
    pit.write(2, 1, latch >> 8)
    to_tick(rig, latch)
    assert not pit.output(2)
    to_tick(rig, latch + 1)
    assert pit.output(2)
    pit.write(2, 1, 0xFF)
    pit.write(2, 1, 0xFF)
    start = latch + 2
    to_tick(rig, start + 300)
    assert (pit.read(2, 1), pit.read(2, 1)) == ((0xFFFF - 300) & 0xFF, (0xFFFF - 300) >> 8)


def test_count_of_one_stands_still() -> None:
    pit, rig = make()
    for mode in (2, 3):
        program(pit, 0, mode, 1)
        assert rig.clock.deadline() is None
    program(pit, 0, 3, 2)
    assert rig.clock.deadline() is not None


def test_control_port_is_write_only() -> None:
    pit, _ = make()
    assert pit.read(3, 1) == 0xFF
