"""What the manual leaves undefined, compared with this host's CPU: flags and destinations are those of Intel's cores.

Not compared: OF behind ROL and ROR by an immediate other than 1.  Here it has the value that it would have for a count of 1,
as for a count in CL; a Xeon of 2023 (family 6 model 207) leaves it as it was for an immediate, and only then.

AMD's cores do much of it likewise; what they do otherwise is in `tests.oracle.vendor.UNDEFINED`, and not compared on their
hosts.  Nor are SHLD and SHRD by more than the operand's width.

`--cases N --seed S` runs others.
"""

from __future__ import annotations

from collections import Counter

import pytest
from iced_x86 import Mnemonic, OpKind

from tests.isa.cases import generate
from tests.isa.undefined import BMI, RULES, undefined
from tests.oracle import native
from tests.oracle.bare_cpu import BareCpu
from tests.oracle.case import OF, STATUS, Case, Layout, Result
from tests.oracle.vendor import IS_AMD, UNDEFINED

CASES = 1500
"""Of which every fourth leaves something undefined."""
DOUBLE_SHIFTS = (Mnemonic.SHLD, Mnemonic.SHRD)


def known_difference(case: Case) -> int:
    """Flags in which this host differs from what we do."""
    ins = case.instruction()
    if IS_AMD:
        return UNDEFINED.get(ins.mnemonic, 0) & undefined(case).flags
    rotates = ins.mnemonic in (Mnemonic.ROL, Mnemonic.ROR) and ins.op_count == 2
    return OF if rotates and ins.op1_kind == OpKind.IMMEDIATE8 else 0


@pytest.mark.parametrize("engine", ["plain", "handlers", "stencils"])
@pytest.mark.parametrize("mode", [16, 32, 64])
def test_undefined_is_as_on_intels_cores(mode: int, engine: str, seed: int, request: pytest.FixtureRequest) -> None:
    native.need(mode, Layout.FLAT if mode == 64 else Layout.WINDOW)
    count = request.config.getoption("cases", None) or CASES
    cases = [c for c in generate(mode, count, seed + 400) if undefined(c).flags or undefined(c).destination]
    cpu = BareCpu(engine)
    failures, mnemonics = [], Counter[int]()
    for case, truth in zip(cases, native.NativeCpu().run(cases), strict=True):
        if truth.fault is not None:
            continue
        ours = cpu.run_one(case, truth.steps)
        assert isinstance(ours, Result)
        mnemonic = case.instruction().mnemonic
        mnemonics[mnemonic] += 1
        if IS_AMD and mnemonic in DOUBLE_SHIFTS and undefined(case).destination:
            continue
        wrong = (ours.flags ^ truth.flags) & STATUS & ~known_difference(case)
        if wrong or (ours.regs, ours.memory) != (truth.regs, truth.memory):
            failures.append(f"{case.code.hex()} {case.instruction()}: flags {wrong:#x}, {truth.regs} {ours.regs}")
    assert not failures, f"{len(failures)} of {mnemonics.total()} differ\n" + "\n".join(failures[:12])
    absent = (
        {Mnemonic.AAA, Mnemonic.AAS, Mnemonic.AAM, Mnemonic.AAD, Mnemonic.DAA, Mnemonic.DAS} if mode == 64 else set()
    )
    assert mnemonics.keys() >= RULES.keys() - absent - BMI - {Mnemonic.BSWAP, Mnemonic.SAL}
