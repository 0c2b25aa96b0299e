"""PAE and 4-level paging, PSE-36, NX, SMEP, SMAP, global and large pages, on every engine.

What the CPU must do is written here again, from the manual (SDM vol. 3, 4.4, 4.6, 4.7, 4.10).
"""

from __future__ import annotations

import itertools
import struct

import pytest

from tests.engine.guest import CODE, Guest
from tests.engine.tables import PG, PSE, WP, A, D, P, U, W, set_ring

ENGINES = ["plain", "handlers", "stencils"]
PAGINGS = ["pae", "long"]
"""Long mode is met in compatibility mode, where the same code runs."""
PML4, PDPT = 0x14000, 0x10000
DIRECTORY, TABLE, WINDOW_TABLE = 0x11000, 0x12000, 0x13000
PS, G, NX = 0x80, 0x100, 1 << 63
PAE, PGE, SMEP, SMAP = 0x20, 0x80, 1 << 20, 1 << 21
PE, LME, NXE = 0x11, 0x100, 0x800
AC = 1 << 18
WINDOW = 0x20_0000
"""2 MiB whose directory entry decides for nothing else."""
PAGE = 0x9000


def put(guest: Guest, at: int, *entries: int) -> None:
    guest.bare.write(at, struct.pack(f"<{len(entries)}Q", *entries))


def get(guest: Guest, at: int) -> int:
    return int(struct.unpack("<Q", guest.bare.read(at, 8))[0])


def pae_on(guest: Guest, paging: str = "pae", *, cr4: int = 0, efer: int = 0, wp: bool = False) -> None:
    """Map the first 512 KiB one to one for everybody, by guest code that goes through CR3, CR4 and CR0."""
    guest.bare.vcpu.set_cpu("max")
    long = paging == "long"
    guest.c.efer = efer | (LME if long else 0)
    put(guest, PML4, PDPT | P | W | U)
    put(guest, PDPT, DIRECTORY | P | (W | U if long else 0), 0, 0, 0)
    put(guest, DIRECTORY, TABLE | P | W | U, WINDOW_TABLE | P | W | U)
    put(guest, TABLE, *(page << 12 | P | W | U for page in range(128)))
    put(guest, WINDOW_TABLE, *(page << 12 | P | W | U for page in range(128)))
    guest.load(
        f"mov eax, {PAE | cr4}\n mov cr4, eax\n mov eax, {PML4 if long else PDPT}\n mov cr3, eax\n"
        f" mov eax, {PG | PE | (WP if wp else 0)}\n mov cr0, eax\n hlt"
    )
    assert guest.go() == "hlt"


def flush(guest: Guest) -> None:
    """As another CPU's INVLPG would do."""
    guest.bare.vcpu.accel.flush(guest.bare.vcpu.address)


def run(guest: Guest, source: str, n: int = 50, at: int = CODE) -> str:
    """Run code to its end."""
    guest.load(source, at)
    return guest.go(n)


ACCESSES = {
    "load": (f"mov eax, [{WINDOW + PAGE + 0x10:#x}]\n ud2", "r"),
    "store": (f"mov [{WINDOW + PAGE + 0x10:#x}], eax\n ud2", "w"),
    "rmw": (f"inc dword ptr [{WINDOW + PAGE + 0x10:#x}]\n ud2", "w"),
    "push": (f"mov esp, {WINDOW + PAGE + 0x14:#x}\n push eax\n ud2", "w"),
    "fetch": (f"mov eax, {WINDOW + PAGE + 0x10:#x}\n jmp eax", "x"),
}


def refused(
    entries: tuple[int, ...], ring: int, way: str, *, wp: bool, nxe: bool, cr4: int, ac: bool = False
) -> int | None:
    """Error code of an access through these entries, None when it is allowed (SDM vol. 3, 4.6.1, 4.7)."""
    code = (2 if way == "w" else 0) | (4 if ring == 3 else 0)
    if way == "x" and (nxe or cr4 & SMEP):
        code |= 16
    both = W | U
    for entry in entries:
        if not entry & P:
            return code
        if entry & NX and not nxe:
            return code | 9
        both &= entry
    if way == "x" and any(entry & NX for entry in entries):
        return code | 1
    if ring == 3 and not both & U:
        return code | 1
    if ring != 3 and both & U and (cr4 & SMEP if way == "x" else cr4 & SMAP and not ac):
        return code | 1
    if way == "w" and not both & W and (ring == 3 or wp):
        return code | 1
    return None


@pytest.mark.parametrize("paging", PAGINGS)
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", ACCESSES)
def test_rights(engine: str, name: str, paging: str) -> None:
    source, way = ACCESSES[name]
    for nxe, wp in itertools.product((False, True), (False, True)):
        guest = Guest(engine)
        pae_on(guest, paging, efer=NXE if nxe else 0, wp=wp)
        guest.bare.write(PAGE + 0x10, b"\x0f\x0b")
        for pde, pte, ring in itertools.product((0, 1, 3, 7, 5, 7 | NX), (0, 1, 3, 5, 7, 7 | NX, 3 | NX), (0, 3)):
            put(guest, DIRECTORY + 8, WINDOW_TABLE | pde)
            put(guest, WINDOW_TABLE + 8 * 9, PAGE | pte)
            set_ring(guest, ring)
            guest.c.cr2 = 0
            end = run(guest, source)
            error = refused((pde, pte), ring, way, wp=wp, nxe=nxe, cr4=0)
            what = (pde, pte, ring, nxe, wp)
            if error is None:
                assert end == "fault 6 None", what
                assert get(guest, DIRECTORY + 8) == WINDOW_TABLE | pde | A, what
                assert get(guest, WINDOW_TABLE + 8 * 9) == PAGE | pte | A | (D if way == "w" else 0), what
            else:
                assert end == f"fault 14 {error}", what
                assert int(guest.c.cr2) == WINDOW + PAGE + 0x10
                assert get(guest, WINDOW_TABLE + 8 * 9) == PAGE | pte, "a refused access sets no bit"


@pytest.mark.parametrize("paging", PAGINGS)
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", ["load", "store", "fetch"])
def test_large_pages(engine: str, name: str, paging: str) -> None:
    source, way = ACCESSES[name]
    guest = Guest(engine)
    pae_on(guest, paging, efer=NXE)
    guest.bare.write(PAGE + 0x10, b"\x0f\x0b")
    for pde, ring in itertools.product((1, 3, 5, 7, 7 | NX), (0, 3)):
        put(guest, DIRECTORY + 8, PS | pde)
        set_ring(guest, ring)
        end, error = run(guest, source), refused((pde,), ring, way, wp=False, nxe=True, cr4=0)
        assert end == ("fault 6 None" if error is None else f"fault 14 {error}"), (pde, ring)
        touched = 0 if error is not None else A | (D if way == "w" else 0)
        assert get(guest, DIRECTORY + 8) == PS | pde | touched


@pytest.mark.parametrize("engine", ENGINES)
def test_reserved_bits(engine: str) -> None:
    """Bits 62-52 and those from MAXPHYADDR (40) to 51 everywhere, 20-13 in large pages, 63 without NXE."""
    guest = Guest(engine)
    pae_on(guest)
    source = ACCESSES["load"][0]
    for bit in (40, 45, 51, 52, 59, 62, 63):
        put(guest, WINDOW_TABLE + 8 * 9, PAGE | P | W | U | 1 << bit)
        flush(guest)
        assert run(guest, source) == "fault 14 9", bit
    put(guest, WINDOW_TABLE + 8 * 9, PAGE | P | W | U | 0xE00)
    assert run(guest, source) == "fault 6 None", "bits 9-11 are software's"
    for bit in (13, 16, 20, 40, 62, 63):
        put(guest, DIRECTORY + 8, PS | P | W | U | 1 << bit)
        flush(guest)
        assert run(guest, source) == "fault 14 9", bit
    put(guest, DIRECTORY + 8, PS | P | W | U | 1 << 12)
    assert run(guest, source) == "fault 6 None", "bit 12 of a large page is its PAT bit"


@pytest.mark.parametrize("engine", ENGINES)
def test_reserved_bits_of_long_mode(engine: str) -> None:
    """Bits 52-62 are ignored; there are 1 GiB pages, whose entry has bits 13-29 reserved, if they are announced."""
    guest = Guest(engine)
    pae_on(guest, "long")
    source = ACCESSES["load"][0]
    put(guest, WINDOW_TABLE + 8 * 9, PAGE | P | W | U | 0x7FF << 52)
    assert run(guest, source) == "fault 6 None"
    for bit in (13, 20, 40, 63):
        put(guest, DIRECTORY + 8, PS | P | W | U | 1 << bit)
        flush(guest)
        assert run(guest, source) == "fault 14 9", bit
    giga = f"mov eax, [{(1 << 30) + PAGE:#x}]\n ud2"
    for entry, end in (
        (0, "fault 14 0"),
        (PS | P, "fault 6 None"),
        (PS | P | 1 << 12, "fault 6 None"),
        (PS | P | 1 << 13, "fault 14 9"),
        (PS | P | 1 << 29, "fault 14 9"),
        (PS | P | 1 << 51, "fault 14 9"),
        (PS | P | NX, "fault 14 9"),
    ):
        put(guest, PDPT + 8, entry)
        flush(guest)
        assert run(guest, giga) == end, hex(entry)
        assert get(guest, PDPT + 8) == entry | (A if end == "fault 6 None" else 0)
    guest.bare.vcpu.set_cpu("nehalem")
    put(guest, PDPT + 8, PS | P)
    flush(guest)
    assert run(guest, giga) == "fault 14 9"


@pytest.mark.parametrize("engine", [*ENGINES, "regions"])
def test_invlpg_in_a_page_of_1_gib(engine: str) -> None:
    """All of it is forgotten."""
    guest = Guest(engine)
    pae_on(guest, "long")
    put(guest, PDPT + 8, PS | P)
    look, far = f"mov eax, [{(1 << 30) + PAGE:#x}]\n", f"mov eax, [{(1 << 30) + 0x3_5000:#x}]\n"
    source = look + far + f"mov dword ptr [{PDPT + 8:#x}], 0\n {look} invlpg [{(1 << 30) + 0x123_4567:#x}]\n {far} hlt"
    assert run(guest, source) == "fault 14 0"
    assert int(guest.c.cr2) == (1 << 30) + 0x3_5000


@pytest.mark.parametrize("engine", ENGINES)
def test_pdptes_are_loaded_with_cr3(engine: str) -> None:
    """They are registers: a change in memory counts at the next MOV to CR3; a reserved bit there is #GP(0)."""
    guest = Guest(engine)
    pae_on(guest)
    put(guest, PDPT, 0)
    assert run(guest, f"invlpg [{WINDOW + PAGE:#x}]\n mov eax, [{WINDOW + PAGE:#x}]\n hlt") == "hlt"
    put(guest, PDPT, DIRECTORY | P, DIRECTORY | P)
    assert run(guest, f"mov eax, {PDPT}\n mov cr3, eax\n mov eax, [{(1 << 30) + WINDOW + PAGE:#x}]\n hlt") == "hlt"
    for bit in (1, 2, 5, 6, 7, 8, 40, 52, 63):
        put(guest, PDPT + 16, DIRECTORY | P | 1 << bit)
        assert run(guest, "mov eax, cr3\n mov cr3, eax\n hlt") == "fault 13 0", bit
        assert run(guest, f"mov eax, cr4\n xor eax, {PGE}\n mov cr4, eax\n hlt") == "fault 13 0", bit
        put(guest, PDPT + 16, DIRECTORY | 1 << bit)
        assert run(guest, "mov eax, cr3\n mov cr3, eax\n hlt") == "hlt", (
            "an entry that is not present has no reserved bits"
        )
    assert run(guest, f"mov eax, [{2 << 30:#x}]\n hlt") == "fault 14 0"
    put(guest, PDPT + 24, P | 2)
    assert run(guest, f"mov eax, {PE}\n mov cr0, eax\n mov eax, {PG | PE}\n mov cr0, eax\n hlt") == "fault 13 0"
    assert int(guest.c.cr0) & PG == 0


@pytest.mark.parametrize("paging", PAGINGS)
@pytest.mark.parametrize("engine", ENGINES)
def test_physical_addresses_above_4_gib(engine: str, paging: str) -> None:
    guest = Guest(engine)
    pae_on(guest, paging)
    put(guest, WINDOW_TABLE + 8 * 9, 0x12_3456_7000 | P | W | U)
    put(guest, DIRECTORY + 16, 0x23_4560_0000 | PS | P | W | U)
    assert run(guest, f"mov eax, [{WINDOW + PAGE + 8:#x}]\n mov [{2 * WINDOW + 0x12344:#x}], eax\n hlt") == "hlt"
    assert [(a.address, a.write) for a in guest.device.seen] == [(0x12_3456_7008, False), (0x23_4561_2344, True)]


@pytest.mark.parametrize("engine", ENGINES)
def test_pse36(engine: str) -> None:
    """Bits 13-20 of a 4 MiB page's entry are address bits 32-39; without the feature they are reserved, as bit 21 is."""
    guest = Guest(engine)
    guest.bare.vcpu.set_cpu("max")
    guest.bare.write(PDPT, struct.pack("<II", TABLE | P | W | U, 0x80_0000 | 0xA5 << 13 | PS | P | W | U))
    guest.bare.write(TABLE, struct.pack("<128I", *(page << 12 | P | W | U for page in range(128))))
    guest.registers(cr3=PDPT, cr4=PSE, cr0=PG | PE)
    source = f"mov eax, [{0x40_0000 + 0x12344:#x}]\n hlt"
    assert run(guest, source) == "hlt"
    assert [a.address for a in guest.device.seen] == [0xA5_0081_2344]
    guest.bare.write(PDPT + 4, struct.pack("<I", 1 << 21 | PS | P | W | U))
    flush(guest)
    assert run(guest, source) == "fault 14 9"
    guest.bare.vcpu.set_cpu("pentiumpro")
    guest.bare.write(PDPT + 4, struct.pack("<I", 1 << 13 | PS | P | W | U))
    assert run(guest, source) == "fault 14 9"


@pytest.mark.parametrize("paging", PAGINGS)
@pytest.mark.parametrize("engine", [*ENGINES, "regions"])
@pytest.mark.parametrize("large", [False, True])
def test_global_pages(engine: str, large: bool, paging: str) -> None:
    """A load of CR3 keeps a global translation, INVLPG and a change of CR4.PGE do not; without PGE bit G is nothing."""
    guest = Guest(engine)
    pae_on(guest, paging, cr4=PGE)
    at = DIRECTORY + 8 if large else WINDOW_TABLE + 8 * 9
    first, second = (PS | P | W, 0) if large else (PAGE | P | W, 0)
    guest.bare.write(PAGE, b"\x11\x22\x33\x44")
    look = f"mov eax, [{WINDOW + PAGE:#x}]\n"
    renew = "mov edx, cr3\n mov cr3, edx\n"
    forget = f"mov dword ptr [{at:#x}], {second}\n"
    for bits, does, end in (
        (G, renew, "hlt"),
        (0, renew, "fault 14 0"),
        (G, f"invlpg [{WINDOW + PAGE:#x}]\n", "fault 14 0"),
        (G, f"mov edx, cr4\n xor edx, {PGE}\n mov cr4, edx\n xor edx, {PGE}\n mov cr4, edx\n", "fault 14 0"),
        (G, f"mov edx, cr4\n xor edx, {PGE}\n mov cr4, edx\n {look} {renew}", "fault 14 0"),
    ):
        guest.c.cr4 = PAE | PGE
        put(guest, at, first | bits)
        flush(guest)
        assert run(guest, look + forget + does + look + "hlt") == end, (bits, does)
        assert int(guest.c.gpr[0]) == 0x44332211
    # what a global one replaces, and what replaces it, is told apart
    put(guest, WINDOW_TABLE + 8 * 9, PAGE | P | W)
    put(guest, DIRECTORY + 8, WINDOW_TABLE | P | W)
    put(guest, TABLE + 8 * 9, PAGE | P | W | G)
    guest.c.cr4 = PAE | PGE
    flush(guest)
    other = f"mov eax, [{PAGE:#x}]\n"
    source = other + look + f"mov dword ptr [{WINDOW_TABLE + 72:#x}], 0\n" + renew + look + "hlt"
    assert run(guest, source) == "fault 14 0"


@pytest.mark.parametrize("paging", PAGINGS)
@pytest.mark.parametrize("engine", ENGINES)
def test_invlpg_forgets_all_of_a_large_page(engine: str, paging: str) -> None:
    guest = Guest(engine)
    pae_on(guest, paging)
    put(guest, DIRECTORY + 8, PS | P | W)
    flush(guest)
    source = (
        f"mov eax, [{WINDOW + PAGE:#x}]\n mov eax, [{WINDOW + 0x20000:#x}]\n mov dword ptr [{DIRECTORY + 8:#x}], 0\n"
        f"mov eax, [{WINDOW + PAGE:#x}]\n invlpg [{WINDOW + 0x5000:#x}]\n mov eax, [{WINDOW + 0x20000:#x}]\n hlt"
    )
    assert run(guest, source) == "fault 14 0"
    assert int(guest.c.cr2) == WINDOW + 0x20000


@pytest.mark.parametrize("paging", PAGINGS)
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", ACCESSES)
def test_smep_and_smap(engine: str, name: str, paging: str) -> None:
    source, way = ACCESSES[name]
    for cr4, ac, user, ring in itertools.product((SMEP, SMAP, SMEP | SMAP), (False, True), (U, 0), (0, 3)):
        guest = Guest(engine)
        pae_on(guest, paging)
        guest.bare.write(PAGE + 0x10, b"\x0f\x0b")
        for page in range(128):
            put(guest, TABLE + 8 * page, page << 12 | P | W | (U if ring == 3 else 0))
        put(guest, WINDOW_TABLE + 8 * 9, PAGE | P | W | user)
        guest.c.cr4 = PAE | cr4
        guest.c.rflags = int(guest.c.rflags) & ~AC | (AC if ac else 0)
        set_ring(guest, ring)
        error = refused((P | W | U, P | W | user), ring, way, wp=False, nxe=False, cr4=cr4, ac=ac)
        assert run(guest, source) == ("fault 6 None" if error is None else f"fault 14 {error}"), (cr4, ac, user, ring)


@pytest.mark.parametrize("paging", PAGINGS)
@pytest.mark.parametrize("engine", [*ENGINES, "regions"])
def test_stac_and_clac(engine: str, paging: str) -> None:
    """The permission ends with CLAC, although the page was just accessed; descriptor tables never have it."""
    guest = Guest(engine)
    pae_on(guest, paging)
    for page in range(128):
        put(guest, TABLE + 8 * page, page << 12 | P | W)
    guest.c.cr4 = PAE | SMAP
    guest.update()
    look = f"mov eax, [{WINDOW + PAGE:#x}]\n"
    assert run(guest, f"stac\n {look} mov [{WINDOW + PAGE + 4:#x}], eax\n hlt") == "hlt"
    assert (
        run(guest, f"mov ecx, 20\n 1: stac\n {look} {look} clac\n dec ecx\n jnz 1b\n {look} hlt", 500) == "fault 14 1"
    )
    popf = f"pushf\n and dword ptr [esp], {~AC & 0xFFFFFFFF:#x}\n popf\n"
    assert run(guest, f"stac\n {look} {popf} {look} hlt") == "fault 14 1"
    guest.c.gdt_base, guest.c.gdt_limit = WINDOW + PAGE, 0xFF
    assert run(guest, "stac\n mov eax, 8\n mov ds, eax\n hlt") == "fault 14 1"
    set_ring(guest, 3)
    for page in range(128):
        put(guest, TABLE + 8 * page, page << 12 | P | W | U)
    flush(guest)
    assert run(guest, "stac\n hlt") == "fault 6 None"
    assert run(guest, "clac\n hlt") == "fault 6 None"
    guest.bare.vcpu.set_cpu("nehalem")
    set_ring(guest, 0)
    guest.c.cr4 = PAE
    assert run(guest, "stac\n hlt") == "fault 6 None", "not announced"


@pytest.mark.parametrize("engine", ENGINES)
def test_umip(engine: str) -> None:
    """SGDT, SIDT, SLDT, SMSW and STR are #GP(0) above level 0 under CR4.UMIP (SDM vol. 3, 2.5)."""
    guest = Guest(engine)
    guest.bare.vcpu.set_cpu("max")
    for source in ("sgdt [0x8000]", "sidt [0x8000]", "sldt ax", "sldt [0x8000]", "smsw eax", "smsw [0x8000]", "str ax"):
        for ring, umip in itertools.product((0, 3), (0, 1 << 11)):
            set_ring(guest, ring)
            guest.c.cr4 = umip
            guest.bare.write(0x8000, bytes(8))
            end = run(guest, source + "\n ud2")
            assert end == ("fault 13 0" if ring and umip else "fault 6 None"), (source, ring)
            assert not (ring and umip) or guest.bare.read(0x8000, 8) == bytes(8)
    assert run(guest, "mov eax, 0x800\n mov cr4, eax\n hlt") == "fault 13 0", "at level 3"
    set_ring(guest, 0)
    guest.bare.vcpu.set_cpu("nehalem")
    assert run(guest, "mov eax, 0x800\n mov cr4, eax\n hlt") == "fault 13 0", "not announced"


@pytest.mark.parametrize("engine", [*ENGINES, "regions"])
def test_sysenter_and_sysexit(engine: str) -> None:
    guest = Guest(engine)
    guest.bare.vcpu.set_cpu("max")
    head = "mov ecx, 0x174\n xor edx, edx\n mov eax, {cs}\n wrmsr\n inc ecx\n mov eax, 0x7000\n wrmsr\n"
    head += "inc ecx\n mov eax, 0x2000\n wrmsr\n"
    guest.load("cli\n mov edx, 0x3000\n mov ecx, 0x6000\n sysexit", 0x2000)
    guest.load("hlt", 0x3000)
    set_ring(guest, 0)
    assert run(guest, head.format(cs=0x0123) + "sti\n sysenter") == "fault 13 0", "HLT at level 3"
    c = guest.c
    assert (int(c.rip), int(c.gpr[4]), int(c.cpl)) == (0x3000, 0x6000, 3)
    assert [int(c.sel[k]) for k in (1, 2)] == [0x0133, 0x013B]
    assert [int(c.attr[k]) for k in (1, 2)] == [0xC0FB, 0xC0F3]
    assert not int(c.rflags) & 0x200
    assert run(guest, "sysexit") == "fault 13 0", "at level 3"
    guest.load("hlt", 0x2000)
    assert run(guest, "sysenter") == "hlt"
    assert (int(c.rip), int(c.gpr[4]), int(c.cpl)) == (0x2001, 0x7000, 0)
    assert [int(c.sel[k]) for k in (1, 2)] == [0x0120, 0x0128]
    assert [int(c.attr[k]) for k in (1, 2)] == [0xC09B, 0xC093]
    for source in ("sysenter", "sysexit"):
        assert run(guest, head.format(cs=3) + source) == "fault 13 0", "a null selector"
    guest.bare.vcpu.set_cpu("pentium")
    assert run(guest, "sysenter") == "fault 6 None"


@pytest.mark.parametrize("engine", ENGINES)
def test_rdtscp(engine: str) -> None:
    guest = Guest(engine)
    guest.bare.vcpu.set_cpu("max")
    source = "mov ecx, 0xC0000103\n mov eax, 0x1234\n xor edx, edx\n wrmsr\n xor ecx, ecx\n"
    source += "rdtsc\n mov ebx, eax\n rdtscp\n sub eax, ebx\n hlt"
    assert run(guest, source) == "hlt"
    assert (int(guest.c.gpr[1]), int(guest.c.gpr[0])) == (0x1234, 2)
    set_ring(guest, 3)
    guest.c.cr4 = 4
    assert run(guest, "rdtscp") == "fault 13 0"
    guest.bare.vcpu.set_cpu("core2duo")
    assert run(guest, "rdtscp") == "fault 6 None"
