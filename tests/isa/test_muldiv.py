"""Multiplication, division, AAM and AAD."""

from __future__ import annotations

import random

import pytest

from jitvm.isa import muldiv
from jitvm.isa.flags import get_flags
from jitvm.isa.state import FAULT, OK
from tests.isa.compiled import run, run_on_cpu
from tests.isa.on_registers import RAX, RCX, RDX, Form, check
from tests.isa.operands import SIZES, image, lazy, operand, signed, szp, trials
from tests.oracle.case import DE, STATUS, ZF

N = 200


@pytest.mark.parametrize("size", SIZES)
def test_multiply(size: int) -> None:
    width, ones = 8 * size, (1 << 8 * size) - 1
    for rng in trials(f"mul{size}", N):
        a, b, start = operand(rng, size), operand(rng, size), lazy(rng)
        exact = a * b
        low = exact & ones
        got = run(muldiv.mul, size, a, b, lazy=start)
        assert (got.value, got.hi) == (low, exact >> width)
        carry = exact != low
        assert got.flags == szp(size, low) & ~ZF | image(cf=carry, of=carry)
        exact = signed(size, a) * signed(size, b)
        carry = exact != signed(size, low)
        wide = run(muldiv.imul_wide, size, a, b, lazy=start)
        assert (wide.value, wide.hi) == (low, exact >> width & ones)
        got = run(muldiv.imul, size, a, b, lazy=start)
        assert got.value == low
        assert got.flags == wide.flags == szp(size, low) & ~ZF | image(cf=carry, of=carry)


def split(size: int, dividend: int) -> dict[int, int]:
    """The registers that hold a dividend of twice the size."""
    if size == 1:
        return {RAX: 0xABCD_0000 | dividend & 0xFFFF}
    ones = (1 << 8 * size) - 1
    above = 0x55AA << 48 if size < 4 else 0
    return {RAX: above | dividend & ones, RDX: above | dividend >> 8 * size & ones}


def joined(size: int, quotient: int, remainder: int) -> dict[int, int]:
    """The registers that hold the results."""
    ones = (1 << 8 * size) - 1
    if size == 1:
        return {RAX: 0xABCD_0000 | (remainder & 0xFF) << 8 | quotient & 0xFF}
    above = 0x55AA << 48 if size < 4 else 0
    return {RAX: above | quotient & ones, RDX: above | remainder & ones}


def divide(name: str, size: int, dividend: int, divisor: int, flags: int) -> None:
    """Compare one division with Python's; `divisor` is the operand, unsigned."""
    d = signed(size, divisor) if name == "idiv" else divisor
    top = 1 << 8 * size - (name == "idiv")
    quotient = abs(dividend) // abs(d) * (1 if (dividend < 0) == (d < 0) else -1) if d else top
    before = split(size, dividend)
    status, c = run_on_cpu(getattr(muldiv, name), size, divisor, registers=before, flags=flags)
    assert int(get_flags(c.lazy)) == flags
    if (-top if name == "idiv" else 0) <= quotient < top:
        assert status == OK
        expected = joined(size, quotient, dividend - quotient * d)
    else:
        assert status == c.status == FAULT
        assert (int(c.vector), int(c.has_error)) == (DE, 0)
        expected = before
    assert {number: int(c.gpr[number]) for number in expected} == expected, (dividend, divisor)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", ["div", "idiv"])
def test_divide(name: str, size: int) -> None:
    double = 1 << 16 * size
    for rng in trials(f"{name}{size}", N):
        divisor = operand(rng, size)
        dividend = rng.getrandbits(16 * size)
        if rng.randrange(4):  # near the ends of what fits
            half = 1 << 8 * size - rng.randrange(3)
            scale = signed(size, divisor) if name == "idiv" else divisor
            dividend = rng.choice((half, -half, rng.randrange(half))) * scale + rng.randrange(-3, 4)
        dividend %= double
        if name == "idiv" and dividend >= double // 2:
            dividend -= double
        divide(name, size, dividend, divisor, rng.getrandbits(12) & STATUS)


@pytest.mark.parametrize("size", SIZES)
def test_the_ends_of_division(size: int) -> None:
    width = 8 * size
    ones, top = (1 << width) - 1, 1 << width - 1
    for dividend, divisor in (
        (-top, ones),  # the smallest number by -1: one too large
        (-top, 1),
        (-(top << width), ones),  # the smallest dividend of all
        (-(top << width), top),
        (top * top - 1, top),
        (-top * ones, ones),
        (0, 0),
        (-1, 2),
    ):
        divide("idiv", size, dividend, divisor, STATUS)
    for dividend, divisor in (((ones << width) - 1, ones), (ones << width, ones), (ones * ones, ones), (5, 0), (5, 6)):
        divide("div", size, dividend, divisor, 0)


@pytest.mark.parametrize("imm", [0, 1, 2, 7, 10, 16, 0x80, 0xFF])
def test_digits_after_multiplication(imm: int) -> None:
    for al in range(0, 256, 5):
        status, c = run_on_cpu(muldiv.aam, imm, registers={RAX: 0x1234_5600 | al}, flags=STATUS)
        if imm == 0:
            assert status == FAULT
            assert (int(c.vector), int(c.gpr[RAX])) == (DE, 0x1234_5600 | al)
            assert get_flags(c.lazy) == STATUS
        else:
            assert status == OK
            assert c.gpr[RAX] == 0x1234_0000 | al // imm << 8 | al % imm
            assert get_flags(c.lazy) == szp(1, al % imm)


@pytest.mark.parametrize("imm", [0, 1, 10, 16, 0xFF])
def test_digits_before_division(imm: int) -> None:
    rng = random.Random(imm)
    for _ in range(N):
        ax = rng.getrandbits(16)
        al, product = ax & 0xFF, (ax >> 8) * imm & 0xFF
        r = al + product & 0xFF
        of = signed(1, al) + signed(1, product) != signed(1, r)
        got = run(muldiv.aad, ax, imm, lazy=lazy(rng))
        assert got.value == r
        flags = image(cf=al + product > 0xFF, af=(al & 15) + (product & 15) > 15, of=of)
        assert got.flags == szp(1, r) | flags


@pytest.mark.slow
def test_oracles_agree() -> None:
    sized = (2, 4, 8)
    forms = [
        Form(muldiv.mul, b"\xf7\xe3", result=RAX, second=RDX),
        Form(muldiv.imul_wide, b"\xf7\xeb", result=RAX, second=RDX),
        Form(muldiv.imul, b"\x0f\xaf\xd9", sizes=sized),
        Form(muldiv.imul, b"\x6b\xd9\xf9", sizes=sized, places=(("a", RCX),), words=(("b", -7),)),
        Form(muldiv.div, b"\xf7\xf3"),
        Form(muldiv.idiv, b"\xf7\xfb"),
    ]
    check(forms, "muldiv", 80)


def test_oracles_agree_on_digits() -> None:
    digits = [Form(muldiv.aam, bytes([0xD4, i]), (2,), words=(("imm", i),), mode=32) for i in (0, 1, 7, 10, 255)]
    digits += [Form(muldiv.aad, bytes([0xD5, i]), (2,), RAX, words=(("imm", i),), mode=32) for i in (0, 1, 7, 10, 255)]
    check(digits, "digits", 60)
