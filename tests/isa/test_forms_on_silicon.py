"""Every instruction form on our engines against this host's CPU.

Where the host's CPU can't run a case, unicorn judges, but for its listed
errors.  Differences are resolved by the manual: what it leaves undefined is
listed in `undefined.py` and not compared.

Every form runs once by default, in the slow run 20,000 cases a mode on handlers and each form five times on the others;
`--cases N --seed S` runs others.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pytest
from iced_x86 import OpKind

from tests.isa.cases import generate
from tests.oracle import native, unicorn_cpu
from tests.oracle.bare_cpu import Failure, IsolatedBareCpu
from tests.oracle.case import PAGE, WINDOW, WINDOW_SIZE, Case, Layout, Result
from tests.oracle.compare import describe, differences, operand_offsets
from tests.oracle.known_errors import fatal, known_error

ENGINES = ("handlers", "stencils", "plain")
CASES = 630
"""Cases per mode and engine of the fast run: each form once."""
MANY = 5
LONG = {"handlers": 20_000, "stencils": CASES * MANY, "plain": CASES * MANY}
"""Cases of the slow run, which are others."""
SHOWN = 12


@dataclass(frozen=True)
class Judged:
    """A case and the result that an oracle stands for."""

    case: Case
    truth: Result
    oracle: str


@pytest.fixture(scope="module", params=ENGINES)
def engine_name(request: pytest.FixtureRequest) -> str:
    """The engines under test."""
    return str(request.param)


@pytest.fixture(scope="module")
def engine(engine_name: str) -> Iterator[IsolatedBareCpu]:
    cpu = IsolatedBareCpu(engine_name)
    yield cpu
    cpu.close()


def judge(cases: Sequence[Case]) -> tuple[list[Judged], Counter[str]]:
    """What the oracles say, and how many cases none of them can answer, by reason."""
    judged: list[Judged] = []
    left_out: Counter[str] = Counter()
    on_silicon = [case for case in cases if native.available(case.mode, case.layout) is None]
    if on_silicon:
        results = native.NativeCpu().run(on_silicon)
        for case, truth in zip(on_silicon, results, strict=True):
            if truth.fault is not None and truth.fault.vector == PAGE:
                left_out["outside the window: a page fault on the host, open bus here"] += 1
            else:
                judged.append(Judged(case, truth, "silicon"))
    rest = [case for case in cases if native.available(case.mode, case.layout) is not None]
    if rest and (reason := unicorn_cpu.available()) is not None:
        left_out[reason] += len(rest)
        rest = []
    second = unicorn_cpu.UnicornCpu()
    for case in rest:
        reason = fatal(case)
        if reason is None:
            truth = second.run([case])[0]
            reason = known_error(case, truth)
            if reason is None and (truth.fault is None or truth.fault.vector != PAGE):
                judged.append(Judged(case, truth, "unicorn"))
                continue
        left_out[reason or "outside the window"] += 1
    return judged, left_out


def reaches_outside(case: Case) -> bool:
    """Whether the memory operand lies outside of the window, where the host may have memory all the same."""
    ins = case.instruction()
    if all(ins.op_kind(k) != OpKind.MEMORY for k in range(ins.op_count)):
        return False
    return not operand_offsets(case, ins) <= set(range(WINDOW_SIZE))


def test_a_case_outside_of_the_window_is_known() -> None:
    """CMOVO R10, [R12 + R12 * 4] at 542118h, where the harness is on the host, and inside of the window."""
    regs = [0] * 16
    regs[12] = 0x10D038
    code = bytes.fromhex("264f0f4014a4")
    assert reaches_outside(Case(64, code, tuple(regs), layout=Layout.FLAT))
    regs[12] = (WINDOW + 0x4000) // 5
    assert not reaches_outside(Case(64, code, tuple(regs), layout=Layout.FLAT))


@pytest.mark.slow
def test_the_upper_bound_lies_behind_the_lower_one_at_a_wrapped_offset(engine: IsolatedBareCpu) -> None:
    """BOUND EBX, [SI-2Dh] with SI = 29h: bounds at FFFCh and 0."""
    native.need(16, Layout.WINDOW)
    registers = (0, 0, 0, 5, 0x7000, 0, 0x29, 0)
    bounds = [(0, 10), (100, 200), (-100, 2)]
    memory = [{0xFFFC: struct.pack("<i", low), 0: struct.pack("<i", high)} for low, high in bounds]
    cases = [Case(16, bytes.fromhex("66629cd3ff"), registers, memory=touched) for touched in memory]
    truths = native.NativeCpu().run(cases)
    assert [truth.fault is None for truth in truths] == [True, False, False]
    results = engine.run(cases, [1] * len(cases))
    assert [isinstance(r, Result) and r.fault for r in results] == [truth.fault for truth in truths]


@pytest.mark.parametrize("times", [1, pytest.param(MANY, marks=pytest.mark.slow)])
@pytest.mark.parametrize("mode", [16, 32, 64])
def test_every_form_does_what_silicon_does(
    engine_name: str, engine: IsolatedBareCpu, mode: int, times: int, seed: int, request: pytest.FixtureRequest
) -> None:
    count = request.config.getoption("cases", None) or (CASES if times == 1 else LONG[engine_name])
    judged, left_out = judge(list(generate(mode, count, seed + times - 1)))
    steps = [j.truth.steps + (j.truth.fault is not None) for j in judged]
    results = engine.run([j.case for j in judged], steps)
    failures, by_mnemonic = [], Counter[str]()
    for j, result in zip(judged, results, strict=True):
        if isinstance(result, Failure) and reaches_outside(j.case):
            left_out["outside the window: memory of the harness on the host, open bus here"] += 1
            continue
        if isinstance(result, Failure):
            lines = [result.reason]
        else:
            lines = differences(j.case, j.truth, result)
        if lines:
            by_mnemonic[str(j.case.instruction()).split()[0]] += 1
            failures.append(describe(j.case, lines, (j.oracle, engine_name)))
    print(f"{len(judged)} cases compared; left out: {dict(left_out) or 'none'}")
    assert not failures, (
        f"{len(failures)} of {len(judged)} cases differ (seed {seed}): {dict(by_mnemonic)}\n"
        + "\n".join(failures[:SHOWN])
    )
    assert len(judged) > 0.9 * count
