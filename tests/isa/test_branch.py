"""Loop conditions."""

from __future__ import annotations

import pytest

from jitvm.isa import branch
from jitvm.isa.flags import get_flags
from tests.isa.compiled import run_on_cpu
from tests.isa.operands import operand, trials
from tests.oracle import native, unicorn_cpu
from tests.oracle.case import STATUS, ZF, Case, Layout

RCX = 1
OPCODES = {"loopne": 0xE0, "loope": 0xE1, "loop_": 0xE2, "jcxz": 0xE3}


def count_down(rcx: int, asize: int) -> tuple[int, int]:
    """RCX after the decrement, and the count that decides."""
    ones = (1 << 8 * asize) - 1
    count = rcx - 1 & ones
    return (count if asize >= 4 else rcx & ~ones | count), count


@pytest.mark.parametrize("asize", [2, 4, 8])
@pytest.mark.parametrize("name", OPCODES)
def test_condition(name: str, asize: int) -> None:
    for rng in trials(f"{name}{asize}", 100):
        rcx = rng.getrandbits(64) >> 8 * asize << 8 * asize | operand(rng, asize)
        flags = rng.getrandbits(12) & STATUS
        taken, c = run_on_cpu(getattr(branch, name), asize, registers={RCX: rcx}, flags=flags)
        after, count = count_down(rcx, asize)
        if name == "jcxz":
            after, expected = rcx, rcx % (1 << 8 * asize) == 0
        else:
            expected = count != 0 and (name == "loop_" or (name == "loope") == bool(flags & ZF))
        assert (taken, c.gpr[RCX]) == (expected, after), (hex(rcx), flags)
        assert get_flags(c.lazy) == flags


@pytest.mark.parametrize(("mode", "asize"), [(32, 2), (32, 4), (64, 4), (64, 8)])
@pytest.mark.parametrize("oracle", [native, unicorn_cpu])
def test_oracles_agree(oracle: object, mode: int, asize: int) -> None:
    if oracle is native:
        native.need(mode, Layout.FLAT)
    else:
        unicorn_cpu.need()
    prefix = b"" if asize * 8 == mode else b"\x67"
    cases = []
    for rng in trials(f"{mode}{asize}", 25):
        rcx = rng.getrandbits(mode) >> 8 * asize << 8 * asize | operand(rng, asize)
        regs = (0, rcx, *(0,) * (6 if mode == 32 else 14))
        flags = rng.getrandbits(12) & STATUS | 0x202
        cases += [
            (n, Case(mode, prefix + bytes([op, 5]), regs, flags, layout=Layout.FLAT)) for n, op in OPCODES.items()
        ]
    cpu = native.NativeCpu() if oracle is native else unicorn_cpu.UnicornCpu()
    for (name, case), truth in zip(cases, cpu.run([case for _, case in cases]), strict=True):
        taken, c = run_on_cpu(getattr(branch, name), asize, registers={RCX: case.regs[1]}, flags=case.flags)
        assert truth.ip_delta == len(case.code) + 5 * taken, (name, hex(case.regs[1]))
        assert truth.regs[1] == c.gpr[RCX]
