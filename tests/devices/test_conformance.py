"""Every device of every registry: reset equals fresh, snapshots round trip, no guest access raises."""

from __future__ import annotations

import copy
import importlib
from pathlib import Path

import pytest

from tests.devices.conformance import Entry, Rig, adopt, disturb, mapped, plain, without

ENTRIES: list[Entry] = [
    adopt(item)
    for path in sorted(Path(__file__).parent.glob("registry_*.py"))
    for item in importlib.import_module(f"tests.devices.{path.stem}").devices()
]
every = pytest.mark.parametrize("entry", ENTRIES, ids=lambda e: e.name)
seeds = pytest.mark.parametrize("seed", range(4))


def test_names_are_unique() -> None:
    names = [entry.name for entry in ENTRIES]
    assert len(names) == len(set(names))


@every
def test_fresh_state_is_plain_data(entry: Entry) -> None:
    device = entry.build(Rig())
    assert device.name
    assert plain(device.snapshot())


@every
def test_every_offset_and_size_is_readable(entry: Entry) -> None:
    device = entry.build(Rig())
    bus, placed = mapped(entry, device)
    for base, r in placed:
        for offset in range(min(r.length, 4096)):
            for size in (1, 2, 4, 8):
                value = bus.read(base + offset, size)
                assert type(value) is int
                assert 0 <= value < 1 << 8 * size, f"{r.name}+{offset:#x} size {size}: {value:#x}"


@every
@seeds
def test_random_accesses_never_raise(entry: Entry, seed: int) -> None:
    rig = Rig()
    device = entry.build(rig)
    disturb(entry, device, rig, seed)
    assert plain(device.snapshot())


@every
@seeds
def test_reset_equals_fresh(entry: Entry, seed: int) -> None:
    rig = Rig()
    device = entry.build(rig)
    disturb(entry, device, rig, seed)
    device.reset()
    fresh = entry.build(Rig(rig.clock.now_ns))
    assert without(device.snapshot(), entry.kept) == without(fresh.snapshot(), entry.kept)


@every
@seeds
def test_snapshot_round_trip(entry: Entry, seed: int) -> None:
    rig = Rig()
    device = entry.build(rig)
    disturb(entry, device, rig, seed)
    state = device.snapshot()
    kept = copy.deepcopy(state)
    disturb(entry, device, rig, seed + 100)
    assert state == kept, "a snapshot is a copy"
    device.restore(state)
    assert device.snapshot() == kept
    other_rig = Rig(rig.clock.now_ns)
    other = entry.build(other_rig)
    other.restore(state)
    assert other.snapshot() == kept, "another device takes it over"
    disturb(entry, device, rig, seed + 200, 100)
    disturb(entry, other, other_rig, seed + 200, 100)
    assert other.snapshot() == device.snapshot(), "and behaves the same from there on"
