"""Page walks and descriptor tables for a debugger, in every mode of paging: structures that a test lays into memory."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from jitvm.crash import place
from jitvm.faults import gate_words
from jitvm.gdb_memory import LinearMemory, memory_map
from jitvm.gdb_tables import descriptor_at, gdt, idt, ldt, pagewalk
from jitvm.memory import GuestMemory

RAM = 8 << 20
PG, PE, PSE, PAE, LMA = 1 << 31, 1, 1 << 4, 1 << 5, 1 << 10
CODE64 = 2
P, W, U, A, D, PS, G, XD = 1, 2, 4, 0x20, 0x40, 0x80, 0x100, 1 << 63
HIGH = 0xFFFF_8000_0000_0000


class Guest:
    """RAM, and the registers that a walk looks at; `memory` is what a debugger sees."""

    def __init__(self, **registers: int) -> None:
        self.ram = GuestMemory(RAM)
        self.ram.map(0, RAM, 0)
        values: dict[str, Any] = {
            "cr0": PE | PG, "cr3": 0x1000, "cr4": 0, "efer": 0, "mode": 0, "a20_mask": (1 << 64) - 1,
            "gdt_base": 0, "gdt_limit": 0, "idt_base": 0, "idt_limit": 0, "sel": [0] * 8, "base": [0] * 8,
            "limit": [0] * 8, "pdpte": [0] * 4,
        }  # fmt: skip
        self.c = SimpleNamespace(**values | registers)
        self.memory = LinearMemory(self.ram, self.c)

    def put(self, at: int, *words: int, size: int = 8) -> None:
        self.ram.write(at, b"".join(word.to_bytes(size, "little") for word in words))

    def walk(self, lin: int) -> list[str]:
        return pagewalk(self.c, self.memory, [hex(lin)]).split("\n")


@pytest.fixture
def long() -> Guest:
    """4-level paging: 400000h a page, 600000h 2 MiB of them, 40000000h a page of 1 GiB, the same at the other end."""
    guest = Guest(cr4=PAE, efer=LMA | 1 << 8)
    guest.put(0x1000, 0x2000 | P | W | U)
    guest.put(0x1000 + 8 * 256, 0x2000 | P | W)
    guest.put(0x2000, 0x3000 | P | W | U, 0 | P | W | PS | XD)
    guest.put(0x3000 + 8 * 2, 0x4000 | P | U, 0x60_0000 | P | W | PS | G | A | D)
    guest.put(0x4000, 0x12_3000 | P | XD | A)
    return guest


# ---- page walks -----------------------------------------------------------------------------------------------------
def test_4_levels(long: Guest) -> None:
    assert long.walk(0x40_0ABC) == [
        "linear 0000000000400abc",
        "PML4E at 00001000: 0000000000002007 W U",
        "PDPTE at 00002000: 0000000000003007 W U",
        "PDE at 00003010: 0000000000004005 U",
        "PTE at 00004000: 8000000000123021 A XD",
        "physical 00123abc",
    ]
    assert long.memory.read(0x12_3000, 4) == b"", "nothing is mapped there"
    long.put(0x12_3FF8, 0x1122334455667788)
    assert long.memory.read(0x40_0FF8, 16) == 0x1122334455667788.to_bytes(8, "little"), "the next page is not there"


def test_large_pages_of_long_mode(long: Guest) -> None:
    assert long.walk(HIGH + 0x71_2345)[1:] == [
        "PML4E at 00001800: 0000000000002003 W",
        "PDPTE at 00002000: 0000000000003007 W U",
        "PDE at 00003018: 00000000006001e3 W A D PS G",
        "2 MiB page at 00600000",
        "physical 00712345",
    ]
    assert long.walk(0x4012_3456)[2:] == [
        "PDPTE at 00002008: 8000000000000083 W PS XD",
        "1 GiB page at 00000000",
        "physical 00123456",
    ]


def test_what_is_not_mapped_in_long_mode(long: Guest) -> None:
    assert long.walk(0x80_0000)[-2:] == ["PDE at 00003020: 0000000000000000 not present", "not mapped"]
    assert long.walk(0x80_0000_0000)[1:] == ["PML4E at 00001008: 0000000000000000 not present", "not mapped"]
    assert long.walk(0x8000_0000_0000)[1:] == ["not canonical: bits 47 to 63 differ", "not mapped"]
    assert long.memory.walk(HIGH - 1) is None and long.memory.walk(1 << 64) is None


def test_pae_in_32_bit_mode() -> None:
    guest = Guest(cr4=PAE, cr3=0x1020)
    guest.c.pdpte = [0x2000 | P, 0, 0x3000 | P, 0]  # as they were in memory when CR3 was loaded
    guest.put(0x2000, 0x4000 | P | W)
    guest.put(0x3000 + 8 * 511, 0x20_0000 | P | PS | XD)
    guest.put(0x4008, 0x5000 | P)
    assert guest.walk(0x1234) == [
        "linear 00001234",
        "PDPTE at 00001020: 0000000000002001 -",
        "PDE at 00002000: 0000000000004003 W",
        "PTE at 00004008: 0000000000005001 -",
        "physical 00005234",
    ]
    assert guest.walk(0xBFE0_0042)[1:] == [
        "PDPTE at 00001030: 0000000000003001 -",
        "PDE at 00003ff8: 8000000000200081 PS XD",
        "2 MiB page at 00200000",
        "physical 00200042",
    ]
    assert guest.walk(0x4000_0000)[-2:] == ["PDPTE at 00001028: 0000000000000000 not present", "not mapped"]
    assert guest.memory.walk(1 << 32) is None


def test_32_bit_paging_with_and_without_large_pages() -> None:
    guest = Guest(cr4=PSE)
    guest.put(0x1004, 0x40_0000 | 0x6000 | P | W | PS, size=4)
    assert guest.walk(0x40_1234) == [
        "linear 00401234",
        "PDE at 00001004: 00406083 W PS",
        "4 MiB page at 300400000",
        "physical 300401234",
    ]
    guest.c.cr4 = 0
    guest.put(0x40_6004, 0x12_3000 | P, size=4)
    assert guest.walk(0x40_1234)[2:] == ["PTE at 00406004: 00123001 -", "physical 00123234"]


# ---- descriptor tables ----------------------------------------------------------------------------------------------
CODE_64, DATA, CODE_32 = 0x00AF_9B00_0000_FFFF, 0x00CF_9300_0000_FFFF, 0x00CF_9B00_0000_FFFF
TSS = (0x1200_8912_3456_0067, 0xFFFF_8000)
INTERRUPT_GATE = (0x8000_EE03_0008_1234, 0xFFFF_FFFF)
CALL_GATE = (0x0010_EC00_0008_5678, 0x0000_0001)


@pytest.fixture
def tables(long: Guest) -> Guest:
    long.put(0x12_3000, 0, CODE_64, DATA, *TSS, CODE_32, *CALL_GATE)
    long.c.gdt_base, long.c.gdt_limit = 0x40_0000, 8 * 8 - 1
    long.put(0x12_3800, *INTERRUPT_GATE, 0, 0, *INTERRUPT_GATE)
    long.c.idt_base, long.c.idt_limit = 0x40_0800, 3 * 16 - 1
    return long


def test_the_gdt_of_long_mode(tables: Guest) -> None:
    assert gdt(tables.c, tables.memory, []).split("\n") == [
        "GDT at 0000000000400000, limit 003f",
        "0008: 64-bit code, readable, base 00000000, limit ffffffff, dpl 0",
        "0010: 32-bit data, writable, base 00000000, limit ffffffff, dpl 0",
        "0018: 64-bit TSS, free, base ffff800012123456, limit 00000067, dpl 0",
        "0028: 32-bit code, readable, base 00000000, limit ffffffff, dpl 0",
        "0030: 64-bit call gate to 0008:0000000100105678, dpl 3",
    ]
    assert descriptor_at(tables.c, tables.memory, 0x1B) == TSS[0] | TSS[1] << 64


def test_the_idt_of_long_mode(tables: Guest) -> None:
    gate = "64-bit interrupt gate to 0008:ffffffff80001234, ist 3, dpl 3"
    assert idt(tables.c, tables.memory, []).split("\n") == [
        "IDT at 0000000000400800, limit 002f",
        f"00: {gate}",
        f"02: {gate}",
    ]
    assert gate_words(tables.c, tables.memory, 2) == [
        f"IDT entry 02: {gate}",
        "GDT selector 0008: 64-bit code, readable, base 00000000, limit ffffffff, dpl 0",
    ]
    assert gate_words(tables.c, tables.memory, 3) == ["IDT entry 03 lies behind the IDT's limit 002f"]
    tables.c.idt_base = 0x80_0000
    assert "PDE at 00003020" in gate_words(tables.c, tables.memory, 0)[1]


def test_an_ldt_in_long_mode(tables: Guest) -> None:
    assert ldt(tables.c, tables.memory, []) == "there is no LDT"
    tables.put(0x12_3400, DATA, *CALL_GATE)
    tables.c.sel[6], tables.c.base[6], tables.c.limit[6] = 0x28, 0x40_0400, 0x17
    assert ldt(tables.c, tables.memory, []).split("\n") == [
        "LDT 0028 at 0000000000400400, limit 0017",
        "0004: 32-bit data, writable, base 00000000, limit ffffffff, dpl 0",
        "000c: 64-bit call gate to 0008:0000000100105678, dpl 3",
    ]


def test_the_same_bytes_outside_of_long_mode(tables: Guest) -> None:
    tables.put(0x3000 + 8 * 2, 0, size=8)
    tables.c.efer, tables.c.cr0, tables.c.gdt_base = 0, PE, 0x12_3000
    lines = gdt(tables.c, tables.memory, []).split("\n")
    assert lines[1] == "0008: 16-bit code, readable, base 00000000, limit ffffffff, dpl 0", "L means nothing there"
    assert lines[3] == "0018: 32-bit TSS, free, base 12123456, limit 00000067, dpl 0"


def test_a_table_that_ends_in_the_middle_of_a_descriptor(tables: Guest) -> None:
    tables.c.gdt_limit = 4 * 8 - 1
    assert gdt(tables.c, tables.memory, []).endswith(
        "0018: 64-bit TSS, free, base 0000000012123456, limit 00000067, dpl 0"
    )


# ---- places ---------------------------------------------------------------------------------------------------------
def test_places_of_64_bit_code(long: Guest) -> None:
    assert place(long.c, None, 8, 0, HIGH + 5) == "0008:ffff800000000005 (ffff800000000005)"
    assert place(long.c, None, 0xF000, 0xFFFF_0000, 0xFFF0) == "f000:0000fff0 (fffffff0)"


def test_the_memory_map_of_a_64_bit_gdb_ends_with_its_addresses() -> None:
    ram = Guest().ram
    assert [(r.start, r.start + r.size) for r in memory_map(ram, 1 << 64)][-1] == (0xFF00_0000, 1 << 64)
    assert [(r.start, r.start + r.size) for r in memory_map(ram)][-1] == (0xFF00_0000, 1 << 32)
