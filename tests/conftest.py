"""What all tests share: a test that needs a tool says so, and where tools are required none is skipped unseen."""

from __future__ import annotations

import pytest

from tests.needs import REQUIRE, missing_of_all, need, required


def pytest_sessionstart(session: pytest.Session) -> None:
    """Refuse to start without the tools, where they are required."""
    absent = missing_of_all() if required() else []
    if absent:
        pytest.exit(f"{REQUIRE} is set and these are missing: {', '.join(absent)}", returncode=3)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Look at the marks of `needs` before fixtures are made."""
    for mark in item.iter_markers("needs"):
        need(*mark.args)
