"""Semantic functions against the oracles, by their instructions' register forms.

A form says which registers hold the parameters: `a` is RBX, `b` and `d` are RCX, `acc` is RAX (BCD: AL or AX), but for
SHLD and SHRD, whose `b` is RDX.  What the manual leaves undefined is compared too where it was measured: on the CPU
model on which the semantics' docstrings rest.
"""

from __future__ import annotations

import functools
import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from jitvm.isa.flags import get_flags
from jitvm.isa.state import FAULT
from tests.isa.compiled import Function, parameters, run, run_on_cpu
from tests.isa.operands import SIZES, flags_of, lazy, operand
from tests.oracle import native, unicorn_cpu
from tests.oracle.case import STATUS, Case, Fault, Layout, Result
from tests.oracle.compare import describe, differences
from tests.oracle.known_errors import fatal, known_error

RAX, RCX, RDX, RBX = range(4)
AH = 16
"""Bits 8 to 15 of RAX, as a register number."""
PLACES = {"acc": RAX, "a": RBX, "b": RCX, "d": RCX}
MEASURED = re.compile(r"vendor_id\s*: GenuineIntel\ncpu family\s*: 6\nmodel\s*: 207\n")


@dataclass(frozen=True)
class Form:
    """One encoding of a function: opcode and ModRM for 16 bits and more; the byte form clears `code[-2]`'s lowest bit.

    `result` and `second` are the registers that the value and `f.hi` go to (RDX: AH for bytes); `words` fixes parameters by
    name, cut to the operand size.
    `by_count`: `b` or `d` is CL whatever the size.
    """

    function: Function
    code: bytes
    sizes: Sequence[int] = SIZES
    result: int | None = RBX
    second: int | None = None
    by_count: bool = False
    places: tuple[tuple[str, int], ...] = ()
    words: tuple[tuple[str, int], ...] = ()
    mode: int = 64

    def encoding(self, size: int) -> bytes:
        """The instruction for one operand size."""
        code = self.code
        if size == 1 and len(code) > 1 and 1 in self.sizes and len(self.sizes) > 1:
            code = code[:-2] + bytes([code[-2] & 0xFE]) + code[-1:]
        return {1: b"", 2: b"\x66", 4: b"", 8: b"\x48"}[size if self.mode == 64 else 1] + code


def check(forms: Iterable[Form], seed: str, n: int) -> None:
    """Compare `n` random cases of each form and size with this host's CPU and with unicorn."""
    rng = random.Random(seed)
    pairs = [_trial(form, size, rng) for form in forms for size in form.sizes for _ in range(n)]
    cases = [case for case, _ in pairs]
    truths: list[Result | None] = [None] * len(cases)
    if native.available(cases[0].mode, cases[0].layout) is None:
        truths = list(native.NativeCpu().run(cases))
        for (case, ours), truth in zip(pairs, truths, strict=True):
            assert truth is not None
            _compare(case, truth, ours, "silicon")
            assert not _is_measured() or truth.flags == ours.flags, describe(
                case, [f"flags {truth.flags:#x} {ours.flags:#x}"], ("silicon", "semantics")
            )
    else:
        unicorn_cpu.need()  # somebody must judge
    if unicorn_cpu.available() is None:
        second = unicorn_cpu.UnicornCpu()
        for (case, ours), truth in zip(pairs, truths, strict=True):
            if fatal(case) is None and known_error(case, truth) is None:
                _compare(case, second.run([case])[0], ours, "unicorn")


def _compare(case: Case, truth: Result, ours: Result, oracle: str) -> None:
    lines = differences(case, truth, ours)
    assert not lines, describe(case, lines, (oracle, "semantics"))


@functools.cache
def _is_measured() -> bool:
    info = Path("/proc/cpuinfo")
    return info.exists() and MEASURED.search(info.read_text()) is not None


def _trial(form: Form, size: int, rng: random.Random) -> tuple[Case, Result]:
    """A random case of a form and what the semantic function makes of it."""
    regs = [rng.getrandbits(64) for _ in range(16)]
    for number in (RAX, RCX, RDX, RBX):
        regs[number] = regs[number] >> 8 * size << 8 * size | operand(rng, size)
    if form.mode == 32:
        regs = [register & 0xFFFF_FFFF for register in regs[:8]]
    start = lazy(rng)
    flags = flags_of(start) | 0x202
    code = form.encoding(size)
    case = Case(form.mode, code, tuple(regs), flags, layout=Layout.FLAT)
    words = _words(form, size, regs)
    if parameters(form.function)[0] == "c":
        status, c = run_on_cpu(form.function, *words, registers=dict(enumerate(regs)), flags=flags)
        if status == FAULT:
            return case, _result(case, regs, flags, Fault(int(c.vector)))
        return case, _result(case, [int(c.gpr[i]) for i in range(len(regs))], int(get_flags(c.lazy)))
    outcome = run(form.function, *words, lazy=start)
    after = list(regs)
    if form.second is not None:
        _write(after, AH if size == 1 and form.second == RDX else form.second, size, outcome.hi)
    if form.result is not None:
        _write(after, form.result, size, outcome.value)
    return case, _result(case, after, outcome.flags)


def _words(form: Form, size: int, regs: Sequence[int]) -> list[int]:
    """The function's parameters behind its record."""
    fixed = {"size": size} | dict(form.words)
    places = PLACES | dict(form.places)
    words = []
    for name in parameters(form.function):
        if name in fixed:
            words.append(fixed[name] % (1 << 8 * size))
        elif name in places:
            n_bytes = 1 if form.by_count and places[name] == RCX else size
            if name == "b":
                n_bytes = fixed.get("bsize", n_bytes)
            source = regs[RAX] >> 8 if places[name] == AH else regs[places[name]]
            words.append(source & (1 << 8 * n_bytes) - 1)
    return words


def _write(regs: list[int], number: int, size: int, v: int) -> None:
    """A register write as the CPU does it: 32 bits clear the upper half, fewer keep the rest."""
    if number == AH:
        regs[RAX] = regs[RAX] & ~0xFF00 | v << 8
    else:
        regs[number] = v if size >= 4 else regs[number] >> 8 * size << 8 * size | v


def _result(case: Case, regs: Sequence[int], flags: int, fault: Fault | None = None) -> Result:
    done = fault is None
    status = flags & STATUS | case.flags & ~STATUS & ~0x202
    return Result(tuple(regs), status, len(case.code) if done else 0, {}, fault, int(done))
