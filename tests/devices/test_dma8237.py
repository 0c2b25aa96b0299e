"""The DMA controllers: registers, page registers and transfers as a floppy controller makes them."""

from __future__ import annotations

import pytest

from jitvm.devices.dma8237 import DmaPair
from tests.devices.conformance import Rig

PAGE_PORT = {0: 0x87, 1: 0x83, 2: 0x81, 3: 0x82, 5: 0x8B, 6: 0x89, 7: 0x8A}


def make() -> tuple[DmaPair, Rig]:
    rig = Rig()
    dma = DmaPair(rig.memory, rig.trace)
    out(dma, 0xD6, 0xC0)  # cascade on channel 4
    out(dma, 0xD4, 0x00)
    return dma, rig


def out(dma: DmaPair, port: int, value: int) -> None:
    if port < 0x10:
        dma.low.write(port, 1, value)
    elif port < 0xC0:
        dma.pages.write(port - 0x81, 1, value)
    else:
        dma.high.write(port - 0xC0, 1, value)


def inp(dma: DmaPair, port: int) -> int:
    if port < 0x10:
        return dma.low.read(port, 1)
    return dma.pages.read(port - 0x81, 1) if port < 0xC0 else dma.high.read(port - 0xC0, 1)


def program(dma: DmaPair, channel: int, mode: int, gpa: int, count: int) -> None:
    """As a BIOS does for a sector: mask, flip-flop, mode, address, page, count, unmask; count in units, not minus 1."""
    base, step, at = (0xC0, 2, channel - 4) if channel > 3 else (0, 1, channel)
    units = gpa >> 1 & 0xFFFF if channel > 3 else gpa & 0xFFFF
    out(dma, base + 10 * step, at | 4)
    out(dma, base + 12 * step, 0)
    out(dma, base + 11 * step, mode | at)
    out(dma, base + 2 * at * step, units & 0xFF)
    out(dma, base + 2 * at * step, units >> 8)
    out(dma, PAGE_PORT[channel], gpa >> 16)
    out(dma, base + (2 * at + 1) * step, (count - 1) & 0xFF)
    out(dma, base + (2 * at + 1) * step, (count - 1) >> 8)
    out(dma, base + 10 * step, at)


def test_floppy_read_of_a_sector() -> None:
    dma, rig = make()
    program(dma, 2, 0x44, 0x1_2345, 512)
    data = bytes(range(256)) * 2
    assert dma.write_channel(2, data[:100]) == (100, False)
    assert dma.write_channel(2, data[100:]) == (412, True)
    assert rig.memory.read(0x1_2345, 512) == data
    assert inp(dma, 0x08) == 0x04
    assert inp(dma, 0x08) == 0x00, "reading clears it"
    assert dma.write_channel(2, b"more") == (0, False), "masked at the terminal count"


def test_floppy_write_of_a_sector() -> None:
    dma, rig = make()
    rig.memory.write(0x8000, b"sector" * 100)
    program(dma, 2, 0x48, 0x8000, 512)
    assert dma.read_channel(2, 1000) == ((b"sector" * 100)[:512], True)


def test_address_and_count_can_be_read_back() -> None:
    dma, _ = make()
    program(dma, 2, 0x44, 0x4_1000, 0x300)
    dma.write_channel(2, bytes(0x101))
    out(dma, 0x0C, 0)
    assert inp(dma, 0x04) | inp(dma, 0x04) << 8 == 0x1101
    assert inp(dma, 0x05) | inp(dma, 0x05) << 8 == 0x1FE


def test_wrap_stays_in_the_page() -> None:
    dma, rig = make()
    program(dma, 1, 0x44, 0x3_FFFE, 4)
    assert dma.write_channel(1, b"abcd") == (4, True)
    assert rig.memory.read(0x3_FFFE, 2) == b"ab"
    assert rig.memory.read(0x3_0000, 2) == b"cd"


def test_words_on_channel_5() -> None:
    dma, rig = make()
    program(dma, 5, 0x44, 0x5_4000, 3)
    assert dma.write_channel(5, b"123456") == (6, True)
    assert rig.memory.read(0x5_4000, 6) == b"123456", "bit 0 of the page is bit 15 of the word address"
    assert inp(dma, 0xD0) == 0x02


def test_autoinitialise() -> None:
    dma, rig = make()
    program(dma, 1, 0x54, 0x6000, 4)
    assert dma.write_channel(1, b"abcdef") == (4, True)
    assert dma.write_channel(1, b"xy") == (2, False)
    assert rig.memory.read(0x6000, 4) == b"xycd"


def test_downwards() -> None:
    dma, rig = make()
    program(dma, 1, 0x64, 0x6003, 4)
    assert dma.write_channel(1, b"abcd") == (4, True)
    assert rig.memory.read(0x6000, 4) == b"dcba"
    program(dma, 1, 0x68, 0x6003, 2)
    assert dma.read_channel(1, 2) == (b"ab", True)


def test_verify_moves_nothing() -> None:
    dma, rig = make()
    program(dma, 2, 0x40, 0x6000, 4)
    assert dma.write_channel(2, b"abcd") == (4, True)
    assert rig.memory.read(0x6000, 4) == bytes(4)


@pytest.mark.parametrize("how", ["mask", "disabled", "cascade", "direction"])
def test_what_stops_a_channel(how: str) -> None:
    dma, _ = make()
    program(dma, 2, 0x48 if how == "direction" else 0x44, 0x6000, 4)
    if how == "mask":
        out(dma, 0x0F, 0x04)
    elif how == "disabled":
        out(dma, 0x08, 0x04)
    elif how == "cascade":
        out(dma, 0xD4, 0x04)
    assert dma.write_channel(2, b"abcd") == (0, False)


def test_masks_and_master_clear() -> None:
    dma, _ = make()
    assert inp(dma, 0x0F) == 0xFF
    out(dma, 0x0A, 0x02)
    assert inp(dma, 0x0F) & 0x0F == 0x0B
    out(dma, 0x0E, 0)
    assert inp(dma, 0x0F) & 0x0F == 0
    out(dma, 0x0D, 0)
    assert inp(dma, 0x0F) & 0x0F == 0x0F
    dma.set_request(1, True)
    assert inp(dma, 0x08) == 0x20
    dma.set_request(1, False)
    assert inp(dma, 0x08) == 0


def test_flip_flop_is_shared_by_all_channels() -> None:
    dma, _ = make()
    out(dma, 0x0C, 0)
    out(dma, 0x00, 0x34)
    out(dma, 0x02, 0x12)
    out(dma, 0x0C, 0)
    assert (inp(dma, 0x00), inp(dma, 0x00)) == (0x34, 0x00)
    assert (inp(dma, 0x02), inp(dma, 0x02)) == (0x00, 0x12)


def test_page_registers_hold_anything() -> None:
    dma, _ = make()
    for port in range(0x81, 0x90):
        out(dma, port, port ^ 0xFF)
    assert [inp(dma, port) for port in range(0x81, 0x90)] == [port ^ 0xFF for port in range(0x81, 0x90)]


def test_the_unmodelled_is_traced() -> None:
    dma, rig = make()
    out(dma, 0x08, 0x01)
    out(dma, 0x09, 0x05)
    assert len(rig.traced("unmodelled")) == 2
