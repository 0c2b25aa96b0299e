"""Random loops with flags over their edges (tests/engine/flag_programs.py) end as on the plain engine, cut anywhere."""

from __future__ import annotations

import random
from functools import partial

import pytest

from tests.engine.flag_programs import FlagLoops
from tests.engine.programs import CALLS
from tests.engine.test_counts import LIMIT
from tests.engine.ways import WAYS, Act, compare, interrupt, start
from tests.fast_set import share


def check(seed: int, bits: int, ways: list[str]) -> int:
    """One program; how many regions it made."""
    rng = random.Random(seed)
    source = FlagLoops(seed, bits, rng.randrange(2, 6), extra=seed % 3 == 0).text
    cut: list[tuple[int, Act | None]] = [(rng.randrange(1, 90), interrupt(CALLS[k % 3])) for k in range(12)]
    return compare(partial(start, source=source, bits=bits), [[(LIMIT, None)], [*cut, (LIMIT, None)]], ways, source)


@pytest.mark.parametrize("seed", share(range(6), 1))
def test_random(seed: int) -> None:
    names = list(WAYS)
    made = [check(seed, bits, [names[0], names[1 + (seed * 3 + bits) % (len(names) - 1)]]) for bits in (32, 16, 64)]
    assert any(made)
