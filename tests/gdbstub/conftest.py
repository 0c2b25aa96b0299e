"""Sessions of the toy machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from gdbstub import OnDisconnect, Session
from gdbstub.target import Continue, Target
from tests.gdbstub.client import Client
from tests.gdbstub.fake_target import FakeTarget


@pytest.fixture
def bugs() -> Iterator[list[str]]:
    """Lines that sessions logged; a test that expects some empties the list."""
    lines: list[str] = []
    yield lines
    assert lines == []


@pytest.fixture
def target() -> FakeTarget:
    return FakeTarget()


@pytest.fixture
def make(bugs: list[str]) -> Callable[..., Session]:
    def session(target: Target, *, running: bool = False, policy: OnDisconnect = OnDisconnect.RUN) -> Session:
        made = Session(target, running=running, on_disconnect=policy, log=bugs.append)
        if running and isinstance(target, FakeTarget):
            target.begin({thread: Continue() for thread in target.cpu})
            target.n_resumes = 0
        return made

    return session


@pytest.fixture
def client(target: FakeTarget, make: Callable[..., Session]) -> Client:
    """A debugger with the abilities of gdb 13, at a stopped machine."""
    return Client(make(target), "multiprocess+", "swbreak+", "hwbreak+", "vContSupported+")
