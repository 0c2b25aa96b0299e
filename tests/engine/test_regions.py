"""Regions end every program as the plain engine does, whatever count they are cut at.

Random programs (tests/engine/programs.py) with longer loops, regions made after two executions of a block's machine code.
"""

from __future__ import annotations

import re

import pytest

from jitvm.engine.accel import Options
from tests.engine.programs import COMPUTE, loaded, program
from tests.engine.test_counts import LIMIT, check, to_the_end

SOON = Options(hot=1, region_hot=2, drops=4, sync=True)


def looping(seed: int, bits: int, length: int = 10) -> str:
    """A random program whose loops run a few times more often."""
    source = program(seed, bits, length, COMPUTE)
    return re.sub(r"(mov e?cx, )([1-4])$", lambda m: f"{m[1]}{4 * int(m[2]) + 1}", source, flags=re.M)


@pytest.mark.parametrize("bits", [32, 16])
@pytest.mark.parametrize("seed", range(3))
def test_random(seed: int, bits: int) -> None:
    check(looping(seed, bits), bits, SOON)


@pytest.mark.slow
@pytest.mark.parametrize("bits", [32, 16])
@pytest.mark.parametrize("seed", range(100, 120))
def test_random_long(seed: int, bits: int) -> None:
    check(looping(seed, bits, 16), bits, SOON)


def test_programs_do_make_regions() -> None:
    made = 0
    for seed in range(6):
        guest = loaded("handlers", looping(seed, 32), 32, SOON)
        to_the_end(guest, LIMIT)
        made += guest.bare.vcpu.regions.installed
    assert made >= 6
