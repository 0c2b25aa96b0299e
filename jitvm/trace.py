"""Trace events: the one list of what can be traced, and the sink that prints it.

A pattern is a shell pattern over event names (`exit_*`, `unassigned_*`, `*`).  An event that no pattern selects costs
one dictionary look-up; the vCPU loop asks `wants` once and skips even that.
"""

from __future__ import annotations

import fnmatch
import sys
from collections.abc import Callable
from typing import TextIO

from jitvm.errors import ConfigError

EVENTS = {
    "exit": "every exit of a vCPU: vcpu, reason, retired, details",
    "irq_inject": "an interrupt is delivered to a vCPU: vcpu, vector",
    "smi": "a vCPU enters system management mode: vcpu",
    "irq_line": "a controller input changes: irq, level",
    "unassigned_read": "a read from nothing: space, address, size",
    "unassigned_write": "a write to nothing: space, address, size, value",
    "unmodelled": "the guest uses what a device does not model: device, what, value",
    "guest_error": "the guest programs a device against its datasheet: device, what, value",
    "device_state": "a change worth seeing (reset, mode set, disk command): device, what, value",
    "memory_map": "the physical memory map changes: gpa, size, what",
    "msr": "a model-specific register is read or written: vcpu, index, value, write, known",
    "reset": "the machine is reset: cause",
}


class Trace:
    """Formats selected events as lines `name key=value ...` and hands them to a sink (a text stream)."""

    def __init__(self, patterns: str = "", stream: TextIO | None = None, now: Callable[[], int] | None = None) -> None:
        self._stream = stream or sys.stderr
        self._now = now
        self.selected: frozenset[str] = frozenset()
        self.listeners: list[Callable[[str, dict[str, object]], None]] = []
        if patterns:
            self.select(patterns)

    def select(self, patterns: str) -> None:
        """Select events by comma-separated shell patterns; a pattern that matches nothing is an error."""
        chosen: set[str] = set()
        for pattern in patterns.split(","):
            found = fnmatch.filter(EVENTS, pattern.strip())
            if not found:
                raise ConfigError(f"--trace: no event matches '{pattern.strip()}'; known events: {', '.join(EVENTS)}")
            chosen.update(found)
        self.selected = frozenset(chosen)

    def use_clock(self, now: Callable[[], int]) -> None:
        """Stamp each line with virtual nanoseconds."""
        self._now = now

    def wants(self, event: str) -> bool:
        """Whether `event` would go anywhere."""
        return event in self.selected or bool(self.listeners)

    def __call__(self, event: str, **fields: object) -> None:
        if event in self.selected:
            stamp = f"{self._now()} " if self._now else ""
            shown = " ".join(f"{k}={v:#x}" if isinstance(v, int) and k in HEX else f"{k}={v}" for k, v in fields.items())
            self._stream.write(f"{stamp}{event} {shown}\n")
        for listener in self.listeners:
            listener(event, fields)


HEX = frozenset({"address", "value", "gpa", "port", "vector", "index", "size", "lin", "offset"})
SILENT = Trace()
