"""Every instruction form with EFLAGS.AC set at privilege level 3, on our engines and on this host's CPU.

Linux has CR0.AM set, so that the host's own CPU says what is checked: which operands, in which parts, and what goes
first.  Source: Intel SDM vol. 3, 6.15 (#AC).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from jitvm.isa.state import CR0_AM
from tests.isa import simd_cases, xsave_cases
from tests.isa.cases import generate
from tests.oracle import native
from tests.oracle.bare_cpu import BareCpu, Failure
from tests.oracle.case import AC, Case, Layout
from tests.oracle.compare import describe, differences

ALIGNMENT = 17
CASES = 150
MANY = 20
SHOWN = 12


class UserCpu(BareCpu):
    """Runs cases at privilege level 3 with CR0.AM."""

    def prepare(self, case: Case) -> Any:
        machine = super().prepare(case)
        machine.c.cpl, machine.c.cr0 = 3, machine.c.cr0 | CR0_AM
        return machine


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
    judged = native.inside(list(cases_of(mode, CASES * times, seed + 77)))
    steps = [truth.steps + (truth.fault is not None) for _, truth in judged]
    results = UserCpu(engine).run([case for case, _ in judged], steps)
    failures, misaligned, compared = [], 0, len(judged)
    plain = (
        CASES * times
    )  # of which every tenth or more is misaligned; SIMD operands of 16 bytes are #GP in place of #AC
    for (case, truth), result in zip(judged, results, strict=True):
        misaligned += truth.fault is not None and truth.fault.vector == ALIGNMENT
        lines = [result.reason] if isinstance(result, Failure) else differences(case, truth, result)
        if lines:
            failures.append(describe(case, lines, ("silicon", engine)))
    print(f"{compared} cases compared, {misaligned} of them misaligned")
    assert not failures, f"{len(failures)} of {compared} cases differ (seed {seed})\n" + "\n".join(failures[:SHOWN])
    assert misaligned > plain // 10
