"""32-bit paging: rights, error codes, accessed and dirty bits, the TLB; handlers equal plain.

What the CPU must do is written here again, from the manual (SDM vol. 3, 4.6, 4.7, 4.10), not taken from the engine.
"""

from __future__ import annotations

import itertools
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from tests.engine.assembler import assemble
from tests.engine.guest import CODE, Guest, same
from tests.engine.tables import (
    DIRECTORY,
    PG,
    PS,
    PSE,
    TABLE,
    WP,
    A,
    D,
    P,
    U,
    W,
    directory_entry,
    entry,
    page_on,
    set_entry,
    set_ring,
)
from tests.fast_set import share

ENGINES = ["plain", "handlers", "stencils", "pinned"]
PAGE = 0x9000
ACCESSES = {
    "load": ("mov eax, [0x9010]", 0x9010, "r"),
    "store": ("mov [0x9010], eax", 0x9010, "w"),
    "rmw": ("add dword ptr [0x9010], 5", 0x9010, "w"),
    "cmp": ("cmp dword ptr [0x9010], 5", 0x9010, "r"),
    "push": ("mov esp, 0x9020\n push eax", 0x901C, "w"),
    "pop": ("mov esp, 0x9020\n pop eax", 0x9020, "r"),
    "call": ("mov esp, 0x9020\n call 1f\n 1:", 0x901C, "w"),
    "fetch": ("mov eax, 0x9010\n jmp eax", 0x9010, "x"),
    "stos": ("mov edi, 0x9010\n stosd", 0x9010, "w"),
    "rep movs": ("mov esi, 0x9010\n mov edi, 0x8010\n mov ecx, 3\n rep movsb", 0x9010, "r"),
}


@dataclass(frozen=True)
class Rights:
    """The bits that decide: of the directory entry, of the table entry; privilege; CR0.WP."""

    pde: int
    pte: int
    ring: int
    wp: bool

    def error(self, way: str) -> int | None:
        """Error code of the fault, None when the access is allowed."""
        code = (2 if way == "w" else 0) | (4 if self.ring == 3 else 0)
        if not self.pde & P or not self.pte & P:
            return code
        both = self.pde & self.pte
        if self.ring == 3 and not both & U:
            return code | 1
        if way == "w" and not both & W and (self.ring == 3 or self.wp):
            return code | 1
        return None


ALL_RIGHTS = [Rights(*x) for x in itertools.product((0, 1, 3, 5, 7), (0, 1, 2, 3, 5, 6, 7), (0, 3), (False, True))]


def outcome(engine: str, name: str, cases: list[Rights]) -> list[tuple[str, int, int, int]]:
    """(end, CR2, table entry, directory entry) of an access for each set of rights."""
    source, _, _ = ACCESSES[name]
    guest = Guest(engine)
    page_on(guest)
    # the window's own 4 MiB, so that its directory entry decides for nothing else
    guest.bare.write(DIRECTORY + 4, struct.pack("<I", 0x12000 | P | W | U))
    code = assemble(source.replace("0x9", "0x409") + "\n ud2", CODE)
    guest.bare.write(CODE, code)
    guest.bare.write(PAGE + 0x10, b"\x0f\x0b")
    out = []
    for rights in cases:
        guest.bare.write(DIRECTORY + 4, struct.pack("<I", 0x12000 | rights.pde))
        guest.bare.write(0x12000 + 4 * 9, struct.pack("<I", PAGE | rights.pte))
        guest.c.cr0, guest.c.cr2 = PG | 0x11 | (WP if rights.wp else 0), 0
        set_ring(guest, rights.ring)
        guest.registers(eip=CODE)
        end = guest.go(40)
        table = int(struct.unpack("<I", guest.bare.read(0x12000 + 4 * 9, 4))[0])
        out.append((end, int(guest.c.cr2), table, directory_entry(guest, 1)))
    return out


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", ACCESSES)
def test_rights(engine: str, name: str) -> None:
    _, address, way = ACCESSES[name]
    for rights, (end, cr2, pte, pde) in zip(ALL_RIGHTS, outcome(engine, name, ALL_RIGHTS), strict=True):
        error = rights.error(way)
        if error is None:
            assert end == "fault 6 None", rights
            assert pde == 0x12000 | rights.pde | A, rights
            assert pte == PAGE | rights.pte | A | (D if way == "w" else 0), rights
        else:
            assert (end, cr2) == (f"fault 14 {error}", address + 0x400000), rights
            assert pte == PAGE | rights.pte, f"no bit is set by a refused access: {rights}"


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", ["load", "store", "rmw", "push", "fetch"])
def test_rights_of_large_pages(engine: str, name: str) -> None:
    source, address, way = ACCESSES[name]
    guest = Guest(engine)
    page_on(guest, cr4=PSE)
    guest.bare.write(CODE, assemble(source.replace("0x9", "0x809") + "\n ud2", CODE))
    guest.bare.write(PAGE + 0x10, b"\x0f\x0b")
    for bits, ring, wp in itertools.product((0, 1, 3, 5, 7), (0, 3), (False, True)):
        rights = Rights(bits, bits, ring, wp)
        guest.bare.write(DIRECTORY + 8, struct.pack("<I", PS | bits))
        guest.c.cr0, guest.c.cr2 = PG | 0x11 | (WP if wp else 0), 0
        set_ring(guest, ring)
        guest.registers(eip=CODE)
        end, error = guest.go(10), rights.error(way)
        if error is None:
            assert end == "fault 6 None", rights
            assert directory_entry(guest, 2) == PS | bits | A | (D if way == "w" else 0), rights
        else:
            assert (end, int(guest.c.cr2)) == (f"fault 14 {error}", address + 0x800000), rights
            assert directory_entry(guest, 2) == PS | bits


@pytest.mark.parametrize("engine", ENGINES)
def test_large_page_reserved_bits_and_pse_off(engine: str) -> None:
    guest = Guest(engine)
    guest.bare.vcpu.set_cpu("pentiumpro")  # without PSE-36, which gives these bits a meaning
    page_on(guest, cr4=PSE)
    guest.load("mov eax, [0x809010]\n ud2")
    for bit in range(13, 22):
        guest.bare.write(DIRECTORY + 8, struct.pack("<I", PS | P | W | U | 1 << bit))
        guest.registers(eip=CODE, cr2=0)
        assert guest.go(5) == "fault 14 9"
    guest.bare.write(DIRECTORY + 8, struct.pack("<I", TABLE | PS | P | W | U))
    guest.registers(eip=CODE, cr4=0)
    assert guest.go(5) == "fault 6 None", "without PSE bit 7 of a directory entry is ignored"


# ---- over a page border ----------------------------------------------------------------------------------------------
STRADDLES = {
    "mov [0x8FFE], eax": 2,
    "mov eax, [0x8FFE]": 0,
    "add dword ptr [0x8FFD], 0x01010101": 2,
    "mov word ptr [0x8FFF], 0x4142": 2,
    "mov esp, 0x9002\n push eax": 2,
    "mov esp, 0x8FFE\n pop eax": 0,
    "mov esp, 0x9002\n call 1f\n 1:": 2,
    "mov esp, 0x9010\n pushad": 2,
    "mov esp, 0x9003\n enter 0, 0": 2,
    "xchg [0x8FFE], eax": 2,
    "mov edx, 0x10\n cmpxchg8b [0x8FFC]": 2,
    "mov edi, 0x8FFE\n stosd": 2,
    "mov edi, 0x8FF8\n mov ecx, 5\n rep stosd": 2,
    "mov esi, 0x8FFA\n mov edi, 0xA000\n mov ecx, 2\n rep movsd": 0,
    "sgdt [0x8FFC]": 2,
    "fnstcw [0x8FFF]": None,
}


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("source", STRADDLES)
def test_missing_page(source: str, first: bool) -> None:
    """One of two pages is missing: CR2 is the first byte that is, and no part of the store is done."""
    write = STRADDLES[source]
    states = []
    for engine in ENGINES:
        guest = Guest(engine)
        page_on(guest)
        guest.load(source + "\n ud2")
        guest.bare.write(0x8000, bytes(range(256)) * 32)
        set_entry(guest, 8 if first else 9, 0)
        end = guest.go(20)
        if write is not None:
            assert end == f"fault 14 {write}"
            assert first or guest.c.cr2 == (0x900C if "pushad" in source else 0x9000)
        state = guest.state()
        states.append(state)
        if "rep" not in source:
            memory = guest.bare.read(0x8000, 0x2000)
            assert memory == bytes(range(256)) * 32
        set_entry(guest, 8, 0x8007)
        set_entry(guest, 9, 0x9007)
        assert guest.go(20) in ("fault 6 None", "fault 7 None")
        states.append(guest.state())
    same(states[2], states[0], source)
    same(states[3], states[1], source + ", again")


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("compare", ["cmpsb", "repe cmpsb", "std\n repne cmpsd"])
def test_comparison_with_two_bad_pages(engine: str, compare: str) -> None:
    """ES:DI is looked at first: the fault is its page's, and the other's entry stays untouched (measured on silicon)."""
    guest = Guest(engine)
    page_on(guest)
    guest.load(f"mov esi, 0x8010\n mov edi, 0x9020\n mov ecx, 3\n {compare}\n ud2")
    set_entry(guest, 8, 0)
    set_entry(guest, 9, 0)
    assert (guest.go(), int(guest.c.cr2)) == ("fault 14 0", 0x9020)
    set_entry(guest, 8, 0x8000 | P)
    assert (guest.go(), int(guest.c.cr2), entry(guest, 8)) == ("fault 14 0", 0x9020, 0x8000 | P)
    set_entry(guest, 8, 0)
    set_entry(guest, 9, 0x9000 | P)
    assert (guest.go(), int(guest.c.cr2), entry(guest, 9)) == ("fault 14 0", 0x8010, 0x9000 | P | A)


@pytest.mark.parametrize("engine", ENGINES)
def test_pages_that_are_not_neighbours(engine: str) -> None:
    """The second page of a straddling access lies elsewhere in physical memory."""
    guest = Guest(engine)
    page_on(guest)
    set_entry(guest, 9, 0xC007)
    guest.load("mov dword ptr [0x8FFE], 0x44332211\n mov eax, [0x8FFE]\n inc word ptr [0x8FFF]\n hlt")
    assert guest.go() == "hlt"
    assert guest.bare.read(0x8FFE, 2) == b"\x11\x23"
    assert guest.bare.read(0xC000, 2) == b"\x33\x44"
    assert guest.bare.read(0x9000, 2) == b"\0\0"
    assert guest.bare.registers()["eax"] == 0x44332211


# ---- the TLB ---------------------------------------------------------------------------------------------------------
FLUSHES = {
    "invlpg": "invlpg [0x9000]",
    "invlpg in the page": "invlpg [0x9ABC]",
    "cr3": "mov eax, cr3\n mov cr3, eax",
    "paging off and on": "mov eax, cr0\n and eax, 0x7FFFFFFF\n mov cr0, eax\n or eax, 0x80000000\n mov cr0, eax",
    "pse": "mov eax, cr4\n xor eax, 0x10\n mov cr4, eax",
}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("how", FLUSHES)
def test_flush(engine: str, how: str) -> None:
    """After it loads, stores, pushes and fetches go by the new tables."""
    guest = Guest(engine)
    page_on(guest)
    guest.bare.write(0x9000, struct.pack("<I", 111) + b"\xb8\x01\0\0\0\xc3")
    guest.bare.write(0xC000, struct.pack("<I", 222) + b"\xb8\x02\0\0\0\xc3")
    guest.load(f"""
        call 0x9004
        add [0x8000], eax
        mov ebx, [0x9000]
        mov [0x9010], ebx
        mov dword ptr [{TABLE + 36}], 0xC007
        {FLUSHES[how]}
        mov ebx, [0x9000]
        mov [0x9010], ebx
        call 0x9004
        add [0x8000], eax
        mov esp, 0x9804
        push ebx
        hlt
    """)
    assert guest.go() == "hlt"
    assert int.from_bytes(guest.bare.read(0x9010, 4), "little") == 111
    assert int.from_bytes(guest.bare.read(0xC010, 4), "little") == 222
    assert int.from_bytes(guest.bare.read(0xC800, 4), "little") == 222
    assert int.from_bytes(guest.bare.read(0x8000, 4), "little") == 3


@pytest.mark.parametrize("engine", ENGINES)
def test_write_protect_turned_on(engine: str) -> None:
    """A TLB entry made by a supervisor's store to a read-only page does not outlive CR0.WP."""
    guest = Guest(engine)
    page_on(guest)
    set_entry(guest, 9, 0x9005)
    guest.load(f"mov [0x9000], eax\n mov eax, cr0\n or eax, {WP}\n mov cr0, eax\n mov [0x9000], eax\n hlt")
    assert guest.go() == "fault 14 3"
    assert guest.retired == 4


@pytest.mark.parametrize("engine", ENGINES)
def test_rings_have_their_own_entries(engine: str) -> None:
    """What ring 0 may do warm is still refused to ring 3, and the other way round nothing is lost."""
    guest = Guest(engine)
    page_on(guest)
    set_entry(guest, 9, 0x9003)
    guest.load("mov eax, [0x9000]\n mov [0x9004], eax\n ud2")
    for ring, end in ((0, "fault 6 None"), (3, "fault 14 5"), (0, "fault 6 None"), (3, "fault 14 5")):
        set_ring(guest, ring)
        guest.registers(eip=CODE)
        assert guest.go(5) == end


@pytest.mark.parametrize("engine", ENGINES)
def test_address_spaces(engine: str) -> None:
    """Two directories with other code at one linear address, switched in a loop."""
    guest = Guest(engine)
    page_on(guest)
    second = 0x14000
    guest.bare.write(second, struct.pack("<I", 0x15007))
    table = [page << 12 | 7 for page in range(128)]
    table[9] = 0xC007
    guest.bare.write(0x15000, struct.pack("<128I", *table))
    guest.bare.write(0x9000, b"\x83\xc3\x01\xc3")
    guest.bare.write(0xC000, b"\x83\xc3\x10\xc3")
    guest.load(f"""
        mov ecx, 20
    1:  call 0x9000
        mov eax, cr3
        xor eax, {second ^ DIRECTORY}
        mov cr3, eax
        loop 1b
        hlt
    """)
    assert guest.go() == "hlt"
    assert guest.bare.registers()["ebx"] == 10 * 0x11


@pytest.mark.parametrize("engine", ENGINES)
def test_code_in_the_page_table(engine: str) -> None:
    """Accessed and dirty bits are stores to a page with code."""
    guest = Guest(engine)
    page_on(guest)
    at = TABLE + 0x800
    guest.load("mov eax, [0x9000]\n mov [0xA000], eax\n inc ebx\n cmp ebx, 4\n jb 1f\n hlt\n1: jmp 0x11800", at)
    assert guest.go() == "hlt"
    assert entry(guest, 9) == 0x9007 | A
    assert entry(guest, 10) == 0xA007 | A | D


# ---- demand paging ---------------------------------------------------------------------------------------------------
KERNEL = """
    add esp, 4
    pushad
    mov eax, cr2
    mov ebx, eax
    shr ebx, 12
    mov ecx, [0x11000 + ebx*4]
    or ecx, 7
    mov [0x11000 + ebx*4], ecx
    invlpg [eax]
    inc dword ptr [0x7000]
    popad
    iretd
"""
USER = """
    mov ecx, 3
2:  mov esi, 0x18FF0
    mov edi, 0x1AFF8
    push ecx
    mov ecx, 12
    rep movsd
    pop ecx
    add dword ptr [0x1BFFE], 0x10101
    push dword ptr [0x1CFFD]
    call 0x1D000
    loop 2b
    int 0x30
"""


def user_guest(engine: str) -> Guest:
    """Ring 3 code whose pages are made present by a ring 0 handler of #PF."""
    guest = Guest(engine, deliver=True)
    page_on(guest)
    flat = 0x00CF_0000_0000_FFFF
    kinds = (0, 0x9B, 0x93, 0xFB, 0xF3)
    guest.bare.write(0x5000, struct.pack("<5Q", 0, *(flat | kind << 40 for kind in kinds[1:])))
    guest.bare.write(0x4000 + 8 * 14, struct.pack("<HHHH", 0x3000, 8, 0x8E00, 0))
    guest.bare.write(0x4000 + 8 * 0x30, struct.pack("<HHHH", 0x3100, 8, 0xEE00, 0))
    guest.bare.write(0x6000, struct.pack("<III", 0, 0x20000, 0x10) + bytes(0x60))
    guest.load(KERNEL, 0x3000)
    guest.load("hlt", 0x3100)
    guest.bare.write(0x1D000, b"\xff\x05" + struct.pack("<I", 0x1E000) + b"\xc3")
    guest.bare.write(0x18000, bytes(range(256)) * 16)
    guest.load(USER, CODE)
    c = guest.c
    c.gdt_base, c.gdt_limit, c.idt_base, c.idt_limit = 0x5000, 0x27, 0x4000, 0x1FF
    c.base[7], c.limit[7], c.attr[7] = 0x6000, 0x67, 0x8B
    set_ring(guest, 3)
    for k in range(6):
        c.sel[k] = 0x1B if k == 1 else 0x23
    guest.update()
    for page in (*range(0x18, 0x1F), 0x1F, 0x20):
        set_entry(guest, page, page << 12 | (7 if page in (0x1F,) else 0))
    guest.registers(esp=0x20008)
    return guest


def test_demand_paging_at_every_count() -> None:
    end: dict[str, Any] = {}
    for engine, step in (("plain", 5000), ("handlers", 5000), ("handlers", 1), ("handlers", 2), ("handlers", 7)):
        guest = user_guest(engine)
        while guest.go(step) == "limit":
            assert guest.retired < 5000
        state = guest.state()
        assert int.from_bytes(guest.bare.read(0x7000, 4), "little") >= 7
        if end:
            same(state, end, f"{engine}, {step} at a time")
        end = state


# ---- at random -------------------------------------------------------------------------------------------------------
def random_run(seed: int) -> None:
    """Random tables, random accesses near borders, random repairs; plain and handlers side by side."""
    pieces = ("mov eax, [ebx]", "mov [ebx], eax", "add [ebx], eax", "push dword ptr [ebx]", "mov ax, [ebx]")
    more = (
        "inc word ptr [ebx]",
        "xchg [ebx], al",
        "cmp [ebx], eax\n jz 1f\n nop\n1:",
        "mov esp, ebx\n push eax\n pop ecx",
    )
    last = (
        "mov edi, ebx\n mov ecx, 3\n rep stosd",
        "mov esi, ebx\n mov edi, 0x7000\n mov ecx, 3\n rep movsw",
        "call ebx",
    )
    rng = np.random.default_rng(seed)
    source = [(pieces + more + last)[int(k)] for k in rng.integers(0, 12, 6)]
    guests = [Guest(engine) for engine in ENGINES]
    for guest in guests:
        page_on(guest)
        guest.bare.write(0x8000, bytes([0x40, 0x43, 0xC3, 0x90] * 0x2000))
    for _ in range(30):
        text = source[int(rng.integers(len(source)))] + "\n ud2"
        at = CODE + 0x100 * int(rng.integers(8)) + int(rng.choice([0, 0xFFA, 0xFFD]))
        pages = {
            int(rng.integers(8, 16)): int(rng.integers(8, 16)) << 12 | int(rng.choice([0, 1, 3, 5, 7, 7]))
            for _ in range(3)
        }
        ring, wp = int(rng.choice([0, 3])), bool(rng.integers(2))
        ebx = int(rng.integers(8, 16)) * 0x1000 + int(rng.choice([0, 0x10, 0xFFD, 0xFFF]))
        for guest in guests:
            guest.load(text, at)
            for page, value in pages.items():
                set_entry(guest, page, value)
            set_ring(guest, ring)
            guest.registers(cr0=PG | 0x11 | (WP if wp else 0), ebx=ebx, esp=0x1F000, eax=0x1234_5678)
            guest.go(12)
        same(
            guests[1].state(), guests[0].state(), f"seed {seed}: {text} at {at:#x}, ebx {ebx:#x}, {pages}, ring {ring}"
        )


@pytest.mark.parametrize("seed", share(range(6), 2))
def test_random(seed: int) -> None:
    random_run(seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 200))
def test_random_long(seed: int) -> None:
    random_run(seed)
