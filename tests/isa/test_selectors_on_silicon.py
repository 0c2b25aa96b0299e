"""A selector that is taken from the stack is read as 2 bytes, also where its slot has 4 or 8: POP, and RET far.

Intel's processors pop the last two bytes of a stack segment whatever the operand size is (AMD's read the slot), and return
far with six bytes left; the manual (SDM vol. 2, POP, RET) does not say.  Bochs and QEMU read POP like that, and RET as two
full slots.
"""

from __future__ import annotations

import pytest

from tests.engine.guest import CODE, Guest
from tests.oracle import native
from tests.oracle.bare_cpu import BareCpu
from tests.oracle.case import WINDOW, Case, Fault, Layout, Result
from tests.oracle.compare import differences
from tests.oracle.vendor import IS_AMD

ENGINES = ("plain", "handlers", "stencils")
LAST = 0x7FFE
"""Where the last two bytes of the SPLIT layout's stack lie."""
POPS = {"ds": b"\x1f", "es": b"\x07", "fs": b"\x0f\xa1", "gs": b"\x0f\xa9"}


def case_of(mode: int, code: bytes) -> Case:
    """Code with the stack pointer at the last two bytes of its segment, which hold a null selector."""
    at = Case(mode, b"\x90", (0,) * 8, layout=Layout.SPLIT).offset("ss", LAST)
    return Case(mode, code, (0, 0, 0, 0, LAST, 0, 0, 0), layout=Layout.SPLIT, memory={at: b"\0\0"})


@pytest.mark.parametrize("mode", [16, 32])
def test_pop_at_the_limit(mode: int) -> None:
    native.need(mode, Layout.SPLIT)
    small, large = (b"", b"\x66") if mode == 16 else (b"\x66", b"")
    cases = [case_of(mode, prefix + code) for prefix in (small, large) for code in POPS.values()]
    cases += [case_of(mode, large + b"\x58")]
    truths = list(native.NativeCpu().run(cases))
    slots = [Fault(12) if IS_AMD else None] * 4
    assert [truth.fault for truth in truths] == [None] * 4 + slots + [Fault(12)], "and EAX is 4 bytes"
    for engine in ENGINES:
        cpu = BareCpu(engine)
        for case, truth in zip(cases, truths, strict=True):
            result = cpu.run_one(case, 1)
            assert isinstance(result, Result)
            assert result.fault == (None if case is not cases[-1] else Fault(12))
            assert not differences(case, truth, result), (engine, case.code.hex())


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("code", "fault"), [("66cb", False), ("66ca0000", False), ("6658", True), ("66cf", True)])
def test_far_return_at_the_limit(code: str, *, fault: bool, engine: str) -> None:
    """In real mode, with six bytes of the stack segment left."""
    guest = Guest(engine)
    guest.bare.set_mode("real")
    guest.bare.write(0x1FFFA if code != "6658" else 0x1FFFE, bytes.fromhex("341200000001"))
    guest.c.sel[2], guest.c.base[2] = 0x1000, 0x10000
    guest.bare.write(CODE, bytes.fromhex(code))
    guest.registers(eip=CODE, esp=0xFFFA if code != "6658" else 0xFFFE)
    end = guest.go(1)
    assert (end.startswith("fault 12"), end == "limit") == (fault, not fault), end
    if not fault:
        assert (int(guest.c.sel[1]), int(guest.c.rip)) == (0x100, 0x1234)


def test_the_window_is_where_the_layout_says() -> None:
    assert case_of(16, b"").offset("ss", LAST) + WINDOW == 0x108000 + LAST
