"""x87 instructions on our engines against this host's own x87: values, status with C1, control and tag word, pointers.

This host's CPU notes opcode and operand of the last instruction only for an unmasked exception (CPUID.7.EBX bit 6), ours
always: they are compared where it does.  FCS and FDS it has no more (bit 13).

Every form runs once by default; `--cases N --seed S` runs others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest

from tests.isa.x87_cases import ENVIRONMENTS, generate
from tests.isa.x87_state import Fx, unpack
from tests.oracle import native
from tests.oracle.bare_cpu import Failure, IsolatedBareCpu
from tests.oracle.case import PAGE, Case, Layout, Result
from tests.oracle.compare import describe, differences
from tests.oracle.vendor import IS_AMD

CASES = {"plain": 600, "handlers": 600, "regions": 600}
LONG = {"plain": 6000, "handlers": 20_000, "regions": 6000}
"""Cases of the fast and of the slow run."""
SHOWN = 12
ES = 0x80


@pytest.fixture(scope="module", params=sorted(CASES))
def engine_name(request: pytest.FixtureRequest) -> str:
    """The engines under test."""
    return str(request.param)


@pytest.fixture(scope="module")
def engine(engine_name: str) -> Iterator[IsolatedBareCpu]:
    cpu = IsolatedBareCpu(engine_name)
    yield cpu
    cpu.close()


def notes_pointers(case: Case, truth: Fx) -> bool:
    """Whether this host has noted opcode and operand: it was given them, or has an unmasked exception.

    FXSAVE of AMD's processors tells nothing else of them, and no address.
    """
    if IS_AMD:
        return truth.fsw & ES != 0
    code = case.code.lstrip(b"\x66\x48")
    loads = (code[0], code[1] >> 3 & 7) in ENVIRONMENTS if len(code) > 1 and code[1] < 0xC0 else False
    return loads or (truth.fsw & ES != 0)


def fx_differences(case: Case, truth: Result, result: Result) -> list[str]:
    """What differs in the floating-point states."""
    assert truth.fx is not None and result.fx is not None and case.fx is not None
    a, b = unpack(truth.fx), unpack(result.fx)
    lines = [
        f"{name} {getattr(a, name):#x} {getattr(b, name):#x}"
        for name in ("fcw", "fsw", "used")
        if getattr(a, name) != getattr(b, name)
    ]
    for k in range(8):
        if a.st[k] != b.st[k]:
            lines.append(f"st{k} {a.st[k][0]:016x}:{a.st[k][1]:04x} {b.st[k][0]:016x}:{b.st[k][1]:04x}")
    if a.fip != b.fip and (not IS_AMD or notes_pointers(case, a)):
        lines.append(f"fip {a.fip:#x} {b.fip:#x}")
    if notes_pointers(case, a) and (a.fop, a.fdp) != (b.fop, b.fdp):
        lines.append(f"fop, fdp {a.fop:#x} {a.fdp:#x}, {b.fop:#x} {b.fdp:#x}")
    if lines:
        fx = unpack(case.fx)
        lines.append(
            f"from fcw {fx.fcw:#x} fsw {fx.fsw:#x} used {fx.used:#x} "
            + " ".join(f"{s:016x}:{e:04x}" for s, e in fx.st[:3])
            + " "
            + " ".join(f"{at:#x}: {data[:28].hex()}" for at, data in case.memory.items())
        )
    return lines


def all_differences(case: Case, truth: Result, result: Result) -> list[str]:
    """The same, and in the rest of the results."""
    return differences(case, truth, result) + fx_differences(case, truth, result)


@pytest.mark.parametrize("times", [1, pytest.param(4, marks=pytest.mark.slow)])
@pytest.mark.parametrize("mode", [16, 32, 64])
def test_every_form_does_what_silicon_does(
    engine_name: str, engine: IsolatedBareCpu, mode: int, times: int, seed: int, request: pytest.FixtureRequest
) -> None:
    native.need(mode, Layout.WINDOW if mode == 16 else Layout.FLAT)
    count = request.config.getoption("cases", None) or (CASES if times == 1 else LONG)[engine_name]
    cases = list(generate(mode, count, seed + times - 1))
    truths = native.NativeCpu().run(cases)
    assert not any(t.fault is not None and t.fault.vector == PAGE for t in truths)
    results = engine.run(cases, [t.steps + (t.fault is not None) for t in truths])
    failures, by_mnemonic = [], Counter[str]()
    for case, truth, result in zip(cases, truths, results, strict=True):
        if isinstance(result, Failure):
            lines = [result.reason]
        else:
            lines = all_differences(case, truth, result)
            if lines and IS_AMD:  # a switch to another task in mid-case clears pointers without a pending exception
                lines = all_differences(case, native.NativeCpu().run([case])[0], result)
        if lines:
            by_mnemonic[str(case.instruction()).split()[0]] += 1
            failures.append(describe(case, lines, ("silicon", engine_name)))
    assert not failures, f"{len(failures)} of {count} cases differ (seed {seed}): {dict(by_mnemonic)}\n" + "\n".join(
        failures[:SHOWN]
    )
