"""Random code under random breakpoints: our #DBs are those of this host's CPU, on all engines."""

from __future__ import annotations

import random
import struct
from functools import cache
from typing import Any

import pytest

from tests.engine.debug_cases import DB_HANDLER, LENGTHS, LOG
from tests.engine.guest import Guest
from tests.fast_set import share
from tests.needs import host_cannot
from tests.oracle import debug_registers as silicon
from tests.oracle.vendor import IS_AMD

BASE = 0x100000
"""Where the window lies in our guest."""
MEMORY = 0x200000
RF, BREAK = 1 << 16, 0
PIECES = (
    "8903", "8a03", "ff03", "8703", "0003", "3903", "f713", "668903", "668b4301", "894302", "8a4307", "c70301020304",
    "a4", "66a5", "a5", "aa", "ab", "66ab", "ac", "ad", "ae", "a6", "a7", "9090", "31c0", "8cd08ed0", "0fab4b03", "0fc103",
)  # fmt: skip
MOV_SS = "8ed0"
REPEATED = ("f3a4", "f3a5", "f3aa", "f3ab", "f3ac", "66f3ab", "f3a6", "f2ae", "fdf3aafc", "fdf3a5fc")
"""Of the same meaning in 32- and 64-bit code; memory at RBX, RSI and RDI."""


def case_of(rng: random.Random) -> dict[str, Any]:
    """Some pieces in a row, each with its count, and one to four breakpoints near what they touch."""
    code, starts = b"", []
    for _ in range(rng.randrange(2, 7)):
        starts.append(len(code))
        if rng.random() < 0.3:
            code += b"\xb9" + struct.pack("<I", rng.randrange(12))
            starts.append(len(code))
            code += bytes.fromhex(rng.choice(REPEATED))
        else:
            code += bytes.fromhex(rng.choice(PIECES))
    points = []
    for _ in range(rng.randrange(1, 5)):
        if rng.random() < 0.2:
            points.append([rng.choice(starts), BREAK, 1])
        else:
            size = rng.choice((1, 2, 4))
            points.append([silicon.DATA + rng.randrange(0x40) // size * size, rng.choice((1, 3)), size])
    pointers = {name: silicon.DATA + rng.randrange(0x30) for name in ("rbx", "rsi", "rdi")}
    return {
        "code": (code + b"\xcc").hex(),
        "dr": points,
        "pointers": pointers,
        "values": {"rax": rng.randrange(1 << 31), "rcx": rng.randrange(16)},
    }


@cache
def unavailable() -> str | None:
    return silicon.unavailable()


def ours(engine: str, case: dict[str, Any]) -> list[list[int]]:
    """The log of the same code."""
    guest = Guest(engine, deliver=True, memory=MEMORY)
    guest.bare.write(0x4000 + 8, struct.pack("<HHHH", 0x3000, 8, 0x8E00, 0))
    guest.load(DB_HANDLER, 0x3000)
    guest.load("hlt", 0x3200)
    guest.bare.write(0x4000 + 24, struct.pack("<HHHH", 0x3200, 8, 0x8E00, 0))
    guest.bare.write(0x5008, struct.pack("<QQ", 0x00CF_9B00_0000_FFFF, 0x00CF_9300_0000_FFFF))
    c = guest.c
    c.gdt_base, c.gdt_limit, c.idt_base, c.idt_limit = 0x5000, 0x17, 0x4000, 0x3FF
    guest.bare.write(BASE, bytes.fromhex(case["code"]))
    values = {f"e{name[1:]}": BASE + offset for name, offset in case["pointers"].items()}
    guest.registers(eip=BASE, **values, **{f"e{name[1:]}": value for name, value in case["values"].items()})
    for n, (offset, _, _) in enumerate(case["dr"]):
        c.dr[n] = BASE + offset
    c.dr[7] = silicon.dr7(case["dr"]) | 0x400
    c.sel[2] = 0x10
    guest.bare.vcpu.registers_changed()
    assert guest.go() == "hlt"
    count = int.from_bytes(guest.bare.read(LOG, 4), "little")
    log = struct.iter_unpack("<II", guest.bare.read(LOG + 4, 8 * count))
    return [[eip - BASE, bits & 0xF, bits & RF] for eip, bits in log]


def without_rf(case: dict[str, Any], stops: list[list[int]]) -> list[list[int]]:
    """Stops at instruction breakpoints without RF, which Linux sets there by itself.

    AMD's processors do not set it between iterations of REP, as Intel's do (SDM vol. 3, 17.3.1.1), and tell of an
    instruction breakpoint behind the data trap at the same place, not with it.
    """
    code = sum(1 << n for n, (_, kind, _) in enumerate(case["dr"]) if kind == BREAK)
    if not IS_AMD:
        return [[at, bits, 0 if bits & code else rf] for at, bits, rf in stops]
    out: list[list[int]] = []
    for at, bits, _ in stops:
        if bits & ~code == 0 and out and out[-1][0] == at:
            out[-1][1] |= bits
        else:
            out.append([at, bits, 0])
    return out


@pytest.mark.parametrize("count", share([40, 300], 1))
@pytest.mark.parametrize("engine", ["plain", "handlers", "stencils"])
def test_traps_are_those_of_silicon(engine: str, count: int, seed: int) -> None:
    if (reason := unavailable()) is not None:
        host_cannot(reason)
    assert set(LENGTHS) == set(silicon.LENGTHS)
    rng = random.Random(f"debug registers {seed}")
    cases = [case_of(rng) for _ in range(count)]
    truths = silicon.run(cases)
    bad = []
    for case, truth in zip(cases, truths, strict=True):
        if IS_AMD and MOV_SS in case["code"]:
            continue  # no data trap stands behind it there, but an instruction breakpoint does
        wanted, found = without_rf(case, truth), without_rf(case, ours(engine, case))
        if wanted != found:
            bad.append(f"{case}\n silicon {wanted}\n {engine} {found}")
    assert not bad, f"{len(bad)} of {count} differ\n" + "\n".join(bad[:8])
    assert sum(map(len, truths)) > count // 2
