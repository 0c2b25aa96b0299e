"""Every SIMD form on our engines against this host's CPU: results, EFLAGS, MXCSR, x87 state, faults.

Not compared: x87 state behind a fault: the manual lets it change nothing, this host has set TOP to 0 by then, and before
some faults the tags, when the instruction uses MMX registers.

`--cases N --seed S` runs others.
"""

from __future__ import annotations

from collections import Counter

import pytest

from tests.fast_set import share
from tests.isa.simd_cases import forms, generate
from tests.oracle import fx, native
from tests.oracle.bare_cpu import BareCpu, Failure
from tests.oracle.case import Layout
from tests.oracle.compare import describe, differences

ENGINES = ("plain", "handlers", "stencils")
TIMES, MANY = 1, 12
"""Cases for each form, in the fast and in the slow run."""
LONG = 20_000
"""At least so many on handlers in the slow run."""
DOT_CASES = (400, 1500)
"""Cases of dot products, in the fast and in the slow run."""
SHOWN = 12


@pytest.mark.parametrize("times", [TIMES, pytest.param(MANY, marks=pytest.mark.slow)])
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("mode", [16, 32, 64])
def test_every_simd_form_does_what_silicon_does(
    mode: int, engine: str, times: int, seed: int, request: pytest.FixtureRequest
) -> None:
    native.need(mode, Layout.FLAT if mode == 64 else Layout.SPLIT)
    least = LONG if engine == "handlers" and times == MANY else 0
    count = request.config.getoption("cases", None) or max(len(forms(mode)) * times, least)
    judged = native.inside(list(generate(mode, count, seed + times)))
    results = BareCpu(engine).run([case for case, _ in judged], [1] * len(judged))
    failures, by_mnemonic, faults, compared = [], Counter[str](), Counter[int](), len(judged)
    for (case, truth), result in zip(judged, results, strict=True):
        if truth.fault is not None:
            faults[truth.fault.vector] += 1
        if isinstance(result, Failure):
            lines = [result.reason]
        else:
            state = fx.differences(truth.fx, result.fx, x87=truth.fault is None)
            lines = differences(case, truth, result) + state
        if lines:
            by_mnemonic[str(case.instruction()).split()[0]] += 1
            failures.append(describe(case, [*lines, fx.describe(case.fx)], ("silicon", engine)))
    assert not failures, f"{len(failures)} of {compared} cases differ (seed {seed}): {dict(by_mnemonic)}\n" + "\n".join(
        failures[:SHOWN]
    )
    assert compared > 0.9 * count
    assert faults[13] > 0.02 * count  # alignment and limits
    assert faults[19] > 0.01 * count  # unmasked exceptions


@pytest.mark.parametrize("count", share(DOT_CASES, 1))
@pytest.mark.parametrize("engine", share(["handlers", "plain"], 1))
def test_dot_products_stop_at_the_step_with_an_unmasked_exception(engine: str, count: int, seed: int) -> None:
    """DPPS and DPPD multiply, then add pairs; flags of what comes behind such a step are not set (SDM vol. 2, DPPS)."""
    native.need(64, Layout.FLAT)
    cases = list(generate(64, count, seed + 900, only="DPP"))
    failures, unmasked, judged = [], 0, native.inside(cases)
    results = BareCpu(engine).run([case for case, _ in judged], [1] * len(judged))
    for (case, truth), result in zip(judged, results, strict=True):
        unmasked += truth.fault is not None and truth.fault.vector == 19
        assert not isinstance(result, Failure), result.reason
        lines = differences(case, truth, result) + fx.differences(truth.fx, result.fx, x87=truth.fault is None)
        if lines:
            failures.append(describe(case, [*lines, fx.describe(case.fx)], ("silicon", engine)))
    assert not failures, f"{len(failures)} of {len(cases)} differ\n" + "\n".join(failures[:SHOWN])
    assert unmasked > 0.02 * len(cases)
