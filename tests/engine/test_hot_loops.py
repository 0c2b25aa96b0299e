"""Hot code under what is rare, as on the plain engine: registers, memory, counts and stops, on each tier and by each switch.

Random programs with debuggers' and the guest's own points (tests/engine/debug_acts.py), with other mappings, segments and
modes (mode_programs.py), with returns that match no call (call_programs.py), with other control words (fp_programs.py),
with accesses close together (group_programs.py), with what programs do seldom (rare_programs.py).
`--cases N --seed S` runs others than the first ones.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import partial

import pytest

from jitvm import bare
from jitvm.engine.accel import Options
from tests.engine.call_programs import CallLoops
from tests.engine.debug_acts import DebugLoops, debug_guest, some_acts
from tests.engine.flag_programs import FlagLoops
from tests.engine.fp_programs import FpLoops, fp_guest
from tests.engine.group_programs import GroupLoops
from tests.engine.guest import Guest
from tests.engine.long_mode_programs import LongModeLoops, long_mode_guest
from tests.engine.mode_programs import ModeLoops, a20, dma, mode_guest
from tests.engine.programs import CALLS
from tests.engine.rare_programs import RareLoops, rare_guest
from tests.engine.shared_guest import SharedEngine
from tests.engine.ways import ENOUGH, MORE_WAYS, Act, Plan, compare, interrupt, start
from tests.fast_set import share

MANY = 4
Cut = list[tuple[int, Act | None]]


def cuts(rng: random.Random, acts: Sequence[Act]) -> list[Plan]:
    """In one go, and in pieces with acts between them."""
    pieces: Cut = [(rng.randrange(1, 150), rng.choice(acts)) for _ in range(12)]
    return [[(ENOUGH, None)], [*pieces, (ENOUGH, None)]]


def some_ways(rng: random.Random) -> list[str]:
    """Regions, pinned blocks, and another."""
    return ["regions", "pinned", rng.choice([*MORE_WAYS])]


def calls(seed: int, bits: int) -> None:
    """Returns that match no call."""
    rng = random.Random(seed)
    source = CallLoops(seed, bits, rng.randrange(3, 8)).text
    compare(partial(start, source=source, bits=bits), cuts(rng, [interrupt(v) for v in CALLS]), some_ways(rng), source)


def floats(seed: int, bits: int) -> None:
    """Control words that change."""
    rng = random.Random(seed)
    source = FpLoops(seed, bits, rng.randrange(2, 6)).text
    compare(partial(fp_guest, source=source, bits=bits), cuts(rng, [interrupt(v) for v in CALLS]), some_ways(rng), source)


def shared(seed: int, bits: int) -> None:
    """A CPU of those that share memory: locked instructions and code pages go other ways."""

    def make(engine: str, options: Options | None) -> Guest:
        with pytest.MonkeyPatch.context() as patch:
            if engine != "plain":
                patch.setattr(bare, "VcpuEngine", SharedEngine)
            return start(engine, options, source=source, bits=bits)

    rng = random.Random(seed)
    source = FlagLoops(seed, bits, rng.randrange(2, 6)).text
    compare(make, cuts(rng, [interrupt(v) for v in CALLS]), some_ways(rng), source)


def modes(seed: int) -> None:
    """What loops stand on changes."""
    rng = random.Random(seed)
    source = ModeLoops(seed, rng.randrange(1, 4)).text
    compare(partial(mode_guest, source=source, seed=seed), cuts(rng, [a20, dma]), some_ways(rng), source)


def points(seed: int, bits: int) -> None:
    """Debuggers, debug registers, TF."""
    rng = random.Random(seed)
    source = DebugLoops(seed, bits, rng.randrange(2, 6), extra=seed % 3 == 0).text
    compare(partial(debug_guest, source=source, bits=bits), cuts(rng, some_acts(rng, bits)), some_ways(rng), source)


def long_modes(seed: int) -> None:
    """The same in long mode."""
    rng = random.Random(seed)
    source = LongModeLoops(seed, rng.randrange(1, 4)).text
    compare(partial(long_mode_guest, source=source, seed=seed), cuts(rng, [a20, dma]), some_ways(rng), source)


def groups(seed: int, bits: int) -> None:
    """Accesses close together."""
    rng = random.Random(seed)
    source = GroupLoops(seed, bits, rng.randrange(2, 6)).text
    compare(partial(start, source=source, bits=bits), cuts(rng, [interrupt(v) for v in CALLS]), some_ways(rng), source)


def rare(seed: int, bits: int) -> None:
    """Far transfers, frames, prefixes, limits."""
    rng = random.Random(seed)
    source = RareLoops(seed, bits, rng.randrange(4, 9)).text
    compare(partial(rare_guest, source=source, bits=bits), cuts(rng, [interrupt(v) for v in CALLS]), some_ways(rng), source)


KINDS: dict[str, Callable[[int, int], None]] = {
    **{"points": points, "calls": calls, "floats": floats},
    **{"shared": shared, "groups": groups, "rare": rare},
}
MODES: dict[str, Callable[[int], None]] = {"modes": modes, "long modes": long_modes}


@pytest.mark.parametrize("bits", [32, 16, 64])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", share([1, MANY], 1))
def test_random(kind: str, bits: int, count: int, seed: int, request: pytest.FixtureRequest) -> None:
    for k in range(request.config.getoption("cases", None) or count):
        KINDS[kind](1000 * seed + 100 + k, bits)


@pytest.mark.parametrize("kind", MODES)
@pytest.mark.parametrize("count", share([1, MANY], 1))
def test_random_modes(kind: str, count: int, seed: int, request: pytest.FixtureRequest) -> None:
    for k in range(request.config.getoption("cases", None) or count):
        MODES[kind](1000 * seed + 100 + k)
