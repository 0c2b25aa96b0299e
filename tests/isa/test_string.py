"""String instructions: against the oracles, and the protocol of counts, faults and exits in the middle."""

from __future__ import annotations

import itertools
import random
from typing import Any

import numpy as np
import pytest

from jitvm.bare import Bare
from jitvm.engine.accel import KICK
from jitvm.isa import host, state
from jitvm.isa.state import AGAIN, EXIT, FAULT
from jitvm.isa.string import CHUNK, cmps, lods, movs, scas, stos
from jitvm.isa.string_once import cmps_at_once, scas_at_once
from jitvm.isa.words import u64
from tests.isa.on_window import Function, call, compare, cpu_of, result_of
from tests.isa.plain_cpu import DS, ES, PlainMemory, flags, make_cpu, page_tables, protect
from tests.oracle.case import BACKGROUND, DF, IF, STATUS, Case, Layout, Result

EXIT_MMIO, GP, OK, PF_FAULT = (int(n) for n in (state.EXIT_MMIO, state.GP, state.OK, state.PF_FAULT))
RAX, RCX, RSI, RDI = 0, 1, 6, 7
OPCODES: dict[str, tuple[Function, int, bool]] = {
    "movs": (movs, 0xA4, True),
    "cmps": (cmps, 0xA6, True),
    "stos": (stos, 0xAA, False),
    "lods": (lods, 0xAC, True),
    "scas": (scas, 0xAE, False),
}
"""Name: function, opcode of the byte form, whether there is a source segment."""
ZF = 1 << 6
OVERRIDES = ((None, DS), (0x2E, 1), (0x26, 0), (0x65, 5))


def code_of(name: str, mode: int, size: int, asize: int, override: int | None, rep: int) -> bytes:
    """The bytes of one instruction."""
    prefixes = b""
    if override is not None:
        prefixes += bytes([override])
    if size != mode // 8 and size != 1:
        prefixes += b"\x66"
    if asize != mode // 8:
        prefixes += b"\x67"
    if rep:
        prefixes += bytes([{2: 0xF2, 3: 0xF3}[rep]])
    return prefixes + bytes([OPCODES[name][1] + (size > 1)])


def index(rng: random.Random, asize: int) -> int:
    """A value for SI or DI, often near an edge of the window or a page."""
    low = rng.choice((rng.randrange(0x10000), rng.choice((0, 0xFFFF, 0x1000, 0x5000, 0x7000)) + rng.randrange(-40, 40)))
    low &= 0xFFFF
    return low if asize == 4 else low | rng.getrandbits(16) << 16


def trial(name: str, mode: int, layout: Layout, rng: random.Random) -> tuple[Case, Result]:
    """A random case and our result, with the budget cut into random slices."""
    size, asize, rep = rng.choice((1, 2, 4)), rng.choice((2, 4)), rng.choice((0, 2, 3, 3))
    override, seg = rng.choice(OVERRIDES) if OPCODES[name][2] else (None, DS)
    regs = [rng.getrandbits(32) for _ in range(8)]
    regs[RSI], regs[RDI] = index(rng, asize), index(rng, asize)
    if rng.random() < 0.3:
        regs[RDI] = regs[RSI] + rng.choice((-9, -8, -7, -4, -1, 0, 1, 2, 3, 4, 7, 8, 10)) & 0xFFFF
    count = rng.choice((0, 1, 2, 5, rng.randrange(80), rng.randrange(300)))
    regs[RCX] = count if asize == 4 else count | rng.getrandbits(16) << 16
    if rng.random() < 0.5:
        regs[RAX] = 0x01010101 * BACKGROUND[regs[RDI] & 0xFFFF]
    memory = {}
    if rng.random() < 0.6:
        for at in (regs[RSI] & 0xFFFF, regs[RDI] & 0xFFFF):
            start = max(0, at - 200)
            if not start <= 0x7000 <= start + 420:
                memory[start] = bytes([BACKGROUND[regs[RDI] & 0xFFFF]] * (min(0x10000, start + 400) - start))
    direction = rng.choice((0, DF))
    case = Case(
        mode,
        code_of(name, mode, size, asize, override, rep),
        tuple(regs),
        flags=IF | 2 | direction | rng.getrandbits(12) & STATUS,
        memory=memory,
        count=rng.choice((1, 2, 3, 10, 1000, 1000, 1000)) if rep else 1,
        layout=layout,
    )
    words = [size, asize, seg, rep] if OPCODES[name][2] else [size, asize, rep]
    slices = [rng.choice((1, 2, 7, 100)) for _ in range(rng.choice((0, 3)))]
    return case, result_of(case, OPCODES[name][0], *words, slices=slices)


def rewrites_itself(case: Case, ours: Result) -> bool:
    """Whether the instruction changed its own bytes or near ones: the oracles fetch it anew, unicorn starts it anew."""
    written = {*ours.memory, case.offset("es", case.regs[RDI] & 0xFFFF)}
    return any(case.ip - 32 <= offset < case.ip + 32 for offset in written)


@pytest.mark.parametrize("layout", [Layout.WINDOW, Layout.SPLIT])
@pytest.mark.parametrize("mode", [16, 32])
@pytest.mark.parametrize("name", OPCODES)
def test_against_the_oracles(name: str, mode: int, layout: Layout) -> None:
    rng = random.Random(f"{name}{mode}{layout}")
    trials = [trial(name, mode, layout, rng) for _ in range(150)]
    compare(t for t in trials if not rewrites_itself(*t))


# ---- counts ---------------------------------------------------------------------------------------------------------


def flat(size_mib: int = 2) -> tuple[Any, PlainMemory]:
    """A flat protected-mode record whose source is at 10000h, destination at 20000h."""
    c, memory = make_cpu(size_mib << 20)
    protect(c, memory)
    c.gpr[RSI], c.gpr[RDI] = 0x10000, 0x20000
    return c, memory


@pytest.mark.parametrize("name", OPCODES)
def test_a_count_of_zero_completes_and_takes_nothing_from_the_budget(name: str) -> None:
    c, memory = flat()
    c.gpr[RAX], c.gpr[RCX], c.left = 0x55, 0xABCD0000, 1
    before, stored, f = c.gpr.tolist(), memory.bytes.tobytes(), flags(c)
    words = [1, 2, DS, 3] if OPCODES[name][2] else [1, 2, 3]
    assert call(OPCODES[name][0], c, *words) == OK
    assert (c.gpr.tolist(), memory.bytes.tobytes(), flags(c), int(c.left)) == (before, stored, f, 1)


def test_the_last_iteration_is_the_instructions_own_count() -> None:
    c, _ = flat()
    c.gpr[RCX], c.left = 10, 10
    assert call(movs, c, 1, 4, DS, 3) == OK
    assert (c.left, c.gpr[RCX]) == (1, 0)


def test_budget_ends_in_the_middle() -> None:
    c, memory = flat()
    memory.write(0x10000, bytes(range(10)))
    c.gpr[RCX], c.left = 10, 9
    assert call(movs, c, 1, 4, DS, 3) == AGAIN
    assert (c.left, c.gpr[RCX], c.gpr[RSI], c.gpr[RDI]) == (0, 1, 0x10009, 0x20009)
    assert memory.read(0x20000, 10) == bytes([*range(9), 0])
    c.left = 1
    assert call(movs, c, 1, 4, DS, 3) == OK
    assert (c.left, c.gpr[RCX], c.gpr[RSI]) == (1, 0, 0x1000A)


def test_budget_of_one_does_one_iteration_a_call() -> None:
    c, _ = flat()
    c.gpr[RCX] = 3
    for left in (2, 1):
        c.left = 1
        assert call(stos, c, 4, 4, 3) == AGAIN
        assert (c.left, c.gpr[RCX]) == (0, left)
    c.left = 1
    assert call(stos, c, 4, 4, 3) == OK
    assert (c.left, c.gpr[RCX]) == (1, 0)


def test_a_call_does_one_chunk() -> None:
    c, _ = flat()
    n = int(CHUNK)
    c.gpr[RCX], c.left = n + 1, 1 << 40
    assert call(stos, c, 4, 4, 3) == AGAIN
    assert (c.left, c.gpr[RCX], c.gpr[RDI]) == ((1 << 40) - n, 1, 0x20000 + 4 * n)


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("name", OPCODES)
def test_a_kick_is_seen_behind_the_elements_of_one_page(name: str, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kick that comes in the middle of an access lets the run that it meets end, and no other begin."""
    c, _ = flat()
    c.gpr[RCX], c.left = 0x10000, 1 << 40
    accesses = itertools.count(1)
    at_kick: list[int] = []

    def counted(access: Function) -> Function:
        def do(*words: Any) -> Any:
            if next(accesses) == (3 if name == "lods" else 300):
                c.floor = KICK
                at_kick.append(0x10000 - int(c.gpr[RCX]))
            return access(*words)

        return do

    for access, modules in (("peek", ("string", "string_loops")), ("poke", ("string_loops",))):
        do = counted(getattr(host, access))
        for module in modules:
            monkeypatch.setattr(f"jitvm.isa.{module}.{access}", do)
    words = [size, 4, DS, 3] if OPCODES[name][2] else [size, 4, 3]
    assert call(OPCODES[name][0], c, *words) == AGAIN
    done = 0x10000 - int(c.gpr[RCX])
    assert at_kick and done - at_kick[0] == 4096 // size, "counted from the last run that was complete"
    assert c.left == (1 << 40) - done


@pytest.mark.parametrize("name", OPCODES)
def test_a_call_that_begins_with_a_kick_does_one_run(name: str) -> None:
    """Compiled.  Not nothing: the trap of a single step would come behind no iteration."""
    bare = Bare()
    bare.set_mode("prot32")
    bare.set_registers({"ecx": 0x20000, "esi": 0x10000, "edi": 0x40000, "eax": 0})
    c = bare.c
    c.horizon, c.left, c.floor = 1 << 40, 1 << 40, KICK
    words = [1, 4, DS, 3] if OPCODES[name][2] else [1, 4, 3]
    compiled = bare.vcpu.accel.code.function(f"string.{name}", len(words))
    assert compiled(bare.vcpu.address, *words) == AGAIN
    assert (1 << 40) - int(c.left) == 4096 == 0x20000 - int(c.gpr[RCX])


def test_scas_ends_with_its_match_as_the_last_count() -> None:
    c, memory = flat()
    memory.write(0x20000 + 5, b"\x77")
    c.gpr[RAX], c.gpr[RCX], c.left = 0x77, 100, 50
    assert call(scas, c, 1, 4, 2) == OK
    assert (c.left, c.gpr[RCX], c.gpr[RDI]) == (45, 94, 0x20006)
    assert flags(c) & ZF


def test_match_in_the_last_allowed_iteration_completes() -> None:
    c, memory = flat()
    memory.write(0x20000 + 5, b"\x77")
    c.gpr[RAX], c.gpr[RCX], c.left = 0x77, 100, 6
    assert call(scas, c, 1, 4, 2) == OK
    assert c.left == 1


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("where", [0, 1, 6, 7, 8, 15, 16, 33])
@pytest.mark.parametrize("rep", [2, 3])
def test_words_are_skipped_only_up_to_the_deciding_element(size: int, where: int, rep: int) -> None:
    for function in (scas, cmps):
        c, memory = flat()
        fill, special = (b"\x01", b"\x02") if rep == 3 else (b"\x02", b"\x01")
        memory.write(0x10000, b"\x01" * 400)
        memory.write(0x20000, fill * 400)
        memory.write(0x20000 + where * size, special * size)
        c.gpr[RAX], c.gpr[RCX] = 0x01010101, 40
        words = [size, 4, DS, rep] if function is cmps else [size, 4, rep]
        assert call(function, c, *words) == OK
        assert c.gpr[RDI] == 0x20000 + (where + 1) * size
        assert c.left == 1000 - where


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("rep", [0, 2, 3])
@pytest.mark.parametrize("name", ["scas", "cmps"])
def test_a_comparison_at_once_is_the_whole_one_or_nothing(name: str, rep: int, size: int) -> None:
    """Where it ends within the page and the budget; else registers and flags stay as they are."""
    rng = random.Random(f"{name} {rep} {size}")
    whole_one, at_once = (scas, scas_at_once) if name == "scas" else (cmps, cmps_at_once)
    done = 0
    for _ in range(60):
        count, left = rng.choice([1, 2, 9, 40, 0xFFFF_FFFF]), rng.choice([1, 8, 1000])
        place, where = rng.choice([0, 3, 0xFC0, 0xFFD]), rng.choice([0, 1, 7, 8, 20, 5000])
        states = []
        for function in (whole_one, at_once):
            c, memory = flat()
            fill, special = (b"\x01", b"\x02") if rep == 3 else (b"\x02", b"\x01")
            memory.write(0x10000, b"\x01" * 0x5000)
            memory.write(0x20000, fill * 0x6000)
            memory.write(0x20000 + place + where * size, special * size)
            words = [size, 4, DS, rep] if name == "cmps" else [size, 4, rep]
            c.gpr[RAX], c.gpr[RCX] = 0x01010101, 1
            assert call(whole_one, c, *words[:-1], 3) == OK  # the TLB knows the pages now
            c.gpr[RSI], c.gpr[RDI], c.gpr[RCX], c.left = 0x10000 + place, 0x20000 + place, count, left
            before = c.gpr.tolist(), flags(c)
            if function is at_once:
                with np.errstate(over="ignore"):
                    result = int(function(c, *(u64(word) for word in (*words, left))))
            else:
                result = call(function, c, *words)
            states.append((result, c.gpr.tolist(), flags(c)))
        (status, *after), (n, *after_at_once) = states
        if n:
            done += 1
            assert (status, after_at_once) == (OK, after) and n <= left
        else:
            assert tuple(after_at_once) == before
    assert done > 10


# ---- faults ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backwards", [False, True])
def test_fault_in_an_iteration_keeps_the_completed_ones(backwards: bool) -> None:
    c, memory = flat()
    page_tables(c, memory, read_only=(0x21000,))
    memory.write(0x10000, bytes(range(256)) * 48)
    start, step = (0x22001, -1) if backwards else (0x20FFD, 1)
    c.gpr[RSI], c.gpr[RDI], c.gpr[RCX] = 0x11800, start, 20
    c.rflags = 2 | (DF if backwards else 0)
    assert call(movs, c, 1, 4, DS, 3) == FAULT
    assert (c.vector, c.error, c.cr2) == (PF_FAULT, 3, 0x21FFF if backwards else 0x21000)
    done = 2 if backwards else 3
    assert (c.gpr[RCX], c.left) == (20 - done, 1000 - done)
    assert (c.gpr[RDI], c.gpr[RSI]) == (start + step * done, 0x11800 + step * done)
    assert memory.read(int(c.cr2), 1) == b"\0"


@pytest.mark.parametrize("name", ["cmps", "scas"])
def test_flags_of_a_repeated_comparison_wait_for_its_end(name: str) -> None:
    function, _, source = OPCODES[name]
    words = [1, 4, DS, 3] if source else [1, 4, 3]
    c, memory = flat()
    page_tables(c, memory, absent=(0x21000,))
    c.gpr[RDI], c.gpr[RCX] = 0x20FF0, 100
    before = flags(c)
    c.left = 10
    assert call(function, c, *words) == AGAIN
    assert (c.left, flags(c)) == (0, before)
    c.left = 10
    assert call(function, c, *words) == FAULT
    assert (c.left, flags(c), c.gpr[RDI]) == (4, before, 0x21000)


def test_fault_in_the_first_iteration_changes_nothing() -> None:
    c, memory = flat()
    page_tables(c, memory, absent=(0x20000,))
    c.gpr[RCX] = 20
    before = c.gpr.tolist()
    assert call(stos, c, 4, 4, 3) == FAULT
    assert (c.vector, c.cr2, c.left, c.gpr.tolist()) == (PF_FAULT, 0x20000, 1000, before)


def test_the_source_faults_before_the_destination() -> None:
    c, memory = flat()
    page_tables(c, memory, absent=(0x10000, 0x20000))
    c.gpr[RCX] = 2
    assert call(movs, c, 4, 4, DS, 3) == FAULT
    assert c.cr2 == 0x10000


def whole(function: Function, c: Any, *args: int) -> int:
    """As `call`, as often as the instruction is to be started again."""
    while (status := call(function, c, *args)) == AGAIN:
        pass
    return status


def test_limit_in_the_middle_of_a_page() -> None:
    c, _ = make_cpu()
    c.limit[ES] = 0x105
    c.write_limit[ES] = 0x105
    c.gpr[RDI], c.gpr[RCX] = 0x100, 10
    assert whole(stos, c, 2, 2, 3) == FAULT
    assert (c.vector, c.error, c.gpr[RDI], c.gpr[RCX], c.left) == (GP, 0, 0x106, 7, 997)


def test_accessed_and_dirty_bits_of_what_was_not_reached_stay_clear() -> None:
    c, memory = flat()
    page_tables(c, memory)
    memory.write(0x20FF0, b"\x77")
    c.gpr[RDI], c.gpr[RAX], c.gpr[RCX] = 0x20FE0, 0x77, 1000
    assert call(scas, c, 1, 4, 2) == OK
    assert memory.get(0x81000 + 4 * 0x20, "I")[0] & 0x60 == 0x20
    assert memory.get(0x81000 + 4 * 0x21, "I")[0] & 0x60 == 0


# ---- MMIO and code pages --------------------------------------------------------------------------------------------


def answer(c: Any, value: int = 0) -> None:
    """Append the outside's answer to the log."""
    assert c.exit_reason == EXIT_MMIO
    c.io_value[int(c.io_n)] = value
    c.io_n += 1


def test_movs_from_mmio_to_mmio_asks_for_each_access_once() -> None:
    c, _ = flat()
    c.gpr[RSI], c.gpr[RDI], c.gpr[RCX] = 0x400000, 0x500000, 3
    asked = []
    while (status := whole(movs, c, 2, 4, DS, 3)) == EXIT:
        asked.append((int(c.io_address), int(c.io_write), int(c.io_data[0]) if c.io_write else None, int(c.left)))
        answer(c, 0x1111 * len(asked))
    assert status == OK
    assert asked == [
        (0x400000, 0, None, 1000),
        (0x500000, 1, 0x1111, 1000),
        (0x400002, 0, None, 999),
        (0x500002, 1, 0x3333, 999),
        (0x400004, 0, None, 998),
        (0x500004, 1, 0x5555, 998),
    ]
    assert (c.gpr[RCX], c.left) == (0, 998)


def test_run_goes_from_memory_into_mmio() -> None:
    c, _ = flat()
    c.gpr[RDI], c.gpr[RCX], c.gpr[RAX] = 0x1FFFFC, 3, 0xAABBCCDD
    assert call(stos, c, 4, 4, 3) == EXIT
    assert (c.io_address, c.io_data[0], c.left, c.gpr[RCX], c.gpr[RDI]) == (0x200000, 0xAABBCCDD, 999, 2, 0x200000)


def test_code_pages_are_written_element_by_element(monkeypatch: pytest.MonkeyPatch) -> None:
    from jitvm.isa import paging_entry

    told = []

    def code_written(c: Any, offset: Any, size: Any) -> Any:
        told.append((int(offset), int(size)))
        return np.uint64(0)

    monkeypatch.setattr(paging_entry, "code_written", code_written)
    c, memory = flat()
    memory.code_pages[0x20] = 1
    c.gpr[RDI], c.gpr[RCX] = 0x20FF8, 4
    assert call(stos, c, 4, 4, 3) == AGAIN
    assert told == [(0x20FF8, 4)]
    assert whole(stos, c, 4, 4, 3) == OK
    assert told == [(0x20FF8, 4), (0x20FFC, 4)]


def test_index_wraps_at_the_address_size() -> None:
    c, memory = make_cpu()
    memory.write(0xFFFE, b"\x01\x02")
    memory.write(0, b"\x03\x04")
    c.gpr[RSI], c.gpr[RDI], c.gpr[RCX] = 0xABCDFFFE, 0x12340100, 0x99990004
    assert call(movs, c, 1, 2, DS, 3) == OK
    assert memory.read(0x100, 4) == b"\x01\x02\x03\x04"
    assert (c.gpr[RSI], c.gpr[RDI], c.gpr[RCX]) == (0xABCD0002, 0x12340104, 0x99990000)


def test_eight_byte_elements() -> None:
    c, memory = flat()
    memory.put(0x10000, "3Q", 1 << 63, 2, 3)
    c.gpr[RCX] = 3
    assert call(movs, c, 8, 8, DS, 3) == OK
    assert memory.get(0x20000, "3Q") == (1 << 63, 2, 3)
    c.gpr[RDI], c.gpr[RCX], c.gpr[RAX] = 0x20000, 3, 3
    assert call(scas, c, 8, 8, 2) == OK
    assert (c.gpr[RCX], c.gpr[RDI]) == (0, 0x20018)


def test_case_state_is_what_the_oracle_gets() -> None:
    case = Case(16, b"\xa4", tuple(range(8)))
    c, memory = cpu_of(case)
    assert memory.read(0x100000, 0x10000) == bytes(case.image())
    assert c.gpr[:8].tolist() == list(range(8))
