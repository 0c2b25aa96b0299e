"""The 8254 programmable interval timer.

Intel 8254 data sheet (order number 231164): control words, read-back, mode definitions, gate operation.

The chip counts *ticks* of 1,193,182 Hz, tick n beginning at the first nanosecond of virtual time at or after
n / 1,193,182 seconds.  Nothing counts along: every value is computed from the tick at which the counter was loaded, so
nothing drifts.  Only channel 0 has a timer, for the edges of its output.

The low pulse of one tick that modes 2, 4 and 5 give is delivered to channel 0's line as a whole at its end, the rising
edge; `output` shows it as it is.

A count of 1 is illegal in modes 2 and 3: the output stands still.

Not modelled: the undefined state before a channel is programmed (it is mode 0, output low, not counting); the half tick
between the two edges of CLK.
"""

from __future__ import annotations

from jitvm.clock import NS_PER_SECOND, Clock
from jitvm.devices.base import Snapshot
from jitvm.irq import IrqLine
from jitvm.trace import SILENT, Trace

PIT_HZ = 1_193_182

RW_LSB, RW_MSB, RW_BOTH = 1, 2, 3
SC_READ_BACK = 3
READ_BACK_NOT_COUNT = 0x20
READ_BACK_NOT_STATUS = 0x10
STATUS_OUT = 0x80
STATUS_NULL = 0x40
PULSE_MODES = (2, 4, 5)
"""Output high but for single ticks."""
CONTROL = 3
"""Offset of the control word register."""


def _from_bcd(value: int) -> int:
    """Value of four BCD digits; a digit above 9 counts as it is."""
    return (value >> 12) * 1000 + (value >> 8 & 15) * 100 + (value >> 4 & 15) * 10 + (value & 15)


def _to_bcd(value: int) -> int:
    return value // 1000 % 10 << 12 | value // 100 % 10 << 8 | value // 10 % 10 << 4 | value % 10


_STATE = (
    "control", "mode", "rw", "bcd", "gate", "period", "start", "held", "idle", "idle_out", "next_period", "switch",
    "loaded", "low_byte", "read_high", "count_latch", "status_latch",
)  # fmt: skip


class Counter:
    """One channel; all times are ticks."""

    __slots__ = _STATE

    def __init__(self, gate: bool) -> None:
        self.gate = gate
        self.period = 65536
        self.program(RW_BOTH << 4)

    def program(self, control: int) -> None:
        """A control word: mode, access, BCD; the counter stops until it gets a count."""
        self.control = control
        self.mode = control >> 1 & 7
        if self.mode > 5:
            self.mode -= 4
        self.rw = control >> 4 & 3
        self.bcd = bool(control & 1)
        self.start: int | None = None
        """Tick at which the count was loaded; None: not counting."""
        self.held: int | None = None
        """Ticks already counted when the gate stopped modes 0 and 4."""
        self.idle = 0
        self.idle_out = self.mode != 0
        """Count and output while not counting."""
        self.next_period: int | None = None
        self.switch: int | None = None
        """A count that waits for the end of the period (at tick `switch`) or for a trigger."""
        self.loaded = False
        self.low_byte: int | None = None
        self.read_high = False
        self.count_latch: int | None = None
        self.status_latch: int | None = None

    # What the counter shows at a tick

    def sync(self, tick: int) -> None:
        """Load a waiting count whose moment has come."""
        if self.switch is not None and tick >= self.switch and self.next_period is not None:
            at, low_half_next = self.switch, self.mode == 3 and not self._first_half(self.switch)
            self.period = self.next_period
            self.start = at - (self.period + 1) // 2 if low_half_next else at
            self.next_period = self.switch = None

    def _first_half(self, tick: int) -> bool:
        assert self.start is not None
        return tick < self.start or (tick - self.start) % self.period < (self.period + 1) // 2

    def count(self, tick: int) -> int:
        """The counting element as its 16-bit register shows it."""
        value = self.idle if self.start is None else self._value(max(tick - self.start, 0))
        return _to_bcd(value) if self.bcd else value & 0xFFFF

    def _value(self, elapsed: int) -> int:
        period = self.period
        if self.mode == 2:
            return period - elapsed % period
        if self.mode == 3:
            elapsed %= period
            high = (period + 1) // 2
            return (period & ~1) - 2 * (elapsed if elapsed < high else elapsed - high)
        return (period - elapsed) % (10000 if self.bcd else 65536)

    def out(self, tick: int) -> bool:
        """The OUT pin."""
        if self.start is None:
            return self.idle_out
        elapsed = tick - self.start
        mode = self.mode
        if mode == 2:
            return elapsed < 0 or elapsed % self.period != self.period - 1
        if mode == 3:
            return self._first_half(tick)
        if mode < 2:
            return elapsed >= self.period
        return elapsed != self.period

    def next_event(self, tick: int) -> int | None:
        """The next tick after `tick` at which OUT rises, or in mode 3 changes; None when it stays."""
        if self.start is None or (self.period == 1 and self.mode in (2, 3)):
            return None
        elapsed, period = tick - self.start, self.period
        if self.mode == 2:
            return self.start + (max(elapsed, 0) // period + 1) * period
        if self.mode == 3:
            whole = self.start + max(elapsed, 0) // period * period
            return whole + ((period + 1) // 2 if self._first_half(tick) else period)
        end = period if self.mode < 2 else period + 1
        return self.start + end if elapsed < end else None

    # What is done to it

    def _hold(self, tick: int, out: bool) -> None:
        if self.start is not None:
            self.idle = self._value(max(tick - self.start, 0))
            self.start = None
        self.idle_out = out

    def load(self, tick: int, value: int) -> None:
        """A complete count has been written; the next tick loads it."""
        modulus = 10000 if self.bcd else 65536
        value = (_from_bcd(value) if self.bcd else value) or modulus
        mode = self.mode
        if mode in (1, 5):
            self.next_period = value
        elif mode in (2, 3) and (not self.gate or (self.start is not None and tick >= self.start)):
            self.next_period = value
            if self.gate:
                self.switch = self.next_event(tick) or tick + 1
        else:
            self._begin(tick + 1, value)
            if mode in (0, 4) and not self.gate:
                self._hold(tick, self.mode == 4)
                self.held = 0

    def _begin(self, tick: int, period: int) -> None:
        self.period, self.start, self.loaded = period, tick, True
        self.held = self.next_period = self.switch = None

    def write(self, tick: int, value: int) -> None:
        """A byte of the count."""
        self.sync(tick)
        if self.rw == RW_LSB:
            self.load(tick, value)
        elif self.rw == RW_MSB:
            self.load(tick, value << 8)
        elif self.low_byte is None:
            self.low_byte = value
            if self.mode == 0:
                self._hold(tick, False)
                self.held = None
        else:
            low, self.low_byte = self.low_byte, None
            self.load(tick, low | value << 8)

    def set_gate(self, tick: int, level: bool) -> None:
        """Drive the GATE pin."""
        if level == self.gate:
            return
        self.sync(tick)
        self.gate = level
        mode = self.mode
        if mode in (0, 4):
            if level and self.held is not None:
                self.start, self.held = tick - self.held, None
            elif not level and self.start is not None:
                elapsed = max(tick - self.start, 0)
                self._hold(tick, self.out(tick))
                self.held = elapsed
        elif level:
            if self.next_period is not None or self.loaded:
                self._begin(tick + 1, self.period if self.next_period is None else self.next_period)
        elif mode in (2, 3):
            self._hold(tick, True)
            self.switch = None

    def latch_count(self, tick: int) -> None:
        if self.count_latch is None:
            self.count_latch = self.count(tick)

    def latch_status(self, tick: int) -> None:
        if self.status_latch is None:
            waiting = not self.loaded or self.next_period is not None or (self.start is not None and tick < self.start)
            out = STATUS_OUT if self.out(tick) else 0
            self.status_latch = out | (STATUS_NULL if waiting else 0) | self.control & 0x3F

    def read(self, tick: int) -> int:
        """Latched status, latched count or the running count, a byte at a time."""
        if self.status_latch is not None:
            value, self.status_latch = self.status_latch, None
            return value
        self.sync(tick)
        count = self.count(tick) if self.count_latch is None else self.count_latch
        if self.rw == RW_BOTH:
            high = self.read_high
            self.read_high = not high
            if high:
                self.count_latch = None
        else:
            high = self.rw == RW_MSB
            self.count_latch = None
        return count >> 8 if high else count & 0xFF


class Pit8254:
    """The chip (4 ports, 40h). `irq0` is channel 0's output; channel 2's gate and output are for port 61h.

    The gates of channels 0 and 1 are tied high, channel 2's is low until `set_gate`.
    """

    name = "pit"

    def __init__(self, clock: Clock, irq0: IrqLine, trace: Trace = SILENT) -> None:
        self._clock, self._irq0, self._trace = clock, irq0, trace
        self._timer = clock.timer("pit", self._on_edge)
        self._power_on()

    def _power_on(self) -> None:
        self._counters = [Counter(True), Counter(True), Counter(False)]

    def _tick(self) -> int:
        return self._clock.now_ns * PIT_HZ // NS_PER_SECOND

    def _rearm(self, tick: int) -> None:
        counter = self._counters[0]
        event = counter.next_event(tick)
        if event is None:
            self._timer.cancel()
        else:
            deadline = -(-event * NS_PER_SECOND // PIT_HZ)
            if deadline != self._timer.deadline:
                self._timer.arm(deadline)

    def _on_edge(self) -> None:
        """Channel 0's output has an edge; a pulse that was over in between is made up for."""
        tick = self._tick()
        counter, line = self._counters[0], self._irq0
        counter.sync(tick)
        level = counter.out(tick) or counter.mode in PULSE_MODES
        if level == line.level:
            line.set(not level)
        line.set(level)
        self._rearm(tick)

    def output(self, channel: int) -> bool:
        """Level of a channel's OUT pin now."""
        tick = self._tick()
        counter = self._counters[channel]
        counter.sync(tick)
        return counter.out(tick)

    def set_gate(self, channel: int, level: bool) -> None:
        """Drive a channel's GATE pin."""
        tick = self._tick()
        self._counters[channel].set_gate(tick, level)
        self._follow(channel, tick)

    def read(self, offset: int, size: int) -> int:
        return 0xFF if offset == CONTROL else self._counters[offset].read(self._tick())

    def write(self, offset: int, size: int, value: int) -> None:
        tick = self._tick()
        if offset != CONTROL:
            self._counters[offset].write(tick, value)
            self._follow(offset, tick)
        elif value >> 6 == SC_READ_BACK:
            self._read_back(value, tick)
        else:
            channel = value >> 6
            counter = self._counters[channel]
            counter.sync(tick)
            if not value & 0x30:
                counter.latch_count(tick)
            else:
                counter.program(value & 0x3F)
                if self._trace.wants("device_state"):
                    self._trace("device_state", device=self.name, what=f"channel {channel} control", value=value)
                self._follow(channel, tick)

    def _follow(self, channel: int, tick: int) -> None:
        """Channel 0 was programmed or gated: its line and its next edge."""
        if channel == 0:
            counter = self._counters[0]
            self._irq0.set(counter.out(tick) or counter.mode in PULSE_MODES)
            self._rearm(tick)

    def _read_back(self, value: int, tick: int) -> None:
        for channel, counter in enumerate(self._counters):
            if value & 2 << channel:
                counter.sync(tick)
                if not value & READ_BACK_NOT_COUNT:
                    counter.latch_count(tick)
                if not value & READ_BACK_NOT_STATUS:
                    counter.latch_status(tick)

    def reset(self) -> None:
        self._power_on()
        self._timer.cancel()
        self._irq0.set(False)

    def snapshot(self) -> Snapshot:
        channels = [{key: getattr(counter, key) for key in _STATE} for counter in self._counters]
        return {"channels": channels, "line": self._irq0.level, "deadline": self._timer.deadline}

    def restore(self, state: Snapshot) -> None:
        for counter, saved in zip(self._counters, state["channels"], strict=True):
            for key in _STATE:
                setattr(counter, key, saved[key])
        self._irq0.set(state["line"])
        if state["deadline"] is None:
            self._timer.cancel()
        else:
            self._timer.arm(state["deadline"])
