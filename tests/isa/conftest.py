"""Options of the instruction tests' long runs: `pytest tests/isa --cases 20000 --seed 5`."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """How many random cases a mode gets, and which."""
    group = parser.getgroup("instruction forms")
    group.addoption("--cases", type=int, default=None, help="random cases per mode and engine")
    group.addoption("--seed", type=int, default=1, help="seed of the random cases")


@pytest.fixture(scope="session")
def seed(request: pytest.FixtureRequest) -> int:
    """The seed of the random cases."""
    return int(request.config.getoption("seed", 1) or 1)
