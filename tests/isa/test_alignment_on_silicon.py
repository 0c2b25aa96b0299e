"""Every instruction form with EFLAGS.AC set at privilege level 3, on our engines and on this host's CPU.

Linux has CR0.AM set, so that the host's own CPU says what is checked: which operands, in which parts, and what goes
first.  Source: Intel SDM vol. 3, 6.15 (#AC).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from jitvm.isa.state import CR0_AM
from tests.isa import simd_cases, xsave_cases
from tests.isa.cases import generate
from tests.oracle import native
from tests.oracle.bare_cpu import BareCpu, Failure, prepare
from tests.oracle.case import AC, PAGE, Case, Layout
from tests.oracle.compare import describe, differences

ALIGNMENT = 17
CASES = 150
MANY = 20
SHOWN = 12


class UserCpu(BareCpu):
    """Runs cases at privilege level 3 with CR0.AM."""

    def __init__(self, engine: str) -> None:
        super().__init__(engine)
        self._name = engine

    def run_user(self, case: Case, steps: int) -> object:
        """As `run_one`."""
        key = (case.mode, case.layout, bool(case.fx))
        if key not in self._machines:
            machine = self._machines[key] = prepare(self._name, case)
            machine.c.cpl, machine.c.cr0 = 3, machine.c.cr0 | CR0_AM
        return self.run_one(case, steps)


def cases_of(mode: int, count: int, seed: int) -> Iterator[Case]:
    """Cases that this host can run."""
    wide = [*simd_cases.generate(mode, count, seed), *xsave_cases.generate(mode, count // 4, seed)]
    for case in [*generate(mode, count, seed), *wide]:
        if native.available(case.mode, case.layout) is None:
            yield replace(case, flags=case.flags | AC)


@pytest.mark.parametrize("times", [1, pytest.param(MANY, marks=pytest.mark.slow)])
@pytest.mark.parametrize("engine", ["plain", "handlers", "stencils"])
@pytest.mark.parametrize("mode", [16, 32])
def test_alignment_checks_are_those_of_silicon(mode: int, engine: str, times: int, seed: int) -> None:
    native.need(mode, Layout.SPLIT)
    cases = list(cases_of(mode, CASES * times, seed + 77))
    truths = native.NativeCpu().run(cases)
    cpu = UserCpu(engine)
    failures, misaligned, compared = [], 0, 0
    plain = (
        CASES * times
    )  # of which every tenth or more is misaligned; SIMD operands of 16 bytes are #GP in place of #AC
    for case, truth in zip(cases, truths, strict=True):
        if truth.fault is not None and truth.fault.vector == PAGE:
            continue
        compared += 1
        misaligned += truth.fault is not None and truth.fault.vector == ALIGNMENT
        result = cpu.run_user(case, truth.steps + (truth.fault is not None))
        lines = [result.reason] if isinstance(result, Failure) else differences(case, truth, result)  # type: ignore[arg-type]  # else a Result
        if lines:
            failures.append(describe(case, lines, ("silicon", engine)))
    print(f"{compared} cases compared, {misaligned} of them misaligned")
    assert not failures, f"{len(failures)} of {compared} cases differ (seed {seed})\n" + "\n".join(failures[:SHOWN])
    assert misaligned > plain // 10
