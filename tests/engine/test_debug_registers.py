"""The guest's debug registers on all engines: what #DB was told, and that all else is the same.

Source: Intel SDM vol. 3, 17.2 (debug registers), 17.3.1 (#DB), 6.8.3 (MOV SS).  The same programs run on QEMU in
tests/firmware/test_debug_registers_rom.py.
"""

from __future__ import annotations

import struct

import numpy as np
import pytest

from tests.engine.debug_cases import ACCESS, CASES, DB_HANDLER, LENGTHS, LOG, UD_HANDLER, WRITE, source_of
from tests.engine.debug_cases import CODE as BREAK
from tests.engine.guest import CODE, DATA, IDT, Guest, same
from tests.engine.programs import HANDLERS, prepare, program
from tests.fast_set import share

ENGINES = ("plain", "handlers", "stencils", "pinned", "regions")
MARK = struct.pack("<I", 0xE0D0E0D)


def prepared(engine: str, source: str) -> Guest:
    """A flat guest with the handlers."""
    guest = Guest(engine, deliver=True)
    for vector, at, code in ((1, 0x3000, DB_HANDLER), (6, 0x3200, UD_HANDLER)):
        guest.bare.write(0x4000 + 8 * vector, struct.pack("<HHHH", at, 8, 0x8E00, 0))
        guest.load(code, at)
    guest.bare.write(0x5008, struct.pack("<QQ", 0x00CF_9B00_0000_FFFF, 0x00CF_9300_0000_FFFF))
    guest.c.gdt_base, guest.c.gdt_limit, guest.c.idt_base, guest.c.idt_limit = 0x5000, 0x17, 0x4000, 0x3FF
    guest.load(source)
    return guest


@pytest.mark.parametrize("step", [1, 3, 10_000])
@pytest.mark.parametrize("name", CASES)
def test_log(name: str, step: int) -> None:
    states = []
    for engine in ENGINES:
        guest = prepared(engine, source_of(CASES[name]).format(finish="hlt"))
        while (end := guest.go(step)) == "limit":
            assert guest.retired < 5000
        assert end == "hlt"
        memory = guest.bare.read(CODE, 0x1000)
        at = memory.index(MARK) + 4
        n = 2 * int.from_bytes(memory[at : at + 4], "little")
        wanted = struct.unpack_from(f"<{n}I", memory, at + 4)
        count = int.from_bytes(guest.bare.read(LOG, 4), "little")
        log = struct.unpack(f"<{2 * count}I", guest.bare.read(LOG + 4, 8 * count))
        assert [hex(v) for v in log] == [hex(v) for v in wanted], engine
        states.append(guest.state())
    for state in states[1:]:
        same(state, states[0], name)


def random_source(seed: int) -> str:
    """A random program that empties the log first."""
    return program(seed, 32, 8).replace("mov ax, 24", f"mov dword ptr [{LOG}], 0\n mov ax, 24", 1)


def instructions(seed: int) -> list[int]:
    """Where a random program's instructions begin, as far as it gets there."""
    guest = Guest("handlers")
    prepare(guest, 32)
    guest.load(random_source(seed))
    found = set()
    while True:
        found.add(int(guest.c.rip))
        if guest.go(1) != "limit":
            return sorted(at for at in found if CODE <= at < HANDLERS)


@pytest.mark.parametrize("trap", [False, True])
@pytest.mark.parametrize("seed", share(range(4), 2))
def test_random_programs(seed: int, trap: bool) -> None:
    """Two data and two code breakpoints (and TF): all engines log the same, in one go and cut."""
    rng = np.random.default_rng([seed, 17])
    places = instructions(seed)
    data = [(int(DATA + rng.integers(0, 0x700)) & ~3, kind, 4) for kind in (WRITE, ACCESS)]
    code = [(int(places[rng.integers(len(places))]), BREAK, 1) for _ in range(2)]
    dr7 = sum(
        (2 << 2 * n) | (kind | LENGTHS[size] << 2) << 16 + 4 * n for n, (_, kind, size) in enumerate([*data, *code])
    )
    states = []
    for engine, step in (("plain", 30_000), *((e, s) for e in ENGINES[1:] for s in (30_000, 1, 5))):
        guest = Guest(engine)
        prepare(guest, 32)
        guest.load(DB_HANDLER, 0x3800)
        guest.bare.write(IDT + 8, struct.pack("<HHHH", 0x3800, 8, 0x8E00, 0))
        guest.load(random_source(seed))
        guest.c.dr[:4], guest.c.dr[7] = [address for address, _, _ in [*data, *code]], dr7 | 0x400
        guest.bare.vcpu.registers_changed()
        if trap:
            guest.registers(eflags=0x302)
        while (end := guest.go(step)) == "limit":
            assert guest.retired < 30_000
        assert end == "hlt"
        states.append(guest.state())
    for state in states[1:]:
        same(state, states[0], f"seed {seed}")
    memory = states[0]["memory"]
    n = int.from_bytes(memory[LOG : LOG + 4], "little")
    logged = [bits for _, bits in struct.iter_unpack("<II", memory[LOG + 4 : LOG + 4 + 8 * n])]
    assert any(bits & (0x4000 if trap else 0xC) for bits in logged), (
        "after a trap the handler's RF lets the next one pass"
    )
