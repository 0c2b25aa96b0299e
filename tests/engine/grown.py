"""The regions that vCPUs grow, for tests to look at."""

from __future__ import annotations

import pytest

from jitvm.engine import regions
from jitvm.engine.accel import VcpuEngine
from jitvm.engine.grow import Grown, grow


def note_grown(patch: pytest.MonkeyPatch) -> list[Grown]:
    """A list to which every region that is grown from now on comes."""
    found: list[Grown] = []

    def noting(engine: VcpuEngine) -> Grown | None:
        grown = grow(engine)
        found.extend([grown] if grown else [])
        return grown

    patch.setattr(regions, "grow", noting)
    return found
