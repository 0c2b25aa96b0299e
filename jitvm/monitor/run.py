"""Monitor commands about the run: stop, go on, reset, checkpoints, statistics, the end."""

from __future__ import annotations

from collections.abc import Sequence

from jitvm.checkpoint import lasting_disks, restore, take
from jitvm.config import MIB
from jitvm.errors import ConfigError
from jitvm.monitor.command import Command, Context
from jitvm.stats import flat

MILLISECOND = 1e6
GDB_HOLDS = "gdb holds the machine; {}"
FLUSH = "gdb sees it after: maintenance flush register-cache"


def status(context: Context, words: Sequence[str]) -> str:
    """What the machine does, and how far it is."""
    machine = context.machine
    with machine.standing() as paused:
        held = machine.gate.held
        state = "running"
        if machine.result is not None:
            state = "ended"
        elif held and context.gdb():
            state = "held by gdb"
        elif paused or held:
            state = "paused"
        lines = [f"{state}, {machine.clock.now_ns / MILLISECOND:.3f} ms"]
        for vcpu in machine.vcpus:
            halted = ", halted" if vcpu.engine.c.halted else ""
            lines.append(f"vCPU {vcpu.index}: {vcpu.retired} instructions{halted}")
    return "\n".join(lines)


def stop(context: Context, words: Sequence[str]) -> str:
    """Let the CPU stand."""
    if context.gdb_holds():
        return "gdb holds the machine already"
    context.machine.pause()
    return ""


def cont(context: Context, words: Sequence[str]) -> str:
    """Let it go on."""
    if context.gdb_holds():
        raise ConfigError(GDB_HOLDS.format("let it go on there (continue), or detach gdb"))
    machine = context.machine
    with machine.lock:
        machine.release()
    return ""


def reset(context: Context, words: Sequence[str]) -> str:
    """The reset button."""
    if context.gdb_holds():
        raise ConfigError(GDB_HOLDS.format("reset it there (monitor reset)"))
    context.machine.reset("monitor")
    return ""


def power_button(context: Context, words: Sequence[str]) -> str:
    """A short press: the guest hears of it by the SCI, where it asked for that."""
    machine = context.machine
    with machine.standing(), machine.lock:
        machine.board.pm.press_power_button()
        for vcpu in machine.vcpus:
            vcpu.wake()
    return ""


def stats(context: Context, words: Sequence[str]) -> str:
    """What the run has cost."""
    with context.machine.standing():
        found = context.machine.stats()
    return "\n".join(f"{key}: {value}" for key, value in flat(found) if key != "marks")


def leave(context: Context, words: Sequence[str]) -> str:
    """End the machine."""
    context.machine.quit()
    return ""


# ---- checkpoints ----------------------------------------------------------------------------------------------------
def checkpoint(context: Context, words: Sequence[str]) -> str:
    """save NAME, restore NAME, list, delete NAME"""
    kept = context.checkpoints
    if list(words) in ([], ["list"]):
        rows = [
            f"{name}: {c.retired} instructions, {c.virtual_ns / MILLISECOND:.3f} ms, {c.size / MIB:.1f} MiB of memory"
            for name, c in kept.items()
        ]
        return "\n".join(rows) or "there are no checkpoints"
    if len(words) != 2 or words[0] not in ("save", "restore", "delete"):
        raise ConfigError("write checkpoint save NAME, restore NAME, delete NAME or list")
    what, name = words
    if what == "save":
        kept[name] = take(context.machine)
        disks = lasting_disks(context.machine)
        note = f"\nnot in it: what the guest writes to {', '.join(disks)}" if disks else ""
        return f"{name}: saved after {kept[name].retired} instructions{note}"
    if name not in kept:
        raise ConfigError(f"checkpoint: there is none called {name}; there are {', '.join(kept) or 'none'}")
    if what == "delete":
        del kept[name]
        return f"{name}: deleted"
    restore(context.machine, kept[name])
    return f"{name}: back after {kept[name].retired} instructions" + (f"\n{FLUSH}" if context.gdb_holds() else "")


COMMANDS = (
    Command("status", "whether it runs, virtual time, instructions", status),
    Command("stop", "let the CPU stand", stop),
    Command("cont", "let it go on", cont, "While gdb holds the machine, gdb's continue does."),
    Command("checkpoint save|restore|delete NAME | list", "keep the whole state in memory, and go back to it", checkpoint,
            "The state is that of CPU, memory, chips, timers and disks opened with snapshot=on.  Not in it: what the\n"
            "guest wrote to disk images, what was sent through serial ports, input that nobody has taken yet.\n"
            "The machine then runs on, or stands, as before."),
    Command("stats", "what the run has cost so far", stats),
    Command("reset", "the reset button", reset,
            "The machine goes on from the reset vector; when gdb asks, it stands there.  system_reset is the same."),
    Command("powerdown", "the power button, pressed shortly", power_button,
            "What becomes of it is up to the guest: most systems shut down.  system_powerdown is the same."),
    Command("quit", "end the machine", leave),
)  # fmt: skip
