"""Decimal adjustment: the manual's steps, and decimal numbers."""

from __future__ import annotations

import pytest

from jitvm.isa import alu, bcd
from tests.isa.compiled import run
from tests.isa.on_registers import RAX, Form, check
from tests.isa.operands import image, lazy, szp, trials
from tests.oracle.case import AF, CF

N = 400


def model(name: str, ax: int, cf: int, af: int) -> tuple[int, int]:
    """AX and flags by the manual's pseudocode, SF, ZF, PF of AL and OF = 0 where it leaves them open."""
    al, ah = ax & 0xFF, ax >> 8
    minus = name in ("das", "aas")
    factor = -1 if minus else 1
    low = int((al & 15) > 9) | af
    if name in ("aaa", "aas"):
        if low:
            ax = ax + factor * 0x106 & 0xFFFF
        return ax & 0xFF0F, image(cf=low, af=low) | szp(1, ax & 0x0F)
    carry = cf & int(minus)
    r = al
    if low:
        carry = cf | int(not 0 <= r + factor * 6 <= 0xFF)
        r = r + factor * 6 & 0xFF
    if al > 0x99 or cf:
        r = r + factor * 0x60 & 0xFF
        carry = 1
    elif not minus:
        carry = 0
    return ah << 8 | r, image(cf=carry, af=low) | szp(1, r)


@pytest.mark.parametrize("name", ["daa", "das", "aaa", "aas"])
def test_adjust(name: str) -> None:
    packed = name in ("daa", "das")
    for rng in trials(name, N):
        ax, cf, af = rng.getrandbits(8 if packed else 16), rng.getrandbits(1), rng.getrandbits(1)
        got = run(getattr(bcd, name), ax, lazy=(lazy(rng)[0], cf | af * AF))
        assert (got.value, got.flags) == model(name, ax, cf, af), (hex(ax), cf, af)


def packed(n: int) -> int:
    return n // 10 << 4 | n % 10


@pytest.mark.parametrize("x", range(0, 100, 7))
def test_decimal_numbers_add_and_subtract(x: int) -> None:
    for y in range(0, 100, 3):
        for operation, adjust, exact in ((alu.add, bcd.daa, x + y), (alu.sub, bcd.das, x - y)):
            first = run(operation, 1, packed(x), packed(y))
            carry = (first.flags & CF) | first.flags & AF
            got = run(adjust, first.value, lazy=(first.value, carry))
            assert got.value == packed(exact % 100)
            assert got.flags & CF == (not 0 <= exact <= 99)


def test_oracles_agree() -> None:
    opcodes = {"daa": 0x27, "das": 0x2F, "aaa": 0x37, "aas": 0x3F}
    forms = [
        Form(getattr(bcd, name), bytes([opcode]), (1 if name in ("daa", "das") else 2,), RAX, mode=32)
        for name, opcode in opcodes.items()
    ]
    check(forms, "bcd", 150)
