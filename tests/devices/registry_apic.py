"""Local and I/O APIC, for the conformance suite."""

from __future__ import annotations

import random
from typing import Any

from jitvm.devices.apic_bus import ApicBus
from jitvm.devices.ioapic import IoApic
from jitvm.devices.lapic import LocalApic
from tests.devices.conformance import Entry, Range, Rig
from tests.devices.test_lapic import Cpu


def _lapic(rig: Rig) -> LocalApic:
    bus = ApicBus()
    apic = LocalApic(0, rig.clock, Cpu(), bus, lambda: 0x77, trace=rig.trace)
    bus.locals.append(apic)
    return apic


def _stir_lapic(apic: Any, rng: random.Random) -> None:
    apic.set_lint(rng.randrange(2), rng.random() < 0.5)
    apic.request(rng.randrange(256), rng.random() < 0.5)
    if rng.random() < 0.5:
        apic.acknowledge()


def _ioapic(rig: Rig) -> IoApic:
    return IoApic(ApicBus(), rig.trace)


def _stir_ioapic(chip: Any, rng: random.Random) -> None:
    chip.set_input(rng.randrange(24), rng.random() < 0.5)


def devices() -> list[Any]:
    return [
        Entry("lapic", _lapic, lambda d: [Range("page", d, 0x1000, 8)], kept=frozenset({"lint"}), stir=_stir_lapic),
        Entry("ioapic", _ioapic, lambda d: [Range("page", d, 0x1000, 4)], kept=frozenset({"lines"}), stir=_stir_ioapic),
    ]
