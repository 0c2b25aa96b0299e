"""Configuration mechanism 1, write masks, BARs and interrupt pins."""

from __future__ import annotations

import pytest

from jitvm.bus import Bus
from jitvm.devices.base import Registers
from jitvm.devices.pci import ROM_BAR, Bar, PciBus, PciFunction
from jitvm.irq import IrqLine

NOTHING = Registers(lambda _o, size: (1 << 8 * size) - 1, lambda _o, _s, _v: None)


class Board:
    """A bus with one function at 02.0, and everything that the board would be told."""

    def __init__(self) -> None:
        self.placed: list[tuple[str, int | None]] = []
        self.wires: dict[tuple[int, int], IrqLine] = {}
        self.levels: list[bool] = []
        self.pci = PciBus(self.on_bar, self.wire)
        self.function = PciFunction("card", vendor=0x1AF4, device=0x1000, class_code=0x020000, interrupt_pin=1)
        self.function.add_bar("card.io", 0, "io", 0x20, NOTHING)
        self.function.add_bar("card.mem", 1, "mem", 0x1000, NOTHING, prefetchable=True)
        self.function.add_bar("card.wide", 2, "mem", 0x10_0000, NOTHING, wide=True)
        self.function.add_bar("card.rom", ROM_BAR, "rom", 0x1_0000, NOTHING)
        self.pci.attach(2, 0, self.function)
        self.cf9: list[int] = []
        self.ports = Bus("io", 0x1_0000, direct=True)
        reset = Registers(lambda _o, _s: 0x5A, lambda _o, _s, value: self.cf9.append(value))
        self.ports.map(0xCF8, 8, self.pci.ports(reset), name="pci", max_size=4)

    def on_bar(self, bar: Bar, address: int | None) -> None:
        self.placed.append((bar.name, address))

    def wire(self, slot: int, pin: int) -> IrqLine:
        self.wires[slot, pin] = IrqLine(self.levels.append)
        return self.wires[slot, pin]

    def select(self, register: int, slot: int = 2, function: int = 0, bus: int = 0) -> None:
        self.ports.write(0xCF8, 4, 0x8000_0000 | bus << 16 | slot << 11 | function << 8 | register)

    def get(self, register: int, size: int = 4) -> int:
        self.select(register & ~3)
        return self.ports.read(0xCFC + (register & 3), size)

    def put(self, register: int, size: int, value: int) -> None:
        self.select(register & ~3)
        self.ports.write(0xCFC + (register & 3), size, value)


def test_identity_at_every_width() -> None:
    b = Board()
    assert b.get(0) == 0x1000_1AF4
    assert [b.get(0, 2), b.get(2, 2), b.get(1, 1), b.get(3, 1)] == [0x1AF4, 0x1000, 0x1A, 0x10]
    assert b.get(0x2C) == 0x1100_1AF4 and b.get(0x3D, 1) == 1


@pytest.mark.parametrize("where", [{"slot": 3}, {"function": 1}, {"bus": 1}])
def test_an_absent_function_reads_all_ones(where: dict[str, int]) -> None:
    b = Board()
    b.select(0, **where)
    assert b.ports.read(0xCFC, 4) == 0xFFFF_FFFF and b.ports.read(0xCFE, 2) == 0xFFFF
    b.ports.write(0xCFC, 4, 0)


def test_the_address_register_takes_dwords_only() -> None:
    b = Board()
    b.select(0x10)
    assert b.ports.read(0xCF8, 4) == 0x8000_1010
    b.ports.write(0xCF8, 2, 0x1234)
    b.ports.write(0xCFB, 1, 0)
    assert b.ports.read(0xCF8, 4) == 0x8000_1010
    assert b.ports.read(0xCF8, 1) == 0xFF
    b.ports.write(0xCF8, 4, 0xFFFF_FFFF)
    assert b.ports.read(0xCF8, 4) == 0x80FF_FFFC
    b.ports.write(0xCF8, 4, 0x0000_1000)
    assert b.ports.read(0xCFC, 4) == 0xFFFF_FFFF


def test_cf9_goes_to_the_isa_bridge() -> None:
    b = Board()
    b.ports.write(0xCF9, 1, 6)
    b.ports.write(0xCF8, 2, 0x0A00)
    assert b.cf9 == [6, 0x0A]
    assert b.ports.read(0xCF9, 1) == 0x5A
    b.select(0x100 - 4)
    assert b.cf9 == [6, 0x0A]


def test_identity_is_read_only() -> None:
    b = Board()
    b.put(0, 4, 0)
    b.put(8, 4, 0)
    assert b.get(0) == 0x1000_1AF4 and b.get(8) == 0x0200_0000


@pytest.mark.parametrize(
    ("register", "sized"),
    [(0x10, 0xFFFF_FFE1), (0x14, 0xFFFF_F008), (0x18, 0xFFF0_0004), (0x1C, 0xFFFFFFFF), (0x20, 0), (0x30, 0xFFFF0001)],
)
def test_sizing(register: int, sized: int) -> None:
    b = Board()
    b.put(register, 4, 0xFFFF_FFFF)
    assert b.get(register) == sized
    assert b.placed == []


def test_windows_follow_command_and_address() -> None:
    b = Board()
    b.put(0x10, 4, 0xC000)
    b.put(0x14, 4, 0xFEB0_0000)
    assert b.placed == []
    b.put(0x04, 2, 1)
    assert b.placed == [("card.io", None), ("card.io", 0xC000)][1:]
    b.put(0x04, 2, 3)
    assert b.placed[1:] == [("card.mem", 0xFEB0_0000)]
    b.placed.clear()
    b.put(0x14, 4, 0xFEC0_0000)
    assert b.placed == [("card.mem", None), ("card.mem", 0xFEC0_0000)]
    b.placed.clear()
    b.put(0x04, 2, 0)
    assert b.placed == [("card.io", None), ("card.mem", None)]


def test_a_byte_write_moves_a_window() -> None:
    b = Board()
    b.put(0x04, 1, 1)
    b.put(0x11, 1, 0xC1)
    assert b.placed == [("card.io", 0xC100)]


def test_the_rom_needs_its_own_enable_bit() -> None:
    b = Board()
    b.put(0x04, 2, 2)
    b.put(0x30, 4, 0xFEBE_0000)
    assert b.placed == []
    b.put(0x30, 4, 0xFEBE_0001)
    assert b.placed == [("card.rom", 0xFEBE_0000)]


def test_a_wide_window_lies_above_4_gib() -> None:
    b = Board()
    b.put(0x04, 2, 2)
    b.put(0x1C, 4, 0x80)
    assert b.placed[-1] == ("card.wide", 0x80_0000_0000)
    b.put(0x18, 4, 0xFD00_0000)
    assert b.placed[-1] == ("card.wide", 0x80_FD00_0000)


def test_a_window_over_the_end_is_not_decoded() -> None:
    b = Board()
    b.put(0x04, 2, 3)
    b.put(0x10, 4, 0xFFFF_FFE0)
    b.put(0x14, 4, 0xFFFF_F000)
    assert b.placed == []


def test_intx_with_status_and_disable_bit() -> None:
    b = Board()
    b.function.set_intx(True)
    assert b.levels == [True] and b.get(6, 2) & 8
    b.put(4, 2, 0x400)
    assert b.levels == [True, False] and b.get(6, 2) & 8
    b.put(4, 2, 0)
    b.function.set_intx(False)
    assert b.levels == [True, False, True, False] and not b.get(6, 2) & 8


def test_reset_takes_windows_and_interrupt_away() -> None:
    b = Board()
    b.put(0x10, 4, 0xC000)
    b.put(0x04, 2, 1)
    b.put(0x3C, 1, 11)
    b.function.set_intx(True)
    b.function.reset()
    assert b.placed[-1] == ("card.io", None) and b.levels[-1] is False
    assert b.get(0x3C, 1) == 0 and b.get(0x10) == 1


def test_restore_puts_windows_back() -> None:
    b = Board()
    b.put(0x10, 4, 0xC000)
    b.put(0x04, 2, 1)
    state = b.function.snapshot()
    b.function.reset()
    b.placed.clear()
    b.function.restore(state)
    assert b.placed == [("card.io", 0xC000)] and b.function.snapshot() == state


def test_capabilities_are_a_list() -> None:
    f = PciFunction("card", vendor=1, device=2, class_code=0)
    first = f.add_capability(9, b"\x10\x01\x02", b"\x00\xff\x00")
    second = f.add_capability(0x11, bytes(10))
    assert f.register(0x34, 1) == second and f.register(second + 1, 1) == first and f.register(first + 1, 1) == 0
    assert f.register(6, 2) & 0x10
    f.config_write(first + 2, 4, 0xFFFF_FFFF)
    assert f.config[first : first + 5] == b"\x09\x00\x10\xff\x02"


def test_two_functions_cannot_share_a_place() -> None:
    b = Board()
    with pytest.raises(ValueError, match="holds card already"):
        b.pci.attach(2, 0, b.function)
