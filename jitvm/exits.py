"""Why a vCPU came back from translated code, and what is done about it.

Words and numbers are KVM's (Linux, Documentation/virt/kvm/api.rst).  `handle_exit` is a pure function of a `Run` and the
buses: it asks a device, writes the answer into the run and says what the loop does next.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jitvm.bus import Bus


class ExitReason(IntEnum):
    """The `reason` of a run."""

    UNKNOWN = 0
    IO = 2
    DEBUG = 4
    HLT = 5
    MMIO = 6
    IRQ_WINDOW_OPEN = 7
    SHUTDOWN = 8
    INTR = 10
    INTERNAL_ERROR = 17
    FERR = 256
    """Not KVM's: an x87 exception is pending under CR0.NE = 0; the vCPU is halted until an interrupt."""


class Outcome(IntEnum):
    """What the vCPU loop does after an exit was handled; all but HANDLED end the loop's turn."""

    HANDLED = 0
    HLT = 1
    INTERRUPT = 2
    DEBUG = 3
    SHUTDOWN = 4
    ERROR = 5
    TURN = 6
    """Another vCPU's turn (`jitvm.smp`)."""


IO, MMIO, INTR = int(ExitReason.IO), int(ExitReason.MMIO), int(ExitReason.INTR)
_OUTCOMES: dict[int, Outcome] = {
    ExitReason.HLT: Outcome.HLT,
    ExitReason.FERR: Outcome.HLT,
    ExitReason.IRQ_WINDOW_OPEN: Outcome.HANDLED,
    ExitReason.INTR: Outcome.INTERRUPT,
    ExitReason.DEBUG: Outcome.DEBUG,
    ExitReason.SHUTDOWN: Outcome.SHUTDOWN,
    ExitReason.INTERNAL_ERROR: Outcome.ERROR,
}
HANDLED = Outcome.HANDLED


class Buses:
    """Where accesses go."""

    __slots__ = ("mmio", "ports")

    def __init__(self, ports: Bus, mmio: Bus) -> None:
        self.ports, self.mmio = ports, mmio


class Run:
    """One exit: KVM's run structure.

    `reason` is an `ExitReason` or a number that the loop does not know.  For IO and MMIO: `address` (port or physical),
    `size` in bytes (1, 2, 4, 8), `write`, `count` (elements of a string I/O) and `data`: the value written, or where
    `handle_exit` puts the value read; of a string I/O (count > 1) `block`: its bytes, `count * size`.
    """

    __slots__ = ("address", "block", "count", "data", "reason", "size", "write")

    def __init__(
        self,
        reason: int,
        address: int = 0,
        size: int = 0,
        write: int = 0,
        count: int = 1,
        data: int = 0,
        block: bytes = b"",
    ) -> None:
        self.reason, self.address, self.size, self.write = reason, address, size, write
        self.count, self.data, self.block = count, data, block

    def reads(self) -> bool:
        """An access whose data comes from the outside."""
        return self.reason in (IO, MMIO) and not self.write

    def __repr__(self) -> str:
        if self.reason not in (IO, MMIO):
            return f"Run({reason_name(self.reason)})"
        way = "write" if self.write else "read"
        what = f"{self.block.hex()}" if self.count > 1 else f"{self.data:#x}"
        return f"Run({reason_name(self.reason)} {way} {self.address:#x} size {self.size} count {self.count}: {what})"


def reason_name(reason: int) -> str:
    """KVM's word for a reason, or the number."""
    return ExitReason(reason).name if reason in ExitReason._value2member_map_ else f"reason {reason}"


def handle_exit(run: Run, buses: Buses) -> Outcome:
    """Serve one exit."""
    reason = run.reason
    if reason == IO:
        bus = buses.ports
    elif reason == MMIO:
        bus = buses.mmio
    else:
        return _OUTCOMES.get(reason, Outcome.ERROR)
    if run.count != 1:
        _string(run, bus)
    elif run.write:
        bus.write(run.address, run.size, run.data)
    else:
        run.data = bus.read(run.address, run.size)
    return HANDLED


def _string(run: Run, bus: Bus) -> None:
    """A string I/O: in one call when the device takes blocks, else element by element."""
    size, count = run.size, run.count
    m = bus.find(run.address)
    whole = m is not None and size <= m.max_size and run.address + size <= m.end
    if run.write:
        take = getattr(m.region, "write_block", None) if m is not None and whole else None
        if take is not None and m is not None:
            take(run.address - m.base, size, run.block)
            return
        for k in range(0, count * size, size):
            bus.write(run.address, size, int.from_bytes(run.block[k : k + size], "little"))
        return
    give = getattr(m.region, "read_block", None) if m is not None and whole else None
    if give is not None and m is not None:
        run.block = bytes(give(run.address - m.base, size, count))
    else:
        run.block = b"".join(bus.read(run.address, size).to_bytes(size, "little") for _ in range(count))
