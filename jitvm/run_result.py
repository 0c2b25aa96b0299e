"""Why a run of a machine ended."""

from __future__ import annotations

from dataclasses import dataclass

FINAL = frozenset({"poweroff", "shutdown", "error"})
"""Ends after which only a reset makes the machine run again."""


@dataclass(frozen=True)
class RunResult:
    """Why a run ended.

    `reason`: poweroff (also a reset under --no-reboot), debug-exit, quit, max-insns, timeout, interrupt, shutdown (a
    triple fault under --no-reboot, or a CPU halted for good), error (an instruction that the engine lacks).
    `code`: isa-debug-exit's status, else 0.  `message`: a line for the user; an error's has the state below it.
    """

    reason: str
    code: int = 0
    message: str = ""
