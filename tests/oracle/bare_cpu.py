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
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from tests.oracle import fx
from tests.oracle.case import (
    BACKGROUND,
    COMPARED_FLAGS,
    IF,
    PAGE,
    REGISTERS_32,
    REGISTERS_64,
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
_SEGMENTS = ("es", "cs", "ss", "ds", "fs", "gs")
_LOADS = {
    "es": b"\x8e\xc0",
    "ss": b"\x8e\xd0",
    "ds": b"\x8e\xd8",
    "fs": b"\x8e\xe0",
    "gs": b"\x8e\xe8",
}
SECONDS_PER_CASE = 60
"""Compiling the first handlers takes seconds on a cold cache."""


@dataclass(frozen=True)
class Failure:
    """No result: the engine stopped for an unexpected reason, raised, or died."""

    reason: str


class BareCpu:
    """Runs cases on one of our engines in this process."""

    def __init__(self, engine: str) -> None:
        self._engine = engine
        self._machines: dict[tuple[int, Layout, bool], Any] = {}

    def run_one(self, case: Case, steps: int) -> Result | Failure:
        """The state after at most `steps` instructions or iterations of a case."""
        key = (case.mode, case.layout, bool(case.fx))
        machine = self._machines.get(key)
        if machine is None:
            machine = self._machines[key] = prepare(self._engine, case)
        before = situation(machine)
        try:
            result = execute(machine, case, steps)
            if situation(machine) != before:
                del self._machines[key]  # a far transfer, a segment load, LMSW: the next case begins anew
            return result
        except Exception as error:  # whatever the engine raises is a finding, not a test error
            del self._machines[key]
            return Failure(f"raised {type(error).__name__}: {error}")


def prepare(engine: str, case: Case) -> Any:
    """A `Bare` in the mode and with the segments of a case, the background in its window."""
    from jitvm.bare import Bare

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
    names = REGISTERS_64 if case.mode == 64 else REGISTERS_32
    registers = dict(zip(names, case.regs, strict=True))
    if case.mode == 64:
        registers |= {"fs_base": case.fs_base, "gs_base": case.gs_base}
    machine.set_registers(registers | {"rip": case.address, "eflags": case.flags & COMPARED_FLAGS | IF | 2})
    if case.fx:
        fx.put(machine.c, case.fx)
    stop = machine.run(steps)
    memory = changed_bytes(before, machine.read(WINDOW, WINDOW_SIZE))
    for offset in memory:
        machine.write(WINDOW + offset, BACKGROUND[offset : offset + 1])
    for offset, data in case.pokes():
        machine.write(WINDOW + offset, BACKGROUND[offset : offset + len(data)])
    if stop.reason not in ("limit", "fault"):
        return Failure(f"stopped with {stop.reason} after {stop.retired}")
    after = machine.registers()
    fault = None
    if stop.fault is not None:
        address = stop.fault.address if stop.fault.vector == PAGE else 0
        fault = Fault(stop.fault.vector, stop.fault.error or 0, address)
    return Result(
        regs=tuple(int(after[name]) for name in names),
        flags=int(after["eflags"]) & COMPARED_FLAGS,
        ip_delta=(int(after["rip"]) - case.address) & 0xFFFF_FFFF_FFFF_FFFF,
        memory=memory,
        fault=fault,
        steps=int(stop.retired),
        fx=fx.take(machine.c) if case.fx else None,
    )


class IsolatedBareCpu:
    """`BareCpu` in a child process, which is replaced when a case kills it."""

    def __init__(self, engine: str) -> None:
        self._engine = engine
        self._child: Any = None
        self._pipe: Connection | None = None

    def run(self, cases: Sequence[Case], steps: Sequence[int]) -> list[Result | Failure]:
        """The results of `cases`, each bounded by its number of `steps`."""
        results: list[Result | Failure] = []
        while len(results) < len(cases):
            first = len(results)
            pipe = self._start()
            pipe.send(list(zip(cases[first:], steps[first:], strict=True)))
            while len(results) < len(cases):
                answer = self._receive(pipe)
                results.append(answer)
                if self._child is None:
                    break
        return results

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
            self._pipe, theirs = context.Pipe()
            self._child = context.Process(target=_serve, args=(theirs, self._engine), daemon=True)
            self._child.start()
            theirs.close()
        return self._pipe

    def _receive(self, pipe: Connection) -> Result | Failure:
        reason = f"no answer in {SECONDS_PER_CASE} s"
        if pipe.poll(SECONDS_PER_CASE):
            try:
                answer: Result | Failure = pipe.recv()
            except (EOFError, ConnectionResetError):
                self._child.join()
                reason = f"killed the engine's process: status {self._child.exitcode}"
            else:
                return answer
        self.close()
        return Failure(reason)


def _serve(pipe: Connection, engine: str) -> None:
    """The child: answer lists of (case, steps) one by one until the pipe closes."""
    cpu = BareCpu(engine)
    while True:
        try:
            batch = pipe.recv()
        except EOFError:
            return
        for case, steps in batch:
            pipe.send(cpu.run_one(case, steps))
