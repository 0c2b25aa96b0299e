"""Shifts and rotates: one step at a time in the models, one formula in the semantics."""

from __future__ import annotations

import pytest

from jitvm.isa import shift
from tests.isa.compiled import run
from tests.isa.on_registers import RDX, Form, check
from tests.isa.operands import SIZES, count, flags_of, image, lazy, operand, szp, trials
from tests.oracle.case import AF, CF, OF, PF, SF, ZF

SHIFTS = ("shl", "shr", "sar")
ROTATES = ("rol", "ror", "rcl", "rcr")


def step(name: str, size: int, a: int, cf: int) -> tuple[int, int]:
    """Value and CF after one more step."""
    top, ones = 8 * size - 1, (1 << 8 * size) - 1
    low, high = a & 1, a >> top
    if name in ("shl", "rol", "rcl"):
        return a << 1 & ones | {"shl": 0, "rol": high, "rcl": cf}[name], high
    return a >> 1 | {"shr": 0, "sar": high, "ror": low, "rcr": cf}[name] << top, low


def model(name: str, size: int, a: int, n: int, flags: int) -> tuple[int, int]:
    """Value and flags; OF is that of the first step, as Intel cores have it."""
    top = 8 * size - 1
    n &= 63 if size == 8 else 31
    if name in ("rcl", "rcr"):
        n %= 8 * size + 1
    if n == 0:
        return a, flags
    r, cf = step(name, size, a, flags & CF)
    of = (r ^ a) >> top
    for _ in range(n - 1):
        r, cf = step(name, size, r, cf)
    rest = flags & (SF | ZF | AF | PF) if name in ROTATES else szp(size, r)
    return r, rest | image(cf=cf, of=of)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", SHIFTS + ROTATES)
def test_shift(name: str, size: int) -> None:
    for rng in trials(f"{name}{size}", 120):
        a, n, start = operand(rng, size), count(rng, size), lazy(rng)
        got = run(getattr(shift, name), size, a, n, lazy=start)
        assert (got.value, got.flags) == model(name, size, a, n, flags_of(start)), (hex(a), n, start)


def double_model(name: str, size: int, a: int, b: int, n: int, flags: int) -> tuple[int, int]:
    """SHLD and SHRD bit by bit; bits come from b, then, for 16-bit operands, from a again."""
    width = 8 * size
    n &= 63 if size == 8 else 31
    if n == 0:
        return a, flags
    r, cf = a, 0
    for i in range(n):
        source = b if i < width else a
        if name == "shld":
            cf, r = r >> width - 1, r << 1 & (1 << width) - 1 | source >> (width - 1 - i % width) & 1
        else:
            cf, r = r & 1, r >> 1 | (source >> i % width & 1) << width - 1
        if i == 0:
            of = (r ^ a) >> width - 1
    return r, szp(size, r) | image(cf=cf, of=of)


@pytest.mark.parametrize("size", [2, 4, 8])
@pytest.mark.parametrize("name", ["shld", "shrd"])
def test_double_shift(name: str, size: int) -> None:
    for rng in trials(f"{name}{size}", 200):
        a, b, n, start = operand(rng, size), operand(rng, size), count(rng, size), lazy(rng)
        got = run(getattr(shift, name), size, a, b, n, lazy=start)
        assert (got.value, got.flags) == double_model(name, size, a, b, n, flags_of(start)), (hex(a), hex(b), n)


@pytest.mark.parametrize(
    ("name", "n"),
    [*((name, n) for name in SHIFTS + ROTATES for n in (0, 32, 64)), ("rcl", 9), ("rcr", 18), ("rcl", 59)],
)
def test_count_that_moves_nothing_keeps_all_flags(name: str, n: int) -> None:
    before = (0, AF | 7)
    got = run(getattr(shift, name), 1, 0x81, n, lazy=before)
    assert (got.value, got.flags) == (0x81, flags_of(before))


def test_overflow_of_a_shift_by_1_is_a_change_of_sign() -> None:
    assert run(shift.shl, 1, 0x40, 1).flags & OF
    assert not run(shift.shl, 1, 0xC0, 1).flags & OF
    assert run(shift.shr, 4, 1 << 31, 1).flags & OF


def test_oracles_agree() -> None:
    groups = {"rol": 0, "ror": 1, "rcl": 2, "rcr": 3, "shl": 4, "shr": 5, "sar": 7}
    forms = [Form(getattr(shift, n), bytes([0xD3, 0xC3 | g << 3]), by_count=True) for n, g in groups.items()]
    for name, opcode in (("shld", 0xA5), ("shrd", 0xAD)):
        code = bytes([0x0F, opcode, 0xD3])
        forms.append(Form(getattr(shift, name), code, (2, 4, 8), by_count=True, places=(("b", RDX),)))
    check(forms, "shift", 60)
