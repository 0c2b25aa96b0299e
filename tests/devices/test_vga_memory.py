"""Write modes, read modes, latches and the addressing of the legacy window."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from jitvm.clock import Clock
from jitvm.devices.vga import Vga
from jitvm.devices.vga_memory import LinearWindow
from tests.devices.vga_modes import set_mode


def make(mode: int) -> Vga:
    vga = Vga(Clock(), vram=np.zeros(1 << 20, np.uint8))
    set_mode(vga, mode)
    return vga


def gr(vga: Vga, index: int, value: int) -> None:
    vga.core.write(0xE, 2, value << 8 | index)


def planes(vga: Vga, at: int) -> list[int]:
    return [int(v) for v in vga.memory.plane_view()[at]]


def test_write_mode_0_masks_planes_and_bits() -> None:
    vga = make(0x12)
    vga.memory.write(5, 1, 0xFF)
    assert planes(vga, 5) == [0xFF] * 4
    vga.memory.read(5, 1)
    gr(vga, 8, 0x0F)
    vga.core.write(4, 2, 0x0302)
    vga.memory.write(5, 1, 0x50)
    assert planes(vga, 5) == [0xF0, 0xF0, 0xFF, 0xFF]


def test_set_reset_replaces_the_data() -> None:
    vga = make(0x12)
    gr(vga, 0, 0x5)
    gr(vga, 1, 0x7)
    vga.memory.write(0, 1, 0x81)
    assert planes(vga, 0) == [0xFF, 0, 0xFF, 0x81]


def test_rotate_and_functions() -> None:
    vga = make(0x12)
    gr(vga, 3, 0x03)
    vga.memory.write(0, 1, 0x0F)
    assert planes(vga, 0) == [0xE1] * 4
    for function, expected in ((0x08, 0x21), (0x10, 0x33), (0x18, 0x12)):
        gr(vga, 3, 0)
        vga.memory.write(0, 1, 0x21)
        vga.memory.read(0, 1)
        gr(vga, 3, function)
        vga.memory.write(0, 1, 0x33)
        assert planes(vga, 0) == [expected] * 4


def test_write_mode_1_copies_the_latches() -> None:
    vga = make(0x12)
    for plane in range(4):
        vga.core.write(4, 2, 0x100 << plane | 2)
        vga.memory.write(100, 1, plane + 1)
    vga.core.write(4, 2, 0x0F02)
    gr(vga, 5, 1)
    vga.memory.read(100, 1)
    vga.memory.write(200, 1, 0)
    assert planes(vga, 200) == [1, 2, 3, 4]


def test_write_mode_2_expands_a_colour() -> None:
    vga = make(0x12)
    gr(vga, 5, 2)
    gr(vga, 8, 0x80)
    vga.memory.read(0, 1)
    vga.memory.write(0, 1, 0x0A)
    assert planes(vga, 0) == [0, 0x80, 0, 0x80]


def test_write_mode_3_takes_data_as_bit_mask() -> None:
    vga = make(0x12)
    gr(vga, 0, 0x9)
    gr(vga, 5, 3)
    gr(vga, 8, 0x3F)
    vga.memory.read(0, 1)
    vga.memory.write(0, 1, 0xF0)
    assert planes(vga, 0) == [0x30, 0, 0, 0x30]


def test_read_map_select() -> None:
    vga = make(0x12)
    vga.core.write(4, 2, 0x0402)
    vga.memory.write(7, 1, 0x77)
    assert vga.memory.read(7, 1) == 0
    gr(vga, 4, 2)
    assert vga.memory.read(7, 1) == 0x77 and vga.memory.read(6, 4) == 0x0000_7700


def test_read_mode_1_compares_colours() -> None:
    vga = make(0x12)
    gr(vga, 0, 0x6)
    gr(vga, 1, 0xF)
    gr(vga, 8, 0x3C)
    vga.memory.read(0, 1)
    vga.memory.write(0, 1, 0)
    gr(vga, 5, 8)
    gr(vga, 2, 0x6)
    assert vga.memory.read(0, 1) == 0x3C
    gr(vga, 7, 0x9)
    assert vga.memory.read(0, 1) == 0xFF


def test_the_window_decodes_where_it_is_told() -> None:
    vga = make(0x12)
    vga.memory.write(0x1_8000, 1, 0x55)
    assert vga.memory.read(0x1_8000, 1) == 0xFF and planes(vga, 0) == [0] * 4
    vga.core.write(2, 1, 0xE1)
    assert vga.memory.read(0, 4) == 0xFFFF_FFFF


def test_text_is_plain_memory_and_moves_with_the_mode() -> None:
    vga = make(0x03)
    assert vga.linear == LinearWindow(0x1_8000, 0x8000, "text", 0)
    vga.memory.write(0x1_8002, 2, 0x1F42)
    assert vga.memory.text[2:4].tolist() == [0x42, 0x1F]
    vga.core.write(4, 2, 0x0604)
    assert vga.linear is None and planes(vga, 1) == [0x42, 0x1F, 0, 0]
    vga.core.write(4, 2, 0x0204)
    assert vga.memory.read(0x1_8002, 2) == 0x1F42


def test_a_font_is_loaded_into_plane_2() -> None:
    """The register writes by which a VGA BIOS gets at plane 2 and back."""
    vga = make(0x03)
    vga.memory.write(0x1_8000, 2, 0x0741)
    for pair in (0x0100, 0x0402, 0x0704, 0x0300):
        vga.core.write(4, 2, pair)
    for pair in (0x0204, 0x0005, 0x0406):
        vga.core.write(0xE, 2, pair)
    vga.memory.write(0x41 * 32, 4, 0x663C_1800)
    for pair in (0x0100, 0x0302, 0x0204, 0x0300):
        vga.core.write(4, 2, pair)
    for pair in (0x0004, 0x1005, 0x0E06):
        vga.core.write(0xE, 2, pair)
    assert [planes(vga, 0x41 * 32 + k)[2] for k in range(4)] == [0, 0x18, 0x3C, 0x66]
    assert vga.memory.read(0x1_8000, 2) == 0x0741 and vga.linear is not None


def test_the_board_hears_of_linear_windows() -> None:
    vga = Vga(Clock(), vram=np.zeros(1 << 20, np.uint8))
    heard: list[LinearWindow | None] = []
    vga.memory.on_linear = heard.append
    set_mode(vga, 0x03)
    assert heard == [LinearWindow(0x1_8000, 0x8000, "text", 0)]
    set_mode(vga, 0x12)
    assert heard[-1] is None


def test_blocks_are_the_same_as_single_accesses() -> None:
    vga = make(0x03)
    vga.memory.write_block(0x1_8000, 2, b"A\x07B\x07")
    assert vga.memory.read_block(0x1_8000, 2, 2) == b"A\x07B\x07"
    set_mode(vga, 0x12)
    vga.memory.write_block(0x10, 2, b"\x01\x02\x03\x04")
    assert vga.memory.read_block(0x10, 4, 1) == b"\x01\x02\x03\x04" and planes(vga, 0x13) == [4] * 4


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 15), st.integers(0, 3), st.lists(st.tuples(st.booleans(), st.integers(0, 7), st.integers(0, 255)))
)
def test_the_short_way_of_plain_16_colour_modes_is_the_long_one(
    mask: int, read_map: int, accesses: list[tuple[bool, int, int]]
) -> None:
    short, long = make(0x12), make(0x12)
    for vga in (short, long):
        gr(vga, 4, read_map)
        vga.core.write(0x4, 2, mask << 8 | 2)
    assert short.memory._direct
    for is_write, at, value in accesses:
        long.memory._direct = False
        if is_write:
            short.memory.write(at, 1, value)
            long.memory.write(at, 1, value)
        else:
            assert short.memory.read(at, 1) == long.memory.read(at, 1)
    assert (short.memory.vram == long.memory.vram).all() and short.memory.state()["latch"] == long.memory.state()[
        "latch"
    ]
