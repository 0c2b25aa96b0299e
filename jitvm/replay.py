"""The way to a crash: the last blocks before it, found by running the guest once more.

The engine keeps no list of what it executed.  Runs are reproducible, so a second machine of the same config goes to the
neighbourhood of the crash at full speed, without its outputs, and from there instruction by instruction.  It must end
as the first one did, at the same count with the same registers; else nothing is said of the way (a disk that the first
run has changed, input from outside, the host's clock).

A block here is a straight piece of execution, from behind one jump to the next.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import iced_x86 as ix

from jitvm.config import MachineConfig
from jitvm.errors import JitvmError
from jitvm.gdb_memory import LinearMemory, code_address, code_base, code_bits
from jitvm.machine import Machine

WINDOW = 2000
"""Instructions before the crash that are looked at."""
MAX_INSNS, MAX_SECONDS = 4_000_000_000, 20.0
"""Runs that took longer are not made again."""
LONGEST = 15


@dataclass(frozen=True)
class Block:
    """A straight piece: where it begins, and its number of instructions."""

    selector: int
    base: int
    ip: int
    n: int

    @property
    def address(self) -> int:
        """Its linear address."""
        return code_address(self.base, self.ip)


def silent(config: MachineConfig) -> MachineConfig:
    """The same machine without a trace in the outside world."""
    return replace(
        config,
        drives=tuple(replace(drive, snapshot=True) for drive in config.drives),
        serials=tuple("null" for _ in config.serials),
        debugcons=tuple((port, "null") for port, _ in config.debugcons),
        no_reboot=True, start_paused=False, gdb=None, clock="icount", max_insns=None, timeout_s=2 * MAX_SECONDS,
        trace="", trace_file=None, stats="", perf_map=False, trace_json=None,
    )  # fmt: skip


def last_blocks(config: MachineConfig, retired: int, registers: Mapping[str, int], n: int = 16) -> list[Block]:
    """The `n` blocks before the triple fault at `retired`; none when the second run is not the same."""
    if config.clock == "realtime" or retired > MAX_INSNS:
        return []
    try:
        with Machine(silent(config)) as machine:
            if retired > WINDOW and machine.run(retired - WINDOW).reason != "max-insns":
                return []
            blocks = _walk(machine, retired)
            same = machine.vcpus[0].retired == retired and machine.registers() == registers
    except JitvmError:  # a disk that is gone, an engine that can't: then there is no second run
        return []
    return blocks[-n:] if same else []


def _walk(machine: Machine, retired: int) -> list[Block]:
    """Instruction by instruction to the end of the run."""
    engine = machine.vcpus[0].engine
    c, memory = engine.c, LinearMemory(machine.memory, engine.c)
    blocks: list[Block] = []
    expected = repeated = -1
    for _ in range(2 * WINDOW):
        selector, base, ip = int(c.sel[1]), code_base(c), int(c.rip)
        pc = code_address(base, ip)
        if pc in (expected, repeated):
            last = blocks[-1]
            blocks[-1] = replace(last, n=last.n + 1)
        else:
            blocks.append(Block(selector, base, ip, 1))
        instruction = ix.Decoder(code_bits(c), memory.read(pc, LONGEST), ip=ip).decode()
        expected = pc + instruction.len
        repeated = pc if instruction.has_rep_prefix or instruction.has_repne_prefix else -1
        if machine.run(1).reason != "max-insns" or machine.vcpus[0].retired > retired:
            break
    return blocks
