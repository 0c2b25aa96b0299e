"""A CPU that shares its memory does what a single one does: locked instructions, code that is rewritten, random programs."""

from __future__ import annotations

import threading

import pytest

from jitvm import bare
from jitvm.engine import layout as lay
from jitvm.engine.common import CLOCK
from jitvm.isa import string_loops
from jitvm.isa.state import EXIT_ALONE, EXIT_CODE, EXIT_DATA
from jitvm.isa.words import u64
from tests.engine.guest import DATA, GDT, Guest, same
from tests.engine.programs import looping, prepare, program
from tests.engine.shared_guest import SharedEngine, shared_guest
from tests.engine.smc_programs import PROGRAMS
from tests.engine.task_guest import GDT_LIMIT, NEW_SEL, OLD, OLD_SEL, SPARE, TaskGuest, descriptor
from tests.fast_set import share

ENGINES = ("handlers", "stencils", "regions")
LINE, PAGE_END, MMIO = DATA + 61, DATA + 0xFFD, 0x50000
PLACES = {"aligned": DATA, "odd": DATA + 0x101, "over a line": LINE, "over a page": PAGE_END, "device": MMIO}
LOCKED = [
    *(f"lock {op} {{p}} [{{at}}], {{a}}" for op in ("add", "adc", "sub", "sbb", "and", "or", "xor", "xadd", "cmpxchg")),
    *(f"lock {op} {{p}} [{{at}}]" for op in ("inc", "dec", "neg", "not")),
    *(f"lock {op} {{p}} [{{at}}], 5" for op in ("add", "or", "sub")),
    "xchg {p} [{at}], {b}",
]
WIDE = [
    *(f"lock {op} {{p}} [{{at}}], {{a}}" for op in ("bts", "btr", "btc")),
    *(f"lock {op} {{p}} [{{at}}], 3" for op in ("bts", "btr", "btc")),
]
SIZES = {"byte": ("dl", "bl"), "word": ("dx", "bx"), "dword": ("edx", "ebx")}
COUNT = 60


def locked_program(at: int) -> str:
    """Each locked instruction and size, a loop a size; flags and results are kept."""
    lines = ["mov esi, 0xC000", "mov ebx, 0x12345", "mov edx, 0x54321"]
    for size, (a, b) in SIZES.items():
        lines += [f"mov ecx, {COUNT}", "1:"]
        for text in LOCKED + (WIDE if size != "byte" else []):
            lines += [text.format(p=f"{size} ptr", at=hex(at), a=a, b=b), "adc ebx, 1", "lea edx, [edx + ecx*4 + 7]"]
        lines += ["pushfd", "pop dword ptr [esi]", "mov [esi + 4], eax", "mov [esi + 8], ebx", "add esi, 12"]
        lines += ["dec ecx", "jnz 1b"]
    lines += [f"mov edi, {COUNT}", "1:", "mov ecx, edi", "and ecx, 2", f"add eax, ecx\n lock cmpxchg8b [{at}]"]
    lines += [
        "setz cl",
        "mov [esi], cl",
        "mov [esi + 4], eax",
        "mov [esi + 8], edx",
        "add esi, 12",
        "dec edi",
        "jnz 1b",
    ]
    return "\n".join([*lines, "hlt"])


def go(guest: Guest, source: str, bits: int = 32) -> Guest:
    if bits:
        prepare(guest, bits)
    guest.load(source, bits=bits or 32)
    assert guest.go(400_000) == "hlt"
    return guest


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("engine", ENGINES)
def test_locked(engine: str, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    source = locked_program(PLACES[place])
    plain = go(Guest("handlers"), source, bits=0)
    guest, cpu = shared_guest(monkeypatch, engine)
    go(guest, source, bits=0)
    same(plain.state(), guest.state(), place)
    assert any(shape.locked for shape in cpu.accel.forms.shapes)
    if place == "aligned":
        assert not cpu.asked[int(EXIT_ALONE)], "the host's own instructions do it"
    else:
        assert cpu.asked[int(EXIT_ALONE)] > COUNT * len(LOCKED)
    if engine == "regions":
        assert cpu.regions.asked or place != "aligned"


@pytest.mark.parametrize("engine", ENGINES)
def test_wide_exchange(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    source = """
        mov ecx, 3000
    1:  mov rax, [0x8000]
        mov rdx, [0x8008]
        test cl, 3
        jnz 2f
        inc rax
    2:  push rcx
        lea rbx, [rax + 3]
        lea rcx, [rdx + rax]
        lock cmpxchg16b [0x8000]
        setz [0x8100]
        pop rcx
        add [0x8108], rax
        add [0x8110], rdx
        dec ecx
        jnz 1b
        hlt
    """
    plain, (guest, cpu) = Guest("handlers"), shared_guest(monkeypatch, engine)
    for each in (plain, guest):
        each.bare.vcpu.set_cpu(add=["cx16"])
        go(each, source, 64)
    same(plain.state(), guest.state(), engine)
    assert guest.bare.ram[0x8000:0x8010].any() and not cpu.asked[int(EXIT_ALONE)]


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("engine", ["handlers", "regions"])
def test_rewritten_code(engine: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = go(Guest("handlers"), PROGRAMS[name], bits=0)
    guest, cpu = shared_guest(monkeypatch, engine)
    same(plain.state(), go(guest, PROGRAMS[name], bits=0).state(), name)
    assert cpu.asked[int(EXIT_CODE)], "pages with code are announced"


@pytest.mark.parametrize("seed", share(range(4), 2))
@pytest.mark.parametrize("bits", [16, 32, 64])
@pytest.mark.parametrize("engine", ENGINES)
def test_random_programs(engine: str, bits: int, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for source in (program(seed, bits), looping(seed, bits)):
        plain = go(Guest("handlers"), source, bits)
        guest, _ = shared_guest(monkeypatch, engine)
        same(plain.state(), go(guest, source, bits).state(), f"seed {seed}")


def data_again(monkeypatch: pytest.MonkeyPatch, stores: int) -> SharedEngine:
    """Code is run at 9000h, and then overwritten as data."""
    guest, cpu = shared_guest(monkeypatch, "handlers")
    guest.bare.write(0x9000, bytes.fromhex("40c3"))
    fill = f"mov ecx, {stores}\n 1: mov [0x9000 + ecx], cl\n loop 1b\n"
    go(guest, f"mov eax, 0x9000\n call eax\n {fill} mov byte ptr [0x9000], 0\n {fill} hlt", bits=0)
    return cpu


def test_a_page_is_data_again(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = data_again(monkeypatch, 1000)
    assert cpu.asked[int(EXIT_DATA)] == 1 and not cpu.common.coded[9] and cpu.common.coded[1]
    assert not data_again(monkeypatch, 20).asked[int(EXIT_DATA)]


class Descriptors(SharedEngine):
    """`before`: GDT and current TSS as they were whenever it asked to run alone."""

    before: list[bytes]

    def alone(self) -> int:
        self.before = [*getattr(self, "before", []), self.memory.read(GDT, GDT_LIMIT + 1) + self.memory.read(OLD, 0x68)]
        return super().alone()


@pytest.mark.parametrize("engine", ENGINES)
def test_descriptors_are_marked_while_all_others_stand(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Accessed and busy bits are tested and set with bus-lock semantics (SDM vol. 3, 8.1.2.1), before anything else."""
    with monkeypatch.context() as patch:
        patch.setattr(bare, "VcpuEngine", Descriptors)
        guest = TaskGuest(engine)
    cpu = guest.bare.vcpu
    assert isinstance(cpu, Descriptors)

    def tables() -> bytes:
        return bytes(guest.bare.read(GDT, GDT_LIMIT + 1) + guest.bare.read(OLD, 0x68))

    guest.put(SPARE, descriptor(0, 0xFFFFFFFF, 0xC092))
    clean = tables()
    guest.load(f"mov eax, {SPARE}\n mov es, ax\n mov es, ax\n mov ds, ax")
    assert guest.go(4) == "limit" and cpu.before == [clean], "once: then it is set"
    assert guest.bare.read(GDT + SPARE + 5, 1)[0] & 1
    clean = tables()
    assert guest.switch("jmp") == "limit" and cpu.before[1:] == [clean]
    assert guest.busy(NEW_SEL) and not guest.busy(OLD_SEL)
    clean = tables()
    guest.load(f"mov eax, {OLD_SEL}\n ltr ax")
    assert guest.go(2) == "limit" and cpu.before[2:] == [clean] and guest.busy(OLD_SEL)


@pytest.mark.parametrize("size", [2, 4, 8])
@pytest.mark.parametrize("copy", ["copy_up", "copy_down"])
def test_no_element_is_stored_in_parts(copy: str, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """An aligned element of a repeated string instruction is one access (SDM vol. 3, 8.1.1)."""
    stores: list[range] = []
    monkeypatch.setattr(string_loops, "poke", lambda at, n, v: stores.append(range(int(at), int(at + n))))
    monkeypatch.setattr(string_loops, "peek", lambda at, n: u64(0))
    for n in range(1, 20):
        stores.clear()
        getattr(string_loops, copy)(u64(0x1000), u64(0x2000), u64(n * size))
        assert sorted(b for store in stores for b in store) == list(range(0x1000, 0x1000 + n * size))
        for k in range(n):
            element = range(0x1000 + k * size, 0x1000 + (k + 1) * size)
            assert any(set(element) <= set(store) for store in stores), (n, k)


@pytest.mark.parametrize("engine", ENGINES)
def test_time_that_is_caught_up_with_comes_off_the_budget(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """RDTSC tells what others have reached, and the next timer is as much nearer."""
    guest, cpu = shared_guest(monkeypatch, engine)
    guest.load("1: rdtsc\n mov [0x8000], eax\n inc ecx\n jmp 1b")
    assert guest.go(50_000) == "limit"

    def now() -> int:
        return cpu.retired() + int(cpu.c.extra_ns)

    before, retired = now(), cpu.retired()
    cpu.common.times[CLOCK] = before + 30_000
    assert cpu.run(40_000) == lay.WHY_LIMIT
    assert abs(now() - before - 40_000) < 8 and abs(cpu.retired() - retired - 10_000) < 8


@pytest.mark.parametrize("engine", ENGINES)
def test_catching_up_with_more_time_than_instructions(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU that has just started, with a small budget: how many instructions it has done stays a small number."""
    guest, cpu = shared_guest(monkeypatch, engine)
    guest.load("nop\n rdtsc\n nop\n jmp 1f\n1: nop\n hlt")
    cpu.common.times[CLOCK] = 1_000_000
    assert cpu.run(100) == lay.WHY_LIMIT
    assert 2 <= guest.retired < 10
    assert cpu.retired() + int(cpu.c.extra_ns) >= 1_000_000


def test_regions_are_installed_under_the_lock_of_compiled_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another vCPU's thread may be looking for handlers in the same cache just now."""
    cpu = shared_guest(monkeypatch, "regions")[1]
    seen: list[bool] = []
    held = cpu.accel.lock

    def take() -> None:
        cpu.regions.ready.clear()
        other = threading.Thread(target=lambda: seen.append(held.acquire(blocking=False)))
        other.start()
        other.join()

    monkeypatch.setattr(cpu.regions, "install_ready", take)
    cpu.regions.ready.append((None, None))  # type: ignore[arg-type]  # what it is does not matter here
    cpu.kick()
    cpu.unkick()
    assert seen == [False] and not cpu.kicked
