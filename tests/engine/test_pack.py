"""Packs and bounds of the cache: entries put together, found by everybody, damaged, killed on the way, left out."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jitvm.engine import cache as module
from jitvm.engine import pack
from jitvm.engine.cache import LOOSE_MOST, PACKS_MOST, TEXT_DAYS, Cache

ROOT = Path(__file__).parents[2]
MANY = LOOSE_MOST + 8


def opened(home: Path, epoch: str = "epoch") -> Cache:
    return Cache(home / "jitvm", epoch)


def fill(cache: Cache, first: int = 0, n: int = MANY) -> list[str]:
    """Objects, each of which needs the one before."""
    names = [f"h{k}" for k in range(first, first + n)]
    for k, name in enumerate(names):
        cache.find(name)
        cache.write_object(name.encode() * 100, [name], names[k - 1 : k])
    return names


def content(cache: Cache, name: str) -> bytes | None:
    """What is kept under a symbol, by whichever entry has it."""
    while (entry := cache.find(name)) is not None:
        (kept,) = cache.read([entry])
        if kept is not None:
            return kept.code
    return None


def files(home: Path, suffix: str) -> list[Path]:
    return sorted((home / "jitvm" / "epoch").glob(f"*{suffix}"))


@pytest.fixture
def packed(tmp_path: Path) -> list[str]:
    """A cache with one pack; its symbols."""
    cache = opened(tmp_path)
    names = fill(cache)
    cache.tidy(())
    assert len(files(tmp_path, pack.PACK)) == 1
    assert not files(tmp_path, pack.LOOSE)
    return names


def test_few_objects_stay_as_they_are(tmp_path: Path) -> None:
    cache = opened(tmp_path)
    fill(cache, n=LOOSE_MOST)
    cache.tidy(())
    assert len(files(tmp_path, pack.LOOSE)) == LOOSE_MOST


def test_all_are_found_in_the_pack(tmp_path: Path, packed: list[str]) -> None:
    for cache in (opened(tmp_path), opened(tmp_path)):
        assert [content(cache, name) for name in packed] == [name.encode() * 100 for name in packed]
    assert content(cache, "other") is None


def test_they_lie_in_the_order_in_which_they_were_wanted_behind_what_they_need(tmp_path: Path) -> None:
    cache = opened(tmp_path)
    names = fill(cache)
    cache.tidy([names[5], "never seen", names[2], names[9]])
    entry = cache.find(names[0])
    assert entry is not None
    following = [one.exports[0] for one in cache.following(entry, 9)]
    assert entry.place == 0
    assert following == names[1:10]
    assert [one and one.exports for one in cache.read(cache.following(entry, 2))] == [(names[1],), (names[2],)]


def test_what_another_process_packed_meanwhile_is_found(tmp_path: Path) -> None:
    """Also by one that has looked at the files that went."""
    cache = opened(tmp_path)
    names = fill(cache)
    other = opened(tmp_path)
    assert content(other, names[0])
    cache.tidy(())
    assert content(other, names[1]) == names[1].encode() * 100
    cache.write_object(b"new", ["new"], [])
    assert content(other, "new") == b"new"


def test_one_tidies_up_at_a_time(tmp_path: Path) -> None:
    cache = opened(tmp_path)
    fill(cache)
    with (tmp_path / "jitvm" / "epoch" / ".lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        cache.tidy(())
        assert not files(tmp_path, pack.PACK)
    cache.tidy(())
    assert len(files(tmp_path, pack.PACK)) == 1


def test_many_packs_become_one(tmp_path: Path) -> None:
    names: list[str] = []
    for turn in range(PACKS_MOST + 1):
        cache = opened(tmp_path)
        names += fill(cache, turn * MANY)
        cache.tidy(())
    assert len(files(tmp_path, pack.PACK)) == PACKS_MOST + 1
    cache.tidy(())
    assert len(files(tmp_path, pack.PACK)) == 1
    assert all(content(opened(tmp_path), name) == name.encode() * 100 for name in names)


@pytest.mark.parametrize("where", ["index", "entry", "end", "all"])
def test_a_damaged_pack(where: str, tmp_path: Path, packed: list[str]) -> None:
    """What can't be trusted is not given out, what is whole is; the end of the run leaves only what is whole."""
    (path,) = files(tmp_path, pack.PACK)
    data = bytearray(path.read_bytes())
    last = opened(tmp_path).find(packed[-1])
    assert last is not None
    at = {"index": 70, "entry": last.offset + 90, "end": len(data) - 1, "all": 3}[where]
    data[at] ^= 1
    path.unlink()
    path.write_bytes(data[: len(data) // 2] if where == "all" else data)
    cache = opened(tmp_path)
    found = [content(cache, name) for name in packed]
    assert all(one is None or one == name.encode() * 100 for name, one in zip(packed, found, strict=True))
    assert found.count(None) == (1 if where in ("entry", "end") else len(packed))
    for name, one in zip(packed, found, strict=True):
        if one is None:
            cache.write_object(name.encode() * 100, [name], [])
    cache.tidy(())
    assert not path.exists() or path.read_bytes() != data
    assert all(content(opened(tmp_path), name) == name.encode() * 100 for name in packed)


def test_an_epoch_is_bounded_and_keeps_what_was_wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "EPOCH_BYTES", 4000)
    cache = opened(tmp_path)
    names = [f"h{k}" for k in range(MANY)]
    for name in names:
        cache.write_object(name.encode() * 100, [name], [])
    assert content(cache, names[0])
    cache.tidy([names[-1], names[-2]])
    assert sum(path.stat().st_size for path in files(tmp_path, "")) < 6000
    after = opened(tmp_path)
    assert content(after, names[-1])
    assert content(after, names[-2])
    assert sum(content(after, name) is not None for name in names) < MANY // 2


def test_objects_of_runs_that_never_said_that_they_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = fill(opened(tmp_path))
    monkeypatch.setattr(module, "LOOSE_FAR_TOO_MANY", 10)
    cache = opened(tmp_path)
    assert content(cache, names[3]) == names[3].encode() * 100
    assert not files(tmp_path, pack.LOOSE)
    assert len(files(tmp_path, pack.PACK)) == 1


TIDYING = """
import sys
sys.path.insert(0, {root!r})
from pathlib import Path
from jitvm.engine.cache import Cache
turn = 0
while True:
    cache = Cache(Path(sys.argv[1]), "epoch")
    for k in range(40):
        cache.find(f"h{{k}}")
        cache.write_object(b"%d" % (1000 * turn + k) * 3000, [f"h{{1000 * turn + k}}"], [])
    cache.tidy(())
    print(turn, flush=True)
    turn += 1
"""


def test_killed_while_tidying(tmp_path: Path) -> None:
    """Whatever the moment was: all that was ever written is there."""
    for k in range(4):
        command = [sys.executable, "-c", TIDYING.format(root=str(ROOT)), str(tmp_path / "jitvm")]
        child = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert child.stdout is not None
        for turn in range(k + 1):
            assert child.stdout.readline() == b"%d\n" % turn
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
        cache = opened(tmp_path)
        for turn in range(k + 1):
            for n in range(1000 * turn, 1000 * turn + 40):
                assert content(cache, f"h{n}") == b"%d" % n * 3000


# ---- texts of units --------------------------------------------------------------------------------------------------
def old(path: Path, days: float) -> None:
    """As if it had been used so long ago."""
    then = time.time() - days * 86400
    os.utime(path, (then, then))


def sweep(home: Path) -> set[str]:
    """A run that wrote a text ends; which texts there are."""
    cache = opened(home)
    cache.find("anything")
    cache["new"] = "text"
    cache.tidy(())
    return {path.name for path in (home / "jitvm" / "units").iterdir()} - {".lock"}


def test_texts_that_are_not_used_go(tmp_path: Path) -> None:
    cache = opened(tmp_path)
    for name in ("used", "unused"):
        cache[name] = "text"
        old(tmp_path / "jitvm" / "units" / name, TEXT_DAYS + 1)
    assert cache.get("used") == "text"
    abandoned = tmp_path / "jitvm" / "units" / ".new-x"
    abandoned.write_bytes(b"half")
    old(abandoned, 1)
    assert sweep(tmp_path) == {"used", "new"}


def test_texts_are_bounded_and_looked_at_once_a_day(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = opened(tmp_path)
    for k in range(5):
        cache[f"t{k}"] = "text" * 250
        old(tmp_path / "jitvm" / "units" / f"t{k}", k + 1)
    assert sweep(tmp_path) == {"t0", "t1", "t2", "t3", "t4", "new"}
    monkeypatch.setattr(module, "TEXT_BYTES", 2500)
    assert len(sweep(tmp_path)) == 6, "this day's look was taken"
    old(tmp_path / "jitvm" / "units" / ".lock", 2)
    assert sweep(tmp_path) == {"t0", "t1", "new"}
