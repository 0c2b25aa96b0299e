"""The I/O APIC of a PC with 24 pins (Intel 82093AA), beside the 8259A.

Two registers in memory: an index (at 0) and a window (at 10h) to the 32-bit register that it names: ID, version,
arbitration ID, and two words for each pin's redirection entry.

An edge-triggered pin sends a message when it rises; one that is masked then is lost.  A level-triggered pin sends one when
it is high, open and not being served (remote IRR); the end of the interrupt lets it send again.

Source: Intel 82093AA datasheet (290566), 3.1-3.2.4.  Version 20h, as QEMU has: an EOI register at 40h (82489DX's
successors, SDM vol. 3, 10.8.5).

Not modelled: SMI, NMI, INIT and ExtINT as delivery modes are passed on as they are; polarity is the board's affair: a wire
is high when it asks.
"""

from __future__ import annotations

from jitvm.devices.base import Snapshot
from jitvm.devices.lapic import LEVEL, MASKED, PENDING, REMOTE_IRR, Message, Sender
from jitvm.trace import SILENT, Trace

N_PINS = 24
INDEX, WINDOW, EOI = 0x00, 0x10, 0x40
ID, VERSION, ARBITRATION, REDIRECTION = 0x00, 0x01, 0x02, 0x10
VERSION_VALUE = (N_PINS - 1) << 16 | 0x20
READ_ONLY = REMOTE_IRR | PENDING
ENTRY_BITS = 0xFF00_0000_0001_FFFF
LOGICAL = 0x800
SIZE = 0x1000


class IoApic:
    """The chip; `set_input(pin, level)` drives a pin."""

    name = "ioapic"

    def __init__(self, bus: Sender, trace: Trace = SILENT) -> None:
        self._bus, self._trace = bus, trace
        self.lines = 0
        self._clear()

    def _clear(self) -> None:
        self._index = self.id = 0
        self.entries = [MASKED] * N_PINS

    # ---- pins -------------------------------------------------------------------------------------------------------
    def set_input(self, pin: int, level: bool) -> None:
        """Drive a pin."""
        bit = 1 << pin
        rose = level and not self.lines & bit
        self.lines = self.lines | bit if level else self.lines & ~bit
        if rose or self.entries[pin] & LEVEL:
            self._look(pin, rose)

    def _look(self, pin: int, rose: bool) -> None:
        """Send what a pin has to send."""
        entry = self.entries[pin]
        if entry & MASKED:
            return
        if entry & LEVEL:
            if self.lines >> pin & 1 and not entry & REMOTE_IRR:
                self.entries[pin] = entry | REMOTE_IRR
                self._send(entry)
        elif rose:
            self._send(entry)

    def _send(self, entry: int) -> None:
        self._bus.send(
            Message(entry & 0xFF, entry >> 8 & 7, entry >> 56, bool(entry & LOGICAL), bool(entry & LEVEL), True)
        )

    def end_of_interrupt(self, vector: int) -> None:
        """A processor has served a level-triggered interrupt: its pins may send again."""
        for pin, entry in enumerate(self.entries):
            if entry & LEVEL and entry & REMOTE_IRR and entry & 0xFF == vector:
                self.entries[pin] = entry & ~REMOTE_IRR
                self._look(pin, False)

    # ---- registers --------------------------------------------------------------------------------------------------
    def read(self, offset: int, size: int) -> int:
        """The index, or the register that it names."""
        if offset == INDEX:
            return self._index
        return self._register() & ((1 << 8 * size) - 1) if offset == WINDOW else 0

    def _register(self) -> int:
        index = self._index
        if index in (ID, ARBITRATION):
            return self.id << 24
        if index == VERSION:
            return VERSION_VALUE
        pin, high = divmod(index - REDIRECTION, 2)
        if 0 <= pin < N_PINS:
            return self.entries[pin] >> 32 * high & 0xFFFF_FFFF
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        """The index, the register that it names, or the EOI register."""
        if offset == INDEX:
            self._index = value & 0xFF
        elif offset == WINDOW and size == 4:
            self._write_register(value)
        elif offset == EOI:
            self.end_of_interrupt(value & 0xFF)
        else:
            self._trace("guest_error", device=self.name, what=f"write of {size} bytes at {offset:02x}h", value=value)

    def _write_register(self, value: int) -> None:
        index = self._index
        pin, high = divmod(index - REDIRECTION, 2)
        if index == ID:
            self.id = value >> 24 & 0xF
        elif 0 <= pin < N_PINS:
            self._write_entry(pin, bool(high), value)

    def _write_entry(self, pin: int, high: bool, value: int) -> None:
        """One half of an entry; a pin that becomes edge-triggered forgets that it was being served."""
        entry = self.entries[pin]
        if high:
            entry = (entry & 0xFFFF_FFFF) | value << 32
        else:
            entry = (entry & ~0xFFFF_FFFF) | (value & ~READ_ONLY) | (entry & READ_ONLY)
        entry &= ENTRY_BITS
        if not entry & LEVEL:
            entry &= ~REMOTE_IRR
        self.entries[pin] = entry
        self._look(pin, False)

    # ---- state ------------------------------------------------------------------------------------------------------
    def reset(self) -> None:
        """Back to power-on; `lines` are wires and stay as they are driven."""
        self._clear()

    def snapshot(self) -> Snapshot:
        return {"index": self._index, "id": self.id, "entries": list(self.entries), "lines": self.lines}

    def restore(self, state: Snapshot) -> None:
        self._index, self.id, self.lines = state["index"], state["id"], state["lines"]
        self.entries = list(state["entries"])
