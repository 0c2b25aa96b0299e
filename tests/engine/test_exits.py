"""Accesses to the outside: each happens exactly once and in order, however often its instruction has to start again.

Every case runs on the plain engine and on handlers, in one go and one instruction at a time, on a recording device; what
the device saw is also written down here, from the manual.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

import pytest

from jitvm.isa.state import SS
from tests.engine.guest import CODE, DATA, MEMORY, Guest, same
from tests.engine.programs import descriptor

M = 0x50000
"""An address without memory behind it."""
READ, WRITE = "read", "write"
ENGINES = ["plain", "handlers", "stencils"]


@dataclass(frozen=True)
class Case:
    """Guest code, what the outside must see as (kind, way, address, size), and registers to begin with."""

    source: str
    seen: list[tuple[str, str, int, int]]
    registers: dict[str, int] = field(default_factory=dict)
    end: str = "hlt"


def mmio(way: str, address: int, size: int) -> tuple[str, str, int, int]:
    return "mmio", way, address, size


def port(way: str, address: int, size: int) -> tuple[str, str, int, int]:
    return "io", way, address, size


def each(way: str, first: int, size: int, n: int, step: int = 0) -> list[tuple[str, str, int, int]]:
    """n accesses in a row."""
    return [mmio(way, first + k * (step or size), size) for k in range(n)]


CASES = {
    "load": Case(f"mov eax, [{M}]", [mmio(READ, M, 4)]),
    "loads of all sizes": Case(
        f"mov al, [{M}]\n mov ax, [{M + 2}]\n movzx eax, word ptr [{M + 4}]\n mov eax, [{M + 8}]",
        [mmio(READ, M, 1), mmio(READ, M + 2, 2), mmio(READ, M + 4, 2), mmio(READ, M + 8, 4)],
    ),
    "store": Case(f"mov [{M}], eax", [mmio(WRITE, M, 4)]),
    "push [mmio]": Case(f"push dword ptr [{M}]", [mmio(READ, M, 4)]),
    "pop [mmio]": Case(f"push 5\n pop dword ptr [{M}]", [mmio(WRITE, M, 4)]),
    "push [mmio] with the stack there too": Case(
        f"push dword ptr [{M}]", [mmio(READ, M, 4), mmio(WRITE, M + 0xFC, 4)], {"esp": M + 0x100}
    ),
    "pop [mmio] with the stack there too": Case(
        f"pop dword ptr [{M}]", [mmio(READ, M + 0x100, 4), mmio(WRITE, M, 4)], {"esp": M + 0x100}
    ),
    "pop [esp + 4] in mmio": Case("pop dword ptr [esp + 4]", [mmio(READ, M, 4), mmio(WRITE, M + 8, 4)], {"esp": M}),
    "read-modify-write": Case(f"add dword ptr [{M}], 7", [mmio(READ, M, 4), mmio(WRITE, M, 4)]),
    "inc byte": Case(f"inc byte ptr [{M + 1}]", [mmio(READ, M + 1, 1), mmio(WRITE, M + 1, 1)]),
    "cmp only reads": Case(
        f"cmp dword ptr [{M}], 7\n jz 1f\n nop\n1: test [{M}], eax",
        [mmio(READ, M, 4)] * 2,
    ),
    "cmp with jcc": Case(f"cmp byte ptr [{M}], 0x15\n jbe 1f\n inc eax\n1:", [mmio(READ, M, 1)]),
    "xchg": Case(f"xchg [{M}], eax", [mmio(READ, M, 4), mmio(WRITE, M, 4)]),
    "xadd": Case(f"xadd [{M}], ebx", [mmio(READ, M, 4), mmio(WRITE, M, 4)]),
    "cmpxchg": Case(f"cmpxchg [{M}], ebx", [mmio(READ, M, 4), mmio(WRITE, M, 4)]),
    "cmpxchg8b": Case(f"cmpxchg8b [{M}]", [mmio(READ, M, 8), mmio(WRITE, M, 8)]),
    "bts in a bit string": Case(f"mov eax, 70\n bts [{M}], eax", [mmio(READ, M + 8, 4), mmio(WRITE, M + 8, 4)]),
    "setcc": Case(f"setc byte ptr [{M}]", [mmio(WRITE, M, 1)]),
    "shld": Case(f"shld [{M}], eax, 5", [mmio(READ, M, 4), mmio(WRITE, M, 4)]),
    "mul": Case(f"mul dword ptr [{M}]", [mmio(READ, M, 4)]),
    "movsd": Case("movsd", [mmio(READ, M, 4), mmio(WRITE, M + 64, 4)], {"esi": M, "edi": M + 64}),
    "rep movsw": Case(
        "mov ecx, 3\n rep movsw",
        [a for k in range(3) for a in (mmio(READ, M + 2 * k, 2), mmio(WRITE, M + 64 + 2 * k, 2))],
        {"esi": M, "edi": M + 64},
    ),
    "rep movsb from mmio": Case("mov ecx, 5\n rep movsb", each(READ, M, 1, 5), {"esi": M, "edi": DATA}),
    "rep movsd to mmio, downwards": Case(
        "std\n mov ecx, 3\n rep movsd", each(WRITE, M + 8, 4, 3, -4), {"esi": DATA + 8, "edi": M + 8}
    ),
    "rep stosd over the end of RAM": Case("mov ecx, 4\n rep stosd", each(WRITE, MEMORY, 4, 2), {"edi": MEMORY - 8}),
    "repe cmpsb": Case(
        "mov ecx, 3\n repe cmpsb",
        [mmio(READ, M + 64, 1), mmio(READ, M, 1)],
        {"esi": M, "edi": M + 64},
    ),
    "cmpsw": Case("cmpsw", [mmio(READ, M + 64, 2), mmio(READ, M, 2)], {"esi": M, "edi": M + 64}),
    "repne scasb": Case("mov ecx, 4\n mov al, 99\n repne scasb", each(READ, M, 1, 4), {"edi": M}),
    "rep lodsd": Case("mov ecx, 3\n rep lodsd", each(READ, M, 4, 3), {"esi": M}),
    "call": Case("call 1f\n hlt\n1:", [mmio(WRITE, M - 4, 4)], {"esp": M}),
    "call and ret": Case("call 1f\n hlt\n1: ret", [mmio(WRITE, M - 4, 4), mmio(READ, M - 4, 4)], {"esp": M}, end="any"),
    "call through mmio": Case(f"call [{M}]", [mmio(READ, M, 4), mmio(WRITE, M + 0xFC, 4)], {"esp": M + 0x100}, "any"),
    "pusha": Case("pushad", each(WRITE, M - 4, 4, 8, -4), {"esp": M}),
    "popa": Case("popad", [mmio(READ, M + 4 * k, 4) for k in (0, 1, 2, 4, 5, 6, 7)], {"esp": M}),
    "pushf, popf": Case("pushfd\n popfd", [mmio(WRITE, M - 4, 4), mmio(READ, M - 4, 4)], {"esp": M}, end="any"),
    "enter and leave": Case("enter 8, 0\n leave", [mmio(WRITE, M - 4, 4), mmio(READ, M - 4, 4)], {"esp": M}),
    "sgdt": Case(f"sgdt [{M}]", [mmio(WRITE, M, 2), mmio(WRITE, M + 2, 4)]),
    "bound": Case(f"xor eax, eax\n bound eax, [{M}]", [mmio(READ, M, 4), mmio(READ, M + 4, 4)], end="any"),
    "load over the end of RAM": Case(f"mov eax, [{MEMORY - 2}]", [mmio(READ, MEMORY, 1), mmio(READ, MEMORY + 1, 1)]),
    "store over the end of RAM": Case(f"mov [{MEMORY - 1}], eax", each(WRITE, MEMORY, 1, 3)),
    "read-modify-write over the end of RAM": Case(
        f"add dword ptr [{MEMORY - 3}], 0x1010101", [mmio(READ, MEMORY, 1), mmio(WRITE, MEMORY, 1)]
    ),
    "in of all sizes": Case(
        "in al, 0x60\n in ax, 0x61\n in eax, 0x62\n mov dx, 0x1234\n in al, dx\n in ax, dx\n in eax, dx",
        [port(READ, 0x60, 1), port(READ, 0x61, 2), port(READ, 0x62, 4), *(port(READ, 0x1234, s) for s in (1, 2, 4))],
    ),
    "out of all sizes": Case(
        "out 0x60, al\n out 0x61, ax\n out 0x62, eax\n mov dx, 0xFFFF\n out dx, al\n out dx, ax\n out dx, eax",
        [
            port(WRITE, 0x60, 1),
            port(WRITE, 0x61, 2),
            port(WRITE, 0x62, 4),
            *(port(WRITE, 0xFFFF, s) for s in (1, 2, 4)),
        ],
    ),
    "rep insw": Case("mov ecx, 5\n mov dx, 9\n rep insw", [port(READ, 9, 2)] * 5, {"edi": DATA}),
    "rep outsd": Case("mov ecx, 5\n mov dx, 9\n rep outsd", [port(WRITE, 9, 4)] * 5, {"esi": DATA}),
    "rep insb over a page border": Case(
        "mov ecx, 20\n mov dx, 9\n rep insb", [port(READ, 9, 1)] * 20, {"edi": DATA + 0xFFA}
    ),
    "insd to mmio": Case("mov dx, 9\n insd", [port(READ, 9, 4), mmio(WRITE, M, 4)], {"edi": M}),
    "rep insb to mmio": Case(
        "mov ecx, 3\n mov dx, 9\n rep insb",
        [a for k in range(3) for a in (port(READ, 9, 1), mmio(WRITE, M + k, 1))],
        {"edi": M},
    ),
    "rep outsb from mmio": Case(
        "mov ecx, 3\n mov dx, 9\n rep outsb",
        [a for k in range(3) for a in (mmio(READ, M + k, 1), port(WRITE, 9, 1))],
        {"esi": M},
    ),
    "rep outsw over the end of RAM": Case(
        "mov ecx, 4\n mov dx, 9\n rep outsw",
        [port(WRITE, 9, 2)] * 2 + [a for k in range(2) for a in (mmio(READ, MEMORY + 2 * k, 2), port(WRITE, 9, 2))],
        {"esi": MEMORY - 4},
    ),
    "the same access twice in two instructions": Case(
        f"mov eax, [{M}]\n mov ebx, [{M}]\n mov [{M}], eax\n mov [{M}], eax",
        each(READ, M, 4, 1) + each(READ, M, 4, 1) + each(WRITE, M, 4, 1) + each(WRITE, M, 4, 1),
    ),
    "in a loop": Case(f"mov ecx, 4\n1: add eax, [{M}]\n loop 1b", each(READ, M, 4, 1) * 4),
}


def start(engine: str, case: Case) -> Guest:
    guest = Guest(engine)
    guest.load(case.source + "\n hlt")
    guest.bare.write(DATA, bytes(range(256)))
    guest.registers(**{"eax": 0x11223344, "ebx": 0x55667788, "eflags": 3} | case.registers)
    return guest


def shown(guest: Guest) -> list[tuple[str, str, int, int]]:
    return [(a.kind, WRITE if a.write else READ, a.address, a.size) for a in guest.device.seen]


@pytest.mark.parametrize("name", CASES)
def test_once_and_in_order(name: str) -> None:
    case = CASES[name]
    states = []
    for engine, step in (("plain", 100), ("handlers", 100), ("handlers", 1)):
        guest = start(engine, case)
        while (end := guest.go(step)) == "limit":
            assert guest.retired < 100
        assert shown(guest)[: len(case.seen)] == case.seen, f"{engine}, {step} at a time"
        if case.end != "any":
            assert end == case.end
            assert shown(guest) == case.seen
        states.append(guest.state())
    same(states[1], states[0], "handlers and plain")
    same(states[2], states[0], "one at a time")


@pytest.mark.parametrize("engine", ENGINES)
def test_values_arrive(engine: str) -> None:
    """What the device gave is what the instruction works with, and what it got is what the instruction made."""
    guest = start(engine, Case(f"add [{M}], eax\n movsd\n pop dword ptr [{M + 16}]", [], {"esi": M + 4, "edi": M + 8}))
    guest.bare.write(0x1F000, struct.pack("<I", 0xCAFE))
    guest.registers(esp=0x1F000)
    guest.go(3)
    seen = guest.device.seen
    assert seen[1].value == (seen[0].value + 0x11223344) & 0xFFFF_FFFF
    assert seen[3].value == seen[2].value
    assert seen[4].value == 0xCAFE


# ---- strings over a page that faults ---------------------------------------------------------------------------------
def paged(engine: str, source: str, absent: int, **registers: int) -> Guest:
    """Paging on, all of RAM mapped one to one but page `absent`."""
    guest = Guest(engine)
    guest.bare.write(0x10000, struct.pack("<I", 0x11003))
    entries = [0 if page == absent else page << 12 | 3 for page in range(128)]
    guest.bare.write(0x11000, struct.pack("<128I", *entries))
    guest.load(source + "\n hlt")
    guest.registers(cr3=0x10000, cr0=0x80000011, edx=9, **registers)
    return guest


@pytest.mark.parametrize("step", [1, 3, 100])
@pytest.mark.parametrize("op", ["insb", "insd", "outsb", "outsd"])
def test_rep_io_into_a_page_that_faults(op: str, step: int) -> None:
    """What fits before the page is moved, nothing is asked for the element that faults, and the run can go on."""
    size = 4 if op[-1] == "d" else 1
    states = []
    for engine in ENGINES:
        at = 0x9000 - 4 * size
        guest = paged(engine, f"rep {op}", 9, ecx=10, esi=at, edi=at)
        for _ in range(100):
            if (end := guest.go(step)) != "limit":
                break
        assert end.startswith("fault 14")
        assert guest.bare.registers()["ecx"] == 6
        assert guest.bare.registers()["cr2"] == 0x9000
        assert shown(guest) == [port(READ if op[0] == "i" else WRITE, 9, size)] * 4
        guest.bare.write(0x11000 + 4 * 9, struct.pack("<I", 0x9003))
        while (end := guest.go(step)) == "limit":
            assert guest.retired < 100
        assert end == "hlt"
        assert len(guest.device.seen) == 10
        states.append(guest.state())
    same(states[1], states[0], op)


@pytest.mark.parametrize("engine", ENGINES)
def test_element_over_a_page_that_faults(engine: str) -> None:
    """INSD whose second half faults: the port is not read."""
    guest = paged(engine, "insd", 9, edi=0x8FFE)
    assert guest.go() == "fault 14 2"
    assert guest.bare.registers()["cr2"] == 0x9000
    assert guest.device.seen == []


@pytest.mark.parametrize("engine", ENGINES)
def test_push_of_mmio_whose_stack_faults(engine: str) -> None:
    """The read has happened; after the page is there it happens again, as on a CPU (the first attempt is void)."""
    guest = paged(engine, f"push dword ptr [{M}]", 9, esp=0x9004)
    guest.bare.write(0x11000 + 4 * (M >> 12), struct.pack("<I", M | 3))
    assert guest.go() == "fault 14 2"
    assert shown(guest) == [mmio(READ, M, 4)]
    guest.bare.write(0x11000 + 4 * 9, struct.pack("<I", 0x9003))
    assert guest.go() == "hlt"
    assert shown(guest) == [mmio(READ, M, 4)] * 2
    assert int.from_bytes(guest.bare.read(0x9000, 4), "little") == guest.device.seen[1].value


@pytest.mark.parametrize("engine", ENGINES)
def test_answer_of_a_faulting_instruction_is_not_kept(engine: str) -> None:
    """The host starts another instruction at the same count: it asks for itself."""
    guest = paged(engine, f"push dword ptr [{M}]\n hlt\n mov eax, [{M}]", 9, esp=0x9004)
    guest.bare.write(0x11000 + 4 * (M >> 12), struct.pack("<I", M | 3))
    assert guest.go() == "fault 14 2"
    guest.registers(eip=CODE + 7)
    assert guest.go() == "hlt"
    assert shown(guest) == [mmio(READ, M, 4)] * 2
    assert guest.bare.registers()["eax"] == guest.device.seen[1].value


# ---- permission ------------------------------------------------------------------------------------------------------
TSS, ALLOWED = 0xC000, 0x60


def in_ring_3(engine: str, source: str, *, limit: int = 0x67 + 0x2000 + 1) -> Guest:
    """CPL 3, IOPL 0, a TSS whose I/O map allows ports 60h to 63h, and 0FFFEh and 0FFFFh."""
    guest = Guest(engine)
    guest.load(source + "\n ud2")
    bitmap = bytearray(b"\xff" * 0x2001)
    bitmap[ALLOWED // 8] = 0xF0
    bitmap[0x1FFF] = 0x3F
    guest.bare.write(TSS, bytes(0x66) + struct.pack("<H", 0x68) + bytes(bitmap))
    c = guest.c
    c.base[7], c.limit[7], c.attr[7] = TSS, limit, 0x8B
    for k in range(6):
        c.attr[k] = int(c.attr[k]) | 0x60
    c.cpl = 3
    guest.update()
    return guest


PERMITTED = {
    "in al, 0x60": True,
    "in al, 0x63": True,
    "in al, 0x5F": False,
    "in al, 0x64": False,
    "in ax, 0x62": True,
    "in ax, 0x63": False,
    "in eax, 0x60": True,
    "in eax, 0x61": False,
    "out 0x61, al": True,
    "out 0x5E, eax": False,
    "mov dx, 0xFFFF\n in al, dx": True,
    "mov dx, 0xFFFE\n out dx, ax": True,
    "mov dx, 0xFFFE\n out dx, eax": False,
    "mov edi, 0x8000\n mov dx, 0x62\n mov ecx, 3\n rep insw": True,
    "mov esi, 0x8000\n mov dx, 0x63\n mov ecx, 3\n rep outsw": False,
}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("source", PERMITTED)
def test_io_permission_bitmap(engine: str, source: str) -> None:
    guest = in_ring_3(engine, source)
    end = guest.go()
    assert end == ("fault 6 None" if PERMITTED[source] else "fault 13 0")
    assert bool(guest.device.seen) == PERMITTED[source]


@pytest.mark.parametrize("engine", ENGINES)
def test_io_map_beyond_the_limit(engine: str) -> None:
    assert in_ring_3(engine, "in al, 0x60", limit=0x68 + 12).go() == "fault 13 0"
    assert in_ring_3(engine, "in al, 0x60", limit=0x68 + 13).go() == "fault 6 None"


@pytest.mark.parametrize("engine", ENGINES)
def test_segment_base_counts(engine: str) -> None:
    """Addresses are physical; the stack segment has a base."""
    guest = start(engine, Case("push eax\n pop ebx", []))
    guest.c.base[SS] = M
    guest.update()
    guest.registers(esp=0x40)
    assert guest.go() == "hlt"
    assert shown(guest) == [mmio(WRITE, M + 0x3C, 4), mmio(READ, M + 0x3C, 4)]
    assert descriptor(M, 0xFFFF, 0x93) >> 56 == 0


# ---- memory that is read and written differently ---------------------------------------------------------------------
ROM, SHADOW, BEHIND = 0x30000, 0x31000, 0x32000
MODIFY = {
    "add byte ptr [{at}], 1": 1,
    "or dword ptr [{at}], 0x100": 4,
    "xchg [{at}], ax": 2,
    "bts dword ptr [{at}], 3": 4,
    "cmpxchg [{at}], eax": 4,
    "inc word ptr [{at}]": 2,
    "add dword ptr [{at} + 0xFFE], 3": 4,
}


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("source", MODIFY)
def test_read_modify_write_of_rom(source: str, warm: bool) -> None:
    """The ROM is read, only the write goes to the bus."""
    states = []
    for engine in ENGINES:
        guest = start(engine, Case(source.format(at=ROM), []))
        guest.bare.memory.map(ROM, 0x1000, None, read=False)
        guest.bare.ram[ROM : ROM + 0x2000] = 0x41
        if warm:
            guest.load(
                f"mov ebx, [{ROM}]\n mov ecx, [{ROM + 0x1000}]\n mov [{ROM}], bl\n {source.format(at=ROM)}\n hlt"
            )
        assert guest.go() == "hlt"
        assert all(a.write and a.kind == "mmio" for a in guest.device.seen)
        assert guest.device.seen
        assert guest.bare.read(ROM, 0x1000) == b"\x41" * 0x1000
        states.append(guest.state())
    same(states[1], states[0], source)


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("source", MODIFY)
def test_read_modify_write_under_a_shadow(source: str, warm: bool) -> None:
    """Reads come from one page, writes go to another (PAM with only writes enabled)."""
    states = []
    for engine in ENGINES:
        guest = start(engine, Case(source.format(at=SHADOW), []))
        guest.bare.memory.map(SHADOW, 0x1000, BEHIND, read=False)
        guest.bare.ram[SHADOW : SHADOW + 0x1000] = 0x41
        if warm:
            guest.load(f"mov [{SHADOW + 64}], bl\n mov ebx, [{SHADOW}]\n {source.format(at=SHADOW)}\n hlt")
        assert guest.go() == "hlt"
        assert guest.device.seen == []
        assert guest.bare.ram[SHADOW : SHADOW + 0x1000].tobytes() == b"\x41" * 0x1000
        changed = guest.bare.ram[BEHIND : BEHIND + 0x1000]
        assert changed[changed != 0].size >= 1
        states.append(guest.state())
    same(states[1], states[0], source)
    offset = 0xFFE if "0xFFE" in source else 0
    expected = {"add": 0x42, "or": 0x41, "xchg": 0x44, "bts": 0x49, "cmpxchg": 0x41, "inc": 0x42}
    if not offset:
        assert states[0]["memory"][BEHIND] == expected[source.split()[0]]


def test_shadow_is_read_back_as_rom() -> None:
    for engine in ENGINES:
        guest = start(engine, Case(f"mov byte ptr [{SHADOW}], 7\n mov al, [{SHADOW}]\n mov [{SHADOW}], al", []))
        guest.bare.memory.map(SHADOW, 0x1000, BEHIND, read=False)
        guest.bare.ram[SHADOW] = 0x41
        assert guest.go() == "hlt"
        assert guest.bare.ram[BEHIND] == 0x41
