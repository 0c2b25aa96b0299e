"""PM1, the PM timer, GPE0, APM and SMBus of the PIIX4, by its registers."""

from __future__ import annotations

from jitvm.clock import Clock
from jitvm.devices.pci import Bar, PciBus
from jitvm.devices.piix4_pm import (
    ACPI_DISABLE,
    ACPI_ENABLE,
    GBL,
    OVERFLOW_TICKS,
    PM_TIMER_HZ,
    PWRBTN,
    SCI_EN,
    TMROF,
    Piix4Pm,
)
from jitvm.irq import IrqLine, unconnected
from jitvm.trace import Trace

OVERFLOW_NS = -(-OVERFLOW_TICKS * 1_000_000_000 // PM_TIMER_HZ)


class Board:
    def __init__(self, smm: bool = False) -> None:
        self.clock = Clock()
        self.sci: list[bool] = []
        self.calls: list[str] = []
        self.placed: list[tuple[str, int | None]] = []
        self.traced: list[dict[str, object]] = []
        trace = Trace()
        trace.listeners.append(lambda _event, fields: self.traced.append(fields))
        smi = (lambda: self.calls.append("smi")) if smm else None
        self.chip = Piix4Pm(self.clock, IrqLine(self.sci.append), lambda: self.calls.append("off"), smi, trace)
        PciBus(self.on_bar, lambda _slot, _pin: unconnected()).attach(1, 3, self.chip)
        self.pm, self.bus = self.chip.pm.region, self.chip.smbus.region

    def on_bar(self, bar: Bar, address: int | None) -> None:
        self.placed.append((bar.name, address))

    def enable(self, bits: int) -> None:
        self.chip.apm.write(0, 1, ACPI_ENABLE)
        self.pm.write(2, 2, bits)


def test_identity_is_qemus() -> None:
    chip = Board().chip
    assert [chip.register(o, 4) for o in (0, 4, 8, 0x3C)] == [0x7113_8086, 0x0280_0000, 0x0680_0003, 0x100]
    assert chip.register(0x40, 4) == 1 and chip.register(0x90, 4) == 0xB101 and chip.register(0xD2, 1) == 9
    assert [chip.register(o, 1) for o in (0x5F, 0x63)] == [0x10, 0x60]


def test_serial_ports_that_are_there_are_decoded() -> None:
    """As QEMU 7.2 says with one and two; firmware's ACPI tables look there."""
    for n_serials, decoded in ((0, 0), (1, 0x08), (2, 0x98), (4, 0x98)):
        chip = Piix4Pm(Clock(), unconnected(), lambda: None, n_serials=n_serials)
        assert chip.register(0x67, 1) == decoded
        chip.reset()
        assert chip.register(0x67, 1) == decoded


def test_seabios_places_the_windows() -> None:
    b = Board()
    assert b.placed == [("piix4_pm.smbus", 0xB100)]
    b.chip.config_write(0x40, 4, 0x601)
    assert b.placed == [("piix4_pm.smbus", 0xB100)]
    b.chip.config_write(0x80, 1, 1)
    b.chip.config_write(0x90, 4, 0x701)
    assert b.placed[1:] == [("piix4_pm.pm", 0x600), ("piix4_pm.smbus", None), ("piix4_pm.smbus", 0x700)]
    b.chip.reset()
    assert b.placed[-3:] == [("piix4_pm.pm", None), ("piix4_pm.smbus", None), ("piix4_pm.smbus", 0xB100)]


def test_apmc_en_tells_seabios_whether_there_is_smm() -> None:
    assert Board().chip.register(0x58, 4) == 0x0200_0000
    assert Board(smm=True).chip.register(0x58, 4) == 0


def test_pm_timer_counts_at_3_58_mhz_in_24_bits() -> None:
    b = Board()
    b.clock.advance_to(1_000_000_000)
    assert b.pm.read(8, 4) == PM_TIMER_HZ
    b.clock.advance_to(10_000_000_000)
    assert b.pm.read(8, 4) == 10 * PM_TIMER_HZ & 0xFF_FFFF
    assert b.pm.read(8, 2) == 10 * PM_TIMER_HZ & 0xFFFF and b.pm.read(10, 1) == 10 * PM_TIMER_HZ >> 16 & 0xFF
    b.pm.write(8, 4, 0)
    assert b.pm.read(8, 4) == 10 * PM_TIMER_HZ & 0xFF_FFFF


def test_overflow_is_seen_without_an_interrupt() -> None:
    b = Board()
    b.clock.advance_to(OVERFLOW_NS - 1)
    assert b.pm.read(0, 2) == 0
    b.clock.advance_to(OVERFLOW_NS)
    assert b.pm.read(0, 2) == TMROF and b.sci == [] and b.clock.deadline() is None
    b.pm.write(0, 2, TMROF)
    assert b.pm.read(0, 2) == 0


def test_overflow_interrupts_each_time_bit_23_changes() -> None:
    b = Board()
    b.enable(TMROF)
    assert b.clock.deadline() == OVERFLOW_NS
    b.clock.advance_to(OVERFLOW_NS)
    assert b.sci == [True] and b.clock.deadline() is None
    b.pm.write(0, 2, TMROF)
    assert b.sci == [True, False] and b.clock.deadline() == -(-2 * OVERFLOW_TICKS * 1_000_000_000 // PM_TIMER_HZ)
    b.clock.advance_to(2 * OVERFLOW_NS)
    assert b.sci == [True, False, True]


def test_no_sci_without_sci_en() -> None:
    b = Board()
    b.pm.write(2, 2, PWRBTN)
    b.chip.press_power_button()
    assert b.sci == [] and b.pm.read(0, 2) == PWRBTN
    b.chip.apm.write(0, 1, ACPI_ENABLE)
    assert b.sci == [True] and b.pm.read(4, 2) & SCI_EN
    b.chip.apm.write(0, 1, ACPI_DISABLE)
    assert b.sci == [True, False]


def test_status_is_cleared_by_ones_bytewise() -> None:
    b = Board()
    b.enable(PWRBTN | GBL)
    b.chip.press_power_button()
    b.pm.write(0, 1, 0xFF)
    assert b.pm.read(0, 2) == PWRBTN
    b.pm.write(1, 1, 0x01)
    assert b.pm.read(0, 4) == (PWRBTN | GBL) << 16 and b.sci == [True, False]


def test_soft_off() -> None:
    b = Board()
    b.pm.write(4, 2, 0x2000)
    assert b.calls == ["off"] and b.pm.read(4, 2) == 0
    b.pm.write(5, 1, 0x20)
    assert b.calls == ["off", "off"]


def test_s3_is_not_modelled() -> None:
    b = Board()
    b.pm.write(4, 2, 0x2400)
    assert b.calls == [] and b.traced[-1] == {"device": "piix4_pm", "what": "sleeping state, SUS_TYP", "value": 1}
    assert b.pm.read(4, 2) == 0x0400


def test_a_general_purpose_event_is_level_held() -> None:
    b = Board()
    b.enable(0)
    b.chip.gpe.write(2, 2, 0x0002)
    b.chip.set_gpe(1, True)
    assert b.sci == [True] and b.chip.gpe.read(0, 4) == 0x0002_0002
    b.chip.gpe.write(0, 1, 2)
    assert b.sci == [True], "the input is still high"
    b.chip.set_gpe(1, False)
    b.chip.gpe.write(0, 1, 2)
    assert b.sci == [True, False]


def test_apm_ports_hold_their_bytes_and_smi_needs_apmc_en_and_smi_en() -> None:
    b = Board(smm=True)
    b.enable(0)
    b.chip.apm.write(0, 2, 0x5512)
    assert b.chip.apm.read(0, 1) == 0x12 and b.chip.apm.read(1, 1) == 0x55 and b.calls == []
    b.chip.config_write(0x58, 4, 0x0200_0000)
    b.chip.apm.write(1, 1, 0x66)
    assert b.calls == []
    b.chip.apm.write(0, 1, 0)
    assert b.calls == [], "GLBCTL.SMI_EN is clear"
    b.pm.write(0x28, 4, 0xFFFF_FFFF)
    assert b.pm.read(0x28, 4) == 0x0001_0003
    b.chip.apm.write(0, 1, 0)
    assert b.calls == ["smi"]
    state = b.chip.snapshot()
    b.chip.reset()
    assert b.pm.read(0x28, 4) in (0, 0xFFFF_FFFF)
    b.chip.restore(state)
    assert b.chip.snapshot() == state


def test_nobody_answers_on_the_smbus() -> None:
    b = Board()
    b.bus.write(4, 1, 0xA1)
    b.bus.write(2, 1, 0x48)
    assert b.bus.read(0, 1) == 0x04 and b.bus.read(2, 1) == 0x08
    b.bus.write(0, 1, 0x04)
    assert b.bus.read(0, 1) == 0 and b.sci == []
    b.bus.write(2, 1, 0x49)
    assert b.sci == [True]
    b.bus.write(0, 1, 0xFF)
    assert b.sci == [True, False]


def test_smbus_block_buffer_starts_over() -> None:
    b = Board()
    b.bus.read(2, 1)
    for value in (1, 2, 3):
        b.bus.write(7, 1, value)
    b.bus.read(2, 1)
    assert [b.bus.read(7, 1) for _ in range(3)] == [1, 2, 3]


def test_restore_arms_the_timer_again() -> None:
    b = Board()
    b.enable(TMROF)
    state = b.chip.snapshot()
    b.chip.reset()
    assert b.clock.deadline() is None
    b.chip.restore(state)
    assert b.clock.deadline() == OVERFLOW_NS and b.chip.snapshot() == state


def test_reset_later_expects_the_next_overflow() -> None:
    b = Board()
    b.clock.advance_to(OVERFLOW_NS + 5)
    b.chip.reset()
    assert b.pm.read(0, 2) == 0
