"""The process that helps with a start from an empty cache: what it leaves, when it is asked, and that it may fail."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from jitvm.engine import beside
from jitvm.engine.cache import Cache
from jitvm.engine.units import Units

ROOTS = ("flags.less_than", "bits.bt", "words.cut")


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "jitvm", "epoch")


def texts(cache: Cache) -> int:
    """How many there are."""
    assert cache.folder is not None
    return len(list((cache.folder.parent / "units").iterdir()))


def test_it_leaves_all_texts_in_the_cache(cache: Cache) -> None:
    units = Units(cache)
    assert cache.folder is not None
    beside.main(cache.folder, ROOTS)
    assert texts(cache) == len(units.below(ROOTS))
    for name in units.below(ROOTS):
        assert cache.has_text(units.key(name))
        units.text(name)
    assert units.compiled == 0


def test_what_is_there_is_not_compiled_again(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    units = Units(cache)
    for name in units.below(ROOTS):
        units.text(name)
    assert units.compiled == len(units.below(ROOTS))
    assert cache.folder is not None

    def never(self: Units, unit: object) -> str:
        raise AssertionError(unit)

    monkeypatch.setattr(Units, "_compile", never)
    beside.main(cache.folder, ROOTS)


def test_it_ends_with_its_parent(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    parents = iter([7, 7, 1])
    monkeypatch.setattr(os, "getppid", lambda: next(parents))
    assert cache.folder is not None
    beside.main(cache.folder, ROOTS)
    assert texts(cache) == 1


@pytest.mark.parametrize(("cores", "much", "asked"), [(2, 1, True), (1, 1, False), (2, 1000, False)])
def test_it_is_asked_where_it_pays(
    cores: int, much: int, asked: bool, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[tuple[Path, list[str]]] = []

    def start(folder: Path, roots: list[str]) -> None:
        started.append((folder, roots))

    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(cores)))
    monkeypatch.setattr(beside, "MUCH", much)
    monkeypatch.setattr(beside, "_start", start)
    with beside.helped(Units(cache), cache, ROOTS):
        pass
    with beside.helped(Units(), Cache(None, "epoch"), ROOTS):
        pass
    assert started == ([(cache.folder, list(ROOTS))] if asked else [])


def test_one_that_fails_costs_only_its_help(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends at once, and is not left behind when the first process is through."""
    started: list[subprocess.Popen[bytes]] = []

    def start(folder: Path, roots: list[str]) -> subprocess.Popen[bytes]:
        started.append(subprocess.Popen([sys.executable, "-c", "raise SystemExit(1)"]))
        return started[0]

    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0, 1})
    monkeypatch.setattr(beside, "MUCH", 1)
    monkeypatch.setattr(beside, "_start", start)
    units = Units(cache)
    with beside.helped(units, cache, ROOTS):
        for name in units.below(ROOTS):
            units.text(name)
    assert texts(cache) == units.compiled == len(units.below(ROOTS))
    assert started[0].returncode is not None
