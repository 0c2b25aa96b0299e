"""Out-of-line semantics as plain Python on the oracles' cases: same state in, same result out."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from jitvm.isa import mode
from jitvm.isa.flags import put_flags
from jitvm.isa.state import AGAIN, FAULT, OK
from jitvm.isa.words import u64
from tests.isa.plain_cpu import PlainMemory, flags, make_cpu, protect
from tests.oracle import native, unicorn_cpu
from tests.oracle.case import COMPARED_FLAGS, STATUS, WINDOW, WINDOW_SIZE, Case, Fault, Result, changed_bytes
from tests.oracle.compare import describe, differences
from tests.oracle.known_errors import fatal, known_error

Function = Callable[..., Any]
BUDGET = 1000


def cpu_of(case: Case) -> tuple[Any, PlainMemory]:
    """A record at privilege level 0 with the case's segments, registers, flags and window."""
    c, memory = make_cpu(2 << 20)
    protect(c, memory)
    for seg, name in enumerate(("es", "cs", "ss", "ds", "fs", "gs")):
        s = case.segment(name)
        kind = 0x9B if name == "cs" else 0x97 if s.expand_down else 0x93
        c.base[seg], c.limit[seg], c.attr[seg] = s.base, s.limit, kind | (0x4000 if case.mode == 32 else 0)
    c.gpr[:8] = case.regs
    c.rflags = case.flags & ~STATUS | 2
    put_flags(c.lazy, u64(case.flags))
    c.rip, c.next_rip = case.ip, case.ip + len(case.code)
    c.left = c.horizon = BUDGET
    memory.write(WINDOW, bytes(case.image()))
    mode.update_mode(c)
    return c, memory


def call(function: Function, c: Any, *words: int) -> int:
    """One call, as an engine enters it; the status."""
    c.status, c.io_pos = OK, 0
    with np.errstate(over="ignore"):
        status = function(c, *(u64(word) for word in words))
    assert type(status) is np.uint64
    assert status in (OK, AGAIN) or status == c.status
    return int(status)


def result_of(case: Case, function: Function, *words: int, slices: Iterable[int] = ()) -> Result:
    """What the function makes of the case, in at most `case.count` steps; `slices` are budgets of the first calls."""
    c, memory = cpu_of(case)
    budgets = iter(slices)
    total = case.count
    while True:
        c.left = min(next(budgets, total), total)
        before = int(c.left)
        status = call(function, c, *words)
        total -= before - int(c.left)
        if status != AGAIN or not total:
            break
    fault = None
    if status == FAULT:
        fault = Fault(int(c.vector), int(c.error))
    return Result(
        regs=tuple(int(r) for r in c.gpr[: len(case.regs)]),
        flags=flags(c) & COMPARED_FLAGS,
        ip_delta=len(case.code) if status == OK else 0,
        memory=changed_bytes(bytes(case.image()), memory.read(WINDOW, WINDOW_SIZE)),
        fault=fault,
        steps=case.count - total + (status == OK),
    )


def compare(trials: Iterable[tuple[Case, Result]]) -> None:
    """Compare results with this host's CPU and, where it is not known to err, with unicorn."""
    pairs = list(trials)
    truths: list[Result | None] = [None] * len(pairs)
    if native.available(pairs[0][0].mode, pairs[0][0].layout) is None:
        on_silicon = native.NativeCpu().run([case for case, _ in pairs])
        for (case, ours), result in zip(pairs, on_silicon, strict=True):
            lines = differences(case, result, ours)
            assert not lines, describe(case, lines, ("silicon", "semantics"))
        truths = list(on_silicon)
    else:
        unicorn_cpu.need()  # somebody must judge
    if unicorn_cpu.available() is None:
        second = unicorn_cpu.UnicornCpu()
        for (case, ours), truth in zip(pairs, truths, strict=True):
            if (truth is None or truth.fault is None) and fatal(case) is None and known_error(case, truth) is None:
                theirs = second.run([case])[0]
                lines = differences(case, theirs, ours)
                assert not lines, describe(case, lines, ("unicorn", "semantics"))
