"""The system control ports of an AT: 61h (speaker, refresh), 92h (A20 and fast reset), 80h (POST code).

Intel 82371AB (PIIX4), sections on NMISC (61h) and port 92h; IBM PC AT Technical Reference for the manufacturing port.
The refresh bit changes with every refresh request, 15.085 microseconds apart; delay loops of firmware count it.

Port 61h bit 5 is the timer's channel 2, bits 0 and 1 its gate and the speaker.  The NMI mask of port 70h belongs to the
clock chip.

Not modelled: the speaker's sound, memory parity and I/O channel check (bits 6 and 7 read 0), the fixed disk lights and
the password lock of port 92h.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from jitvm.clock import Clock
from jitvm.devices.base import Latches, Registers, Snapshot
from jitvm.trace import SILENT, Trace

P61_GATE2, P61_SPEAKER, P61_REFRESH, P61_OUT2 = 0x01, 0x02, 0x10, 0x20
P61_WRITABLE = 0x0F
P92_RESET, P92_A20 = 0x01, 0x02
REFRESH_NS = 15_085
SPEAKER_CHANNEL = 2


class SpeakerTimer(Protocol):
    """The interval timer as port 61h sees it."""

    def set_gate(self, channel: int, level: bool) -> None: ...

    def output(self, channel: int) -> bool: ...


class PostCode(Latches):
    """What was last written to port 80h; who traces sees each write."""

    def __init__(self, trace: Trace) -> None:
        super().__init__(1)
        self._trace = trace

    def write(self, offset: int, size: int, value: int) -> None:
        """Hold `value`."""
        super().write(offset, size, value)
        if self._trace.wants("device_state"):
            self._trace("device_state", device=SystemControl.name, what="POST code", value=value)


class SystemControl:
    """Ranges `port61`, `port92` and `port80`, 1 port each.

    `on_a20` is called with the level of the A20 gate at every write of port 92h, `on_reset` with a cause.
    """

    name = "sysctl"

    def __init__(
        self,
        clock: Clock,
        timer: SpeakerTimer,
        on_a20: Callable[[bool], None],
        on_reset: Callable[[str], None],
        trace: Trace = SILENT,
    ) -> None:
        self._clock, self._timer, self._trace = clock, timer, trace
        self._on_a20, self._on_reset = on_a20, on_reset
        self.port61 = Registers(self._read_61, self._write_61)
        self.port92 = Registers(self._read_92, self._write_92)
        self.port80 = PostCode(trace)
        self._power_on()

    def _power_on(self) -> None:
        self._control = 0
        self._fast = 0
        self.port80.values[0] = 0

    def speaker_on(self) -> bool:
        """Whether the timer's tone reaches the speaker."""
        return self._control & (P61_GATE2 | P61_SPEAKER) == P61_GATE2 | P61_SPEAKER

    def _read_61(self, offset: int, size: int) -> int:
        value = self._control
        if self._clock.now_ns // REFRESH_NS & 1:
            value |= P61_REFRESH
        if self._timer.output(SPEAKER_CHANNEL):
            value |= P61_OUT2
        return value

    def _write_61(self, offset: int, size: int, value: int) -> None:
        self._control = value & P61_WRITABLE
        self._timer.set_gate(SPEAKER_CHANNEL, bool(value & P61_GATE2))

    def _read_92(self, offset: int, size: int) -> int:
        return self._fast

    def _write_92(self, offset: int, size: int, value: int) -> None:
        rising = value & ~self._fast & P92_RESET
        self._fast = value & (P92_RESET | P92_A20)
        self._on_a20(bool(value & P92_A20))
        if rising:
            self._on_reset("port 92h")

    def reset(self) -> None:
        self._power_on()
        self._timer.set_gate(SPEAKER_CHANNEL, False)

    def snapshot(self) -> Snapshot:
        return {"control": self._control, "fast": self._fast, "post_code": self.port80.values[0]}

    def restore(self, state: Snapshot) -> None:
        self._control, self._fast, self.port80.values[0] = state["control"], state["fast"], state["post_code"]
