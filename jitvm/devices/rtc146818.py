"""The MC146818 real-time clock with 128 bytes of CMOS memory.

Motorola MC146818A data sheet (time, alarm, registers A to D, update cycle) and Intel 82371AB (PIIX4), section 8: 128
bytes behind ports 70h and 71h, bit 7 of port 70h masks NMI.  The century is byte 32h, as on every PC.

Time is the base time plus virtual time.  While it runs, the time bytes are computed when they are read; SET or a
divider held in reset freezes them as bytes.  UIP is high for the 244 microseconds before each update, which itself
takes no time.  Leaving divider reset puts the next update half a second later.  Flags are worked out when register C is
read; a timer runs only for an enabled interrupt that is not yet asserted.

The memory is battery-backed: a reset clears the interrupt enables and flags and nothing else.

Not modelled: daylight saving (DSE), the square wave pin (SQWE), time bases other than 32768 Hz and the test settings of
the divider (time stands still), the second bank behind ports 72h and 73h.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta

from jitvm.clock import NS_PER_SECOND, Clock
from jitvm.devices.base import Snapshot
from jitvm.irq import IrqLine
from jitvm.trace import SILENT, Trace

SECONDS, SECONDS_ALARM, MINUTES, MINUTES_ALARM, HOURS, HOURS_ALARM = 0, 1, 2, 3, 4, 5
WEEKDAY, DAY, MONTH, YEAR, CENTURY = 6, 7, 8, 9, 0x32
REG_A, REG_B, REG_C, REG_D = 10, 11, 12, 13
TIME_BYTES = frozenset((SECONDS, MINUTES, HOURS, WEEKDAY, DAY, MONTH, YEAR, CENTURY))

A_UIP = 0x80
A_DV = 0x70
A_DV_32K = 0x20
A_DV_RESET = 0x60
"""Divider held in reset (also 70h)."""
A_RS = 0x0F
B_SET = 0x80
B_PIE = 0x40
B_AIE = 0x20
B_UIE = 0x10
B_SQWE = 0x08
B_DM = 0x04
B_24H = 0x02
B_DSE = 0x01
C_IRQF = 0x80
C_PF = 0x40
C_AF = 0x20
C_UF = 0x10
D_VRT = 0x80
HOUR_PM = 0x80
DONT_CARE = 0xC0
UIP_NS = 244_000
DIVIDER_HZ = 32768

_EPOCH = datetime(1, 1, 1)
_STATE = ("index", "nmi_masked", "flags", "_anchor_ns", "_anchor_s", "_weekday", "_seen_s", "_seen_period")


class Rtc146818:
    """The chip (2 ports, 70h); `irq8` is its interrupt output.

    `base` is the time at virtual time 0, `cmos` presets bytes 0Eh to 7Fh (what the firmware wants to know about memory
    size and boot order).  The time bytes and registers A to D can't be preset.
    """

    name = "rtc"

    def __init__(
        self, clock: Clock, irq8: IrqLine, base: datetime, cmos: Mapping[int, int] | None = None, trace: Trace = SILENT
    ) -> None:
        self._clock, self._irq, self._trace = clock, irq8, trace
        self._timer = clock.timer("rtc", self._on_timer)
        self.index = 0
        self.nmi_masked = False
        """Bit 7 of port 70h."""
        self.flags = 0
        """PF, AF and UF as they were last worked out."""
        self._bytes = bytearray(128)
        self._bytes[REG_A] = A_DV_32K | 6
        self._bytes[REG_B] = B_24H
        self._anchor_ns = 0
        """A moment at which a second began ..."""
        self._anchor_s = int((base.replace(tzinfo=None) - _EPOCH).total_seconds())
        """... and which second that was, counted from the year 1."""
        self._weekday = 0
        """What the guest made the day of the week differ from the calendar's."""
        self._seen_s = self._anchor_s
        self._seen_period = 0
        """Second and periodic edge up to which `flags` is worked out."""
        for index, value in (cmos or {}).items():
            if index > REG_D and index not in TIME_BYTES and index < 128:
                self._bytes[index] = value & 0xFF
        self._mark()

    # The calendar

    def _running(self) -> bool:
        return self._bytes[REG_A] & A_DV == A_DV_32K and not self._bytes[REG_B] & B_SET

    def _second(self) -> int:
        """The second that it is, while time runs."""
        return self._anchor_s + (self._clock.now_ns - self._anchor_ns) // NS_PER_SECOND

    def _encode(self, value: int) -> int:
        return value if self._bytes[REG_B] & B_DM else value // 10 << 4 | value % 10

    def _decode(self, value: int) -> int:
        return value if self._bytes[REG_B] & B_DM else (value >> 4) * 10 + (value & 15)

    def _encode_hour(self, hour: int) -> int:
        if self._bytes[REG_B] & B_24H:
            return self._encode(hour)
        return self._encode((hour + 11) % 12 + 1) | (HOUR_PM if hour >= 12 else 0)

    def _time_byte(self, index: int, second: int) -> int:
        """A time register as it shows a second."""
        if index == SECONDS:
            return self._encode(second % 60)
        if index == MINUTES:
            return self._encode(second // 60 % 60)
        if index == HOURS:
            return self._encode_hour(second // 3600 % 24)
        days = second // 86400
        if index == WEEKDAY:
            return self._encode((days + 1 + self._weekday) % 7 + 1)
        date = _EPOCH + timedelta(days=min(max(days, 0), 3_652_058))
        if index == DAY:
            return self._encode(date.day)
        if index == MONTH:
            return self._encode(date.month)
        return self._encode(date.year % 100 if index == YEAR else date.year // 100)

    def _freeze(self) -> None:
        """Store the running time as bytes."""
        second = self._second()
        for index in TIME_BYTES:
            self._bytes[index] = self._time_byte(index, second)

    def _thaw(self, anchor_ns: int) -> None:
        """Go on from the time bytes; what no calendar has is carried over into the next larger unit."""
        at = {index: self._decode(self._bytes[index]) for index in TIME_BYTES}
        hour = at[HOURS]
        if not self._bytes[REG_B] & B_24H:
            raw = self._bytes[HOURS]
            hour = self._decode(raw & 0x7F) % 12 + (12 if raw & HOUR_PM else 0)
        year = min(max(at[CENTURY] * 100 + at[YEAR], 1), 9998)
        start = datetime(year, min(max(at[MONTH], 1), 12), 1)
        days = (start - _EPOCH).days + max(at[DAY], 1) - 1
        self._anchor_s = days * 86400 + hour * 3600 + at[MINUTES] * 60 + at[SECONDS]
        self._anchor_ns = anchor_ns
        self._weekday = (at[WEEKDAY] - 1 - (self._anchor_s // 86400 + 1)) % 7
        self._mark()

    def _last_second_ns(self) -> int:
        """The moment at which the running second began; SET does not stop the divider."""
        return self._clock.now_ns - (self._clock.now_ns - self._anchor_ns) % NS_PER_SECOND

    # Flags and interrupts

    def _period_ticks(self) -> int:
        """Ticks of the divider between periodic interrupts, 0 for never."""
        rate = self._bytes[REG_A] & A_RS
        if not rate or self._bytes[REG_A] & A_DV != A_DV_32K:
            return 0
        return 1 << (rate - 1 if rate > 2 else rate + 6)

    def _period(self) -> int:
        """Number of the periodic edge that came last."""
        ticks = self._period_ticks()
        return (self._clock.now_ns - self._anchor_ns) * DIVIDER_HZ // NS_PER_SECOND // ticks if ticks else 0

    def _mark(self) -> None:
        """Count events from now on."""
        self._seen_period = self._period()
        self._seen_s = self._second()

    def _work_out(self) -> None:
        """Bring the flags up to now."""
        period = self._period()
        if period > self._seen_period:
            self.flags |= C_PF
        self._seen_period = period
        if self._running():
            second = self._second()
            if second > self._seen_s:
                self.flags |= C_UF
                if not self.flags & C_AF:
                    alarm = self._next_alarm(self._seen_s)
                    if alarm is not None and alarm <= second:
                        self.flags |= C_AF
            self._seen_s = second

    def _next_alarm(self, second: int) -> int | None:
        """The first second after `second` that matches the alarm bytes, None if none ever does."""
        bytes_ = self._bytes
        second += 1
        end = second + 2 * 86400
        while second < end:
            want = bytes_[HOURS_ALARM]
            if want < DONT_CARE and want != self._encode_hour(second // 3600 % 24):
                second = (second // 3600 + 1) * 3600
                continue
            want = bytes_[MINUTES_ALARM]
            if want < DONT_CARE and want != self._encode(second // 60 % 60):
                second = (second // 60 + 1) * 60
                continue
            want = bytes_[SECONDS_ALARM]
            if want < DONT_CARE and want != self._encode(second % 60):
                second += 1
                continue
            return second
        return None

    def _update(self) -> None:
        """Drive the line; when it is low, wait for the first event that raises it."""
        enabled = self._bytes[REG_B] & (B_PIE | B_AIE | B_UIE)
        if self.flags & enabled:
            self._timer.cancel()
            self._irq.set(True)
            return
        self._irq.set(False)
        deadlines = []
        ticks = self._period_ticks()
        if enabled & B_PIE and ticks:
            edge = (self._seen_period + 1) * ticks
            deadlines.append(self._anchor_ns - (-edge * NS_PER_SECOND // DIVIDER_HZ))
        if self._running():
            if enabled & B_UIE:
                deadlines.append(self._start_of(self._seen_s + 1))
            if enabled & B_AIE:
                alarm = self._next_alarm(self._seen_s)
                if alarm is not None:
                    deadlines.append(self._start_of(alarm))
        if not deadlines:
            self._timer.cancel()
        elif self._timer.deadline != min(deadlines):
            self._timer.arm(min(deadlines))

    def _start_of(self, second: int) -> int:
        return self._anchor_ns + (second - self._anchor_s) * NS_PER_SECOND

    def _on_timer(self) -> None:
        self._work_out()
        self._update()

    # Registers

    def read(self, offset: int, size: int) -> int:
        if not offset:
            return 0xFF
        index = self.index
        if index in TIME_BYTES and self._running():
            return self._time_byte(index, self._second())
        if index == REG_A:
            return self._bytes[REG_A] | (A_UIP if self._updating() else 0)
        if index == REG_C:
            return self._read_c()
        return D_VRT if index == REG_D else self._bytes[index]

    def _updating(self) -> bool:
        if not self._running():
            return False
        return (self._anchor_ns - self._clock.now_ns - 1) % NS_PER_SECOND < UIP_NS

    def _read_c(self) -> int:
        """Reading clears all flags and drops the line."""
        self._work_out()
        value = self.flags
        if value & self._bytes[REG_B] & (B_PIE | B_AIE | B_UIE):
            value |= C_IRQF
        self.flags = 0
        self._update()
        return value

    def write(self, offset: int, size: int, value: int) -> None:
        if not offset:
            self.index = value & 0x7F
            self.nmi_masked = bool(value & 0x80)
            return
        index = self.index
        if index in TIME_BYTES:
            self._write_time(index, value)
        elif index == REG_A:
            self._write_control(value & 0x7F, self._bytes[REG_B])
        elif index == REG_B:
            self._write_control(self._bytes[REG_A], value)
        elif index in (SECONDS_ALARM, MINUTES_ALARM, HOURS_ALARM):
            self._work_out()
            self._bytes[index] = value
            self._update()
        elif index not in (REG_C, REG_D):
            self._bytes[index] = value

    def _write_time(self, index: int, value: int) -> None:
        if not self._running():
            self._bytes[index] = value
            return
        self._work_out()
        anchor_ns = self._last_second_ns()
        self._freeze()
        self._bytes[index] = value
        self._thaw(anchor_ns)
        self._update()

    def _write_control(self, a: int, b: int) -> None:
        """New values of registers A and B."""
        self._work_out()
        was_held = self._bytes[REG_A] & A_DV != A_DV_32K
        ran = self._running()
        if b & B_SET:
            b &= ~B_UIE
        if b & (B_SQWE | B_DSE) & ~self._bytes[REG_B]:
            self._trace("unmodelled", device=self.name, what="SQWE or DSE in register B", value=b)
        if a & A_DV not in (A_DV_32K, A_DV_RESET, A_DV) and a != self._bytes[REG_A]:
            self._trace("unmodelled", device=self.name, what="divider setting in register A", value=a)
        anchor_ns = self._last_second_ns()
        if was_held and a & A_DV == A_DV_32K:
            anchor_ns = self._clock.now_ns - NS_PER_SECOND // 2
        if ran and (b & B_SET or a & A_DV != A_DV_32K):
            self._freeze()
        self._bytes[REG_A], self._bytes[REG_B] = a, b
        if not ran and self._running():
            self._thaw(anchor_ns)
        elif was_held:
            self._anchor_ns = anchor_ns
        self._seen_period = self._period()
        self._update()

    # Device

    def reset(self) -> None:
        """RESET#: interrupts off; time and memory are battery-backed."""
        self._work_out()
        self._bytes[REG_B] &= ~(B_PIE | B_AIE | B_UIE | B_SQWE)
        self.flags = 0
        self.index = 0
        self.nmi_masked = False
        self._update()

    def snapshot(self) -> Snapshot:
        return {key.lstrip("_"): getattr(self, key) for key in _STATE} | {
            "cmos": bytes(self._bytes),
            "deadline": self._timer.deadline,
            "line": self._irq.level,
        }

    def restore(self, state: Snapshot) -> None:
        for key in _STATE:
            setattr(self, key, state[key.lstrip("_")])
        self._bytes[:] = state["cmos"]
        self._irq.set(state["line"])
        if state["deadline"] is None:
            self._timer.cancel()
        else:
            self._timer.arm(state["deadline"])
