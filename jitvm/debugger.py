"""The gate between a machine and its debugger: where vCPUs that stand may be kept.

All of it is used with the machine lock held.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from jitvm.exits import Outcome

if TYPE_CHECKING:
    from jitvm.machine import RunResult


class Debugger(Protocol):
    """What a machine asks of its debugger."""

    def standing(self, outcome: Outcome | None) -> bool:
        """The vCPUs stand, the latest turn ended so (None: that was asked before): True keeps them standing."""

    def ended(self, result: RunResult) -> None:
        """The run is over."""

    def attached(self) -> bool:
        """Somebody is there who can look at what went wrong."""


class Gate:
    """`held`: the debugger keeps the vCPUs standing.  `outcome`: how the latest turn ended, until it was asked about."""

    def __init__(self) -> None:
        self.debugger: Debugger | None = None
        self.held = False
        self.outcome: Outcome | None = None

    @property
    def watched(self) -> bool:
        """A client of the debugger is there."""
        return self.debugger is not None and self.debugger.attached()

    def takes(self, outcome: Outcome) -> bool:
        """Whether the debugger sees to this end of a turn: its own stops, and errors when it is watched."""
        return self.debugger is not None and (outcome is Outcome.DEBUG or self.watched)

    def is_open(self) -> bool:
        """The vCPUs, which stand, may go on."""
        if self.debugger is not None and not self.held:
            outcome, self.outcome = self.outcome, None
            self.held = self.debugger.standing(outcome)
        return not self.held

    def run_ended(self, result: RunResult) -> None:
        """Tell the debugger."""
        if self.debugger is not None:
            self.debugger.ended(result)
