"""A standard VGA on PCI with the Bochs VBE extension, as QEMU's "VGA" device (1234:1111) presents it.

IBM Personal System/2 Hardware Interface Technical Reference, "Video Subsystem" (also FreeVGA): general registers,
sequencer, CRT controller, graphics controller, attribute controller, DAC.  QEMU documentation, docs/specs/standard-vga:
PCI identity, BAR0 (framebuffer), BAR2 (registers by MMIO: VGA ports at 400h, DISPI at 500h, byte order at 600h).

The retrace bits of input status 1 follow the clock with the CRT controller's vertical timing at a 31.5 kHz line rate.

Not modelled: EDID (reads as zeros), interrupts at vertical retrace, light pen, dot clocks and horizontal timing, big-
endian framebuffers, CGA-compatible graphics (modes 4 to 6) in `pixels`, split screen.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from jitvm.clock import Clock
from jitvm.devices.base import Registers, Snapshot
from jitvm.devices.pci import ROM_BAR, PciFunction
from jitvm.devices.vga_dispi import DAC_8BIT, Dispi
from jitvm.devices.vga_dispi import ENABLE as DISPI_ENABLE
from jitvm.devices.vga_memory import PLANES, WINDOW, Bytes, LinearWindow, VgaMemory
from jitvm.devices.vga_pixels import Pixels, read_pixels
from jitvm.devices.vga_text import TextScreen, read_screen
from jitvm.trace import SILENT, Trace

DEFAULT_VRAM = 16 << 20
TEXT_SIZE = 0x2_0000
MMIO_SIZE, MMIO_VGA, MMIO_DISPI, MMIO_QEMU = 0x1000, 0x400, 0x500, 0x600
LITTLE_ENDIAN_MODE = 0x1E1E_1E1E
N_CRTC, N_SR, N_GR, N_AR = 0x19, 5, 9, 0x15
SR_WRITABLE = (0x03, 0x3D, 0x0F, 0x3F, 0x0E)
GR_WRITABLE = (0x0F, 0x0F, 0x0F, 0x1F, 0x03, 0x7B, 0x0F, 0x0F, 0xFF)
AR_WRITABLE = (*[0x3F] * 16, 0xEF, 0xFF, 0x3F, 0x0F, 0x0F)
AR_MODE, AR_MODE_BLINK = 0x10, 0x08
GR6_GRAPHICS = 1
PALETTE_ADDRESS_SOURCE = 0x20
MISC_COLOR = 1
SWITCH_SENSE = 0x10
ST1_DISPLAY_OFF, ST1_RETRACE = 0x01, 0x08
DAC_WRITING, DAC_READING = 0, 3
LINE_NS, LINE_SHOWN_NS, DEFAULT_LINES = 31_778, 25_422, 449
VERTICAL_TOTAL, RETRACE_START, RETRACE_END, PROTECT = 0x06, 0x10, 0x11, 0x80


class Vga(PciFunction):
    """1234:1111.

    Regions for fixed ports: `core` (3C0h, 16 ports), `crtc_mono` (3B4h, 2), `status_mono` (3BAh, 1), `crtc_color`
    (3D4h, 2), `status_color` (3DAh, 1), `dispi.ports` (1CEh, 4), all `max_size` 2; the legacy window `memory` (A0000h,
    128 KiB, `max_size` 8).  `vram` and `text` may be arrays that the board maps as memory; `memory.linear` and
    `memory.on_linear` tell when the legacy window shows a part of one of them.
    """

    def __init__(
        self,
        clock: Clock,
        rom: bytes = b"",
        *,
        vram: Bytes | None = None,
        text: Bytes | None = None,
        trace: Trace = SILENT,
    ) -> None:
        super().__init__("vga", vendor=0x1234, device=0x1111, class_code=0x030000, revision=2, trace=trace)
        self._clock = clock
        vram = np.zeros(DEFAULT_VRAM, np.uint8) if vram is None else vram
        text = np.zeros(TEXT_SIZE, np.uint8) if text is None else text
        if len(vram) < PLANES or len(vram) & (len(vram) - 1) or len(text) != TEXT_SIZE:
            raise ValueError("vga: video memory is a power of two from 256 KiB, text memory 128 KiB")
        self._sr, self._gr, self._ar, self._crtc = bytearray(N_SR), bytearray(N_GR), bytearray(N_AR), bytearray(N_CRTC)
        self.memory = VgaMemory(vram, text, self._sr, self._gr)
        self.dispi = Dispi(len(vram), self._dispi_changed, trace)
        self._palette = bytearray(768)
        self._rom = rom
        self._lines = (DEFAULT_LINES, 400, 412, 414)
        self._clear()
        self._vram_bytes = vram.data
        linear = Registers(self._read_vram, self._write_vram)
        self.add_bar("vga.vram", 0, "mem", len(vram), linear, max_size=8, prefetchable=True)
        self.add_bar("vga.mmio", 2, "mem", MMIO_SIZE, Registers(self._read_mmio, self._write_mmio), max_size=4)
        if rom:
            size = max(0x800, 1 << (len(rom) - 1).bit_length())
            read_only = Registers(self._read_rom, lambda _o, _s, _v: None)
            self.add_bar("vga.rom", ROM_BAR, "rom", size, read_only, max_size=8)
        self.core = Registers(*bytewise(self._read_core, self._write_core))
        self.crtc_mono = Registers(*bytewise(*self._if_color(0, self._read_crtc, self._write_crtc)))
        self.crtc_color = Registers(*bytewise(*self._if_color(1, self._read_crtc, self._write_crtc)))
        self.status_mono = Registers(*bytewise(*self._if_color(0, self._read_status, self._write_feature)))
        self.status_color = Registers(*bytewise(*self._if_color(1, self._read_status, self._write_feature)))

    def _clear(self) -> None:
        for registers in (self._sr, self._gr, self._ar, self._crtc, self._palette):
            registers[:] = bytes(len(registers))
        self._misc = self._feature = 0
        self._sr_index = self._gr_index = self._ar_index = self._crtc_index = 0
        self._ar_data_next = False
        self._pel_mask, self._dac_index, self._dac_part, self._dac_state = 0xFF, 0, 0, DAC_WRITING
        self._set_timing()
        self._update()

    # What the screen shows

    def text(self) -> TextScreen | None:
        """The text screen, None in graphics modes and before a mode is set."""
        if self.dispi.enabled or self._gr[6] & GR6_GRAPHICS:
            return None
        return read_screen(self._crtc, self.memory.cells(), bool(self._ar[AR_MODE] & AR_MODE_BLINK))

    def text_screen(self) -> list[str]:
        """The rows of the text screen; no rows in graphics modes."""
        screen = self.text()
        return screen.lines() if screen else []

    def pixels(self) -> Pixels | None:
        """The graphics screen as an RGB array [height, width, 3], None in text modes."""
        if not (self.dispi.enabled or self._gr[6] & GR6_GRAPHICS):
            return None
        palette = np.frombuffer(bytes(self._palette), np.uint8).reshape(256, 3)
        if not self._dac_8bit():
            palette = ((palette & 0x3F) << 2 | palette >> 4).astype(np.uint8)
        return read_pixels(self.memory, self.dispi, self._crtc, self._gr, self._ar, palette, self._pel_mask)

    # Ports

    def _if_color(
        self, color: int, read: Callable[[int], int], write: Callable[[int, int], None]
    ) -> tuple[Callable[[int], int], Callable[[int, int], None]]:
        """The functions of one of the two addresses, alive when the misc output register selects it."""

        def guarded_write(offset: int, value: int) -> None:
            if self._misc & MISC_COLOR == color:
                write(offset, value)

        return lambda offset: read(offset) if self._misc & MISC_COLOR == color else 0xFF, guarded_write

    def _read_core(self, port: int) -> int:
        """3C0h + port."""
        match port:
            case 0x0:
                return self._ar_index
            case 0x1:
                index = self._ar_index & 0x1F
                return self._ar[index] if index < N_AR else 0
            case 0x2:
                return SWITCH_SENSE
            case 0x4:
                return self._sr_index
            case 0x5:
                return self._sr[self._sr_index] if self._sr_index < N_SR else 0
            case 0x6:
                return self._pel_mask
            case 0x7:
                return self._dac_state
            case 0x8:
                return self._dac_index
            case 0x9:
                value = self._palette[3 * self._dac_index + self._dac_part]
                self._next_dac_part()
                return value
            case 0xA:
                return self._feature
            case 0xC:
                return self._misc
            case 0xE:
                return self._gr_index
            case 0xF:
                return self._gr[self._gr_index] if self._gr_index < N_GR else 0
        return 0xFF

    def _write_core(self, port: int, value: int) -> None:
        """3C0h + port."""
        match port:
            case 0x0:
                self._write_attribute(value)
            case 0x2:
                self._misc = value & ~0x10
                self._update()
            case 0x4:
                self._sr_index = value & 0x07
            case 0x5:
                if self._sr_index < N_SR:
                    self._sr[self._sr_index] = value & SR_WRITABLE[self._sr_index]
                    self._update()
            case 0x6:
                self._pel_mask = value
            case 0x7:
                self._dac_index, self._dac_part, self._dac_state = value, 0, DAC_READING
            case 0x8:
                self._dac_index, self._dac_part, self._dac_state = value, 0, DAC_WRITING
            case 0x9:
                self._palette[3 * self._dac_index + self._dac_part] = value if self._dac_8bit() else value & 0x3F
                self._next_dac_part()
            case 0xE:
                self._gr_index = value & 0x0F
            case 0xF:
                if self._gr_index < N_GR:
                    self._gr[self._gr_index] = value & GR_WRITABLE[self._gr_index]
                    self._update()

    def _write_attribute(self, value: int) -> None:
        """3C0h takes an index and a value in turn; reading input status 1 starts with the index."""
        if not self._ar_data_next:
            self._ar_index = value & 0x3F
        elif self._ar_index & 0x1F < N_AR and (self._ar_index & 0x10 or not self._ar_index & PALETTE_ADDRESS_SOURCE):
            index = self._ar_index & 0x1F
            self._ar[index] = value & AR_WRITABLE[index]
        self._ar_data_next = not self._ar_data_next

    def _next_dac_part(self) -> None:
        self._dac_part += 1
        if self._dac_part == 3:
            self._dac_part, self._dac_index = 0, self._dac_index + 1 & 0xFF

    def _dac_8bit(self) -> bool:
        return bool(self.dispi.values[DISPI_ENABLE] & DAC_8BIT)

    def _read_crtc(self, offset: int) -> int:
        if offset == 0:
            return self._crtc_index
        return self._crtc[self._crtc_index] if self._crtc_index < N_CRTC else 0

    def _write_crtc(self, offset: int, value: int) -> None:
        index = self._crtc_index
        if offset == 0:
            self._crtc_index = value & 0x3F
        elif index < N_CRTC:
            if index < 8 and self._crtc[RETRACE_END] & PROTECT:
                if index == 7:
                    self._crtc[7] = self._crtc[7] & ~0x10 | value & 0x10
                return
            self._crtc[index] = value
            if index in (VERTICAL_TOTAL, 0x07, RETRACE_START, RETRACE_END, 0x12):
                self._set_timing()

    def _set_timing(self) -> None:
        """Lines of a frame, displayed lines, first line of the vertical retrace and the one after it."""
        crtc = self._crtc
        overflow = crtc[7]
        total = (crtc[VERTICAL_TOTAL] | (overflow & 1) << 8 | (overflow & 0x20) << 4) + 2
        shown = (crtc[0x12] | (overflow & 2) << 7 | (overflow & 0x40) << 3) + 1
        start = crtc[RETRACE_START] | (overflow & 4) << 6 | (overflow & 0x80) << 2
        end = start + ((crtc[RETRACE_END] - start) & 0x0F or 16)
        sane = shown < start < total and total > 100
        self._lines = (total, shown, start, end) if sane else (DEFAULT_LINES, 400, 412, 414)

    def _read_status(self, _offset: int) -> int:
        """Input status 1: where the beam is now."""
        self._ar_data_next = False
        total, shown, start, end = self._lines
        line, ns = divmod(self._clock.now_ns, LINE_NS)
        line %= total
        if line >= shown:
            return ST1_DISPLAY_OFF | ST1_RETRACE if start <= line < end else ST1_DISPLAY_OFF
        return ST1_DISPLAY_OFF if ns >= LINE_SHOWN_NS else 0

    def _write_feature(self, _offset: int, value: int) -> None:
        self._feature = value & 3

    # Memory and BARs

    def _update(self) -> None:
        self.memory.update(self._misc, self.dispi.values[5] if self.dispi.linear else None)

    def _dispi_changed(self, enabled_now: bool) -> None:
        self._update()
        values = self.dispi.values
        if enabled_now:
            self.trace("device_state", device="vga", what=f"mode {values[1]}x{values[2]}", value=values[3])
            if not values[DISPI_ENABLE] & 0x80:
                lines = self.dispi.pitch() * values[2]
                self.memory.vram[: lines if values[3] >= 8 else 4 * lines] = 0

    def _read_vram(self, offset: int, size: int) -> int:
        return int.from_bytes(self._vram_bytes[offset : offset + size], "little")

    def _write_vram(self, offset: int, size: int, value: int) -> None:
        self._vram_bytes[offset : offset + size] = value.to_bytes(size, "little")

    def _read_rom(self, offset: int, size: int) -> int:
        return int.from_bytes(self._rom[offset : offset + size].ljust(size, b"\0"), "little")

    def _read_mmio(self, offset: int, size: int) -> int:
        if MMIO_VGA <= offset < MMIO_VGA + 0x20:
            value = 0
            for k in range(size):
                value |= self._mmio_vga_read(offset + k - MMIO_VGA) << 8 * k
            return value
        if MMIO_DISPI <= offset < MMIO_DISPI + 0x16:
            pair = self.dispi.get(offset - MMIO_DISPI >> 1) | self.dispi.get((offset - MMIO_DISPI >> 1) + 1) << 16
            return pair >> 8 * (offset & 1) & ((1 << 8 * size) - 1)
        if MMIO_QEMU <= offset < MMIO_QEMU + 8:
            return (8 | LITTLE_ENDIAN_MODE << 32) >> 8 * (offset - MMIO_QEMU) & ((1 << 8 * size) - 1)
        return 0

    def _write_mmio(self, offset: int, size: int, value: int) -> None:
        if MMIO_VGA <= offset < MMIO_VGA + 0x20:
            for k in range(size):
                self._mmio_vga_write(offset + k - MMIO_VGA, value >> 8 * k & 0xFF)
        elif MMIO_DISPI <= offset < MMIO_DISPI + 0x16 and size >= 2:
            for k in range(0, size, 2):
                self.dispi.set((offset + k - MMIO_DISPI) >> 1, value >> 8 * k & 0xFFFF)
        elif not (offset == MMIO_QEMU + 4 and value == LITTLE_ENDIAN_MODE):
            self.trace("unmodelled", device=self.name, what=f"MMIO register {offset:03x}h", value=value)

    def _mmio_vga_read(self, port: int) -> int:
        """3C0h + port, without regard to the colour/mono select."""
        if port < 0x10:
            return self._read_core(port)
        if port in (0x14, 0x15):
            return self._read_crtc(port - 0x14)
        return self._read_status(0) if port == 0x1A else 0xFF

    def _mmio_vga_write(self, port: int, value: int) -> None:
        if port < 0x10:
            self._write_core(port, value)
        elif port in (0x14, 0x15):
            self._write_crtc(port - 0x14, value)
        elif port == 0x1A:
            self._write_feature(0, value)

    # State

    def reset(self) -> None:
        super().reset()
        self.dispi.clear()
        self._clear()
        self.memory.clear()
        self._update()

    def snapshot(self) -> Snapshot:
        return super().snapshot() | {
            "registers": [bytes(r) for r in (self._sr, self._gr, self._ar, self._crtc, self._palette)],
            "misc": [self._misc, self._feature, self._pel_mask],
            "index": [self._sr_index, self._gr_index, self._ar_index, self._crtc_index, self._ar_data_next],
            "dac": [self._dac_index, self._dac_part, self._dac_state],
            "dispi": [self.dispi.index, *self.dispi.values],
            "memory": self.memory.state(),
            "text_active": self.memory.text_active,
        }

    def restore(self, state: Snapshot) -> None:
        super().restore(state)
        for registers, saved in zip(
            (self._sr, self._gr, self._ar, self._crtc, self._palette), state["registers"], strict=True
        ):
            registers[:] = saved
        self._misc, self._feature, self._pel_mask = state["misc"]
        self._sr_index, self._gr_index, self._ar_index, self._crtc_index, self._ar_data_next = state["index"]
        self._dac_index, self._dac_part, self._dac_state = state["dac"]
        self.dispi.index, *self.dispi.values = state["dispi"]
        self.memory.set_state(state["memory"], state["text_active"])
        self._set_timing()
        self._update()

    @property
    def linear(self) -> LinearWindow | None:
        """What the legacy window shows, when that is plain memory."""
        return self.memory.linear


def bytewise(
    read: Callable[[int], int], write: Callable[[int, int], None]
) -> tuple[Callable[[int, int], int], Callable[[int, int, int], None]]:
    """A region's two functions for 8-bit registers: a wider access is one access a byte, lowest port first."""

    def read_wide(offset: int, size: int) -> int:
        if size == 1:
            return read(offset)
        value = 0
        for k in range(size):
            value |= read(offset + k) << 8 * k
        return value

    def write_wide(offset: int, size: int, value: int) -> None:
        if size == 1:
            write(offset, value)
        else:
            for k in range(size):
                write(offset + k, value >> 8 * k & 0xFF)

    return read_wide, write_wide


LEGACY_WINDOW = WINDOW
"""Bytes of the legacy window at A0000h."""
