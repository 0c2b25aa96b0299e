"""The Bochs VBE extension of a VGA, "DISPI": linear modes of any size without the VGA's timing registers.

QEMU documentation, docs/specs/standard-vga, and the Bochs VBE interface it names: index (1CEh) and data (1CFh) ports,
registers 0 to Ah.  Interface version B0C5h.

Not modelled: the memory address register of later versions; EDID; 4-bit modes of more than 64 KiB a plane (the height
is what fits).
"""

from __future__ import annotations

from collections.abc import Callable

from jitvm.devices.base import Registers
from jitvm.trace import SILENT, Trace

ID, XRES, YRES, BPP, ENABLE, BANK, VIRT_WIDTH, VIRT_HEIGHT, X_OFFSET, Y_OFFSET, VIDEO_MEMORY_64K = range(11)
N_REGISTERS = 11
ENABLED, GETCAPS, DAC_8BIT, LFB, NO_CLEAR = 0x01, 0x02, 0x20, 0x40, 0x80
FIRST_ID, LAST_ID = 0xB0C0, 0xB0C5
MAX_X, MAX_Y, MAX_BPP = 16000, 12000, 32
DEPTHS = frozenset({4, 8, 15, 16, 24, 32})
PLANE = 0x1_0000
PORTS = 4
"""Index, data at an odd port (PC), data at an even one (other machines): 1CEh to 1D1h."""


class Dispi:
    """The eleven registers.  `on_change(enabled_now)` is called when what is shown or banked changes."""

    def __init__(self, vram_size: int, on_change: Callable[[bool], None], trace: Trace = SILENT) -> None:
        self._vram_size, self._on_change, self._trace = vram_size, on_change, trace
        self.values = [0] * N_REGISTERS
        self.index = 0
        self.ports = Registers(self._read_port, self._write_port)
        self.clear()

    def clear(self) -> None:
        self.values[:] = [0] * N_REGISTERS
        self.values[ID] = LAST_ID
        self.values[VIDEO_MEMORY_64K] = self._vram_size >> 16
        self.index = 0

    @property
    def enabled(self) -> bool:
        return bool(self.values[ENABLE] & ENABLED)

    @property
    def linear(self) -> bool:
        """Whether a mode with whole bytes a pixel is on."""
        return bool(self.values[ENABLE] & ENABLED) and self.values[BPP] >= 8

    def pitch(self) -> int:
        """Bytes a line (of one plane, in the 4-bit mode)."""
        return pitch(self.values[VIRT_WIDTH], self.values[BPP])

    def get(self, index: int) -> int:
        """Value of a register."""
        if self.values[ENABLE] & GETCAPS and XRES <= index <= BPP:
            return (MAX_X, MAX_Y, MAX_BPP)[index - XRES]
        return self.values[index] if index < N_REGISTERS else 0

    def set(self, index: int, value: int) -> None:
        """A write to a register; a value out of range is dropped."""
        values = self.values
        if index == ID:
            ok = FIRST_ID <= value <= LAST_ID
        elif index == XRES:
            ok = 0 < value <= MAX_X and value % 8 == 0
        elif index == YRES:
            ok = 0 < value <= MAX_Y
        elif index == BPP:
            value = value or 8
            ok = value in DEPTHS
        elif index == BANK:
            ok = value < self._vram_size >> 16
        else:
            ok = ENABLE <= index <= Y_OFFSET
        if not ok:
            self._trace("guest_error", device="vga", what=f"DISPI register {index:x}h", value=value)
        elif index == ENABLE:
            self._set_enable(value)
        elif index == VIRT_WIDTH:
            self._set_width(value)
            self._on_change(False)
        elif index in (BANK, X_OFFSET, Y_OFFSET):
            values[index] = value
            self._on_change(False)
        elif index in (XRES, YRES, BPP) and self.enabled:
            self._trace("guest_error", device="vga", what=f"DISPI register {index:x}h while enabled", value=value)
        elif index != VIRT_HEIGHT:
            values[index] = value

    def _set_enable(self, value: int) -> None:
        values = self.values
        turned_on = bool(value & ENABLED and not values[ENABLE] & ENABLED)
        if turned_on:
            values[XRES], values[YRES] = values[XRES] or 640, values[YRES] or 480
            values[BPP] = values[BPP] or 8
            values[X_OFFSET] = values[Y_OFFSET] = 0
            self._set_width(values[XRES])
            values[YRES] = max(1, min(values[YRES], values[VIRT_HEIGHT]))
        if not value & ENABLED:
            values[BANK] = 0
        values[ENABLE] = value & 0xFF
        self._on_change(turned_on)

    def _set_width(self, value: int) -> None:
        """A virtual width in pixels, at least the visible one; the height is what memory has room for."""
        values = self.values
        width = max(value, values[XRES]) & ~7 or 8
        room = PLANE if values[BPP] == 4 else self._vram_size
        if pitch(width, values[BPP]) > room:
            return
        values[VIRT_WIDTH] = width
        values[VIRT_HEIGHT] = min(0xFFFF, room // pitch(width, values[BPP]))

    def _read_port(self, offset: int, size: int) -> int:
        if size != 2:
            return (1 << 8 * size) - 1
        return self.index if offset == 0 else self.get(self.index)

    def _write_port(self, offset: int, size: int, value: int) -> None:
        if size != 2:
            self._trace("guest_error", device="vga", what=f"DISPI access of {size} bytes", value=value)
        elif offset == 0:
            self.index = value
        else:
            self.set(self.index, value)


def pitch(width: int, bpp: int) -> int:
    """Bytes that a line of `width` pixels takes."""
    return width // 8 if bpp == 4 else width * ((bpp + 7) // 8)
