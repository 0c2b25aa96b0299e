"""A text screen as terminal output."""

from __future__ import annotations

import numpy as np
from rich.text import Text

from jitvm.backends.display import ansi, changes, plain, sgr
from jitvm.devices.vga_text import TextScreen


def screen(*rows: bytes, columns: int = 20, cursor: tuple[int, int] | None = None, blink: bool = True) -> TextScreen:
    codes = np.array([list(row.ljust(columns)) for row in rows], np.uint8)
    return TextScreen(codes, np.full(codes.shape, 7, np.uint8), cursor, blink)


def test_grey_on_black_needs_no_colours() -> None:
    s = screen(b"one", b"", b"three", b"")
    assert ansi(s) == "one\n\nthree\n" and plain(s) == ansi(s)


def test_colours_are_mapped_from_pc_to_ansi() -> None:
    assert sgr(0x1E, True) == "\x1b[0;93;44m"
    assert sgr(0x84, True) == "\x1b[0;5;31;40m"
    assert sgr(0x84, False) == "\x1b[0;31;100m"


def test_a_terminal_reads_it_back() -> None:
    s = screen(b"ab\xc9d")
    s.attributes[0, 1:3] = 0x4F
    rendered = Text.from_ansi(ansi(s))
    assert rendered.plain.rstrip() == "ab╔d"
    (span,) = [span for span in rendered.spans if str(span.style) not in ("", "none")]
    assert (span.start, span.end) == (1, 3) and str(span.style) == "color(15) on color(1)"


def test_coloured_rows_are_not_trimmed() -> None:
    s = screen(b"", b"")
    s.attributes[1, :] = 0x17
    assert ansi(s) == "\n\x1b[0;37;44m" + " " * 20 + "\x1b[0m\n" and plain(s) == ""


def test_the_first_live_screen_is_drawn_whole() -> None:
    out = changes(None, screen(b"a", b"b", cursor=(1, 1)))
    assert out.startswith("\x1b[0m\x1b[2J\x1b[1;1Ha") and out.endswith("\x1b[2;2H\x1b[?25h")


def test_only_changed_rows_are_sent_again() -> None:
    before = screen(b"same", b"old", cursor=(0, 0))
    after = screen(b"same", b"new", cursor=(0, 0))
    assert changes(before, before) == ""
    assert changes(before, after) == "\x1b[2;1Hnew" + " " * 17 + "\x1b[1;1H\x1b[?25h"


def test_a_moved_or_hidden_cursor_is_a_change() -> None:
    before = screen(b"x", cursor=(0, 0))
    assert changes(before, screen(b"x", cursor=(0, 3))) == "\x1b[1;4H\x1b[?25h"
    assert changes(before, screen(b"x", cursor=None)) == "\x1b[?25l"


def test_another_size_is_drawn_whole() -> None:
    assert changes(screen(b"x"), screen(b"x", columns=10)).startswith("\x1b[0m\x1b[2J")
