"""Regions that arrive while the guest runs, from the compiler process or from the cache, change nothing that it can see.

Random programs run again and again in steps of any length, with an interrupt at any count, until their regions are there;
then once more by an accelerator that finds them in the cache.
"""

from __future__ import annotations

import random
import time
from dataclasses import replace

import pytest

from jitvm import bare
from jitvm.engine.accel import Accelerator
from tests.engine.guest import Guest, same
from tests.engine.programs import loaded, looping
from tests.engine.test_compiler import PATIENCE
from tests.engine.test_counts import LIMIT, Restart, to_the_end
from tests.engine.test_regions import SOON
from tests.fast_set import share

BESIDE = replace(SOON, sync=False)


def in_steps(guest: Guest, chance: random.Random) -> None:
    """To the end, so many instructions at a time."""
    while guest.go(chance.choice((1, 2, 7, 50, 333, LIMIT))) == "limit":
        assert guest.retired < LIMIT


@pytest.mark.parametrize("bits", [32, 16, 64])
@pytest.mark.parametrize("seed", share(range(200, 204), 1))
def test_random(seed: int, bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    source, chance = looping(seed, bits), random.Random(seed)
    plain = loaded("plain", source, bits)
    to_the_end(plain, LIMIT)
    end = plain.state()
    guest = loaded("handlers", source, bits, BESIDE)
    engine, again = guest.bare.vcpu, Restart(guest)
    with monkeypatch.context() as cold:
        cold.setattr(engine.accel.code, "find_region", lambda nodes, modes: None)
        limit = time.monotonic() + PATIENCE
        while not engine.regions.installed and time.monotonic() < limit:
            again()
            in_steps(guest, chance)
            same(guest.state(), end, f"while regions arrive\n{source}\n")
        assert engine.regions.installed
        for _ in range(3):
            again()
            in_steps(guest, chance)
            same(guest.state(), end, f"with regions\n{source}\n")
    accel = Accelerator()
    monkeypatch.setattr(bare, "_accelerator", accel)
    warm = loaded("handlers", source, bits, BESIDE)
    in_steps(warm, chance)
    same(warm.state(), end, f"warm\n{source}\n")
    assert accel.code.tallies["regions"].from_cache > 0
