"""Self-modifying code: whatever is written, by whom and through which address, the next fetch sees it.

Every program runs on the plain engine, which fetches each instruction anew, and on handlers; the states must be equal.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from jitvm.bare import Bare, accelerator
from jitvm.engine import accel as accel_module
from jitvm.engine import blocks
from jitvm.engine.accel import Options
from jitvm.isa.state import CS
from tests.engine.guest import CODE, DATA, Guest, same

LIMIT = 4000
PAGES = """
    mov dword ptr [0x10000], 0x11003    # page directory at 0x10000: one table
    xor ecx, ecx
1:  mov eax, ecx
    shl eax, 12
    or eax, 3
    mov [0x11000 + ecx*4], eax
    inc ecx
    cmp ecx, 64
    jb 1b
    mov dword ptr [0x11000 + 4*0x30], 0x1003   # 0x30000 is an alias of 0x1000
    mov dword ptr [0x11000 + 4*0x31], 0x2003   # 0x31000 one of 0x2000
    mov eax, 0x10000
    mov cr3, eax
    mov eax, cr0
    or eax, 0x80000000
    mov cr0, eax
"""

PROGRAMS = {
    "next instruction": """
        mov byte ptr [target + 1], 7
    target:
        mov al, 1
        hlt
    """,
    "a NOP further on in the block": """
        mov eax, 1
        mov byte ptr [target], 0x40         # NOP becomes INC EAX
        mov ecx, 2
    target:
        nop
        mov edx, 3
        hlt
    """,
    "the NOP behind the store": """
        mov byte ptr [target], 0x40
    target:
        nop
        mov edx, 3
        mov ebx, 3
        hlt
    """,
    "a NOP by read-modify-write, then a jump": """
        xor byte ptr [target], 0x90 ^ 0x41
        mov edi, edi
    target:
        nop
        jmp 1f
    1:  hlt
    """,
    "a Jcc by the instruction it would be fused with": """
        mov eax, 0
        dec byte ptr [target + 1]           # the displacement becomes 0
    target:
        jnz 1f
        .byte 0x40                          # not reached with displacement 1, reached with 0
    1:  hlt
    """,
    "the condition of a Jcc by SUB to memory": """
        mov ecx, 5
        sub byte ptr [target], 1            # JNZ becomes JZ
    target:
        jnz 1f
        mov eax, 1
    1:  hlt
    """,
    "the condition of a Jcc by AND to memory, in a loop": """
        mov ecx, 5
    2:  and byte ptr [target], 0xFE
    target:
        jnz 1f
        mov eax, 1
    1:  xor byte ptr [target], 1
        loop 2b
        hlt
    """,
    "an earlier instruction in a loop": """
        mov ecx, 20
        xor edx, edx
    again:
        add edx, 1                          # 83 C2 ib
        inc byte ptr [again + 2]
        dec ecx
        jnz again
        hlt
    """,
    "an earlier block that this one is chained to": """
        mov ecx, 8
    first:
        mov eax, 100                        # B8 id
        jmp second
    second:
        add ebx, eax
        inc dword ptr [first + 1]
        loop first
        hlt
    """,
    "a function behind a call": """
        mov ecx, 9
    1:  call function
        add dword ptr [function + 1], 3
        loop 1b
        hlt
    function:
        mov eax, 1
        add esi, eax
        ret
    """,
    "through an indirect jump": """
        mov ecx, 9
        mov edi, offset function
    1:  call edi
        add dword ptr [function + 1], 3
        loop 1b
        hlt
    function:
        mov eax, 1
        add esi, eax
        ret
    """,
    "across a page border": """
        mov ecx, 3
        jmp over
        .org 0xFFD
    over:
        mov eax, 0x11111111                 # bytes 0xFFD to 0x1001
        add ebx, eax
        mov byte ptr [over + 4], 0x22       # in the second page
        mov byte ptr [over + 1], 0x33       # in the first page
        loop over
        hlt
    """,
    "the part in the second page only": """
        mov ecx, 4
        jmp over
        .org 0xFFD
    over:
        mov eax, 0x11111111
        add ebx, eax
        inc byte ptr [over + 4]
        loop over
        hlt
    """,
    "an instruction over a page border that writes itself": """
        mov ecx, 4
        jmp over
        .org 0xFFA
    over:
        add byte ptr [over + 6], 3          # 80 05 disp32 ib: the immediate lies in the second page
        loop over
        hlt
    """,
    "an instruction that writes its own immediate": """
        mov ecx, 6
    1:  add dword ptr [1b + 6], 0x10        # 83 05 disp32 ib
        loop 1b
        hlt
    """,
    "by REP STOSB": """
        mov edi, offset target
        mov al, 0x40
        mov ecx, 6
        rep stosb
    target:
        .fill 6, 1, 0x90
        hlt
    """,
    "by REP STOSD downwards": """
        std
        mov edi, offset target + 8
        mov eax, 0x43434343
        mov ecx, 3
        rep stosd
    target:
        .fill 12, 1, 0x90
        hlt
    """,
    "by REP MOVSB": """
        mov esi, offset source
        mov edi, offset target
        mov ecx, 7
        rep movsb
        jmp target
    source:
        inc eax
        mov ebx, 5
        hlt
    target:
        .fill 16, 1, 0xF4
    """,
    "REP STOSB over itself": """
        mov edi, offset 1f
        mov ecx, 8
        mov al, 0x47                        # INC EDI
        jmp 1f
    1:  rep stosb
        .fill 8, 1, 0x90
        hlt
    """,
    "REP MOVSB over itself": """
        mov esi, offset 2f
        mov edi, offset 1f
        mov ecx, 4
    1:  rep movsb
        nop
        nop
        hlt
    2:  inc edx
        inc edx
        inc ebx
        inc ebx
    """,
    "REP STOSD over itself after many elements": """
        mov edi, offset 1f - 64
        mov ecx, 20
        mov eax, 0x41414141
        jmp 1f
        .fill 64, 1, 0x90
    1:  rep stosd
        .fill 20, 1, 0x90
        hlt
    """,
    "a PUSH onto the code behind it": """
        mov esp, offset target + 4
        push 0x40404040
    target:
        .fill 4, 1, 0x90
        hlt
    """,
    "a CALL whose return address becomes code": """
        mov esp, offset target + 4
        call target
        .org 0x47 * 0x10
    target:
        .fill 4, 1, 0x90                    # becomes the return address
        hlt
    """,
    "code and data on one page": """
        mov ecx, 50
    1:  inc dword ptr [counter]
        mov eax, [counter]
        add ebx, eax
        loop 1b
        hlt
        .align 4
    counter: .long 0
    """,
    "data beside code in one 64-byte piece, stores of all sizes": """
        mov ecx, 9
    1:  inc byte ptr [counter]
        add word ptr [counter + 1], 7
        add dword ptr [counter + 3], ebx
        mov [counter + 7], ecx
        add ebx, [counter + 5]
        loop 1b
        jmp 2f
    counter: .fill 12, 1, 0
    2:  hlt
    """,
    "a page that stops to be code": """
        mov ecx, 3
    1:  call 0x2000
        mov edi, 0x2000
        push ecx
        mov ecx, 1024
        mov eax, 0x90909090
        rep stosd                           # all of it is overwritten
        mov dword ptr [0x2000], 0xC3424242
        pop ecx
        loop 1b
        mov ecx, 100
        mov edi, 0x2800
        rep stosd
        hlt
        .org 0x1000
        inc edx
        ret
    """,
    "a store over two pages of code": """
        mov ecx, 4
    1:  call 0x1FFC
        add dword ptr [0x1FFE], 0x00010001
        loop 1b
        hlt
        .org 0xFFC
        add eax, 0x00010001                 # 05 id
        ret
    """,
    "through another linear address": PAGES
    + """
        mov ecx, 5
        mov edi, offset target + 0x2F000
    1:
    target:
        add eax, 1                          # 83 C0 ib
        inc byte ptr [edi + 2]
        loop 1b
        hlt
    """,
    "code that runs at two linear addresses": PAGES
    + """
        mov ecx, 5
    1:  call function
        call function + 0x2F000
        inc dword ptr [function + 1]
        inc dword ptr [function + 0x2F001]
        loop 1b
        hlt
    function:
        mov eax, 1
        add ebx, eax
        ret
    """,
    "over a page border through another linear address": PAGES
    + """
        mov ecx, 5
        jmp over
        .org 0xFFD
    over:
        add eax, 0x01010101                 # 05 id: bytes 0x1FFD to 0x2001
        inc byte ptr [0x31000]
        inc byte ptr [0x30FFF]
        loop over
        hlt
    """,
}


def run(engine: str, source: str, options: Options | None = None) -> Guest:
    guest = Guest(engine, options=options)
    guest.load(source)
    assert guest.go(LIMIT) == "hlt"
    return guest


@pytest.mark.parametrize("name", PROGRAMS)
def test_handlers_equal_plain(name: str) -> None:
    plain = run("plain", PROGRAMS[name]).state()
    same(run("handlers", PROGRAMS[name]).state(), plain, name)
    for change in ({"fuse": False}, {"dead_flags": False}, {"chain": False}):
        options = replace(Options(), **change)
        same(run("handlers", PROGRAMS[name], options).state(), plain, f"{name} with {change}")


@pytest.mark.parametrize("name", PROGRAMS)
def test_interrupted_equals_plain(name: str) -> None:
    """One instruction at a time, and a cut at every count."""
    plain = run("plain", PROGRAMS[name]).state()
    for first in (1, 2, 3, 5, 8, 13):
        guest = Guest("handlers")
        guest.load(PROGRAMS[name])
        while guest.go(first) == "limit":
            assert guest.retired < LIMIT
        same(guest.state(), plain, f"{name}, {first} at a time")


# ---- written from outside --------------------------------------------------------------------------------------------
LOOP = """
again:
    add eax, 1
    add ebx, eax
    jmp again
"""


@pytest.mark.parametrize("by", ["bytes", "page", "other page"])
def test_dma(by: str) -> None:
    """GuestMemory.write between runs: as a disk controller does it."""
    states = []
    for engine in ("plain", "handlers"):
        guest = Guest(engine)
        guest.load(LOOP)
        for k in range(1, 9):
            assert guest.go(7) == "limit"
            if by == "bytes":
                guest.bare.write(CODE + 2, bytes([k]))
            elif by == "page":
                page = bytearray(guest.bare.read(CODE, 4096))
                page[2] = k
                guest.bare.write(CODE, bytes(page))
            else:
                guest.bare.write(CODE - 4096, bytes(8192 - 4096) + guest.bare.read(CODE, 2) + bytes([k]))
        states.append(guest.state())
    same(states[1], states[0], by)


def test_dma_to_data_drops_nothing() -> None:
    guest = Guest("handlers")
    guest.load(LOOP)
    guest.go(100)
    before = int(guest.c.stat_dropped)
    guest.bare.write(CODE + 1024, bytes(64))
    guest.bare.write(DATA, bytes(4096))
    guest.go(100)
    assert int(guest.c.stat_dropped) == before
    guest.bare.write(CODE, guest.bare.read(CODE, 1))
    assert int(guest.c.stat_dropped) > before


def test_store_to_data_of_a_code_page_translates_nothing_anew() -> None:
    guest = run("handlers", ".fill 4, 1, 0x90\n mov ecx, 500\n 1: inc dword ptr [0x1800]\n loop 1b\n hlt")
    assert int(guest.c.stat_blocks) <= 4
    assert int(guest.c.stat_dropped) == 0


def test_second_cs_base() -> None:
    """The same bytes under two CS bases are two blocks; a store drops both."""
    states = []
    for engine in ("plain", "handlers"):
        guest = Guest(engine)
        guest.load("add eax, 1\n add ebx, eax\n ret")
        guest.registers(esp=0x20000)
        for k in range(12):
            base = 0x800 * (k % 2)
            guest.c.base[CS] = base
            guest.update()
            guest.registers(eip=CODE - base, esp=0x20000)
            guest.go(2)
            if k % 3 == 2:
                guest.bare.write(CODE + 2, bytes([k]))
        states.append(guest.state())
    same(states[1], states[0], "two bases")


def test_code_written_through_the_second_cs_base_while_the_first_runs() -> None:
    """Far jumps between two code segments over the same bytes, each changing the code of both."""
    source = """
        mov ecx, 6
    1:  add eax, 1
        inc byte ptr [1b + 2]
        push 0x18                           # code segment with base 0x800
        push offset 2f - 0x800
        retf
    2:  add eax, 1
        inc byte ptr [2b + 2]
        add byte ptr [1b + 2], 5
        push 0x08
        push offset 3f
        retf
    3:  loop 1b
        hlt
    """
    states = []
    for engine in ("plain", "handlers"):
        guest = Guest(engine)
        descriptors = (0, 0x00CF9B000000FFFF, 0x00CF93000000FFFF, 0x00CF9B000800FFFF)
        guest.bare.write(0x5000, b"".join(d.to_bytes(8, "little") for d in descriptors))
        guest.c.gdt_base, guest.c.gdt_limit = 0x5000, 0x1F
        guest.load(source)
        assert guest.go(LIMIT) == "hlt"
        states.append(guest.state())
    same(states[1], states[0], "far jumps")


# ---- stores that overflow --------------------------------------------------------------------------------------------
MANY = """
    mov ecx, 6
1:  mov edi, 0x8000
2:  call edi
    add edi, 16
    cmp edi, 0x8000 + 16 * 200
    jb 2b
    inc byte ptr [0x8000 + 16 * 100 + 2]
    loop 1b
    hlt
"""


def many_blocks(guest: Guest) -> None:
    """200 little functions."""
    for k in range(200):
        guest.bare.write(0x8000 + 16 * k, bytes([0x83, 0xC0, k & 0x7F, 0x01, 0xC3, 0xC3]))
    guest.load(MANY)


@pytest.fixture(scope="module")
def many_plain() -> dict[str, object]:
    guest = Guest("plain")
    many_blocks(guest)
    assert guest.go(20_000) == "hlt"
    return guest.state()


@pytest.mark.parametrize("room", [2900, 4000, 20_000, 60_000])
def test_arena_overflow(room: int, many_plain: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accel_module, "ARENA_BYTES", room)
    guest = Guest("handlers")
    many_blocks(guest)
    assert guest.go(20_000) == "hlt"
    assert int(guest.c.stat_flushes) > 0
    same(guest.state(), many_plain, f"arena of {room} bytes")


def test_block_store_overflow(many_plain: dict[str, object]) -> None:
    guest = Guest("handlers")
    many_blocks(guest)
    guest.c.n_blocks = int(blocks.MAX_BLOCKS) - 150
    assert guest.go(20_000) == "hlt"
    assert int(guest.c.stat_flushes) > 0
    same(guest.state(), many_plain, "block store")


def test_interrupted_with_a_small_arena(many_plain: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accel_module, "ARENA_BYTES", 3000)
    guest = Guest("handlers")
    many_blocks(guest)
    while guest.go(3) == "limit":
        assert guest.retired < 20_000
    same(guest.state(), many_plain, "3 at a time")


# ---- at random -------------------------------------------------------------------------------------------------------
def random_program(rng: np.random.Generator) -> str:
    """Blocks of one-byte instructions that overwrite each other's bytes with other one-byte instructions."""
    one = [0x40, 0x43, 0x46, 0x90, 0x47, 0x4A, 0xF8, 0xF9, 0xF5, 0x98, 0x99]
    lines = ["mov ecx, 12", "again:"]
    n = int(rng.integers(2, 5))
    sizes = [int(rng.integers(3, 12)) for _ in range(n)]

    def target() -> str:
        k = int(rng.integers(n))
        return f"spot{k} + {int(rng.integers(sizes[k]))}"

    def byte() -> int:
        return one[int(rng.integers(len(one)))]

    writes: list[Callable[[], str]] = [
        lambda: f"mov byte ptr [{target()}], {byte()}",
        lambda: f"mov dl, [source + ecx]\n mov [{target()}], dl",
        lambda: f"push ecx\n mov edi, offset {target()}\n mov al, {byte()}\n mov ecx, 2\n rep stosb\n pop ecx",
        lambda: f"mov esi, offset source\n mov edi, offset {target()}\n movsb",
        lambda: f"cmp dl, 3\n mov byte ptr [{target()}], {byte()}\n jc 9f\n nop\n 9:",
    ]
    for k in range(n):
        lines += [f"spot{k}:", f".byte {', '.join(str(byte()) for _ in range(sizes[k]))}"]
        lines += [writes[int(rng.integers(len(writes)))]() for _ in range(int(rng.integers(1, 3)))]
        if rng.integers(2):
            lines.append(f"jmp after{k}\n nop\n after{k}:")
    lines += ["dec ecx", "jnz again", "hlt", f"source: .byte {', '.join(str(byte()) for _ in range(16))}"]
    lines += [".fill 12, 1, 0xF4"]
    return "\n".join(lines)


def compare_random(seed: int) -> None:
    source = random_program(np.random.default_rng(seed))
    states = []
    for engine in ("plain", "handlers"):
        guest = Guest(engine)
        guest.load(source)
        guest.go(1500)
        states.append(guest.state())
    same(states[1], states[0], f"seed {seed}\n{source}\n")
    guest = Guest("handlers")
    guest.load(source)
    step = 1 + seed % 9
    while guest.retired < 1500 and guest.go(min(step, 1500 - guest.retired)) == "limit":
        pass
    same(guest.state(), states[0], f"seed {seed}, {step} at a time\n{source}\n")


@pytest.mark.parametrize("seed", range(25))
def test_random(seed: int) -> None:
    compare_random(seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 400))
def test_random_long(seed: int) -> None:
    compare_random(seed)


def test_two_machines_keep_their_own_translations() -> None:
    """Two CPUs on one accelerator, other code at the same place."""
    machines = []
    for value in (3, 5):
        m = Bare("handlers", memory=0x10000)
        m.set_mode("prot32")
        m.write(CODE, bytes([0x83, 0xC0, value, 0xEB, 0xFB]))
        m.set_registers({"eip": CODE})
        machines.append(m)
    for _ in range(10):
        for m in machines:
            m.run(20)
    assert [m.registers()["eax"] for m in machines] == [300, 500]
    assert machines[0].vcpu.accel is accelerator()
