"""VGA registers, ports, BARs, retrace and graphics modes."""

from __future__ import annotations

import numpy as np
import pytest

from jitvm.bus import Bus
from jitvm.clock import Clock
from jitvm.devices.vga import LINE_NS, Vga
from jitvm.devices.vga_memory import LinearWindow
from tests.devices.vga_modes import set_mode

MIB = 1 << 20


def small(rom: bytes = b"", clock: Clock | None = None) -> Vga:
    return Vga(clock or Clock(), rom, vram=np.zeros(4 * MIB, np.uint8))


def color(index: int) -> list[int]:
    """8-bit RGB of a DAC entry as `set_mode` sets it."""
    return [v << 2 | v >> 4 for v in (index & 0x3F, index >> 2 & 0x3F, 0x3F - (index & 0x3F))]


def dispi(vga: Vga, index: int, value: int) -> None:
    vga.dispi.ports.write(0, 2, index)
    vga.dispi.ports.write(1, 2, value)


def vbe(vga: Vga, width: int, height: int, bpp: int, flags: int = 0x41) -> None:
    for index, value in ((4, 0), (1, width), (2, height), (3, bpp), (4, flags)):
        dispi(vga, index, value)


def test_identity_and_bars_are_qemus() -> None:
    vga = Vga(Clock(), bytes(39936))
    assert [vga.register(o, 4) for o in (0, 8, 0x10, 0x2C)] == [0x1111_1234, 0x0300_0002, 8, 0x1100_1AF4]
    for register, sized in ((0x10, 0xFF00_0008), (0x18, 0xFFFF_F000), (0x30, 0xFFFF_0001)):
        vga.config_write(register, 4, 0xFFFF_FFFF)
        assert vga.register(register, 4) == sized


def test_rom_bar_shows_the_option_rom() -> None:
    vga = small(b"\x55\xaa\x4d" + bytes(2000) + b"end")
    rom = vga.bars[2]
    assert rom.size == 2048 and rom.region.read(0, 4) == 0x004D_AA55
    assert rom.region.read(2003, 8) == int.from_bytes(b"end", "little")
    rom.region.write(0, 1, 0)
    assert rom.region.read(0, 1) == 0x55


def test_crtc_follows_the_colour_select() -> None:
    vga = small()
    vga.crtc_mono.write(0, 2, 0x120C)
    assert vga.crtc_mono.read(0, 2) == 0x120C and vga.crtc_color.read(0, 2) == 0xFFFF
    vga.core.write(2, 1, 0x01)
    assert vga.core.read(0xC, 1) == 0x01
    assert vga.crtc_color.read(1, 1) == 0x12 and vga.crtc_mono.read(1, 1) == 0xFF


def test_crtc_protects_its_timing() -> None:
    vga = small()
    set_mode(vga, 0x03)
    vga.crtc_color.write(0, 2, 0x0001)
    assert vga.crtc_color.read(1, 1) == 0x4F
    vga.crtc_color.write(0, 2, 0x0007)
    assert vga.crtc_color.read(1, 1) == 0x0F, "only line compare's bit 8 is open"


def test_attribute_flip_flop() -> None:
    vga = small()
    set_mode(vga, 0x03)
    vga.status_color.read(0, 1)
    vga.core.write(0, 1, 0x10)
    vga.core.write(0, 1, 0x08)
    vga.core.write(0, 1, 0x30)
    assert vga.core.read(1, 1) == 0x08 and vga.core.read(0, 1) == 0x30
    vga.status_color.read(0, 1)
    vga.core.write(0, 1, 0x22)
    vga.core.write(0, 1, 0x3F)
    vga.core.write(0, 1, 0x02)
    assert vga.core.read(1, 1) == 0x02, "the palette is closed while it feeds the screen"


def test_dac_counts_through_its_parts() -> None:
    vga = small()
    vga.core.write(8, 1, 0xFF)
    for value in (1, 2, 0xC3, 4, 5, 6):
        vga.core.write(9, 1, value)
    assert vga.core.read(8, 1) == 1 and vga.core.read(7, 1) == 0
    vga.core.write(7, 1, 0xFF)
    assert [vga.core.read(9, 1) for _ in range(6)] == [1, 2, 3, 4, 5, 6] and vga.core.read(7, 1) == 3


def test_word_writes_reach_index_and_data() -> None:
    ports, vga = Bus("io", 0x1_0000, direct=True), small()
    ports.map(0x3C0, 16, vga.core, name="vga", max_size=2)
    ports.write(0x3CE, 2, 0x0508)
    ports.write(0x3C4, 2, 0x0F02)
    assert ports.read(0x3CF, 1) == 5 and ports.read(0x3C5, 1) == 0x0F


def test_retrace_follows_the_clock() -> None:
    clock = Clock()
    vga = small(clock=clock)
    set_mode(vga, 0x03)
    clock.advance_to(10 * LINE_NS)
    assert vga.status_color.read(0, 1) == 0
    clock.advance_to(11 * LINE_NS - 100)
    assert vga.status_color.read(0, 1) == 1
    clock.advance_to(405 * LINE_NS)
    assert vga.status_color.read(0, 1) == 1
    clock.advance_to(413 * LINE_NS)
    assert vga.status_color.read(0, 1) == 9
    clock.advance_to((449 + 10) * LINE_NS)
    assert vga.status_color.read(0, 1) == 0


def test_mode_13h() -> None:
    vga = small()
    set_mode(vga, 0x13)
    assert vga.linear == LinearWindow(0, 0x1_0000, "vram", 0) and vga.text_screen() == []
    vga.memory.write(320 * 10 + 5, 1, 0x21)
    vga.memory.write(320 * 199 + 316, 4, 0x0403_0201)
    shown = vga.pixels()
    assert shown is not None and shown.shape == (200, 320, 3)
    assert shown[10, 5].tolist() == color(0x21) and shown[199, 319].tolist() == color(4)
    assert shown[0, 0].tolist() == color(0)


def test_mode_12h_writes_planes() -> None:
    vga = small()
    set_mode(vga, 0x12)
    assert vga.linear is None
    vga.core.write(4, 2, 0x0502)
    vga.memory.write(80 * 3 + 1, 1, 0x81)
    shown = vga.pixels()
    assert shown is not None and shown.shape == (480, 640, 3)
    assert shown[3, 8].tolist() == color(5) and shown[3, 15].tolist() == color(5)
    assert shown[3, 9].tolist() == color(0)


def test_unchained_mode_13h_is_mode_x() -> None:
    vga = small()
    set_mode(vga, 0x13)
    vga.core.write(4, 2, 0x0604)
    vga.core.write(4, 2, 0x0402)
    vga.memory.write(80 * 2 + 3, 1, 0x17)
    shown = vga.pixels()
    assert shown is not None and shown[2, 14].tolist() == color(0x17) and shown[2, 13].tolist() == color(0)


def test_dispi_answers_as_seavgabios_asks() -> None:
    vga = Vga(Clock())
    read = vga.dispi.ports.read
    dispi(vga, 0, 0xB0C0)
    assert read(1, 2) == 0xB0C0
    dispi(vga, 0, 0xB0C5)
    assert read(1, 2) == 0xB0C5
    vga.dispi.ports.write(0, 2, 0xA)
    assert read(0, 2) == 0xA and read(1, 2) == 0x100
    dispi(vga, 4, 2)
    vga.dispi.ports.write(0, 2, 1)
    assert read(1, 2) == 0x3E80
    vga.dispi.ports.write(0, 2, 3)
    assert read(1, 2) == 0x20


@pytest.mark.parametrize(
    ("bpp", "raw", "rgb"),
    [
        (8, b"\x21", color(0x21)),
        (15, b"\x1f\x7c", [255, 0, 255]),
        (16, b"\xe0\x07", [0, 255, 0]),
        (24, b"\x01\x02\x03", [3, 2, 1]),
        (32, b"\x01\x02\x03\xff", [3, 2, 1]),
    ],
)
def test_vbe_depths(bpp: int, raw: bytes, rgb: list[int]) -> None:
    vga = small()
    set_mode(vga, 0x03)
    vbe(vga, 640, 480, bpp)
    at = (100 * 640 + 7) * len(raw)
    vga.bars[0].region.write(at, len(raw), int.from_bytes(raw, "little"))
    shown = vga.pixels()
    assert shown is not None and shown.shape == (480, 640, 3) and shown[100, 7].tolist() == rgb
    assert vga.text() is None


def test_vbe_banks_show_in_the_window() -> None:
    vga = small()
    set_mode(vga, 0x03)
    vbe(vga, 640, 480, 32)
    dispi(vga, 5, 3)
    assert vga.linear == LinearWindow(0, 0x1_0000, "vram", 0x3_0000)
    vga.memory.write(0x10, 4, 0x1234_5678)
    assert vga.bars[0].region.read(0x3_0010, 4) == 0x1234_5678
    dispi(vga, 5, 0x40)
    assert vga.dispi.values[5] == 3, "a bank that is not there is refused"


def test_vbe_scrolls_in_a_virtual_screen() -> None:
    vga = small()
    vbe(vga, 640, 480, 32, 0x41)
    dispi(vga, 6, 1024)
    assert vga.dispi.values[7] == 4 * MIB // 4096
    dispi(vga, 8, 8)
    dispi(vga, 9, 16)
    vga.bars[0].region.write(16 * 4096 + 8 * 4, 4, 0x00AA_BBCC)
    shown = vga.pixels()
    assert shown is not None and shown[0, 0].tolist() == [0xAA, 0xBB, 0xCC]


def test_vbe_clears_memory_unless_told_not_to() -> None:
    vga = small()
    vga.memory.vram[:] = 0x55
    vbe(vga, 640, 480, 32, 0xC1)
    assert vga.memory.vram[0] == 0x55
    vbe(vga, 640, 480, 32, 0x41)
    assert vga.memory.vram[0] == 0 and vga.memory.vram[640 * 480 * 4] == 0x55


def test_vbe_never_shows_more_than_there_is() -> None:
    vga = small()
    vbe(vga, 1600, 1200, 32)
    assert vga.dispi.values[2] == 4 * MIB // 6400
    assert vga.pixels() is not None


def test_8_bit_dac() -> None:
    vga = small()
    vbe(vga, 640, 480, 8, 0x61)
    vga.core.write(8, 1, 0)
    for value in (0xFF, 0x80, 0x01):
        vga.core.write(9, 1, value)
    shown = vga.pixels()
    assert shown is not None and shown[0, 0].tolist() == [0xFF, 0x80, 0x01]


def test_mmio_bar_mirrors_the_registers() -> None:
    vga = small()
    mmio = vga.bars[1].region
    mmio.write(0x402, 1, 0x67)
    assert vga.core.read(0xC, 1) == 0x67
    mmio.write(0x502, 2, 800)
    assert mmio.read(0x502, 2) == 800 and mmio.read(0x500, 4) == 800 << 16 | 0xB0C5
    assert mmio.read(0x604, 4) == 0x1E1E_1E1E and mmio.read(0, 4) == 0
    mmio.write(0x4C0 - 0xC0 + 0x14, 2, 0x120E)
    assert mmio.read(0x415, 1) == 0x12


def test_reset_blanks_everything() -> None:
    vga = small()
    fresh = vga.snapshot()
    set_mode(vga, 0x03)
    vga.memory.write(0x1_8000, 2, 0x0741)
    vga.reset()
    assert vga.snapshot() == fresh and vga.text_screen() == [] and vga.linear is None


def test_snapshot_brings_the_screen_back() -> None:
    vga = small()
    set_mode(vga, 0x03)
    vga.memory.write(0x1_8000, 2, 0x0741)
    state, shown = vga.snapshot(), vga.text_screen()
    vga.reset()
    vga.restore(state)
    assert vga.text_screen() == shown and vga.snapshot() == state
