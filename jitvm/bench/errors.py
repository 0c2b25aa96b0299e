"""What can go wrong in a bench: a message for the user, or a run that failed."""

from __future__ import annotations

from jitvm.errors import ConfigError, JitvmError


class BenchError(ConfigError):
    """A bad argument or file of the bench; one line, exit status 2."""


class RunError(JitvmError):
    """One run did not do what was expected; its row says so, the bench goes on."""
