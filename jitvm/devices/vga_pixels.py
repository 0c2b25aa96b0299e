"""The graphics screen of a VGA as an array of colours.

IBM Personal System/2 Hardware Interface Technical Reference, "Video Subsystem": how planes, attribute palette and DAC
make a pixel.  QEMU documentation, docs/specs/standard-vga: the pixel formats of the DISPI modes.

Not modelled: CGA-compatible interleaving (modes 4 to 6: shown as planes), panning, split screen, overscan.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from jitvm.devices.vga_dispi import BPP, X_OFFSET, XRES, Y_OFFSET, YRES, Dispi
from jitvm.devices.vga_memory import PLANE, Bytes, VgaMemory
from jitvm.devices.vga_text import (
    DOUBLE_SCAN,
    HORIZONTAL_DISPLAY_END,
    MAXIMUM_SCAN_LINE,
    OFFSET,
    START_HIGH,
    START_LOW,
    scan_lines,
)

Pixels = npt.NDArray[np.uint8]
GR5_256_COLOR = 0x40
AR_MODE, AR_PLANES, AR_SELECT, AR_MODE_P54 = 0x10, 0x12, 0x14, 0x80
BITS = np.arange(7, -1, -1, dtype=np.uint8)


def read_pixels(
    memory: VgaMemory, dispi: Dispi, crtc: bytearray, gr: bytearray, ar: bytearray, palette: Bytes, pel_mask: int
) -> Pixels:
    """The screen [height, width, 3]; `palette` is the DAC with 8 bits a colour."""
    colors = palette[np.arange(256) & pel_mask]
    if dispi.enabled:
        values = dispi.values
        if values[BPP] == 4:
            start = values[Y_OFFSET] * dispi.pitch() + values[X_OFFSET] // 8
            return _planar(memory, ar, colors, values[XRES], values[YRES], dispi.pitch(), start)
        return _packed(memory.vram, dispi, colors)
    height = scan_lines(crtc) // ((crtc[MAXIMUM_SCAN_LINE] & 0x1F) + 1)
    if crtc[MAXIMUM_SCAN_LINE] & DOUBLE_SCAN:
        height //= 2
    characters = crtc[HORIZONTAL_DISPLAY_END] + 1
    start, pitch = crtc[START_HIGH] << 8 | crtc[START_LOW], crtc[OFFSET] * 2
    if not gr[5] & GR5_256_COLOR:
        return _planar(memory, ar, colors, characters * 8, height, pitch, start)
    at = (start + pitch * np.arange(height)[:, None] + np.arange(characters)) % PLANE
    shown: Bytes = memory.plane_view()[at].reshape(height, characters * 4)
    return np.take(colors, shown, axis=0)


def _planar(memory: VgaMemory, ar: bytearray, colors: Bytes, width: int, height: int, pitch: int, start: int) -> Pixels:
    """Sixteen colours: one bit from each plane, through the attribute controller's palette."""
    at = (start + pitch * np.arange(height)[:, None] + np.arange(width // 8)) % PLANE
    planes = memory.plane_view()[at]
    index = np.zeros((height, width), np.uint8)
    for plane in range(4):
        if ar[AR_PLANES] >> plane & 1:
            bits = planes[:, :, plane, None] >> BITS & 1
            index |= bits.reshape(height, width) << plane
    dac_index = np.array([_attribute_color(ar, k) for k in range(16)], np.uint8)
    return np.take(colors, dac_index[index], axis=0)


def _attribute_color(ar: bytearray, index: int) -> int:
    """DAC index of one of the attribute controller's sixteen colours."""
    if ar[AR_MODE] & AR_MODE_P54:
        return ar[index] & 0x0F | (ar[AR_SELECT] & 0x0F) << 4
    return ar[index] & 0x3F | (ar[AR_SELECT] & 0x0C) << 4


def _packed(vram: Bytes, dispi: Dispi, colors: Bytes) -> Pixels:
    """A DISPI mode with whole bytes a pixel: 8 by palette, 15 (x555), 16 (565), 24 and 32 as blue, green, red."""
    values = dispi.values
    width, height, bpp, pitch = values[XRES], values[YRES], values[BPP], dispi.pitch()
    size = (bpp + 7) // 8
    start = values[Y_OFFSET] * pitch + values[X_OFFSET] * size
    at = (start + pitch * np.arange(height)[:, None] + np.arange(width * size)) % len(vram)
    raw: Bytes = vram[at].reshape(height, width, size)
    if bpp == 8:
        indexed: Pixels = np.take(colors, raw[:, :, 0], axis=0)
        return indexed
    if bpp >= 24:
        rgb: Pixels = np.ascontiguousarray(raw[:, :, 2::-1])
        return rgb
    word = raw[:, :, 0].astype(np.uint16) | raw[:, :, 1].astype(np.uint16) << 8
    five = [word >> (10 if bpp == 15 else 11) & 31, word & 31]
    red, blue = (field << 3 | field >> 2 for field in five)
    green = word >> 5 & (31 if bpp == 15 else 63)
    green = green << 3 | green >> 2 if bpp == 15 else green << 2 | green >> 4
    return np.stack([red, green, blue], axis=2).astype(np.uint8)
