"""Interrupt lines: a wire with a level, between a device's output and an interrupt controller's input; controllers as a vCPU
sees them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from jitvm.errors import JitvmError


class IrqLine:
    """One wire. `sink(level)` is called on every change of the level, never when it stays the same."""

    __slots__ = ("_sink", "level")

    def __init__(self, sink: Callable[[bool], None]) -> None:
        self._sink = sink
        self.level = False

    def set(self, level: bool) -> None:
        """Drive the wire."""
        if level != self.level:
            self.level = level
            self._sink(level)

    def pulse(self) -> None:
        """Low, high, low: one rising edge."""
        self.set(False)
        self.set(True)
        self.set(False)


class OrLine:
    """A shared wire (PCI INTx): high while any of its inputs is high."""

    def __init__(self, output: IrqLine) -> None:
        self._output = output
        self._inputs: list[IrqLine] = []

    def input(self) -> IrqLine:
        """A new input of the wired OR."""
        line = IrqLine(lambda _level: self._output.set(any(i.level for i in self._inputs)))
        self._inputs.append(line)
        return line


def unconnected() -> IrqLine:
    """A wire that leads nowhere."""
    return IrqLine(lambda _level: None)


class Interrupts:
    """The interrupt controllers' output as a vCPU sees it: a level, and the INTA cycle."""

    def __init__(self) -> None:
        self.pending = False
        self.line = IrqLine(self._set)
        self.inta: Callable[[], int] = lambda: 0

    def _set(self, level: bool) -> None:
        self.pending = level

    def acknowledge(self) -> int:
        """The vector."""
        return self.inta()


class InterruptSource(Protocol):
    """The interrupt controller's output as a vCPU sees it."""

    pending: bool

    def acknowledge(self) -> int:
        """INTA cycle: the vector."""
        ...


class NoInterrupts:
    """No interrupt controller."""

    pending = False

    def acknowledge(self) -> int:
        raise JitvmError("an interrupt was acknowledged, but there is no interrupt controller")


class Apic(Protocol):
    """The local APIC: what the processor does to it, or has done itself."""

    def init(self) -> None: ...

    def look(self) -> None: ...


class ApicPage(Protocol):
    """What shows one of several local APICs."""

    current: Any
