"""Random programs of what is rare (tests/engine/rare_programs.py): each ends here as on Bochs, in code of every size.

Where Bochs is known to differ from silicon, program_rom.py leaves the instruction out.  `--cases N --seed S`: so many ROMs
of other programs.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fast_set import share
from tests.isa.beside_bochs import run_both
from tests.isa.program_rom import image, names, programs, source_of


@pytest.mark.parametrize("bits", [16, 32, 64])
@pytest.mark.parametrize("count", share([1, 4], 1))
def test_programs(bits: int, count: int, seed: int, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    for k in range(request.config.getoption("cases", None) or count):
        made = programs(100_000 * seed + 1000 * k, bits)
        lines = run_both(tmp_path, image(tmp_path, [*made.values()], bits), names(bits), 16 if bits == 64 else 8)
        assert [len(found) for found in lines] == [len(made), len(made)]
        assert len({line["sum"] for line in lines[0]}) > len(made) * 2 // 3, "programs that do something"
        for number, ours, theirs in zip(made, *lines, strict=True):
            assert ours == theirs, f"program {number}\n{source_of(number, bits)}"
