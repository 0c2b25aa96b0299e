"""The text screen in a terminal: `--display text`.

`ansi` turns a screen into a string with ANSI colours, for printing at exit; `changes` gives what a live terminal has to
be sent to get from one screen to the next.  Both are functions of screens: no terminal is opened, no thread runs here.

ECMA-48 (control sequences): SGR colours 30-37, 40-47 and their bright forms 90-97, 100-107, blink 5, CUP and ED.

Not modelled: blinking at the VGA's own rate (the terminal blinks), colours that a program loads into the DAC.
"""

from __future__ import annotations

import itertools
from typing import Protocol

import numpy as np
import numpy.typing as npt

ANSI_COLOR = (0, 4, 2, 6, 1, 5, 3, 7)
"""The PC's colour numbers have blue in bit 0 and red in bit 2, ANSI's have them the other way round."""
RESET = "\x1b[0m"
CLEAR = "\x1b[2J"
DEFAULT_ATTRIBUTE = 0x07


class Screen(Protocol):
    """A text screen (`jitvm.devices.vga_text.TextScreen`)."""

    @property
    def codes(self) -> npt.NDArray[np.uint8]: ...

    @property
    def attributes(self) -> npt.NDArray[np.uint8]: ...

    @property
    def cursor(self) -> tuple[int, int] | None: ...

    @property
    def blink(self) -> bool: ...

    def lines(self) -> list[str]: ...


def sgr(attribute: int, blink: bool) -> str:
    """The control sequence for a VGA attribute; bit 7 blinks, or is the background's intensity if not `blink`."""
    foreground = ANSI_COLOR[attribute & 7] + (90 if attribute & 8 else 30)
    background = ANSI_COLOR[attribute >> 4 & 7] + (100 if attribute & 0x80 and not blink else 40)
    return f"\x1b[0;{'5;' if attribute & 0x80 and blink else ''}{foreground};{background}m"


def row_text(text: str, attributes: npt.NDArray[np.uint8], blink: bool) -> str:
    """One row with colours; ends in the default rendition."""
    out: list[str] = []
    starts = [0, *(np.flatnonzero(np.diff(attributes)) + 1).tolist(), len(text)]
    for start, end in itertools.pairwise(starts):
        attribute = int(attributes[start])
        piece = text[start:end]
        out.append(piece if attribute == DEFAULT_ATTRIBUTE else sgr(attribute, blink) + piece + RESET)
    return "".join(out)


def ansi(screen: Screen, *, trim: bool = True) -> str:
    """The whole screen as lines; `trim` leaves out empty rows below the last one that shows something."""
    rows = [
        row_text(line, attributes, screen.blink)
        for line, attributes in zip(screen.lines(), screen.attributes, strict=True)
    ]
    if trim:
        rows = [row.rstrip(" ") for row in rows]
        while rows and not rows[-1]:
            rows.pop()
    return "".join(row + "\n" for row in rows)


def plain(screen: Screen) -> str:
    """The screen without colours, for a file or a pipe."""
    rows = [line.rstrip() for line in screen.lines()]
    while rows and not rows[-1]:
        rows.pop()
    return "".join(row + "\n" for row in rows)


def changes(old: Screen | None, new: Screen) -> str:
    """What to send to a terminal that shows `old` so that it shows `new`, with the cursor in its place."""
    out: list[str] = []
    same_shape = old is not None and old.codes.shape == new.codes.shape and old.blink == new.blink
    if not same_shape:
        out.append(RESET + CLEAR)
    lines = new.lines()
    for row, line in enumerate(lines):
        if same_shape and old is not None:
            known = old.codes[row] == new.codes[row]
            if bool(np.all(known & (old.attributes[row] == new.attributes[row]))):
                continue
        out.append(f"\x1b[{row + 1};1H" + row_text(line, new.attributes[row], new.blink))
    if out or old is None or old.cursor != new.cursor:
        if new.cursor is None:
            out.append("\x1b[?25l")
        else:
            out.append(f"\x1b[{new.cursor[0] + 1};{new.cursor[1] + 1}H\x1b[?25h")
    return "".join(out)
