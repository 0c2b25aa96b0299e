"""The 8042 keyboard controller of an AT or PS/2 with a keyboard port and a mouse port.

IBM PS/2 Hardware Interface Technical Reference, "Keyboard and Auxiliary Device Controller": commands, status, command
byte, input and output ports; the translation of scan code set 2 to set 1.

A byte from the keyboard takes 100 microseconds from the moment at which the output buffer is free (a real cable takes
about a millisecond): a handler may read port 60h twice and sees the same byte, as on real machines.  Answers of the
controller itself are there at once.  Port 60h keeps its last byte.

Nothing is plugged into the mouse port: its interface test passes, a byte sent to it comes back as a time-out (FEh).

Not modelled: the password commands (A5h, A6h), diagnostic dump (ACh), input port polling (C1h, C2h), the keyboard lock
and its override, pulses of output bits other than the reset.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Protocol

from jitvm.clock import Clock
from jitvm.devices.base import Registers, Snapshot
from jitvm.irq import IrqLine
from jitvm.trace import SILENT, Trace

STAT_OBF, STAT_SYS, STAT_COMMAND, STAT_UNLOCKED = 0x01, 0x04, 0x08, 0x10
STAT_AUX_OBF, STAT_TIMEOUT = 0x20, 0x40
CTR_KBD_INT, CTR_AUX_INT, CTR_SYS, CTR_KBD_OFF, CTR_AUX_OFF, CTR_TRANSLATE = 0x01, 0x02, 0x04, 0x10, 0x20, 0x40
OUT_RESET, OUT_A20, OUT_KBD_OBF, OUT_AUX_OBF, OUT_ONES = 0x01, 0x02, 0x10, 0x20, 0xCC
INPUT_PORT = 0xA0
"""Keyboard not locked, manufacturing jumper not installed."""
BREAK_PREFIX = 0xF0
NO_ANSWER = 0xFE
BYTE_NS = 100_000

# Scan code set 2 to set 1, codes 00h to 7Fh; from 80h on only 83h and 84h change.
TRANSLATION = (
    bytes.fromhex(
        "ff43413f 3d3b3c58 64444240 3e0f2959 65382a70 1d10025a 66712c1f 1e11035b"
        "672e2d20 1205045c 68392f21 1413065d 69313023 2215075e 6a723224 1608095f"
        "6b332517 180b0a60 6c343526 27190c61 6d732874 1a0d626e 3a361c1b 752b6376"
        "55567778 797a0e7b 7c4f7d4b 477e7f6f 5253504c 4d480145 574e514a 37494654"
    )
    + bytes((0x80, 0x81, 0x82, 0x41, 0x54))
    + bytes(range(0x85, 0x100))
)


class Ps2Device(Protocol):
    """What is plugged into a port."""

    def connect(self, ready: Callable[[], None]) -> None: ...

    def has_byte(self) -> bool: ...

    def take(self) -> int | None: ...

    def write(self, value: int) -> None: ...


_STATE = ("data", "obf", "source", "timeout", "system", "command_last", "command", "output_port", "_break")
FROM_CONTROLLER, FROM_KEYBOARD, FROM_AUX = 0, 1, 2


class I8042:
    """The controller: ranges `data_port` (1 port, 60h) and `command_port` (1 port, 64h).

    `on_a20` is called with the level of the A20 gate at every write of the output port, `on_reset` with a cause.
    """

    name = "i8042"

    def __init__(
        self,
        clock: Clock,
        keyboard: Ps2Device,
        irq1: IrqLine,
        irq12: IrqLine,
        on_a20: Callable[[bool], None],
        on_reset: Callable[[str], None],
        trace: Trace = SILENT,
    ) -> None:
        self._clock, self._keyboard, self._irq1, self._irq12 = clock, keyboard, irq1, irq12
        self._on_a20, self._on_reset, self._trace = on_a20, on_reset, trace
        self._timer = clock.timer(self.name, self._byte_arrives)
        self._replies: deque[tuple[int, int, bool]] = deque()
        self._ram = bytearray(32)
        self.data_port = Registers(self._read_data, self._write_data)
        self.command_port = Registers(self._read_status, self._write_command)
        self._power_on()
        keyboard.connect(self._schedule)

    def _power_on(self) -> None:
        self._ram[:] = bytes(32)
        self._ram[0] = CTR_KBD_INT | CTR_AUX_INT
        self._replies.clear()
        self.data = 0
        self.obf = False
        """The output buffer holds a byte that has not been read ..."""
        self.source = FROM_CONTROLLER
        """... and where it came from."""
        self.timeout = False
        self.system = False
        self.command_last = True
        """Whether the last write went to port 64h."""
        self.command = 0
        """The command whose parameter comes next through port 60h."""
        self.output_port = OUT_RESET | OUT_A20
        self._break = False

    # The output buffer

    def _fill(self, value: int, source: int, timeout: bool = False) -> None:
        self.data, self.source, self.timeout, self.obf = value, source, timeout, True
        self._update()

    def _reply(self, value: int, source: int = FROM_CONTROLLER, timeout: bool = False) -> None:
        """An answer: at once when the buffer is free, else after what is in it."""
        self._replies.append((value, source, timeout))
        self._schedule()

    def _schedule(self) -> None:
        """Bring the next byte on its way if the buffer is free."""
        if self.obf:
            return
        if self._replies:
            self._fill(*self._replies.popleft())
        elif self._timer.deadline is None and not self._ram[0] & CTR_KBD_OFF and self._keyboard.has_byte():
            self._timer.arm(self._clock.now_ns + BYTE_NS)

    def _byte_arrives(self) -> None:
        if self.obf or self._ram[0] & CTR_KBD_OFF:
            return
        value = self._keyboard.take()
        if value is not None and self._ram[0] & CTR_TRANSLATE:
            if value == BREAK_PREFIX:
                self._break = True
                value = self._keyboard.take()
            if value is not None:
                value = TRANSLATION[value] | (0x80 if self._break else 0)
                self._break = False
        if value is not None:
            self._fill(value, FROM_KEYBOARD)

    def _update(self) -> None:
        """The interrupt lines follow the output buffer."""
        ctr = self._ram[0]
        aux = self.source == FROM_AUX
        wanted = self.source == FROM_KEYBOARD or not ctr & CTR_KBD_OFF
        self._irq1.set(self.obf and not aux and wanted and bool(ctr & CTR_KBD_INT))
        self._irq12.set(self.obf and aux and bool(ctr & CTR_AUX_INT))

    # Port 60h

    def _read_data(self, offset: int, size: int) -> int:
        value = self.data
        if self.obf:
            self.obf = self.timeout = False
            self._update()
            self._schedule()
        return value

    def _write_data(self, offset: int, size: int, value: int) -> None:
        self.command_last = False
        command, self.command = self.command, 0
        if not command:
            self._ram[0] &= ~CTR_KBD_OFF
            self._keyboard.write(value)
            self._schedule()
        elif command & 0xE0 == 0x60:
            self._write_ram(command & 0x1F, value)
        elif command == 0xD1:
            self._write_output_port(value)
        elif command == 0xD2:
            self._reply(value, FROM_KEYBOARD)
        elif command == 0xD3:
            self._reply(value, FROM_AUX)
        else:
            self._ram[0] &= ~CTR_AUX_OFF
            self._reply(NO_ANSWER, FROM_AUX, timeout=True)

    def _write_ram(self, index: int, value: int) -> None:
        self._ram[index] = value
        if index == 0:
            self.system = bool(value & CTR_SYS)
            self._update()
            self._schedule()

    def _write_output_port(self, value: int) -> None:
        self.output_port = value & (OUT_RESET | OUT_A20) | OUT_RESET
        self._on_a20(bool(value & OUT_A20))
        if not value & OUT_RESET:
            self._on_reset("keyboard controller output port")

    # Port 64h

    def _read_status(self, offset: int, size: int) -> int:
        status = STAT_UNLOCKED
        if self.obf:
            status |= STAT_OBF | (STAT_AUX_OBF if self.source == FROM_AUX else 0)
        if self.system:
            status |= STAT_SYS
        if self.command_last:
            status |= STAT_COMMAND
        return status | (STAT_TIMEOUT if self.timeout else 0)

    def _write_command(self, offset: int, size: int, value: int) -> None:
        self.command_last = True
        self.command = 0
        if value & 0xE0 == 0x20:
            self._reply(self._ram[value & 0x1F])
        elif value & 0xE0 == 0x60 or value in (0xD1, 0xD2, 0xD3, 0xD4):
            self.command = value
        elif value & 0xF0 == 0xF0:
            if not value & 1:
                self._on_reset("keyboard controller pulse")
        else:
            action = _COMMANDS.get(value)
            if action is None:
                self._trace("unmodelled", device=self.name, what="command", value=value)
            else:
                action(self)

    def _change_ctr(self, clear: int, set_: int) -> None:
        self._ram[0] = self._ram[0] & ~clear | set_
        self._update()
        self._schedule()

    def _self_test(self) -> None:
        self.system = True
        self._ram[0] |= CTR_SYS
        self._reply(0x55)

    def _read_output_port(self) -> None:
        value = self.output_port | OUT_ONES
        if self.obf:
            value |= OUT_AUX_OBF if self.source == FROM_AUX else OUT_KBD_OBF
        self._reply(value)

    def _read_test_inputs(self) -> None:
        """Keyboard clock and data: both high, the clock held low while the port is off."""
        self._reply(2 if self._ram[0] & CTR_KBD_OFF else 3)

    # Device

    def reset(self) -> None:
        self._power_on()
        self._timer.cancel()
        self._update()
        self._on_a20(True)

    def snapshot(self) -> Snapshot:
        state: Snapshot = {key.lstrip("_"): getattr(self, key) for key in _STATE}
        return state | {
            "ram": bytes(self._ram),
            "replies": [list(reply) for reply in self._replies],
            "deadline": self._timer.deadline,
        }

    def restore(self, state: Snapshot) -> None:
        for key in _STATE:
            setattr(self, key, state[key.lstrip("_")])
        self._ram[:] = state["ram"]
        self._replies = deque((value, source, timeout) for value, source, timeout in state["replies"])
        if state["deadline"] is None:
            self._timer.cancel()
        else:
            self._timer.arm(state["deadline"])
        self._update()


_COMMANDS: dict[int, Callable[[I8042], None]] = {
    0xA4: lambda c: c._reply(0xF1),  # no password is set
    0xA7: lambda c: c._change_ctr(0, CTR_AUX_OFF),
    0xA8: lambda c: c._change_ctr(CTR_AUX_OFF, 0),
    0xA9: lambda c: c._reply(0x00),
    0xAA: I8042._self_test,
    0xAB: lambda c: c._reply(0x00),
    0xAD: lambda c: c._change_ctr(0, CTR_KBD_OFF),
    0xAE: lambda c: c._change_ctr(CTR_KBD_OFF, 0),
    0xC0: lambda c: c._reply(INPUT_PORT),
    0xD0: I8042._read_output_port,
    0xDD: lambda c: c._write_output_port(OUT_RESET),
    0xDF: lambda c: c._write_output_port(OUT_RESET | OUT_A20),
    0xE0: I8042._read_test_inputs,
}
