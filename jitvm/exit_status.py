"""How a run ends, as the process's exit status."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jitvm.run_result import RunResult


class Exit(enum.IntEnum):
    """Exit statuses.  All are even: the odd ones are isa-debug-exit's, `(value << 1) | 1`."""

    OK = 0
    BAD_INPUT = 2
    GUEST_CRASH = 4
    INSN_LIMIT = 6
    INTERNAL = 70
    TIMEOUT = 124
    INTERRUPTED = 130


EXIT_MEANING: Mapping[Exit, str] = {
    Exit.OK: "the guest powered off (or reset under --no-reboot), or Ctrl-A x or the monitor's quit ended the run",
    Exit.BAD_INPUT: "a bad option, image or disk, or a file that can't be written (one line on standard error)",
    Exit.GUEST_CRASH: "the guest crashed: a triple fault under --no-reboot, a CPU halted for good, a missing instruction",
    Exit.INSN_LIMIT: "--max-insns was reached",
    Exit.INTERNAL: "an error in jitvm itself (--debug shows the traceback)",
    Exit.TIMEOUT: "--timeout was reached",
    Exit.INTERRUPTED: "interrupted (Ctrl-C)",
}
STATUS_OF_REASON: Mapping[str, Exit] = {
    "poweroff": Exit.OK,
    "quit": Exit.OK,
    "shutdown": Exit.GUEST_CRASH,
    "error": Exit.GUEST_CRASH,
    "max-insns": Exit.INSN_LIMIT,
    "timeout": Exit.TIMEOUT,
    "interrupt": Exit.INTERRUPTED,
}
DEBUG_EXIT = "debug-exit"


def exit_table() -> str:
    """The exit statuses as text."""
    rows = [(str(int(code)), meaning) for code, meaning in EXIT_MEANING.items()]
    rows.insert(1, ("(v<<1)|1", "the guest wrote v to isa-debug-exit (odd, as in QEMU)"))
    return "\n".join(f"  {code:<9} {meaning}" for code, meaning in rows)


def exit_status(result: RunResult) -> int:
    """The exit status for the end of a run."""
    if result.reason == DEBUG_EXIT:
        return int(result.code or 0) & 0xFF
    return STATUS_OF_REASON[result.reason]
