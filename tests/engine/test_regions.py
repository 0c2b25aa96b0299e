"""Regions end every program as the plain engine does, whatever count they are cut at.

Random programs (tests/engine/programs.py) with longer loops, regions made after two executions of a block's machine code.
"""

from __future__ import annotations

import pytest

from jitvm.engine.accel import Options
from tests.engine.programs import loaded, looping
from tests.engine.test_counts import LIMIT, check, to_the_end

SOON = Options(hot=1, region_hot=2, drops=4, sync=True)


@pytest.mark.parametrize("bits", [32, 16])
@pytest.mark.parametrize("seed", range(3))
def test_random(seed: int, bits: int) -> None:
    check(looping(seed, bits), bits, SOON, 100)


@pytest.mark.slow
@pytest.mark.parametrize("bits", [32, 16])
@pytest.mark.parametrize("seed", range(100, 120))
def test_random_long(seed: int, bits: int) -> None:
    check(looping(seed, bits, 16), bits, SOON, 300)


def test_programs_do_make_regions() -> None:
    made = 0
    for seed in range(6):
        guest = loaded("handlers", looping(seed, 32), 32, SOON)
        to_the_end(guest, LIMIT)
        made += guest.bare.vcpu.regions.installed
    assert made >= 6
