"""Self-modifying code: whatever is written, by whom and through which address, the next fetch sees it.

Every program runs on the plain engine, which fetches each instruction anew, and on handlers; the states must be equal.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from jitvm.bare import ENGINES, Bare, accelerator
from jitvm.engine import accel as accel_module
from jitvm.engine import blocks
from jitvm.engine.accel import Options
from jitvm.isa.state import CS
from tests.engine.guest import CODE, DATA, Guest, same
from tests.engine.smc_programs import PROGRAMS
from tests.engine.test_counts import Restart
from tests.fast_set import share

LIMIT = 4000


def run(engine: str, source: str, options: Options | None = None) -> Guest:
    guest = Guest(engine, options=options)
    guest.load(source)
    assert guest.go(LIMIT) == "hlt"
    return guest


@functools.cache
def plain_state(name: str) -> dict[str, Any]:
    """What a program does by the reference."""
    return run("plain", PROGRAMS[name]).state()


@pytest.mark.parametrize("name", share(PROGRAMS, 10))
def test_handlers_equal_plain(name: str) -> None:
    plain = plain_state(name)
    for engine in ("handlers", "groups", "stencils", "pinned", "regions"):
        same(run(engine, PROGRAMS[name]).state(), plain, f"{name} on {engine}")
    for change in ({"fuse": False, "hot": 1}, {"dead_flags": False}, {"chain": False}):
        options = replace(Options(), **change)
        same(run("handlers", PROGRAMS[name], options).state(), plain, f"{name} with {change}")


@pytest.mark.parametrize("name", share(PROGRAMS, 8))
def test_interrupted_equals_plain(name: str) -> None:
    """One instruction at a time, and some more."""
    plain = plain_state(name)
    for first in (1, 2, 3, 5, 8):
        for options in (Options(hot=1 + first % 3), ENGINES["pinned"]):
            guest = Guest("handlers", options=options)
            guest.load(PROGRAMS[name])
            while guest.go(first) == "limit":
                assert guest.retired < LIMIT
            same(guest.state(), plain, f"{name}, {first} at a time with {options}")


@pytest.mark.parametrize("engine", ["handlers", "stencils", "pinned"])
@pytest.mark.parametrize("name", share(PROGRAMS, 4))
def test_cut_anywhere_equals_plain(name: str, engine: str) -> None:
    plain = plain_state(name)
    guest = Guest(engine)
    guest.load(PROGRAMS[name])
    again = Restart(guest)
    for k in range(0, plain["retired"], 1 + plain["retired"] // 70):
        again()
        assert guest.go(k) == "limit"
        assert guest.go(LIMIT) == "hlt"
        same(guest.state(), plain, f"{name} on {engine}, {k} and the rest")


def test_stores_beside_code_look_through_its_blocks_once() -> None:
    """Of what overlaps no block note is taken, until there is another block."""
    source = (
        "1: inc dword ptr [data]\n loop 1b\n jmp 2f\n data: .long 0\n 2: call 3f\n inc dword ptr [data]\n hlt\n 3: ret"
    )
    guest = Guest("handlers")
    guest.load(f"mov ecx, 50\n {source}")
    assert guest.go(101) == "limit"
    c = guest.bare.c
    known = [int(key) for key in c.data_known if int(key) != (1 << 64) - 1]
    assert c.any_data == 1 and [key & 0xFFF for key in known] == [4]
    offset = known[0] >> 12

    class NoLook:
        """The record, but that nobody may look at its blocks."""

        def __getattr__(self, name: str) -> Any:
            assert name not in ("block_bytes", "block_list"), "blocks were looked through"
            return getattr(c, name)

    assert blocks.code_written(NoLook(), np.uint64(offset), np.uint64(4)) == 0
    assert guest.go(1) == "limit" and guest.go(1) == "limit"
    assert c.any_data == 0, "a new block"
    assert guest.go(LIMIT) == "hlt"


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
    for engine in ("plain", "handlers", "groups", "stencils", "pinned"):
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
    for state in states[1:]:
        same(state, states[0], by)


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
    for engine in ("plain", "handlers", "groups", "stencils", "pinned"):
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
    for state in states[1:]:
        same(state, states[0], "two bases")


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
    for engine in ("plain", "handlers", "groups", "stencils", "pinned"):
        guest = Guest(engine)
        descriptors = (0, 0x00CF9B000000FFFF, 0x00CF93000000FFFF, 0x00CF9B000800FFFF)
        guest.bare.write(0x5000, b"".join(d.to_bytes(8, "little") for d in descriptors))
        guest.c.gdt_base, guest.c.gdt_limit = 0x5000, 0x1F
        guest.load(source)
        assert guest.go(LIMIT) == "hlt"
        states.append(guest.state())
    for state in states[1:]:
        same(state, states[0], "far jumps")


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


@pytest.mark.parametrize("room", share([4000, 2904, 20_000, 60_000], 1))
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
    for engine in ("plain", "handlers", "groups", "stencils", "pinned"):
        guest = Guest(engine)
        guest.load(source)
        guest.go(1500)
        states.append(guest.state())
    for state in states[1:]:
        same(state, states[0], f"seed {seed}\n{source}\n")
    guest = Guest("handlers", options=Options(hot=1))
    guest.load(source)
    step = 1 + seed % 9
    while guest.retired < 1500 and guest.go(min(step, 1500 - guest.retired)) == "limit":
        pass
    same(guest.state(), states[0], f"seed {seed}, {step} at a time\n{source}\n")


@pytest.mark.parametrize("seed", share(range(16), 2))
def test_random(seed: int) -> None:
    compare_random(seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 280))
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
