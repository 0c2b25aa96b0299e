"""What every device has to keep, whatever it models: one suite that runs over a list of entries.

A device joins by an item in the list that `devices()` of a module `tests/devices/registry_*.py` returns: an `Entry`, or
for a device that needs no clock of the suite's a pair (name, factory), where `factory()` gives the device and its
regions as (region, length, max_size).  `test_conformance.py` collects them all.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

from jitvm.bus import Bus, Region
from jitvm.clock import Clock
from jitvm.devices.base import Device, Snapshot
from jitvm.irq import IrqLine
from jitvm.memory import GuestMemory
from jitvm.trace import Trace


class Rig:
    """The surroundings of one device: a clock, silent trace, lines that record, and RAM on demand."""

    def __init__(self, now_ns: int = 0) -> None:
        self.clock = Clock()
        self.clock.now_ns = now_ns
        self.trace = Trace()
        self.edges: list[tuple[str, bool]] = []
        self.events: list[tuple[str, dict[str, object]]] = []
        self.trace.listeners.append(lambda name, fields: self.events.append((name, fields)))
        self._memory: GuestMemory | None = None

    def line(self, name: str = "irq") -> IrqLine:
        """A wire whose changes are appended to `edges`."""
        return IrqLine(lambda level: self.edges.append((name, level)))

    @property
    def memory(self) -> GuestMemory:
        """One MiB of RAM at address 0."""
        if self._memory is None:
            self._memory = GuestMemory(1 << 20)
            self._memory.map(0, 1 << 20, 0)
        return self._memory

    def traced(self, event: str) -> list[dict[str, object]]:
        """Fields of the traced events of one name."""
        return [fields for name, fields in self.events if name == event]


@dataclass(frozen=True)
class Range:
    """One range of a device as the board maps it."""

    name: str
    region: Region
    length: int
    max_size: int = 1


@dataclass(frozen=True)
class Entry:
    """A device under test.

    `build` makes it fresh on a rig, `ranges` says what the board maps.  `kept` names the snapshot keys that survive a
    reset (battery-backed memory, the input levels of an interrupt controller).  A device that is driven by more than
    its registers says by `stir` how.
    """

    name: str
    build: Callable[[Rig], Device]
    ranges: Callable[[Any], list[Range]]
    kept: frozenset[str] = frozenset()
    stir: Callable[[Any, random.Random], None] | None = field(default=None)


Made = tuple[Any, list[tuple[Any, int, int]]]


def adopt(item: Entry | tuple[str, Callable[[], Made]]) -> Entry:
    """An `Entry` for either kind of registry item."""
    if isinstance(item, Entry):
        return item
    name, factory = item
    made: list[tuple[Device, list[Range]]] = []

    def build(_rig: Rig) -> Device:
        device, regions = factory()
        made.append((device, [Range(f"{name}{n}", *region) for n, region in enumerate(regions)]))
        return cast(Device, device)

    return Entry(name, build, lambda device: next(ranges for d, ranges in made if d is device))


def mapped(entry: Entry, device: Device) -> tuple[Bus, list[tuple[int, Range]]]:
    """A bus with all ranges of the device, and where each one is."""
    bus, base, placed = Bus("test", 1 << 24), 0x100, []
    for r in entry.ranges(device):
        bus.map(base, r.length, r.region, name=r.name, max_size=r.max_size)
        placed.append((base, r))
        base += r.length + 0x100
    return bus, placed


def disturb(entry: Entry, device: Device, rig: Rig, seed: int, n: int = 600) -> None:
    """Random accesses of all sizes to all ranges while random time passes."""
    rng = random.Random(seed)
    bus, placed = mapped(entry, device)
    for _ in range(n):
        base, r = rng.choice(placed)
        size = rng.choice((1, 1, 1, 2, 4, 8))
        address = base + rng.randrange(r.length)
        if rng.random() < 0.7:
            value = rng.choice((0, 1, 0xFF, rng.getrandbits(8 * size), rng.getrandbits(8)))
            bus.write(address, size, value & ((1 << 8 * size) - 1))
        else:
            bus.read(address, size)
        if entry.stir is not None and rng.random() < 0.2:
            entry.stir(device, rng)
        if rng.random() < 0.3:
            rig.clock.advance_to(rig.clock.now_ns + rng.choice((1, 1_000, 100_000, 30_000_000, 2_000_000_000)))


def plain(value: object) -> bool:
    """Whether a snapshot's value is plain data."""
    if isinstance(value, dict):
        return all(isinstance(k, str | int) and plain(v) for k, v in value.items())
    if isinstance(value, list | tuple):
        return all(plain(v) for v in value)
    return value is None or type(value) in (int, bool, bytes, str)


def without(state: Snapshot, keys: frozenset[str]) -> Snapshot:
    """A snapshot without some keys."""
    return {k: v for k, v in state.items() if k not in keys}
