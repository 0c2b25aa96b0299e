"""The clock and CMOS memory through ports 70h and 71h."""

from __future__ import annotations

from datetime import datetime

import pytest

from jitvm.devices.rtc146818 import Rtc146818
from tests.devices.conformance import Rig

S = 10**9
BASE = datetime(2023, 12, 31, 23, 59, 50)


def make(base: datetime = BASE, cmos: dict[int, int] | None = None) -> tuple[Rtc146818, Rig]:
    rig = Rig()
    return Rtc146818(rig.clock, rig.line(), base, cmos, rig.trace), rig


def get(rtc: Rtc146818, index: int) -> int:
    rtc.write(0, 1, index)
    return rtc.read(1, 1)


def put(rtc: Rtc146818, index: int, value: int) -> None:
    rtc.write(0, 1, index)
    rtc.write(1, 1, value)


def time_of(rtc: Rtc146818) -> list[int]:
    """Century, year, month, day, hour, minute, second as the registers show them."""
    return [get(rtc, index) for index in (0x32, 9, 8, 7, 4, 2, 0)]


def step(rig: Rig, now_ns: int) -> None:
    while (due := rig.clock.deadline()) is not None and due <= now_ns:
        rig.clock.advance_to(due)
    rig.clock.advance_to(now_ns)


def test_time_runs_over_the_year() -> None:
    rtc, rig = make()
    assert time_of(rtc) == [0x20, 0x23, 0x12, 0x31, 0x23, 0x59, 0x50]
    assert get(rtc, 6) == 1, "a Sunday"
    rig.clock.advance_to(10 * S - 1)
    assert get(rtc, 0) == 0x59
    rig.clock.advance_to(10 * S)
    assert time_of(rtc) == [0x20, 0x24, 0x01, 0x01, 0x00, 0x00, 0x00]
    assert get(rtc, 6) == 2
    rig.clock.advance_to(10 * S + 59 * 86400 * S)
    assert time_of(rtc)[2:4] == [0x02, 0x29], "2024 is a leap year"


def test_binary_and_12_hour_formats() -> None:
    rtc, _ = make()
    put(rtc, 11, 0x04)
    assert time_of(rtc) == [20, 23, 12, 31, 0x80 | 11, 59, 50]
    midnight, _ = make(datetime(2024, 5, 1, 0, 30))
    put(midnight, 11, 0x00)
    assert get(midnight, 4) == 0x12
    noon, _ = make(datetime(2024, 5, 1, 12, 30))
    put(noon, 11, 0x00)
    assert get(noon, 4) == 0x92


def test_uip_before_each_second() -> None:
    rtc, rig = make()
    assert not get(rtc, 10) & 0x80
    rig.clock.advance_to(S - 244_001)
    assert not get(rtc, 10) & 0x80
    rig.clock.advance_to(S - 244_000)
    assert get(rtc, 10) == 0xA6
    rig.clock.advance_to(S)
    assert not get(rtc, 10) & 0x80


def test_set_freezes_and_keeps_the_phase() -> None:
    rtc, rig = make()
    rig.clock.advance_to(S * 3 // 2)
    put(rtc, 11, 0x82)
    rig.clock.advance_to(7 * S)
    assert get(rtc, 0) == 0x51
    assert not get(rtc, 10) & 0x80
    for index, value in ((0, 0x58), (2, 0x34), (4, 0x12), (6, 0x05), (7, 0x09), (8, 0x11), (9, 0x89), (0x32, 0x19)):
        put(rtc, index, value)
        assert get(rtc, index) == value
    rig.clock.advance_to(7 * S + S // 4)
    put(rtc, 11, 0x02)
    assert time_of(rtc) == [0x19, 0x89, 0x11, 0x09, 0x12, 0x34, 0x58]
    assert get(rtc, 6) == 5
    rig.clock.advance_to(8 * S - 1)
    assert get(rtc, 0) == 0x58
    rig.clock.advance_to(8 * S)
    assert get(rtc, 0) == 0x59


def test_divider_reset_updates_half_a_second_later() -> None:
    rtc, rig = make()
    rig.clock.advance_to(S + 123)
    put(rtc, 10, 0x76)
    rig.clock.advance_to(5 * S)
    put(rtc, 0, 0x10)
    put(rtc, 10, 0x26)
    assert get(rtc, 0) == 0x10
    rig.clock.advance_to(5 * S + S // 2 - 1)
    assert get(rtc, 0) == 0x10
    rig.clock.advance_to(5 * S + S // 2)
    assert get(rtc, 0) == 0x11


def test_writing_a_running_time_byte() -> None:
    rtc, rig = make()
    rig.clock.advance_to(S // 2)
    put(rtc, 2, 0x10)
    assert time_of(rtc)[4:] == [0x23, 0x10, 0x50]
    rig.clock.advance_to(S)
    assert get(rtc, 0) == 0x51


def test_periodic_interrupt_as_linux_and_seabios_use_it() -> None:
    rtc, rig = make()
    put(rtc, 11, 0x42)
    step(rig, 976_562)
    assert rig.edges == []
    step(rig, 976_563)
    assert rig.edges == [("irq", True)]
    step(rig, S)
    assert rig.edges == [("irq", True)], "no further edge until C is read"
    assert get(rtc, 12) == 0xD0, "the update flag has come along"
    assert rig.edges[-1] == ("irq", False)
    assert get(rtc, 12) == 0
    fired = 0
    while rig.clock.now_ns < 2 * S:
        due = rig.clock.deadline()
        assert due is not None
        step(rig, due)
        assert get(rtc, 12) & 0xC0 == 0xC0
        fired += 1
    assert fired == 1024


@pytest.mark.parametrize(("rate", "hz"), [(1, 256), (2, 128), (3, 8192), (6, 1024), (13, 8), (15, 2)])
def test_periodic_rates(rate: int, hz: int) -> None:
    rtc, rig = make()
    put(rtc, 10, 0x20 | rate)
    put(rtc, 11, 0x42)
    assert rig.clock.deadline() == -(-S // hz)


def test_flags_without_enabled_interrupts() -> None:
    rtc, rig = make()
    assert rig.clock.deadline() is None
    rig.clock.advance_to(S)
    assert get(rtc, 12) == 0x50
    assert rig.edges == []


def test_update_ended_interrupt() -> None:
    rtc, rig = make()
    rig.clock.advance_to(300)
    put(rtc, 11, 0x12)
    step(rig, S - 1)
    assert rig.edges == []
    step(rig, S)
    assert rig.edges == [("irq", True)]
    assert get(rtc, 0) == 0x51
    assert get(rtc, 12) & 0x90 == 0x90
    put(rtc, 11, 0x92)
    assert get(rtc, 11) == 0x82, "SET clears UIE"


@pytest.mark.parametrize(
    ("alarm", "after_s"),
    [
        ((0x23, 0x59, 0x55), 5),
        ((0x00, 0x00, 0x00), 10),
        ((0xFF, 0xFF, 0x51), 1),
        ((0xC0, 0x01, 0x05), 75),
        ((0xFF, 0xFF, 0xFF), 1),
        ((0x23, 0x59, 0x50), 86400),
    ],
)
def test_alarm(alarm: tuple[int, int, int], after_s: int) -> None:
    rtc, rig = make()
    for index, value in zip((5, 3, 1), alarm, strict=True):
        put(rtc, index, value)
    put(rtc, 11, 0x22)
    step(rig, after_s * S - 1)
    assert rig.edges == []
    step(rig, after_s * S)
    assert rig.edges == [("irq", True)]
    assert get(rtc, 12) & 0xA0 == 0xA0


def test_impossible_alarm_never_fires() -> None:
    rtc, rig = make()
    put(rtc, 1, 0x77)
    put(rtc, 11, 0x22)
    assert rig.clock.deadline() is None


def test_alarm_in_12_hour_format() -> None:
    rtc, rig = make(datetime(2024, 1, 1, 12, 59, 59))
    put(rtc, 11, 0x80)
    put(rtc, 5, 0x81)
    put(rtc, 3, 0x00)
    put(rtc, 1, 0x00)
    put(rtc, 4, 0x92)
    put(rtc, 11, 0x20)
    assert rig.clock.deadline() == S


def test_cmos_memory_presets_and_read_only_registers() -> None:
    rtc, _ = make(cmos={0x15: 0x80, 0x16: 0x02, 0x34: 0xFF, 0x0A: 0x55, 0x09: 0x11})
    assert (get(rtc, 0x15), get(rtc, 0x16), get(rtc, 0x34)) == (0x80, 0x02, 0xFF)
    assert get(rtc, 0x0A) == 0x26
    assert get(rtc, 0x09) == 0x23
    put(rtc, 0x0D, 0)
    assert get(rtc, 0x0D) == 0x80
    put(rtc, 0x7F, 0xA5)
    assert get(rtc, 0x7F) == 0xA5
    assert rtc.read(0, 1) == 0xFF


def test_reset_keeps_the_battery_backed_part() -> None:
    """SeaBIOS finds the shutdown code in byte 0Fh after a reset."""
    rtc, rig = make()
    put(rtc, 0x0F, 0x0A)
    put(rtc, 11, 0x72)
    step(rig, S)
    assert rig.edges == [("irq", True)]
    rtc.reset()
    assert rig.edges[-1] == ("irq", False)
    assert get(rtc, 11) == 0x02
    assert get(rtc, 12) == 0
    assert get(rtc, 0x0F) == 0x0A
    assert get(rtc, 0) == 0x51


def test_nmi_mask() -> None:
    rtc, _ = make()
    assert not rtc.nmi_masked
    rtc.write(0, 1, 0x8F)
    assert rtc.nmi_masked
    assert rtc.index == 0x0F


def test_nonsense_times_are_carried() -> None:
    rtc, _ = make()
    put(rtc, 11, 0x82)
    for index in (0, 2, 4, 6, 7, 8, 9, 0x32):
        put(rtc, index, 0xFF)
    put(rtc, 11, 0x02)
    assert all(0 <= byte <= 0x99 for byte in time_of(rtc))
    put(rtc, 10, 0x46)
    put(rtc, 11, 0x0A)
