"""QEMU's isa-debug-exit: a write ends the run with exit status (value << 1) | 1.

As in QEMU: iobase 501h and iosize 2 unless the user says otherwise; reads give 0.

Not modelled: nothing is left out.
"""

from __future__ import annotations

from collections.abc import Callable

from jitvm.devices.base import Snapshot


class IsaDebugExit:
    """The port (2 ports of the bus, accesses up to 4 bytes where the range allows); `on_exit` gets the exit status."""

    name = "isa-debug-exit"

    def __init__(self, on_exit: Callable[[int], None]) -> None:
        self._on_exit = on_exit

    def read(self, offset: int, size: int) -> int:
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        self._on_exit(value << 1 | 1)

    def reset(self) -> None:
        """Nothing to do: the port has no state."""

    def snapshot(self) -> Snapshot:
        return {}

    def restore(self, state: Snapshot) -> None:
        """Nothing to do: the port has no state."""
