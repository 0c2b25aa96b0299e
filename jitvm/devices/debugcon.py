"""Debug console ports: each byte written goes to a backend.

Bochs and QEMU: port E9h (the "port E9 hack") and SeaBIOS's debug port 402h.  A read gives E9h, by which a guest finds
the port.

Not modelled: nothing is left out.
"""

from __future__ import annotations

from typing import Protocol

from jitvm.devices.base import Snapshot

READBACK = 0xE9
_BYTES = tuple(bytes((value,)) for value in range(256))


class Sink(Protocol):
    """Where the bytes go."""

    def write(self, data: bytes) -> None: ...


class DebugCon:
    """One port (1 port of the bus)."""

    def __init__(self, backend: Sink, name: str = "debugcon") -> None:
        self.name = name
        self._write = backend.write

    def read(self, offset: int, size: int) -> int:
        return READBACK

    def write(self, offset: int, size: int, value: int) -> None:
        self._write(_BYTES[value & 0xFF])

    def reset(self) -> None:
        """Nothing to do: the port has no state."""

    def snapshot(self) -> Snapshot:
        return {}

    def restore(self, state: Snapshot) -> None:
        """Nothing to do: the port has no state."""
