"""Our own engines behind the oracles' interface.

One `Bare` machine serves each mode and layout, as long as its segments stay; between cases only registers and the
bytes that were touched are put back.  Layouts that `Bare.set_mode`
does not offer are made by a few instructions of guest code that load segment
registers from a descriptor table.

`IsolatedBareCpu` runs the engine in a child process: a case that kills the
process is reported as such, and the next one runs in a fresh child.

Not modelled: real mode.
"""

from __future__ import annotations

import multiprocessing
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from jitvm.bare import Bare, accelerator
from jitvm.engine.accel import VcpuEngine
from jitvm.engine.stencil_key import is_copied
from jitvm.isa.mode import read_eflags
from tests.oracle import fx
from tests.oracle.case import (
    BACKGROUND,
    COMPARED_FLAGS,
    IF,
    PAGE,
    WINDOW,
    WINDOW_SIZE,
    Case,
    Fault,
    Layout,
    Result,
    changed_bytes,
    descriptor,
)

OSFXSR, OSXMMEXCPT, FSGSBASE, OSXSAVE = 1 << 9, 1 << 10, 1 << 16, 1 << 18
"""CR4: SSE instructions and #XM are allowed; bases of FS and GS can be written by all; XSAVE is."""
XCR0 = np.uint64(3)
CR0_NE = np.uint64(0x20)
"""x87 exceptions are exceptions, as on the host."""
_GDT, _GDTR, _SETUP = 0x1000, 0x1100, 0x2000
MASKS = {16: 0xFFFF_FFFF, 32: 0xFFFF_FFFF, 64: 0xFFFF_FFFF_FFFF_FFFF}
"""The bits of a register that code of so many bits has."""
_SEGMENTS = ("es", "cs", "ss", "ds", "fs", "gs")
_LOADS = {
    "es": b"\x8e\xc0",
    "ss": b"\x8e\xd0",
    "ds": b"\x8e\xd8",
    "fs": b"\x8e\xe0",
    "gs": b"\x8e\xe8",
}
BATCH = 32
SECONDS_PER_CASE = 60
"""Compiling the first handlers takes seconds on a cold cache."""


@dataclass(frozen=True)
class Failure:
    """No result: the engine stopped for an unexpected reason, raised, or died."""

    reason: str


class _Aside(Exception):
    """A case needs handlers that are not there yet."""

    def __init__(self, keys: Sequence[int]) -> None:
        super().__init__(keys)
        self.keys = keys


class BareCpu:
    """Runs cases on one of our engines in this process."""

    def __init__(self, engine: str) -> None:
        self._engine = engine
        self._machines: dict[tuple[int, Layout, bool], tuple[Any, tuple[Any, ...]]] = {}
        """With what each is in, behind each case as well."""
        self._there: set[int] | None = None
        """Handlers that cases need not be put aside for, while such are."""

    def prepare(self, case: Case) -> Any:
        """A machine for cases as this one."""
        return prepare(self._engine, case)

    def run(self, cases: Sequence[Case], steps: Sequence[int]) -> list[Result | Failure]:
        """The results of `cases`, each bounded by its number of `steps`."""
        found = dict(self.in_any_order(cases, steps, lambda number: None))
        return [found[number] for number in range(len(cases))]

    def in_any_order(
        self, cases: Sequence[Case], steps: Sequence[int], begins: Callable[[int], None]
    ) -> Iterator[tuple[int, Result | Failure]]:
        """The results with the cases' numbers; `begins` hears which case is next.

        Cases whose handlers are missing are put aside, so that these are compiled `BATCH` at once, for half of the time.
        """
        aside: list[int] = []
        wanted: list[int] = []
        there: set[int] = set()
        for number, case in enumerate(cases):
            begins(number)
            self._there = there
            try:
                result = self.run_one(case, steps[number])
            except _Aside as lack:
                aside.append(number)
                wanted += lack.keys
                there.update(lack.keys)
            else:
                yield number, result
            finally:
                self._there = None
            if len(wanted) >= BATCH or number == len(cases) - 1:
                if wanted:
                    accelerator().handlers(wanted)
                for one in aside:
                    begins(one)
                    yield one, self.run_one(cases[one], steps[one])
                aside, wanted = [], []

    def run_one(self, case: Case, steps: int) -> Result | Failure:
        """The state after at most `steps` instructions or iterations of a case."""
        key = (case.mode, case.layout, bool(case.fx))
        if key not in self._machines:
            machine = self.prepare(case)
            machine.vcpu._stamp = partial(self._stamp, machine.vcpu)
            self._machines[key] = machine, situation(machine)
        machine, before = self._machines[key]
        try:
            return execute(machine, case, steps)
        except _Aside:
            raise
        except Exception as error:  # whatever the engine raises is a finding, not a test error
            self._machines.pop(key)
            return Failure(f"raised {type(error).__name__}: {error}")
        finally:
            if key in self._machines and situation(machine) != before:
                del self._machines[key]  # a far transfer, a segment load, LMSW: the next case begins anew

    def _stamp(self, vcpu: VcpuEngine) -> None:
        """The engine lacks handlers or stencils."""
        if self._there is not None:
            keys = {int(key) for key in vcpu.c.missing[: int(vcpu.c.n_missing)]}
            fresh = sorted(key for key in keys - self._there if not is_copied(key))
            if fresh:
                vcpu.c.n_missing = 0
                raise _Aside(fresh)
        VcpuEngine._stamp(vcpu)


def prepare(engine: str, case: Case) -> Any:
    """A `Bare` in the mode and with the segments of a case, the background in its window."""
    machine = Bare(engine=engine, memory=1 << 21)
    machine.vcpu.set_cpu("max")
    if case.layout is Layout.FLAT:
        machine.set_mode("long" if case.mode == 64 else "prot32")
    elif case.layout is Layout.WINDOW and case.mode == 16:
        machine.set_mode("prot16", base=WINDOW, limit=WINDOW_SIZE - 1)
    else:
        _load_segments(machine, case)
    if case.mode == 64:
        machine.set_registers({"cr4": machine.registers()["cr4"] | FSGSBASE})
    if case.fx:
        machine.set_registers({"cr4": machine.registers()["cr4"] | OSFXSR | OSXMMEXCPT | OSXSAVE})
        machine.c.xcr0 = XCR0
        machine.c.cr0 |= CR0_NE
    machine.write(WINDOW, BACKGROUND)
    return machine


def situation(machine: Any) -> tuple[Any, ...]:
    """What makes the mode and the layout: the next case relies on it."""
    c = machine.c
    segments = (bytes(part) for part in (c.sel, c.limit, c.attr, c.base[:4]))
    return (*segments, *(int(word) for word in (c.cpl, c.cr0, c.cr3, c.cr4, c.efer)))


def _load_segments(machine: Any, case: Case) -> None:
    """Give every segment register its descriptor, by guest code from flat 32-bit mode."""
    machine.set_mode("prot32")
    table = bytearray(8)
    code = b"\x0f\x01\x15" + struct.pack("<I", _GDTR)  # LGDT
    for i, name in enumerate(_SEGMENTS):
        table += descriptor(case.segment(name), code=name == "cs", wide=case.mode == 32)
        if name != "cs":
            code += b"\xb8" + struct.pack("<I", 8 + 8 * i) + _LOADS[name]
    code += b"\xea" + struct.pack("<IH", case.ip, 8 + 8 * _SEGMENTS.index("cs"))
    machine.write(_GDT, bytes(table))
    machine.write(_GDTR, struct.pack("<HI", len(table) - 1, _GDT))
    machine.write(_SETUP, code)
    machine.set_registers({"eip": _SETUP, "eflags": 2})
    n_instructions = 2 + 2 * len(_LOADS)
    stop = machine.run(n_instructions)
    if stop.retired != n_instructions:
        raise RuntimeError(f"loading segments stopped after {stop.retired}: {stop}")


def execute(machine: Any, case: Case, steps: int) -> Result | Failure:
    """Run one case on a prepared machine and put the window back."""
    before = case.image()
    for offset, data in case.pokes():
        machine.write(WINDOW + offset, bytes(data))
    c, mask = machine.c, MASKS[case.mode]
    c.gpr[: len(case.regs)] = case.regs
    if case.mode == 64:
        c.base[4:6] = case.fs_base, case.gs_base
    machine.set_registers({"rip": case.address, "eflags": case.flags & COMPARED_FLAGS | IF | 2})
    if case.fx:
        fx.put(c, case.fx)
    try:
        stop = machine.run(steps)
    finally:
        memory = changed_bytes(before, machine.ram[WINDOW : WINDOW + WINDOW_SIZE].tobytes())
        for start, end in runs(memory):
            machine.write(WINDOW + start, BACKGROUND[start:end])
        for offset, data in case.pokes():
            machine.write(WINDOW + offset, BACKGROUND[offset : offset + len(data)])
    if stop.reason not in ("limit", "fault"):
        return Failure(f"stopped with {stop.reason} after {stop.retired}")
    with np.errstate(over="ignore"):
        flags = int(read_eflags(c))
    fault = None
    if stop.fault is not None:
        address = stop.fault.address if stop.fault.vector == PAGE else 0
        fault = Fault(stop.fault.vector, stop.fault.error or 0, address)
    return Result(
        regs=tuple([word & mask for word in c.gpr[: len(case.regs)].tolist()]),
        flags=flags & COMPARED_FLAGS,
        ip_delta=(int(c.rip) - case.address) & 0xFFFF_FFFF_FFFF_FFFF,
        memory=memory,
        fault=fault,
        steps=int(stop.retired),
        fx=fx.take(c) if case.fx else None,
    )


def runs(offsets: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Offsets in rising order as ranges: where each begins, and behind its end."""
    start = end = 0
    for offset in offsets:
        if offset != end:
            if end > start:
                yield start, end
            start = offset
        end = offset + 1
    if end > start:
        yield start, end


class IsolatedBareCpu:
    """`BareCpu` in a child process, which is replaced when a case kills it."""

    def __init__(self, engine: str) -> None:
        self._engine = engine
        self._child: Any = None
        self._pipe: Connection | None = None
        self._begun: Any = None
        """The place of the case that the child is at."""

    def run(self, cases: Sequence[Case], steps: Sequence[int]) -> list[Result | Failure]:
        """The results of `cases`, each bounded by its number of `steps`."""
        found: dict[int, Result | Failure] = {}
        while left := [number for number in range(len(cases)) if number not in found]:
            pipe = self._start()
            pipe.send([(cases[number], steps[number]) for number in left])
            while len(found) < len(cases):
                place, answer = self._receive(pipe)
                found[left[place]] = answer
                if self._child is None:
                    break
        return [found[number] for number in range(len(cases))]

    def close(self) -> None:
        """End the child."""
        if self._pipe is not None:
            self._pipe.close()
            self._pipe = None
        if self._child is not None:
            self._child.terminate()
            self._child.join()
            self._child = None

    def _start(self) -> Connection:
        if self._child is None or self._pipe is None:
            context = multiprocessing.get_context("spawn")
            self._begun = context.RawValue("L")
            self._pipe, theirs = context.Pipe()
            self._child = context.Process(target=_serve, args=(theirs, self._engine, self._begun), daemon=True)
            self._child.start()
            theirs.close()
        return self._pipe

    def _receive(self, pipe: Connection) -> tuple[int, Result | Failure]:
        """A case's place and its result."""
        reason = f"no answer in {SECONDS_PER_CASE} s"
        if pipe.poll(SECONDS_PER_CASE):
            try:
                answer: tuple[int, Result | Failure] = pipe.recv()
            except (EOFError, ConnectionResetError):
                self._child.join()
                reason = f"killed the engine's process: status {self._child.exitcode}"
            else:
                return answer
        self.close()
        return int(self._begun.value), Failure(reason)


def _serve(pipe: Connection, engine: str, begun: Any) -> None:
    """The child: answer lists of (case, steps) one by one until the pipe closes."""
    cpu = BareCpu(engine)

    def begins(place: int) -> None:
        begun.value = place

    while True:
        try:
            batch = pipe.recv()
        except EOFError:
            return
        for answer in cpu.in_any_order([case for case, _ in batch], [steps for _, steps in batch], begins):
            pipe.send(answer)
