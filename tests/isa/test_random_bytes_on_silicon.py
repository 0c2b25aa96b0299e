"""Random bytes as an instruction, on handlers and on this host's CPU: both say #UD, or neither, and the lengths are equal.

Left out: instructions of features that we lack and this host may have, what leaves the harness (system calls, INT n,
VMCALL) or is done by the kernel (SGDT and others under UMIP), and, in 64-bit code, addresses at which the harness lies.

`--cases N --seed S` runs others.
"""

from __future__ import annotations

import random
from collections import Counter

import iced_x86 as ix
import pytest

from jitvm.engine import inventory
from tests.oracle import native, vendor
from tests.oracle.bare_cpu import BareCpu, Failure
from tests.oracle.case import IF, PAGE, UD, WINDOW, Case, Layout, Result
from tests.oracle.compare import describe

CASES, MANY = 800, 20_000
LEAVE = {
    getattr(ix.Mnemonic, name) for name in "SYSCALL SYSENTER SYSRET INT INT1 INT3 INTO SGDT SIDT SLDT STR SMSW".split()
}
BY_LEVEL = {ix.Mnemonic.STAC, ix.Mnemonic.CLAC}
"""#UD above privilege level 0 (SDM vol. 2, STAC): where the host's code runs, but not ours."""
VMCALL = b"\x0f\x01\xc1"
"""Answered by a hypervisor, whatever prefixes it has."""
HARNESS = range(0x20_0000, 0x200_0000)
NAME = {v: k for k, v in vars(ix.Code).items() if isinstance(v, int)}


def case_of(mode: int, rng: random.Random) -> Case:
    """Fifteen bytes, often with an escape or a prefix before them."""
    head = rng.choice(
        (b"", b"", b"\x0f", b"\x0f", b"\x0f\x38", b"\x0f\x3a", b"\x66\x0f", b"\xf3\x0f", b"\xf2\x0f", b"\xf0")
    )
    code = (head + rng.randbytes(15))[:15]
    base = WINDOW if mode == 64 else 0
    regs = [base + 0x2000 + 0x40 * k for k in range(16 if mode == 64 else 8)]
    regs[4] = base + 0x8000
    layout = Layout.FLAT if mode == 64 else Layout.WINDOW
    return Case(mode, code, tuple(regs), IF | 2, layout=layout, fx=bytes(416))


def is_ours(case: Case) -> bool:
    """Whether both CPUs are to agree about it."""
    ins = case.instruction()
    if VMCALL in case.code or ins.mnemonic in LEAVE | BY_LEVEL:
        return False
    if case.mode == 64 and ins.memory_displacement % (1 << 32) in HARNESS:
        return False
    return ins.code == ix.Code.INVALID or NAME[ins.code] in inventory.forms()


def disagreement(case: Case, truth: Result, ours: Result | Failure) -> str:
    """In what the two differ; "" in nothing that is compared."""
    if vendor.otherwise(case) in (vendor.NO_NOP, vendor.UD_LENGTH):
        return ""
    if isinstance(ours, Failure):
        left = ours.reason.startswith(("stopped with mmio", "stopped with io", "stopped with hlt"))
        if left and (truth.fault is None or truth.fault.vector != UD):
            return ""  # it asks the outside, which is no #UD
        return ours.reason
    undefined = truth.fault is not None and truth.fault.vector == UD, ours.fault is not None and ours.fault.vector == UD
    if undefined[0] != undefined[1]:
        return f"#UD: {undefined}"
    flow = case.instruction().flow_control
    if truth.fault is None and ours.fault is None and flow == ix.FlowControl.NEXT and truth.ip_delta != ours.ip_delta:
        return f"length {truth.ip_delta} {ours.ip_delta}"
    return ""


@pytest.mark.parametrize("count", [CASES, pytest.param(MANY, marks=pytest.mark.slow)])
@pytest.mark.parametrize("mode", [16, 32, 64])
def test_both_know_the_same_instructions(mode: int, count: int, seed: int, request: pytest.FixtureRequest) -> None:
    native.need(mode, Layout.FLAT if mode == 64 else Layout.WINDOW)
    count = request.config.getoption("cases", None) or count
    rng = random.Random(f"bytes {seed} {mode} {count}")
    cases = [case for case in (case_of(mode, rng) for _ in range(count)) if is_ours(case)]
    truths = native.NativeCpu().run(cases)
    # a page fault is no #UD; what we do there is open bus
    judged = [(c, t) for c, t in zip(cases, truths, strict=True) if t.fault is None or t.fault.vector != PAGE]
    results = BareCpu("handlers").run([case for case, _ in judged], [1] * len(judged))
    failures, classes = [], Counter[str]()
    for truth in truths:
        classes["none" if truth.fault is None else "#UD" if truth.fault.vector == UD else "fault"] += 1
    for (case, truth), result in zip(judged, results, strict=True):
        text = disagreement(case, truth, result)
        if text:
            failures.append(describe(case, [text], ("silicon", "handlers")))
    assert not failures, f"{len(failures)} of {len(cases)} differ (seed {seed}): {classes}\n" + "\n".join(failures[:20])
    assert min(classes["none"], classes["#UD"]) > 0.1 * count, classes
