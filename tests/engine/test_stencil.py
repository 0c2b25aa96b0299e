"""Object code taken apart to stencils: which relocations are holes, and what becomes of a form that has others."""

from __future__ import annotations

import struct
from dataclasses import replace
from itertools import product

import pytest

from jitvm import bare
from jitvm.engine import stencil
from jitvm.engine.accel import Accelerator, Options
from jitvm.engine.backend import compile_relocatable
from jitvm.engine.cache import Cache
from jitvm.engine.stencil import WIDTHS, Stencil, cut
from jitvm.engine.stencil_key import EXITS, HOLES
from jitvm.engine.stencil_store import UNCUTTABLE
from tests.engine.guest import same
from tests.engine.programs import loaded, looping
from tests.engine.test_counts import LIMIT, to_the_end

SOON = Options(hot=1, drops=4, regions=False)
R_64, R_PC32, R_GOT32, R_PLT32, R_32, R_32S, R_16, R_8 = 1, 2, 3, 4, 10, 11, 12, 14
"""System V ABI, AMD64 supplement, table 4.9."""
NONE_SUCH = [kind for kind in range(43) if kind not in (R_64, R_PC32, R_PLT32, R_32, R_32S, R_16, R_8)]
CODE = bytes(24)


def one(at: int, name: str, kind: int, addend: int = 0) -> Stencil | None:
    """A function of 24 bytes with one relocation."""
    return stencil._one(bytearray(CODE), [(at, name, kind, addend)])


@pytest.mark.parametrize(("kind", "width"), WIDTHS.items())
def test_a_hole_is_as_wide_as_its_relocation(kind: int, width: int) -> None:
    found = one(4, "hole_disp", kind, 3)
    assert found is not None
    assert found.holes == ((4, HOLES.index("disp"), width, 3),)


@pytest.mark.parametrize("kind", NONE_SUCH)
@pytest.mark.parametrize("name", ["hole_imm", "next", *EXITS])
def test_every_other_relocation_is_refused(name: str, kind: int) -> None:
    assert one(4, name, kind) is None


def test_only_holes_are_values_and_only_ways_out_are_jumped_to() -> None:
    for kind in (R_PC32, R_PLT32):
        assert one(4, "hole_imm", kind) is None
        assert one(4, "memcpy", kind) is None
        assert one(4, ".rodata", kind) is None
    for kind in WIDTHS:
        assert one(4, "next", kind) is None
        assert one(4, "taken", kind) is None


def test_a_wide_hole_takes_nothing_off() -> None:
    """The copier adds what stands beside a hole as an unsigned word."""
    assert one(4, "hole_next", R_64, 5) is not None
    assert one(4, "hole_next", R_64, -1) is None
    assert one(4, "hole_next", R_64, 1 << 32) is None
    below = one(4, "hole_disp", R_32S, -1)
    assert below is not None and below.blob()[-4:] == struct.pack("<i", -1)


def test_a_way_out_that_llvm_dropped_keeps_its_pad() -> None:
    """A jump to the second pad finds it there, though nothing goes to the first."""
    alone = one(4, "fall", R_PLT32)
    assert alone is not None and alone.exits == 2


@pytest.mark.parametrize("pins", [False, True])
@pytest.mark.parametrize("bits", [16, 32, 64])
def test_a_jump_whose_outcome_the_instruction_before_decides(bits: int, pins: bool) -> None:
    """Behind a logic instruction OF and CF are 0."""
    options, stack = replace(SOON, pins=pins, pin_hot=1), "rsp" if bits == 64 else "esp"
    for op, jump in product(("and", "or", "xor", "test"), ("jo", "jno", "jb", "jae")):
        source = (
            f"mov ecx, 9\nagain: call f\ndec ecx\njnz again\nhlt\nf: {op} eax, [{stack}]\n{jump} on\ninc ebx\non: ret"
        )
        ends = [loaded(*way) for way in (("plain", source, bits), ("handlers", source, bits, options))]
        for end in ends:
            to_the_end(end, LIMIT)
        same(ends[1].state(), ends[0].state(), source)


def test_what_llvm_writes_of_tables_and_calls_is_refused() -> None:
    """Constants outside of the code, a call, a jump table."""
    text = """
@hole_imm = external dso_local global i8, !absolute_symbol !0
!0 = !{i64 -2147483648, i64 2147483648}
@table = private constant [4 x i64] [i64 7, i64 77, i64 777, i64 7777]
declare i64 @other(i64)
define i64 @s0(i64 %x) { %y = add i64 %x, ptrtoint (ptr @hole_imm to i64)  ret i64 %y }
define i64 @s1(i64 %x) { %p = getelementptr [4 x i64], ptr @table, i64 0, i64 %x  %y = load i64, ptr %p  ret i64 %y }
define i64 @s2(i64 %x) { %y = call i64 @other(i64 %x)  %z = add i64 %y, 1  ret i64 %z }
define double @s3(double %x) { %y = fadd double %x, 1.5  ret double %y }
"""
    found = cut(compile_relocatable(text))
    assert {name: one is not None for name, one in found.items()} == {"s0": True, "s1": False, "s2": False, "s3": False}


@pytest.mark.slow
def test_a_form_without_a_stencil_stays_a_handler(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks whose forms are refused go on with handlers; the guest sees nothing of it."""
    source, known = looping(17, 32), dict(WIDTHS)
    plain = loaded("plain", source, 32)
    to_the_end(plain, LIMIT)
    figures = []
    for kinds in (known, {}):
        monkeypatch.setattr(stencil, "WIDTHS", kinds)
        accel = Accelerator()
        accel.stencils.cache = Cache(None, "")  # what is cut here is nobody else's
        monkeypatch.setattr(bare, "_accelerator", accel)
        hot = loaded("handlers", source, 32, replace(SOON, count=True))
        to_the_end(hot, LIMIT)
        same(hot.state(), plain.state(), source)
        lacking = sum(address == UNCUTTABLE for address in accel.stencils.address.values())
        figures.append((int(hot.c.stat_copied_insns), lacking))
        assert int(hot.c.stat_promoted) > 3
    (copied, few), (less, more) = figures
    assert copied > less and few < more
