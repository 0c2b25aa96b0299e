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
from jitvm.engine import regions
from jitvm.engine.accel import Accelerator
from tests.engine.guest import CODE, Guest, same
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


@pytest.mark.parametrize("rewritten", share([True, False], 1))
def test_a_region_is_installed_only_if_its_bytes_are_still_there(
    rewritten: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the question and the answer of the compiler the guest's code is written to."""
    cpus = {engine: Guest(engine, options=BESIDE) for engine in ("plain", "handlers")}
    vcpu = cpus["handlers"].bare.vcpu
    accel, asked = vcpu.accel, []
    monkeypatch.setattr(accel.code, "find_region", lambda nodes, modes: None)
    monkeypatch.setattr(accel.compiler, "submit", lambda *question: asked.append(question))
    for guest in cpus.values():
        guest.load("1: add eax, 1\n dec ecx\n jnz 1b\n hlt")
        guest.registers(eax=0, ecx=5000)
        assert guest.go(6000) == "limit"
    ((nodes, done, modes),) = asked
    if rewritten:
        for guest in cpus.values():
            guest.bare.write(CODE + 2, b"\2")  # add eax, 2
    done(accel.code.region(nodes, modes))
    for guest in cpus.values():
        assert guest.go(LIMIT) == "hlt"
    assert vcpu.regions.installed == (not rewritten)
    same(cpus["handlers"].state(), cpus["plain"].state(), "with a region that came late")
    assert int(cpus["handlers"].c.gpr[0]) == (8000 if rewritten else 5000)


def test_a_vcpu_that_has_looked_for_long_asks_again_for_what_runs_on(monkeypatch: pytest.MonkeyPatch) -> None:
    guest = Guest("handlers", options=BESIDE)
    found = guest.bare.vcpu.regions
    guest.load("1: add eax, 1\n dec ecx\n jnz 1b\n hlt")
    guest.registers(eax=0, ecx=100_000)
    monkeypatch.setattr(regions, "SHARE", 0)
    monkeypatch.setattr(regions, "IN_ADVANCE", 0)
    assert guest.go(100_000) == "limit" and found.asked == 0
    monkeypatch.setattr(regions, "IN_ADVANCE", 3600)
    assert guest.go(100_000) == "limit" and found.asked == 1
