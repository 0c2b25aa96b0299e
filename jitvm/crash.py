"""A triple fault in words: the exceptions that led to it, what the CPU saw, its registers, the last serial output.

`report` is made while the vCPU stands where it shut down and the machine has not been reset.

The chain comes from the record's log of faults (jitvm/isa/events.py, `note_fault`).  Gates, descriptors and pages are
shown as they are now, after the crash: what the guest wrote meanwhile is nothing, as the CPU has stopped.

Not modelled: which blocks were executed (jitvm/replay.py finds them by running the guest again).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from jitvm.engine.dump import dump
from jitvm.faults import fault_words, gate_words, seen_words, vector_name
from jitvm.gdb_memory import LinearMemory, code_address, code_base
from jitvm.gdb_registers import mode_name
from jitvm.isa.state import FAULT_LOG, FAULT_WORDS
from jitvm.symbols import Symbols

if TYPE_CHECKING:
    from jitvm.machine import Machine
    from jitvm.vcpu import Vcpu

SERIAL_LINES = 8


@dataclass(frozen=True)
class Fault:
    """One exception: `during` is the vector of the event whose delivery it hit, None when an instruction raised it."""

    vector: int
    error: int | None
    during: int | None
    cr2: int
    selector: int
    base: int
    ip: int
    retired: int


def faults(c: Any) -> list[Fault]:
    """The latest faults of a CPU record, oldest first."""
    n = int(c.n_faults)
    found = []
    for k in range(max(0, n - FAULT_LOG), n):
        at = k % FAULT_LOG * FAULT_WORDS
        what, code, *rest = (int(word) for word in c.fault_log[at : at + FAULT_WORDS])
        error = code if what >> 8 & 1 else None
        during = (what >> 16) - 1 if what >> 16 else None
        cr2, selector, base, ip, retired, _cr0 = rest
        found.append(Fault(what & 0xFF, error, during, cr2, selector, base, ip, retired))
    return found


def chain(c: Any) -> list[Fault]:
    """The latest fault of an instruction with those that its delivery met."""
    found = faults(c)
    begin = max((k for k, fault in enumerate(found) if fault.during is None), default=0)
    return found[begin:]


def place(c: Any, symbols: Symbols | None, selector: int, base: int, ip: int) -> str:
    """`f000:00001234 (000f1234 boot+0x12)`"""
    lin = code_address(base, ip)
    name = symbols.at(lin) if symbols is not None else ""
    return f"{selector:04x}:{ip:08x} ({lin:08x}{' ' + name if name else ''})"


def chain_lines(c: Any, memory: LinearMemory, symbols: Symbols | None) -> Iterator[str]:
    """The chain, each exception with what it speaks of; a line that was said already is not said again."""
    said: set[str] = set()
    for number, fault in enumerate(chain(c), 1):
        words = fault_words(fault.vector, fault.error, fault.cr2)
        if fault.during is None:
            yield f"{number}. {words}, at {place(c, symbols, fault.selector, fault.base, fault.ip)}"
        else:
            yield f"{number}. {words}, when {vector_name(fault.during)} was to be delivered"
        seen = seen_words(c, memory, fault.vector, fault.error, fault.cr2)
        if fault.during is not None:
            seen = gate_words(c, memory, fault.during) + seen
        for line in dict.fromkeys(seen):
            if line not in said:
                said.add(line)
                yield f"   {line}"


def report(machine: Machine, vcpu: Vcpu, symbols: Symbols | None = None, *, whole: bool = True) -> list[str]:
    """Lines for the user; `whole`: with registers and serial output."""
    c = vcpu.engine.c
    memory = LinearMemory(machine.memory, c)
    where = place(c, symbols, int(c.sel[1]), code_base(c), int(c.rip))
    lines = [f"triple fault of vCPU {vcpu.index} at {where}, {mode_name(c)}, after {vcpu.retired} instructions"]
    lines += chain_lines(c, memory, symbols)
    if not whole:
        return lines
    with np.errstate(over="ignore"):
        lines += dump(c, machine.memory).split("\n")
    for number, tail in enumerate(machine.serial_tails, 1):
        text = bytes(tail.bytes).decode("ascii", "replace").replace("\r", "")
        last = [line for line in text.split("\n") if line.strip()][-SERIAL_LINES:]
        lines += [f"the last lines of COM{number}:", *(f"   {line}" for line in last)] if last else []
    return lines
