"""Power management of an Intel 82371AB (PIIX4), function 3: ACPI fixed hardware, APM ports, SMBus host.

Intel 82371AB datasheet (290562), chapter 7: PMBASE (40h), DEVACTB (58h), PMREGMISC (80h), SMBBA (90h), SMBHSTCFG (D2h),
the power management I/O space and the SMBus host registers.  ACPI specification 1.0, 4.7.3 (PM1, PM timer).  Identity
and reset values are those of QEMU 7.2's "pc" board.  SeaBIOS puts the SMBus at 700h and the I/O space at 600h when fw_cfg
has "etc/table-loader", else at B000h, as OVMF does.

Three facts of that board are not the chip's:
* GPE0 (two status and two enable bytes) stands at fixed ports (AFE0h), which ACPI tables tell.
* F1h and F0h written to the APM control port set and clear SCI_EN, which on a real board the BIOS's SMI handler does.
* A write to the APM control port asserts SMI# behind its instruction when APMC_EN and GLBCTL's SMI_EN are set; EOS is
  not asked for.  Without system management mode (`on_smi=None`) APMC_EN is set from reset on: SeaBIOS takes it that its
  SMI handler is installed already, and does not wait for an SMI.

Not modelled: sleeping states other than S5 (S3 is told to `trace`), RTC and resume wake-up status, device monitors and
their traps, clock control and throttling (PLVL2, PLVL3 return 0 and do not stop the clock), general purpose inputs and
outputs, SMBus slave functions; no device answers on the SMBus.
"""

from __future__ import annotations

from collections.abc import Callable

from jitvm.clock import NS_PER_SECOND, Clock
from jitvm.devices.base import Registers, Snapshot
from jitvm.devices.pci import Bar, PciFunction
from jitvm.devices.smbus import SmbusHost
from jitvm.irq import IrqLine
from jitvm.trace import SILENT, Trace

PMBASE, DEVACTB, PMREGMISC, SMBBA, SMBHSTCFG = 0x40, 0x58, 0x80, 0x90, 0xD2
PMBASE_BITS = 0xFFC0
SERIAL_DECODE = 0x67
SERIAL_A_ENABLE, SERIAL_B_ENABLE = 0x08, 0x90
"""Byte 3 of DEVRESG: serial ports A at 3F8h and B at 2F8h are there."""
APMC_EN = 0x02
"""In byte 3 of DEVACTB."""
PMIOSE, SMB_HST_EN = 1, 1
PM_LENGTH, SMBUS_LENGTH, GPE_LENGTH, APM_LENGTH = 64, 16, 4, 2

PM1_STS, PM1_EN, PM1_CNT, PM_TMR, PLVL2, PLVL3 = 0x00, 0x02, 0x04, 0x08, 0x14, 0x15
GLBCTL, SMI_EN, GLB_BITS = 0x28, 0x0001, 0x0001_0003
"""Global control: SMI_EN, BIOS_EN, EOS; the last two are stored without effect."""
TMROF, BM_STS, GBL, PWRBTN, RTC, PWRBTNOR, RSM = 0x0001, 0x0010, 0x0020, 0x0100, 0x0400, 0x0800, 0x8000
STS_BITS, EN_BITS = TMROF | BM_STS | GBL | PWRBTN | RTC | PWRBTNOR | RSM, TMROF | GBL | PWRBTN | RTC
SCI_EN, SUS_TYP, SUS_EN = 0x0001, 0x1C00, 0x2000
CNT_BITS = SUS_TYP | SCI_EN | 0x0002
SUS_SOFT_OFF = 0
PM_TIMER_HZ = 3_579_545
TIMER_MASK, OVERFLOW_TICKS = 0xFF_FFFF, 0x80_0000
ACPI_ENABLE, ACPI_DISABLE = 0xF1, 0xF0


class Piix4Pm(PciFunction):
    """8086:7113 at 01.3.

    `sci` is ISA interrupt 9; `n_serials`: how many serial ports the board has.  `on_power_off()` is the soft-off state.
    `on_smi()` asserts SMI#.  The windows `pm` and `smbus` move by `on_bar`; `gpe` and `apm` are for fixed ports.
    """

    def __init__(
        self,
        clock: Clock,
        sci: IrqLine,
        on_power_off: Callable[[], None],
        on_smi: Callable[[], None] | None = None,
        trace: Trace = SILENT,
        n_serials: int = 0,
    ) -> None:
        super().__init__(
            "piix4_pm", vendor=0x8086, device=0x7113, class_code=0x068000, revision=3, status=0x0280, interrupt_pin=1,
            trace=trace,
        )  # fmt: skip
        self._clock, self._sci, self._on_power_off, self._on_smi = clock, sci, on_power_off, on_smi
        for offset in range(0x44, 0x100):
            self.define(offset, 1, 0, 0xFF)
        self.define(PMBASE, 4, 1, PMBASE_BITS)
        self.define(DEVACTB + 3, 1, 0 if on_smi else APMC_EN, 0xFF)
        self.define(0x5F, 1, 0x10, 0xFF)
        self.define(0x63, 1, 0x60, 0xFF)
        self.define(SERIAL_DECODE, 1, SERIAL_A_ENABLE * (n_serials > 0) | SERIAL_B_ENABLE * (n_serials > 1), 0xFF)
        self.define(SMBBA, 4, 0xB101, 0xFFF0)
        self.define(SMBHSTCFG, 1, 0x09, 0xFF)
        self.smbus_host = SmbusHost(self._update_sci, trace)
        self.pm = Bar("piix4_pm.pm", -1, "io", PM_LENGTH, Registers(self._read_pm, self._write_pm), 4)
        self.smbus = Bar("piix4_pm.smbus", -1, "io", SMBUS_LENGTH, self.smbus_host.registers, 1)
        self.gpe = Registers(self._read_gpe, self._write_gpe)
        self.apm = Registers(self._read_apm, self._write_apm)
        self._overflow = clock.timer("pm_timer", self._update_sci)
        self._clear()

    def _clear(self) -> None:
        self._status = self._enable = self._control = 0
        self._overflow_tick = (self._ticks() // OVERFLOW_TICKS + 1) * OVERFLOW_TICKS
        self._gpe_levels = self._gpe_status = self._gpe_enable = 0
        self._apmc = self._apms = self._global = 0

    # Windows

    def config_written(self, offset: int, size: int) -> None:
        self.place_windows()
        known = ((PMBASE, 4), (DEVACTB, 4), (PMREGMISC, 1), (SMBBA, 4), (SMBHSTCFG, 1))
        if offset >= 0x40 and not any(self.wrote(register, offset, size, length) for register, length in known):
            self.unmodelled_register(offset, size)

    def place_windows(self) -> None:
        super().place_windows()
        pm = self.register(PMBASE, 4) & PMBASE_BITS
        self.place(self.pm, pm if pm and self.config[PMREGMISC] & PMIOSE else None)
        smbus = self.register(SMBBA, 4) & 0xFFF0
        self.place(self.smbus, smbus if smbus and self.config[SMBHSTCFG] & SMB_HST_EN else None)

    # PM1 and the PM timer

    def _ticks(self) -> int:
        """PM timer ticks since the machine was switched on, all bits."""
        return self._clock.now_ns * PM_TIMER_HZ // NS_PER_SECOND

    def _pm1_status(self) -> int:
        """PM1_STS with the timer's overflow, which is found when somebody looks."""
        ticks = self._ticks()
        if ticks >= self._overflow_tick:
            self._status |= TMROF
            self._overflow_tick = (ticks // OVERFLOW_TICKS + 1) * OVERFLOW_TICKS
        return self._status

    def _update_sci(self) -> None:
        """Drive the SCI and set the alarm for the next overflow, if it would interrupt."""
        acpi = bool(self._pm1_status() & self._enable) or bool(self._gpe_status & self._gpe_enable)
        self._sci.set((acpi and bool(self._control & SCI_EN)) or self.smbus_host.interrupt)
        if self._enable & TMROF and not self._status & TMROF:
            self._overflow.arm(-(-self._overflow_tick * NS_PER_SECOND // PM_TIMER_HZ))
        else:
            self._overflow.cancel()

    def press_power_button(self) -> None:
        """A short press: PWRBTN_STS and, where enabled, an SCI."""
        self._status |= PWRBTN
        self._update_sci()

    def _read_pm(self, offset: int, size: int) -> int:
        if offset == PM_TMR and size == 4:
            return self._clock.now_ns * PM_TIMER_HZ // NS_PER_SECOND & TIMER_MASK
        value = self._pm1_status() | self._enable << 16 | self._control << 32 | (self._ticks() & TIMER_MASK) << 64
        value |= self._global << 8 * GLBCTL
        return value >> 8 * offset & ((1 << 8 * size) - 1)

    def _write_pm(self, offset: int, size: int, value: int) -> None:
        end, bits = offset + size, value << 8 * offset
        mask = ((1 << 8 * size) - 1) << 8 * offset
        if offset < PM1_EN:
            self._status = self._pm1_status() & ~(bits & STS_BITS)
        if offset < PM1_CNT and end > PM1_EN:
            self._enable = ((self._enable & ~(mask >> 16)) | bits >> 16) & EN_BITS
        if offset < PM1_CNT + 2 and end > PM1_CNT:
            control = (self._control & ~(mask >> 32)) | (bits >> 32 & 0xFFFF)
            self._control = control & CNT_BITS
            if control & SUS_EN:
                self._sleep(control & SUS_TYP)
        if offset < GLBCTL + 4 and end > GLBCTL:
            self._global = ((self._global & ~(mask >> 8 * GLBCTL)) | bits >> 8 * GLBCTL) & GLB_BITS
        elif end > PM1_CNT + 2 and not PM_TMR <= offset < PM_TMR + 4:
            self.trace("unmodelled", device=self.name, what=f"PM register {offset:02x}h", value=value)
        self._update_sci()

    def _sleep(self, kind: int) -> None:
        if kind == SUS_SOFT_OFF:
            self.trace("device_state", device=self.name, what="soft off", value=kind)
            self._on_power_off()
        else:
            self.trace("unmodelled", device=self.name, what="sleeping state, SUS_TYP", value=kind >> 10)

    # General purpose events

    def set_gpe(self, bit: int, level: bool) -> None:
        """Drive general purpose event input `bit` (0 to 15)."""
        if level:
            self._gpe_levels |= 1 << bit
        else:
            self._gpe_levels &= ~(1 << bit)
        self._gpe_status |= self._gpe_levels
        self._update_sci()

    def _read_gpe(self, offset: int, size: int) -> int:
        return (self._gpe_status | self._gpe_enable << 16) >> 8 * offset & ((1 << 8 * size) - 1)

    def _write_gpe(self, offset: int, size: int, value: int) -> None:
        bits, mask = value << 8 * offset, ((1 << 8 * size) - 1) << 8 * offset
        self._gpe_status = (self._gpe_status & ~(bits & 0xFFFF)) | self._gpe_levels
        self._gpe_enable = (self._gpe_enable & ~(mask >> 16)) | bits >> 16
        self._update_sci()

    # APM

    def _read_apm(self, offset: int, size: int) -> int:
        return (self._apmc | self._apms << 8) >> 8 * offset & ((1 << 8 * size) - 1)

    def _write_apm(self, offset: int, size: int, value: int) -> None:
        if offset + size == 2:
            self._apms = value >> 8 * (size - 1)
        if offset == 0:
            self._apmc = value & 0xFF
            if self._apmc == ACPI_ENABLE:
                self._control |= SCI_EN
            elif self._apmc == ACPI_DISABLE:
                self._control &= ~SCI_EN
            self._update_sci()
            if self._on_smi and self.config[DEVACTB + 3] & APMC_EN and self._global & SMI_EN:
                self._on_smi()

    # State

    def reset(self) -> None:
        super().reset()
        self._clear()
        self.smbus_host.reset()
        self._update_sci()

    def snapshot(self) -> Snapshot:
        return super().snapshot() | {
            "status": self._pm1_status(),
            "enable": self._enable,
            "control": self._control,
            "overflow_tick": self._overflow_tick,
            "gpe": [self._gpe_levels, self._gpe_status, self._gpe_enable],
            "apm": [self._apmc, self._apms],
            "global": self._global,
            "smbus": self.smbus_host.snapshot(),
        }

    def restore(self, state: Snapshot) -> None:
        super().restore(state)
        self._status, self._enable, self._control = state["status"], state["enable"], state["control"]
        self._overflow_tick = state["overflow_tick"]
        self._gpe_levels, self._gpe_status, self._gpe_enable = state["gpe"]
        self._apmc, self._apms = state["apm"]
        self._global = state["global"]
        self.smbus_host.restore(state["smbus"])
        self._update_sci()
