"""The text screen as strings."""

from __future__ import annotations

import numpy as np

from jitvm.clock import Clock
from jitvm.devices.vga import Vga
from jitvm.devices.vga_text import CP437
from tests.devices.vga_modes import set_mode


def make() -> Vga:
    vga = Vga(Clock(), vram=np.zeros(1 << 20, np.uint8))
    set_mode(vga, 0x03)
    vga.memory.write_block(0x1_8000, 2, b" \x07" * 0x2000)
    return vga


def put(vga: Vga, cell: int, text: bytes, attribute: int = 7) -> None:
    for k, code in enumerate(text):
        vga.memory.write(0x1_8000 + 2 * (cell + k), 2, attribute << 8 | code)


def crtc(vga: Vga, index: int, value: int) -> None:
    vga.crtc_color.write(0, 2, value << 8 | index)


def test_before_a_mode_is_set_there_is_no_screen() -> None:
    assert Vga(Clock(), vram=np.zeros(1 << 20, np.uint8)).text_screen() == []


def test_rows_and_columns() -> None:
    vga = make()
    put(vga, 80 * 24 + 61, b"No bootable device.")
    rows = vga.text_screen()
    assert len(rows) == 25 and all(len(row) == 80 for row in rows)
    assert rows[24][61:] == "No bootable device." and rows[0].strip() == ""


def test_code_page_437() -> None:
    assert len(CP437) == 256
    vga = make()
    put(vga, 0, b"\xc9\xcd\xbb\x01\x00\xff\xe1\x7f")
    assert vga.text_screen()[0][:8] == "╔═╗☺  ß⌂"


def test_start_address_scrolls() -> None:
    vga = make()
    put(vga, 80, b"second")
    crtc(vga, 0x0D, 80)
    assert vga.text_screen()[0].startswith("second")


def test_attributes_and_cursor() -> None:
    vga = make()
    put(vga, 81, b"x", 0x9E)
    crtc(vga, 0x0F, 83)
    screen = vga.text()
    assert screen is not None
    assert screen.attributes[1, 1] == 0x9E and screen.blink and (screen.rows, screen.columns) == (25, 80)
    assert screen.cursor == (1, 3)
    crtc(vga, 0x0A, 0x2D)
    hidden = vga.text()
    assert hidden is not None and hidden.cursor is None


def test_fifty_lines_of_eight_scan_lines() -> None:
    vga = make()
    crtc(vga, 0x09, 0x47)
    assert len(vga.text_screen()) == 50


def test_forty_columns() -> None:
    vga = make()
    crtc(vga, 0x11, 0x0E)
    crtc(vga, 0x01, 39)
    crtc(vga, 0x13, 20)
    put(vga, 40, b"row two")
    rows = vga.text_screen()
    assert len(rows[0]) == 40 and rows[1].startswith("row two")


def test_a_screen_is_a_copy() -> None:
    vga = make()
    screen = vga.text()
    put(vga, 0, b"later")
    assert screen is not None and screen.lines()[0].strip() == ""
