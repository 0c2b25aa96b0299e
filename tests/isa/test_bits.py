"""Bit tests and scans."""

from __future__ import annotations

import pytest

from jitvm.isa import bits
from tests.isa.compiled import run
from tests.isa.on_registers import RBX, Form, check
from tests.isa.operands import SIZES, flags_of, lazy, operand, signed, szp, trials
from tests.oracle.case import CF, ZF

N = 150
SIZED = (2, 4, 8)


@pytest.mark.parametrize("size", SIZED)
def test_bit_test(size: int) -> None:
    for rng in trials(f"bt{size}", N):
        a, b, start = operand(rng, size), operand(rng, size), lazy(rng)
        bit = 1 << b % (8 * size)
        flags = flags_of(start) & ~CF | (CF if a & bit else 0)
        for name, r in (("bt", a), ("bts", a | bit), ("btr", a & ~bit), ("btc", a ^ bit)):
            got = run(getattr(bits, name), size, a, b, lazy=start)
            assert (got.value, got.flags) == (r, flags), (name, hex(a), b)


@pytest.mark.parametrize("size", SIZED)
def test_bit_offset(size: int) -> None:
    for rng in trials(f"offset{size}", N):
        b = operand(rng, size)
        expected = signed(size, b) // (8 * size) * size
        assert signed(8, run(bits.bit_offset, size, b).value) == expected


@pytest.mark.parametrize("size", SIZED)
def test_scan(size: int) -> None:
    for rng in trials(f"scan{size}", N):
        a, b, start = operand(rng, size), operand(rng, size), lazy(rng)
        if b:
            lowest, highest = (b & -b).bit_length() - 1, b.bit_length() - 1
            flags = (szp(size, lowest) & ~ZF, szp(size, highest) & ~ZF)
        else:
            lowest = highest = a
            flags = (szp(size, 0), szp(size, 0))
        for name, r, expected in (("bsf", lowest, flags[0]), ("bsr", highest, flags[1])):
            got = run(getattr(bits, name), size, a, b, lazy=start)
            assert (got.value, got.flags) == (r, expected), (name, hex(a), hex(b))


@pytest.mark.parametrize("size", SIZES)
def test_scan_finds_each_bit(size: int) -> None:
    for n in range(8 * size):
        assert run(bits.bsf, size, 0, (1 << 8 * size) - (1 << n)).value == n
        assert run(bits.bsr, size, 0, (2 << n) - 1).value == n


def test_oracles_agree() -> None:
    forms = [
        Form(getattr(bits, name), bytes([0x0F, opcode, 0xCB]), SIZED, RBX if name != "bt" else None)
        for name, opcode in (("bt", 0xA3), ("bts", 0xAB), ("btr", 0xB3), ("btc", 0xBB))
    ]
    forms.append(Form(bits.bts, b"\x0f\xba\xeb\x65", SIZED, words=(("b", 0x65),)))
    check(forms, "bits", 60)


def test_oracles_agree_on_scans() -> None:
    # A 32-bit scan of 0 keeps all 64 bits of the destination: the write-back's affair, so 32 bits run in 32-bit code.
    for mode, sizes in ((64, (2, 8)), (32, (4,))):
        check(
            [
                Form(bits.bsf, b"\x0f\xbc\xd9", sizes, mode=mode),
                Form(bits.bsr, b"\x0f\xbd\xd9", sizes, mode=mode),
            ],
            f"scans{mode}",
            60,
        )
