"""Monitor commands about the CPU: registers, program counter, descriptor tables, page walks, steps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from jitvm import gdb_fpu
from jitvm.crash import place
from jitvm.engine.accel import VcpuEngine
from jitvm.engine.dump import dump
from jitvm.errors import ConfigError
from jitvm.gdb_memory import code_base, code_bits
from jitvm.gdb_registers import MSRS, mode_name
from jitvm.gdb_tables import Command as Table
from jitvm.gdb_tables import gdt, idt, ldt, pagewalk
from jitvm.isa.x87_env import tag_word
from jitvm.monitor.command import Command, Context, Run, address, number
from jitvm.unwind import Frame, unwind

MAX_STEPS, MAX_FRAMES = 1_000_000, 64


def regs(context: Context, words: Sequence[str]) -> str:
    """All registers of all vCPUs."""
    with context.machine.standing(), np.errstate(over="ignore"):
        return "\n".join(
            f"CPU{vcpu.index} {mode_name(vcpu.engine.c)}{', halted' if int(vcpu.engine.c.halted) else ''}\n"
            + "\n".join([dump(vcpu.engine.c, context.machine.memory), *more_registers(vcpu.engine)])
            for vcpu in context.machine.vcpus
        )


def more_registers(engine: VcpuEngine) -> list[str]:
    """What a crash report does not show: debug registers, EFER and MSRs, x87 and SSE; MSRs and XMM but those that are 0."""
    c, words = engine.c, engine.words
    lines = [
        " ".join(f"DR{n}={int(c.dr[n]):08x}" for n in (0, 1, 2, 3, 6, 7)),
        f"EFER={int(c.efer):08x} CR8={int(c.cr8):x}",
        " ".join(f"{name}={int(getattr(c, own)):x}" for name, own in MSRS.items() if int(getattr(c, own))),
        f"FCW={int(c.fcw):04x} FSW={int(c.fsw):04x} FTW={int(tag_word(c)):04x} FOP={int(c.fop):03x} "
        f"FIP={int(c.fcs):04x}:{int(c.fip):08x} FDP={int(c.fds):04x}:{int(c.fdp):08x} MXCSR={int(c.mxcsr):08x}",
    ]
    lines += [f"ST{n}={value:020x}" for n, value in enumerate(gdb_fpu.stack(words)) if value]
    lines += [f"XMM{n:02}={value:032x}" for n, value in enumerate(gdb_fpu.vectors(words)) if value]
    return [line for line in lines if line]


def pc(context: Context, words: Sequence[str]) -> str:
    """Where the CPU stands, and how that is counted."""
    if list(words) not in ([], ["raw"], ["linear"]):
        raise ConfigError("write pc raw or pc linear")
    if words:
        context.raw_pc = words[0] == "raw"
    with context.machine.standing():
        c = context.c
        where = place(c, context.symbols, int(c.sel[1]), code_base(c), int(c.rip))
    return f"pc is {'raw' if context.raw_pc else 'linear'}; CS:IP (linear): {where}"


def _table(show: Table) -> Run:
    """A command of `jitvm.gdb_tables`; its address may be a symbol."""

    def run(context: Context, words: Sequence[str]) -> str:
        with context.machine.standing():
            return show(context.c, context.memory(), [hex(address(context, "pagewalk", word)) for word in words])

    return run


def frame(context: Context, words: Sequence[str]) -> str:
    """A 16-bit frame's caller, as values for `jitvm gdb-init`; without arguments all callers of the code that stands."""
    if len(words) not in (0, 6):
        raise ConfigError("write frame, or frame PC SP BP CS CS_BASE SS_BASE")
    symbols = context.symbols
    start = symbols.start if symbols is not None else lambda _address: None
    with context.machine.standing():
        read = context.memory().read_linear
        if words:
            given = [number("frame", word, 1 << 64) & 0xFFFF_FFFF for word in words]
            found = unwind(Frame(given[0], given[1] & 0xFFFF, given[2] & 0xFFFF, *given[3:]), read, start)
            caller = "" if found.caller is None else "".join(f" {k}={v:#x}" for k, v in vars(found.caller).items())
            return f"cfa={found.cfa:#x} function={found.function:#x}{caller}"
        c = context.c
        if code_bits(c) != 16:
            raise ConfigError(f"frame: the code that stands is {code_bits(c)}-bit; gdb finds its frames")
        sp, bp = int(c.gpr[4]) & 0xFFFF, int(c.gpr[5]) & 0xFFFF
        here: Frame | None = Frame(
            int(c.base[1]) + int(c.rip) & 0xFFFF_FFFF, sp, bp, int(c.sel[1]), int(c.base[1]), int(c.base[2])
        )
        lines: list[str] = []
        while here is not None and len(lines) < MAX_FRAMES:
            lines.append(
                f"#{len(lines)} {place(c, symbols, here.cs, here.cs_base, here.pc - here.cs_base & 0xFFFF_FFFF)}"
            )
            here = unwind(here, read, start).caller
    return "\n".join(lines)


def step(context: Context, words: Sequence[str]) -> str:
    """Instructions, one by one, and where they led."""
    if len(words) > 1:
        raise ConfigError("write step [N]")
    n = number("step", words[0]) if words else 1
    if not 0 < n <= MAX_STEPS:
        raise ConfigError(f"step: 1 to {MAX_STEPS} instructions")
    client = context.machine.gate.debugger if context.gdb_holds() else context.stops
    words = (client or context.stops).step(n, context.chosen)
    c = context.c
    stands = place(c, context.symbols, int(c.sel[1]), code_base(c), int(c.rip))
    said = f"{words}\n" if words else ""
    return f"{said}{stands}\n{dump(c, context.machine.memory).splitlines()[-1]}"


def cpu(context: Context, words: Sequence[str]) -> str:
    """Which vCPU the other commands look at."""
    vcpus = context.machine.vcpus
    if len(words) > 1:
        raise ConfigError("write cpu [N]")
    if words:
        context.chosen = number("cpu", words[0], len(vcpus))
    with context.machine.standing():
        return "\n".join(
            f"{'*' if vcpu.index == context.chosen else ' '} CPU{vcpu.index} {mode_name(vcpu.engine.c)}"
            f"{', halted' if int(vcpu.engine.c.halted) else ''}"
            for vcpu in vcpus
        )


COMMANDS = (
    Command("regs", "the CPU's registers, segments with what is hidden, and the instruction at CS:IP", regs),
    Command("cpu [N]", "the vCPUs; N is the one that pc, frame, step, x and the tables are about from now on", cpu,
            "In gdb it is the selected thread's."),
    Command("pc [raw|linear]", "where the CPU stands; $pc as IP alone (raw) or with the base of CS (linear)", pc,
            "gdb's $pc is linear unless raw is chosen: breakpoints, symbols and x/i at $pc then work in real mode.\n"
            "gdb sees a change after: maintenance flush register-cache"),
    Command("gdt", "the global descriptor table, one line a descriptor that is not null", _table(gdt)),
    Command("ldt", "the local descriptor table", _table(ldt)),
    Command("idt", "the interrupt descriptor table: gates, or real mode's far pointers", _table(idt)),
    Command("pagewalk ADDRESS", "how a linear address is translated, level by level", _table(pagewalk),
            "Nothing is changed: no accessed or dirty bit is set.  ADDRESS is a number or a symbol."),
    Command("frame [PC SP BP CS CS_BASE SS_BASE]", "who called the 16-bit code that stands", frame,
            "Functions that begin with a symbol are read; else BP frames are followed.  jitvm gdb-init makes gdb use it,\n"
            "with the values of a frame as arguments: PC SP BP CS CS_BASE SS_BASE."),
    Command("step [N]", "one instruction, or N, of a machine that is stopped", step,
            "Interrupts that are due are delivered; the instruction is then the first one of the handler.\n"
            "While gdb holds the machine it is gdb that may ask; its stepi does the same, and shows where that led."),
)  # fmt: skip
