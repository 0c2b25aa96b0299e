"""Watched memory: a stop right behind each instruction that makes a watched access, on all engines.

The rule (gdb's manual, "Setting Watchpoints", and Intel SDM vol. 3, 17.2.5): the access is done when the stop is reported,
an instruction that faulted has made none, fetching code is none, an iteration of a string instruction is an access.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import pytest

from jitvm.engine.points import Point, Points, hits
from jitvm.isa.state import STOP_WATCH, WATCH_PHYSICAL, WATCH_READ, WATCH_WRITE
from jitvm.isa.tlb import READ, WRITE, tlb_slot
from jitvm.isa.words import u64
from tests.engine.guest import CODE, DATA, Guest, same
from tests.engine.programs import prepare, program
from tests.fast_set import share

ENGINES = ("plain", "handlers", "stencils", "regions")
W, R = int(WATCH_WRITE), int(WATCH_READ)
A, P = W | R, int(WATCH_PHYSICAL)
Stop = tuple[int, int, list[tuple[int, int]]]
"""rip, instructions retired, hits as (point, address)."""


def run(guest: Guest, points: list[Point], step: int = 100_000) -> tuple[str, list[Stop]]:
    """Run to the end: why it ended, and the stops on the way."""
    Points(points).watch(guest.bare.vcpu)
    stops: list[Stop] = []
    while (end := guest.go(step)) in ("limit", "debug"):
        assert guest.retired < 20_000
        if end == "debug":
            assert int(guest.c.stop_why) == STOP_WATCH
            stops.append((int(guest.c.rip), guest.retired, [(hit.point, hit.address) for hit in hits(guest.c)]))
    guest.ends = [e for e in guest.ends if e[0] != "debug"]
    return end, stops


@dataclass(frozen=True)
class Case:
    """`stops`: for each stop the label behind the instruction, and the hits (points: see POINTS)."""

    source: str
    stops: tuple[tuple[str, tuple[tuple[int, int], ...]], ...]
    end: str = "hlt"


POINTS = [Point(W, 0x9000, 0x9003), Point(R, 0x9010, 0x9010), Point(A, 0x9021, 0x9022), Point(W, 0x1F_F00, 0x1F_FFF)]
CASES = {
    "mov to memory": Case("mov [0x9000], eax\n a: hlt", (("a", ((0, 0x9000),)),)),
    "a byte of it": Case("mov [0x9003], eax\n a: hlt", (("a", ((0, 0x9003),)),)),
    "the first watched byte is named": Case("mov [0x8FFE], eax\n a: hlt", (("a", ((0, 0x9000),)),)),
    "beside it": Case("mov [0x8FFC], eax\n mov [0x9004], eax\n mov al, [0x900F]\n mov [0x9010], al\n hlt", ()),
    "reads of a write watch": Case("mov eax, [0x9000]\n cmp eax, [0x9000]\n hlt", ()),
    "a read": Case("mov al, [0x9010]\n a: hlt", (("a", ((1, 0x9010),)),)),
    "a test": Case("mov ebx, 0x900F\n test [ebx], eax\n a: hlt", (("a", ((1, 0x9010),)),)),
    "read and write": Case(
        "mov [0x9020], eax\n a: mov eax, [0x901F]\n b: hlt", (("a", ((2, 0x9021),)), ("b", ((2, 0x9021),)))
    ),
    "read-modify-write": Case(
        "inc dword ptr [0x9000]\n a: add [0x9010], al\n b: xchg [0x9021], al\n c: hlt",
        (("a", ((0, 0x9000),)), ("b", ((1, 0x9010),)), ("c", ((2, 0x9021), (2, 0x9021)))),
    ),
    "same value": Case("mov eax, [0x9000]\n mov [0x9000], eax\n a: hlt", (("a", ((0, 0x9000),)),)),
    "over a page": Case("mov [0x8FFD], ax\n mov [0x8FFF], ax\n a: hlt", (("a", ((0, 0x9000),)),)),
    "push and call": Case(
        "mov esp, 0x20000\n push eax\n a: call f\n hlt\n f: mov esp, 0x21000\n hlt",
        (("a", ((3, 0x1FFFC),)), ("f", ((3, 0x1FFF8),))),
    ),
    "pushad": Case("mov esp, 0x9010\n pushad\n a: mov esp, 0x21000\n hlt", (("a", ((0, 0x9000),)),)),
    "pop to memory": Case(
        "push 5\n a: pop dword ptr [0x9000]\n b: hlt", (("a", ((3, 0x1FFFC),)), ("b", ((0, 0x9000),)))
    ),
    "enter": Case("mov esp, 0x9008\n mov ebp, 0x9100\n enter 8, 2\n a: hlt", (("a", ((0, 0x9000),)),)),
    "movs": Case(
        "mov esi, 0x900E\n mov edi, 0x8FFF\n movsw\n a: mov esi, 0x9010\n movsb\n b: hlt",
        (("a", ((0, 0x9000),)), ("b", ((1, 0x9010), (0, 0x9001)))),
    ),
    "rep movsb": Case(
        "mov esi, 0x8000\n mov edi, 0x8FF0\n mov ecx, 24\n r: rep movsb\n a: hlt",
        tuple(("r", ((0, 0x9000 + k),)) for k in range(4)),
    ),
    "rep stosd, downwards": Case(
        "std\n mov edi, 0x9008\n mov ecx, 6\n r: rep stosd\n a: hlt", (("r", ((0, 0x9000),)),)
    ),
    "rep stosb, its last iteration": Case(
        "mov edi, 0x8FF0\n mov ecx, 17\n r: rep stosb\n a: hlt", (("a", ((0, 0x9000),)),)
    ),
    "repne scasb": Case(
        "mov edi, 0x9008\n mov ecx, 16\n mov eax, 0x1FF\n r: repne scasb\n a: hlt", (("r", ((1, 0x9010),)),)
    ),
    "repe cmpsb": Case(
        "mov esi, 0x9008\n mov edi, esi\n mov ecx, 16\n r: repe cmpsb\n a: hlt", (("r", ((1, 0x9010), (1, 0x9010))),)
    ),
    "rep lodsb": Case("mov esi, 0x900C\n mov ecx, 8\n r: rep lodsb\n a: hlt", (("r", ((1, 0x9010),)),)),
    "in and out": Case(
        "mov edi, 0x9000\n insb\n a: mov esi, 0x9010\n outsb\n b: hlt", (("a", ((0, 0x9000),)), ("b", ((1, 0x9010),)))
    ),
    "rep insb": Case(
        "mov edi, 0x8FFE\n mov ecx, 4\n r: rep insb\n a: hlt", (("r", ((0, 0x9000),)), ("a", ((0, 0x9001),)))
    ),
    "rep outsb": Case("mov esi, 0x900E\n mov ecx, 4\n r: rep outsb\n a: hlt", (("r", ((1, 0x9010),)),)),
    "from a device": Case("mov esi, 0x50000\n mov edi, 0x9000\n movsd\n a: hlt", (("a", ((0, 0x9000),)),)),
    "to a device": Case(
        "push dword ptr [0x9010]\n a: pop dword ptr [0x50000]\n hlt", (("a", ((1, 0x9010), (3, 0x1FFFC))),)
    ),
    "a faulting instruction made no access": Case("div byte ptr [0x9010]\n hlt", (), "fault 0 None"),
    "sgdt": Case("sgdt [0x8FFE]\n a: hlt", (("a", ((0, 0x9000),)),)),
    "bts beside its operand": Case("mov ecx, 128\n bts dword ptr [0x8FF0], ecx\n a: hlt", (("a", ((0, 0x9000),)),)),
    "cmpxchg8b": Case("cmpxchg8b [0x9000]\n a: hlt", (("a", ((0, 0x9000),)),)),
    "often": Case(
        "mov ecx, 60\n a: mov [0x9100], ecx\n dec ecx\n jnz a\n mov [0x9000], ecx\n"
        "b: mov ecx, 30\n c: mov [0x9002], ch\n d: loop c\n hlt",
        (("b", ((0, 0x9000),)), *((("d", ((0, 0x9002),)),) * 30)),
    ),
    "fetching is no access": Case(
        "mov eax, 0x90909090\n mov [0x9010], eax\n mov byte ptr [0x9014], 0xC3\n mov eax, 0x9010\n call eax\n a: hlt",
        (("x", ((3, 0x1FFFC),)),),
    ),
}


def labelled(guest: Guest, case: Case) -> list[Any]:
    """The case's stops with addresses in place of labels, which the assembler leaves behind the code."""
    names = [name for name, _ in case.stops if name != "x"]
    words = ", ".join(names) or "0"
    guest.load(f"{case.source}\n .align 4\n .long 0xE0D, {words}")
    memory = guest.bare.read(CODE, 0x400)
    at = memory.index(struct.pack("<I", 0xE0D)) + 4
    addresses = iter(struct.unpack_from(f"<{len(names)}I", memory, at))
    return [(0x9010 if name == "x" else next(addresses), list(found)) for name, found in case.stops]


@pytest.mark.parametrize("step", [1, 1000])
@pytest.mark.parametrize("name", CASES)
def test_stops(name: str, step: int) -> None:
    case = CASES[name]
    states, without = [], []
    for engine in ENGINES:
        guest = Guest(engine)
        wanted = labelled(guest, case)
        end, stops = run(guest, POINTS, step)
        assert (end, [(rip, found) for rip, _, found in stops]) == (case.end, wanted), engine
        states.append(guest.state() | {"stops": stops})
        guest = Guest(engine)
        labelled(guest, case)
        run(guest, [], step)
        without.append(guest.state())
    for state in states[1:]:
        same(state, states[0], name)
    same(
        without[2], {key: v for key, v in states[0].items() if key != "stops"}, f"{name}: a watched run is the same run"
    )


@pytest.mark.parametrize("bits", [16, 32])
@pytest.mark.parametrize("seed", share(range(4), 2))
def test_random_programs(seed: int, bits: int) -> None:
    """Stops are the same on all engines; the run is the one without watches; no change of a watched byte is missed."""
    points = [Point((W, R, A)[k % 3], DATA + 0x100 * k + 7 * seed, DATA + 0x100 * k + 7 * seed + k) for k in range(8)]
    points.append(Point(W, 0x1FFF0 if bits == 32 else 0xEFF0, 0x1FFF7 if bits == 32 else 0xEFF7))
    results = []
    for engine in ENGINES:
        guest = Guest(engine)
        prepare(guest, bits)
        guest.load(program(seed, bits, 8), bits=bits)
        end, stops = run(guest, points)
        assert end == "hlt"
        results.append(guest.state() | {"stops": stops})
    for result in results[1:]:
        same(result, results[0], f"seed {seed}")
    changed = changes(seed, bits, [p for p in points if p.kind & W])
    assert changed <= {retired for _, retired, _ in results[0]["stops"]}
    guest = Guest("regions")
    prepare(guest, bits)
    guest.load(program(seed, bits, 8), bits=bits)
    assert run(guest, [])[0] == "hlt"
    assert guest.state().items() <= results[0].items()


def changes(seed: int, bits: int, points: list[Point]) -> set[int]:
    """Counts behind which watched bytes had changed, found by looking after each instruction."""
    guest = Guest("handlers")
    prepare(guest, bits)
    guest.load(program(seed, bits, 8), bits=bits)
    found = set()
    before = b""
    while True:
        now = b"".join(guest.bare.read(p.first, p.last - p.first + 1) for p in points)
        if before and now != before:
            found.add(guest.retired)
        before = now
        if guest.go(1) != "limit":
            return found


@pytest.mark.parametrize("engine", ENGINES)
def test_another_count_of_points(engine: str) -> None:
    """Many, the last one hit."""
    guest = Guest(engine)
    n = 508 if engine == "plain" else 5000
    points = [Point(A, 0x9000 + 8 * k, 0x9000 + 8 * k) for k in range(n)]
    last = points[-1].first
    guest.load(f"mov al, [0x9001]\n mov [{last}], al\n mov eax, [{last - 4}]\n hlt")
    assert run(guest, points) == ("hlt", [(CODE + 10, 2, [(n - 1, last)])])


# ---- physical addresses ---------------------------------------------------------------------------------------------
DIRECTORY, TABLE = 0x30000, 0x31000
PAGED = f"mov eax, {DIRECTORY}\n mov cr3, eax\n mov eax, cr0\n or eax, 0x80000000\n mov cr0, eax\n"


def paged(engine: str, source: str) -> Guest:
    """The first MiB is mapped to itself, linear page 10000h to physical page 9000h too."""
    guest = Guest(engine)
    guest.bare.write(DIRECTORY, struct.pack("<I", TABLE | 7))
    entries = [page << 12 | 7 for page in range(256)]
    entries[0x10] = 0x9007
    guest.bare.write(TABLE, struct.pack("<256I", *entries))
    guest.load(PAGED + source)
    return guest


PHYSICAL = {
    "by either mapping": (
        "a: mov [0x10004], eax\n b: mov [0x9005], al\n c: mov eax, [0x10004]\n d: hlt",
        Point(W | P, 0x9004, 0x9007),
        ["b 0x9004", "c 0x9005"],
    ),
    "a read": (
        "a: mov eax, [0x10002]\n b: inc dword ptr [0x9000]\n c: hlt",
        Point(R | P, 0x9003, 0x9003),
        ["b 0x9003", "c 0x9003"],
    ),
    "rep movsb to the alias": (
        "cld\n mov esi, 0x8000\n mov edi, 0x10000\n mov ecx, 8\n r: rep movsb\n hlt",
        Point(W | P, 0x9002, 0x9002),
        ["r 0x9002"],
    ),
    "rep insb to the alias": (
        "cld\n mov edi, 0x10000\n mov ecx, 8\n mov [edi], al\n r: rep insb\n hlt",
        Point(W | P, 0x9002, 0x9002),
        ["r 0x9002"],
    ),
    "the walk's accessed bit": (
        "nop\n mov eax, [0x11000]\n b: mov eax, [0x11004]\n hlt",
        Point(W | P, TABLE + 4 * 0x11, TABLE + 4 * 0x11 + 3),
        [f"b {TABLE + 4 * 0x11:#x}"],
    ),
    "the walk's dirty bit": (
        "mov eax, [0x11000]\n b: mov [0x11004], eax\n c: mov [0x11004], eax\n hlt",
        Point(W | P, TABLE + 4 * 0x11, TABLE + 4 * 0x11),
        [f"b {TABLE + 4 * 0x11:#x}", f"c {TABLE + 4 * 0x11:#x}"],
    ),
    "the walk of a fetch": (
        "mov eax, 0x12000\n mov byte ptr [0x12000], 0xC3\n w: mov eax, cr3\n and byte ptr [0x31048], 0xDF\n"
        "x: mov cr3, eax\n mov eax, 0x12000\n call eax\n b: hlt",
        Point(W | P, 0x31048, 0x31048),
        ["w 0x31048", "x 0x31048", "0x12000 0x31048"],
    ),
}


@pytest.mark.parametrize("name", PHYSICAL)
def test_physical(name: str) -> None:
    source, point, wanted = PHYSICAL[name]
    states = []
    for engine in ENGINES:
        labels = [w.split()[0] for w in wanted]
        guest = paged(engine, f"{source}\n .align 4\n .long 0xE0D, {', '.join(labels)}")
        memory = guest.bare.read(CODE, 0x400)
        at = memory.index(struct.pack("<I", 0xE0D)) + 4
        places = struct.unpack_from(f"<{len(wanted)}I", memory, at)
        end, stops = run(guest, [point])
        assert end == "hlt"
        expected = [(rip, int(w.split()[1], 16)) for rip, w in zip(places, wanted, strict=True)]
        assert [(rip, found[0][1]) for rip, _, found in stops] == expected, engine
        states.append(guest.state() | {"stops": stops})
    for state in states[1:]:
        same(state, states[0], name)


# ---- beside other things --------------------------------------------------------------------------------------------
def test_delivery_of_an_exception() -> None:
    """The frame overwrites watched memory: the stop is at the handler's first instruction."""
    states = []
    for engine in ENGINES:
        guest = Guest(engine, deliver=True)
        guest.bare.write(0x4000 + 6 * 8, struct.pack("<HHHH", 0x3000, 8, 0x8E00, 0))
        guest.bare.write(0x5008, struct.pack("<Q", 0x00CF_9B00_0000_FFFF))
        guest.c.gdt_base, guest.c.gdt_limit, guest.c.idt_base, guest.c.idt_limit = 0x5000, 0xF, 0x4000, 0x3FF
        guest.load("hlt", 0x3000)
        guest.load("nop\n ud2")
        guest.registers(esp=0x9008)
        end, stops = run(guest, POINTS)
        assert (end, stops) == ("hlt", [(0x3000, 2, [(0, 0x9000)])])
        states.append(guest.state())
    for state in states[1:]:
        same(state, states[0], "delivery")


@pytest.mark.parametrize("engine", ENGINES)
def test_a_breakpoint_on_the_instruction_stops_once(engine: str) -> None:
    guest = Guest(engine)
    guest.load("nop\n mov [0x9000], eax\n nop\n hlt")
    Points(POINTS).watch(guest.bare.vcpu)
    guest.bare.vcpu.set_breakpoints([CODE + 1])
    seen = []
    while (end := guest.go()) == "debug":
        seen.append((int(guest.c.rip) - CODE, int(guest.c.stop_why)))
        guest.c.resume_at, guest.c.resume_lin = guest.bare.vcpu.retired(), guest.c.rip
    assert (end, seen) == ("hlt", [(1, 0), (6, 1)])


def test_watched_device_memory() -> None:
    """Each access is made once, whatever is begun again."""
    states = []
    for engine in ENGINES:
        guest = Guest(engine)
        guest.load(
            "mov eax, [0x50000]\n mov [0x50004], eax\n add dword ptr [0x50002], 5\n mov esi, 0x50000\n mov edi, 0x50010\n"
            "mov ecx, 3\n rep movsd\n mov ax, [0x50003]\n hlt"
        )
        end, stops = run(guest, [Point(A, 0x50003, 0x50003), Point(W, 0x50014, 0x50017)])
        assert end == "hlt"
        assert [(address, point) for _, _, found in stops for point, address in found] == [
            (0x50003, 0),
            (0x50003, 0),
            (0x50003, 0),
            (0x50003, 0),
            (0x50014, 1),
            (0x50003, 0),
        ]
        assert len(guest.device.seen) == 1 + 1 + 2 + 6 + 1
        states.append(guest.state() | {"stops": stops})
    for state in states[1:]:
        same(state, states[0], "device memory")


@pytest.mark.parametrize("step", [1, 100])
def test_single_step_of_the_guest(step: int) -> None:
    """The stop comes first, the trap of TF when the guest goes on."""
    states = []
    for engine in ENGINES:
        guest = Guest(engine, deliver=True)
        guest.bare.write(0x4000 + 8, struct.pack("<HHHH", 0x3000, 8, 0x8E00, 0))
        guest.bare.write(0x5008, struct.pack("<Q", 0x00CF_9B00_0000_FFFF))
        guest.c.gdt_base, guest.c.gdt_limit, guest.c.idt_base, guest.c.idt_limit = 0x5000, 0xF, 0x4000, 0x3FF
        guest.load("inc ebx\n iretd", 0x3000)
        guest.load("nop\n mov [0x9000], eax\n inc edx\n hlt")
        guest.registers(eflags=0x102)
        Points(POINTS[:1]).watch(guest.bare.vcpu)
        seen = []
        for _ in range(100):
            end = guest.go(step)
            if end == "debug":
                seen.append((int(guest.c.rip), guest.bare.registers()["ebx"], int(guest.c.stop_why)))
            if end == "hlt":
                break
        assert seen == [(CODE + 6, 1, int(STOP_WATCH))], "behind the store, before its trap"
        guest.ends.clear()
        states.append(guest.state())
    for state in states[1:]:
        same(state, states[0], "TF")


@pytest.mark.parametrize("engine", ENGINES[1:])
def test_delivery_of_an_interrupt(engine: str) -> None:
    guest = Guest(engine, deliver=True)
    guest.bare.write(0x4000 + 0x30 * 8, struct.pack("<HHHH", 0x3000, 8, 0x8E00, 0))
    guest.bare.write(0x5008, struct.pack("<Q", 0x00CF_9B00_0000_FFFF))
    guest.c.gdt_base, guest.c.gdt_limit, guest.c.idt_base, guest.c.idt_limit = 0x5000, 0xF, 0x4000, 0x3FF
    guest.load("hlt", 0x3000)
    guest.load("nop\n nop")
    guest.registers(esp=0x9008, eflags=0x202)
    assert guest.go(1) == "limit"
    guest.bare.vcpu.inject(0x30)
    end, stops = run(guest, POINTS)
    assert (end, stops) == ("hlt", [(0x3000, 1, [(0, 0x9000)])])


@pytest.mark.parametrize("engine", ENGINES[1:])
def test_other_pages_stay_in_the_tlb(engine: str) -> None:
    """Only the watched kinds of access to the watched page miss: reads of a page where writes are watched hit."""
    guest = Guest(engine)
    guest.load(
        "mov eax, [0x8000]\n mov [0x8000], eax\n mov eax, [0x9100]\n mov [0x9100], eax\n mov eax, [0xA000]\n hlt"
    )
    assert run(guest, [Point(W, 0x9000, 0x9003), Point(R, 0xA010, 0xA010)]) == ("hlt", [])
    cached = {
        (page, kind)
        for page in (0x8000, 0x9000, 0xA000)
        for kind in (READ, WRITE)
        if guest.c.tlb[tlb_slot(u64(page), kind, u64(0))] == page
    }
    assert cached == {(0x8000, READ), (0x8000, WRITE), (0x9000, READ)}
