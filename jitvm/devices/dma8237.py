"""The two 8237A DMA controllers of an AT with their page registers.

Intel 8237A data sheet (order number 231466); IBM PC AT Technical Reference for the page registers and the cascade:
controller 1 serves channels 0 to 3 with bytes through channel 4 of controller 2, whose channels 5 to 7 move words and
count addresses in words.

A device moves data by `read_channel` (memory to device) and `write_channel` (device to memory), which stop at the
terminal count.  Channels 0 to 3 work only while channel 4 is not masked, as wired.

Not modelled: memory-to-memory transfers, software requests, rotating priority and the timing bits of the command
register, the difference between single, block and demand mode (the device decides how much it moves).
"""

from __future__ import annotations

from jitvm.devices.base import Latches, Registers, Snapshot
from jitvm.memory import GuestMemory
from jitvm.trace import SILENT, Trace

COMMAND_DISABLE = 0x04
COMMAND_UNMODELLED = 0x3B
"""Memory-to-memory, address hold, compressed timing, rotating priority, extended write."""
MODE_WRITE, MODE_READ = 1, 2
"""Bits 3-2 of a mode: into memory, out of memory; 0 is verify."""
MODE_AUTO, MODE_DOWN = 0x10, 0x20
CASCADE = 4
R_COMMAND, R_REQUEST, R_MASK_BIT, R_MODE, R_CLEAR_FLIP_FLOP, R_MASTER_CLEAR, R_CLEAR_MASK, R_MASK = range(8, 16)
PAGE_OF_CHANNEL = (0x87, 0x83, 0x81, 0x82, 0x8F, 0x8B, 0x89, 0x8A)
PAGES_BASE = 0x81

_STATE = ("command", "status", "mask", "flip_flop", "temporary", "mode", "base", "count", "address", "left")


class Dma8237:
    """One controller: four channels."""

    def __init__(self, name: str, trace: Trace) -> None:
        self.name, self._trace = name, trace
        self._power_on()

    def _power_on(self) -> None:
        self.mode = [0] * 4
        self.base = [0] * 4
        self.count = [0] * 4
        """Base address and base word count."""
        self.address = [0] * 4
        self.left = [0] * 4
        """Current address and current word count."""
        self._master_clear()

    def _master_clear(self) -> None:
        self.command = self.status = self.temporary = 0
        self.flip_flop = False
        """The next byte is a high one."""
        self.mask = 0x0F

    def read(self, offset: int) -> int:
        if offset < 8:
            registers = self.left if offset & 1 else self.address
            high, self.flip_flop = self.flip_flop, not self.flip_flop
            value = registers[offset >> 1]
            return value >> 8 if high else value & 0xFF
        if offset == R_COMMAND:
            value = self.status
            self.status &= 0xF0
            return value
        if offset == R_MASTER_CLEAR:
            return self.temporary
        return 0xF0 | self.mask if offset == R_MASK else 0xFF

    def write(self, offset: int, value: int) -> None:
        if offset < 8:
            self._write_pair(offset >> 1, bool(offset & 1), value)
        elif offset == R_COMMAND:
            if value & COMMAND_UNMODELLED & ~self.command:
                self._trace("unmodelled", device=self.name, what="command", value=value)
            self.command = value
        elif offset == R_REQUEST:
            if value & 4:
                self._trace("unmodelled", device=self.name, what="software request", value=value)
        elif offset == R_MASK_BIT:
            bit = 1 << (value & 3)
            self.mask = self.mask | bit if value & 4 else self.mask & ~bit
        elif offset == R_MODE:
            self.mode[value & 3] = value & 0xFC
        elif offset == R_CLEAR_FLIP_FLOP:
            self.flip_flop = False
        elif offset == R_MASTER_CLEAR:
            self._master_clear()
        else:
            self.mask = value & 0x0F if offset == R_MASK else 0

    def _write_pair(self, channel: int, is_count: bool, value: int) -> None:
        """A byte of a base register; the current one follows."""
        base, current = (self.count, self.left) if is_count else (self.base, self.address)
        high, self.flip_flop = self.flip_flop, not self.flip_flop
        old = base[channel]
        base[channel] = current[channel] = old & 0xFF | value << 8 if high else old & 0xFF00 | value

    def advance(self, channel: int, n: int) -> bool:
        """Count n transfers done (at most `left` + 1); whether that was the terminal count."""
        step = -n if self.mode[channel] & MODE_DOWN else n
        self.address[channel] = (self.address[channel] + step) & 0xFFFF
        if n <= self.left[channel]:
            self.left[channel] -= n
            return False
        self.status |= 1 << channel
        if self.mode[channel] & MODE_AUTO:
            self.address[channel], self.left[channel] = self.base[channel], self.count[channel]
        else:
            self.left[channel] = 0xFFFF
            self.mask |= 1 << channel
        return True

    def ready(self, channel: int) -> bool:
        """Whether a request of the channel would be served."""
        return not self.mask >> channel & 1 and not self.command & COMMAND_DISABLE

    def reset(self) -> None:
        self._power_on()

    def snapshot(self) -> Snapshot:
        return {k: list(v) if isinstance(v := getattr(self, k), list) else v for k in _STATE}

    def restore(self, state: Snapshot) -> None:
        for key in _STATE:
            value = state[key]
            setattr(self, key, list(value) if isinstance(value, list) else value)


class DmaPair:
    """Both controllers.

    Ranges: `low` (16 ports, 00h), `high` (32 ports, C0h, a register at each even port and its double at the odd one),
    `pages` (15 ports, 81h).
    """

    name = "dma"

    def __init__(self, memory: GuestMemory, trace: Trace = SILENT) -> None:
        self._memory = memory
        self._chips = (Dma8237("dma-1", trace), Dma8237("dma-2", trace))
        self.low = Registers(self._read_low, self._write_low)
        self.high = Registers(self._read_high, self._write_high)
        self.pages = Latches(15)

    def _read_low(self, offset: int, size: int) -> int:
        return self._chips[0].read(offset)

    def _write_low(self, offset: int, size: int, value: int) -> None:
        self._chips[0].write(offset, value)

    def _read_high(self, offset: int, size: int) -> int:
        return self._chips[1].read(offset >> 1)

    def _write_high(self, offset: int, size: int, value: int) -> None:
        self._chips[1].write(offset >> 1, value)

    # Transfers

    def ready(self, channel: int) -> bool:
        """Whether a DREQ of channel 0 to 3 or 5 to 7 is answered: enabled, not masked, and the cascade open."""
        chip = self._chips[channel >> 2]
        return chip.ready(channel & 3) and (channel > 3 or self._chips[1].ready(0))

    def set_request(self, channel: int, level: bool) -> None:
        """Drive DREQ, which the status register shows."""
        chip, bit = self._chips[channel >> 2], 0x10 << (channel & 3)
        chip.status = chip.status | bit if level else chip.status & ~bit

    def read_channel(self, channel: int, size: int) -> tuple[bytes, bool]:
        """Up to `size` bytes out of memory for a device, and whether the terminal count was reached.

        Channels 5 to 7 move whole words.  A channel that is not ready or programmed the other way gives nothing.  In
        verify mode the bytes are zero and memory is not touched.
        """
        out = bytearray()
        done, terminal = 0, False
        while done < size and not terminal:
            gpa, n, down = self._span(channel, size - done, MODE_READ)
            if not n:
                break
            verify = self._direction(channel) == 0
            data = bytes(n) if verify else self._memory.read(gpa, n)
            out += self._reverse(channel, data) if down else data
            done += n
            terminal = self._advance(channel, n)
        return bytes(out), terminal

    def write_channel(self, channel: int, data: bytes) -> tuple[int, bool]:
        """Put a device's bytes into memory; how many were taken, and whether the terminal count was reached."""
        done, terminal = 0, False
        while done < len(data) and not terminal:
            gpa, n, down = self._span(channel, len(data) - done, MODE_WRITE)
            if not n:
                break
            if self._direction(channel):
                part = data[done : done + n]
                self._memory.write(gpa, self._reverse(channel, part) if down else part)
            done += n
            terminal = self._advance(channel, n)
        return done, terminal

    def _direction(self, channel: int) -> int:
        return self._chips[channel >> 2].mode[channel & 3] >> 2 & 3

    def _span(self, channel: int, size: int, direction: int) -> tuple[int, int, bool]:
        """Address, length in bytes and downwardness of the next run that neither wraps nor passes the count."""
        if not self.ready(channel) or self._direction(channel) not in (0, direction):
            return 0, 0, False
        chip, at, shift = self._chips[channel >> 2], channel & 3, channel >> 2
        address, down = chip.address[at], bool(chip.mode[at] & MODE_DOWN)
        n = min(size >> shift, chip.left[at] + 1, address + 1 if down else 0x10000 - address)
        first = address - n + 1 if down else address
        page = self.pages.values[PAGE_OF_CHANNEL[channel] - PAGES_BASE]
        gpa = (page & ~1) << 16 | first << 1 if shift else page << 16 | first
        return gpa, n << shift, down

    def _advance(self, channel: int, size: int) -> bool:
        return self._chips[channel >> 2].advance(channel & 3, size >> (channel >> 2))

    @staticmethod
    def _reverse(channel: int, data: bytes) -> bytes:
        """Order of a run that goes down in memory; words stay whole."""
        if channel < CASCADE:
            return data[::-1]
        return b"".join(data[at : at + 2] for at in range(len(data) - 2, -1, -2))

    # Device

    def reset(self) -> None:
        for chip in self._chips:
            chip.reset()
        self.pages.values[:] = bytes(15)

    def snapshot(self) -> Snapshot:
        return {"chips": [chip.snapshot() for chip in self._chips], "pages": bytes(self.pages.values)}

    def restore(self, state: Snapshot) -> None:
        for chip, saved in zip(self._chips, state["chips"], strict=True):
            chip.restore(saved)
        self.pages.values[:] = state["pages"]
