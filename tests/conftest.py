"""What all tests share: a test that needs a tool says so, and where tools are required none is skipped unseen."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from tests.fast_set import mark_the_others
from tests.needs import REQUIRE, missing_of_all, need, required


def pytest_sessionstart(session: pytest.Session) -> None:
    """Refuse to start without the tools, where they are required.

    A shell's background job ignores SIGINT, and so would all programs that the tests interrupt.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    absent = missing_of_all() if required() else []
    if absent:
        pytest.exit(f"{REQUIRE} is set and these are missing: {', '.join(absent)}", returncode=3)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of our own."""
    parser.addoption(
        "--prove-ir", action="store_true", help="make handlers, stencils and regions anew, to prove them all"
    )
    group = parser.getgroup("random programs and instruction forms")
    group.addoption("--cases", type=int, default=None, help="random cases of a test, per mode and engine")
    group.addoption("--seed", type=int, default=1, help="seed of the random cases")


@pytest.fixture(scope="session")
def seed(request: pytest.FixtureRequest) -> int:
    """The seed of the random cases."""
    return int(request.config.getoption("seed"))


@pytest.fixture(scope="session", autouse=True)
def _proved(request: pytest.FixtureRequest) -> Iterator[None]:
    """Where each load and store goes of what is stitched in the tests' processes (tests/engine/ir_proof.py).

    In a run with an empty cache that is all that the tests make; with --prove-ir it is also what the cache has.
    """
    from tests.engine.ir_proof import proving

    with proving(anew=request.config.getoption("--prove-ir")):
        yield


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Before `-m` chooses."""
    mark_the_others(items)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Look at the marks of `needs` before fixtures are made."""
    for mark in item.iter_markers("needs"):
        need(*mark.args)
