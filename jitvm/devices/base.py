"""What every device is.

A device's constructor takes only what it uses: an `IrqLine`, the `Clock`, a backend, guest memory for DMA, a `Trace`.
Its registers are one or more regions (`jitvm.bus.Region`), which `jitvm/machine.py` puts on the buses.  Guest input
never raises.  `reset()` leaves the device as its constructor does; `restore(snapshot())` changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

Snapshot = dict[str, Any]
"""A device's state as plain data (ints, bools, bytes, lists, dicts), keyed by name."""


class Device(Protocol):
    """A chip."""

    name: str

    def reset(self) -> None:
        """State after RESET# is released."""
        ...

    def snapshot(self) -> Snapshot:
        """All state that the guest can see or feel."""
        ...

    def restore(self, state: Snapshot) -> None:
        """Back to a snapshot; `KeyError` on one that is not this device's."""
        ...


class Registers:
    """A region made of two functions, for a device with more than one range."""

    __slots__ = ("read", "write")

    def __init__(self, read: Callable[[int, int], int], write: Callable[[int, int, int], None]) -> None:
        self.read, self.write = read, write


class Latches:
    """A region of registers of a byte each that do nothing but hold what is written to them.

    A bus may keep the values where the CPU reaches them without a device (`jitvm.bus.Latched`); `values` are these, always.
    """

    def __init__(self, length: int) -> None:
        self.values = memoryview(bytearray(length))

    def keep_in(self, place: memoryview) -> None:
        """The values move to `place`."""
        place[:] = self.values
        self.values = place

    def read(self, offset: int, size: int) -> int:
        """What was written last."""
        return int.from_bytes(self.values[offset : offset + size], "little")

    def write(self, offset: int, size: int, value: int) -> None:
        """Hold `value`."""
        self.values[offset : offset + size] = value.to_bytes(size, "little")
