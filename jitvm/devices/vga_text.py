"""The text screen of a VGA: what a person would read on the monitor.

IBM Personal System/2 Hardware Interface Technical Reference, "Video Subsystem": CRT controller (start address, offset,
cursor), attribute byte.  Characters are those of IBM code page 437, the font that PC BIOSes load.

Not modelled: fonts loaded by programs (the code page's characters are shown), split screen (line compare), panning,
characters of nine dots, underline and blinking (the attribute is given as it is).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

LOW_GLYPHS = " ☺☻♥♦♣♠•◘○◙♂♀♪♫☼►◄↕‼¶§▬↨↑↓→←∟↔▲▼"
CP437 = LOW_GLYPHS + bytes(range(0x20, 0x7F)).decode("ascii") + "⌂" + bytes(range(0x80, 0xFF)).decode("cp437") + " "
"""One character for each code."""
CODE_POINTS = np.array([ord(c) for c in CP437], np.uint32)
HORIZONTAL_DISPLAY_END, OVERFLOW, MAXIMUM_SCAN_LINE, CURSOR_START, CURSOR_END = 0x01, 0x07, 0x09, 0x0A, 0x0B
START_HIGH, START_LOW, CURSOR_HIGH, CURSOR_LOW, VERTICAL_DISPLAY_END, OFFSET = 0x0C, 0x0D, 0x0E, 0x0F, 0x12, 0x13
CURSOR_OFF, DOUBLE_SCAN = 0x20, 0x80


@dataclass(frozen=True)
class TextScreen:
    """A screen of `rows` x `columns` characters.

    `codes` and `attributes` are arrays [rows, columns] of bytes (code page 437; foreground in bits 0-3, background in
    4-6, bit 7 blinks or is the background's intensity: `blink`).  `cursor` is (row, column), None when it is off or
    outside the screen.
    """

    codes: npt.NDArray[np.uint8]
    attributes: npt.NDArray[np.uint8]
    cursor: tuple[int, int] | None
    blink: bool

    @property
    def rows(self) -> int:
        return int(self.codes.shape[0])

    @property
    def columns(self) -> int:
        return int(self.codes.shape[1])

    def lines(self) -> list[str]:
        """The rows as Unicode strings of `columns` characters each."""
        return [row.tobytes().decode("utf-32-le") for row in CODE_POINTS[self.codes].astype("<u4")]


def scan_lines(crtc: bytearray) -> int:
    """Scan lines that are displayed."""
    overflow = crtc[OVERFLOW]
    return (crtc[VERTICAL_DISPLAY_END] | (overflow & 2) << 7 | (overflow & 0x40) << 3) + 1


def read_screen(crtc: bytearray, cells: npt.NDArray[np.uint8], blink: bool) -> TextScreen | None:
    """The screen that CRTC registers show of `cells` (an array [address, 2]); None before the CRTC is programmed."""
    columns = crtc[HORIZONTAL_DISPLAY_END] + 1
    height = (crtc[MAXIMUM_SCAN_LINE] & 0x1F) + 1
    if crtc[MAXIMUM_SCAN_LINE] & DOUBLE_SCAN:
        height *= 2
    rows = scan_lines(crtc) // height
    if columns < 2 or rows < 1:
        return None
    start, pitch = crtc[START_HIGH] << 8 | crtc[START_LOW], crtc[OFFSET] * 2
    shown = cells[(start + pitch * np.arange(rows)[:, None] + np.arange(columns)) % len(cells)]
    cursor = None
    place = (crtc[CURSOR_HIGH] << 8 | crtc[CURSOR_LOW]) - start
    visible = not crtc[CURSOR_START] & CURSOR_OFF and crtc[CURSOR_START] & 0x1F <= crtc[CURSOR_END] & 0x1F
    if visible and pitch and 0 <= place < pitch * rows and place % pitch < columns:
        cursor = (place // pitch, place % pitch)
    return TextScreen(shown[:, :, 0].copy(), shown[:, :, 1].copy(), cursor, blink)
