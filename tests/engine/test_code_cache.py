"""Machine code takes no more memory than it may, and forgetting it changes nothing that the guest can see."""

from __future__ import annotations

import gc
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from jitvm import bare
from jitvm.engine.accel import LEAST_CODE_CACHE, Accelerator, Options
from jitvm.engine.cache import Cache
from jitvm.engine.region_store import cost
from jitvm.errors import ConfigError
from tests.engine.guest import Guest, same
from tests.engine.programs import loaded, looping
from tests.engine.test_counts import LIMIT, to_the_end

ROOT = Path(__file__).parents[2]
SOON = Options(hot=1, region_hot=2, drops=4, sync=True)
TINY = replace(SOON, code_cache=LEAST_CODE_CACHE)


def many_loops(n: int, passes: int) -> str:
    """A program that runs through n small loops, one after the other, so many times."""
    loops = "".join(
        f"mov ecx, 8\n1: add eax, {7 * k + 1}\n xor edx, eax\n rol ebx, cl\n dec ecx\n jnz 1b\n" for k in range(n)
    )
    return f"mov edi, {passes}\nagain:\n{loops}dec edi\n jnz again\n hlt\n"


def many_blocks(n: int, passes: int) -> str:
    """A program of n blocks of many stores each."""
    piece = "\n".join(f"mov [0x8000 + {4 * j}], eax\n add eax, [0x8100 + {4 * j}]" for j in range(12))
    return f"mov edi, {passes}\nagain:\n" + f"{piece}\njmp 1f\n1:\n" * n + "dec edi\n jnz again\n hlt\n"


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> Accelerator:
    """An accelerator in which nothing is linked that other tests use."""
    accel = Accelerator()
    monkeypatch.setattr(bare, "_accelerator", accel)
    return accel


def linked(accel: Accelerator) -> set[str]:
    """Names of the regions that are linked."""
    return {name for name in accel.code.address if name.startswith("r_")}


def ran(source: str, options: Options) -> Guest:
    """The program run to its end."""
    guest = Guest("handlers", memory=0x80000, options=options)
    guest.load(source, 0x30000)
    guest.registers(eax=1, ebx=2, edx=3)
    assert guest.go(1_000_000) == "hlt"
    return guest


def test_copied_code_is_bounded() -> None:
    """Hot blocks for more code than there is room: everything is forgotten, and the program ends as ever."""
    source = many_blocks(150, 6)
    tiny, usual = (ran(source, replace(o, regions=False)) for o in (TINY, SOON))
    assert int(usual.c.code_next) - int(usual.c.code_start) > TINY.copied_bytes()
    assert int(tiny.c.code_end) - int(tiny.c.code_start) == TINY.copied_bytes()
    assert int(usual.c.stat_flushes) == 0
    assert int(tiny.c.stat_flushes) >= 5
    assert int(tiny.c.stat_promoted) > int(usual.c.stat_promoted)
    same(tiny.state(), usual.state(), "with little room for copied code")


def test_regions_are_bounded(own: Accelerator) -> None:
    """More regions than there is room for: the vCPU forgets a generation, unused ones are unlinked and found again."""
    source, store = many_loops(24, 3), own.regions
    tiny = ran(source, TINY)
    mine = tiny.bare.vcpu.regions
    assert mine.generations >= 3
    assert mine.installed > 24
    assert store.evicted >= 10
    assert store.used(mine._number) <= store.bytes <= TINY.region_bytes()
    assert 0 < len(store) <= TINY.region_bytes() // cost(b"x")
    assert linked(own) == set(store._cost)
    usual = ran(source, SOON)
    assert usual.bare.vcpu.regions.installed >= 24
    assert usual.bare.vcpu.regions.generations == 0
    assert store.bytes > TINY.region_bytes()
    same(tiny.state(), usual.state(), "with little room for regions")


def test_regions_of_a_vcpu_that_is_gone_give_way(own: Accelerator) -> None:
    first = ran(many_loops(3, 3), TINY)
    assert own.regions.used(first.bare.vcpu.regions._number) == own.regions.bytes > 0
    before = linked(own)
    del first
    gc.collect()
    second = ran(many_loops(8, 3).replace("rol", "ror"), TINY)
    assert own.regions.used(second.bare.vcpu.regions._number) <= TINY.region_bytes()
    assert not linked(own) & before


@pytest.mark.slow
def test_evicted_regions_without_a_cache_are_compiled_again(own: Accelerator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own.code, "cache", Cache(None, ""))
    source = many_loops(8, 3)
    tiny, usual = ran(source, TINY), ran(source, SOON)
    assert tiny.bare.vcpu.regions.generations >= 2
    assert own.code.tallies["regions"].from_cache == 0
    same(tiny.state(), usual.state(), "without a cache")


@pytest.mark.parametrize("bits", [32, 16])
def test_random_programs_with_little_room(bits: int) -> None:
    for seed in (11, 12):
        source = looping(seed, bits)
        plain, tiny = loaded("plain", source, bits), loaded("handlers", source, bits, TINY)
        for guest in (plain, tiny):
            to_the_end(guest, LIMIT)
        same(tiny.state(), plain.state(), source)


EVERYTHING = """
import sys
import llvmlite.binding
def both():
    return {line.split()[0] for line in open("/proc/self/maps") if {"w", "x"} <= set(line.split()[1])}
before = both()
from tests.engine.guest import Guest
from tests.engine.test_code_cache import SOON, many_loops, ran
guest = ran(many_loops(3, 3), SOON)
assert guest.bare.vcpu.regions.installed > 2 and int(guest.c.stat_promoted) > 2
plain = Guest("plain")
plain.load("fninit\\n fld1\\n fadd st, st(0)\\n crc32 eax, ecx\\n hlt")
assert plain.go(10) == "hlt"
print(sorted(both() - before))
"""


def test_no_code_is_writable_where_it_is_executed() -> None:
    """All mappings of a process with handlers, copied blocks, regions and the plain engine's host operations; Python's own
    (ctypes' callbacks) are there before."""
    done = subprocess.run([sys.executable, "-c", EVERYTHING], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("[]\n", 0), done.stderr


def test_too_little_room_is_refused() -> None:
    with pytest.raises(ConfigError, match="--code-cache"):
        Guest("handlers", options=replace(SOON, code_cache=LEAST_CODE_CACHE - 1))
