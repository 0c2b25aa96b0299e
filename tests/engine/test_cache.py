"""The cache on disk: warm starts, damaged entries, refused folders, two processes, a killed one, a full disk.

A guest runs in a process of its own with its own XDG_CACHE_HOME and says what it computed, what it compiled and whether
Numba was imported.  The cold start happens once; each test works on a copy of what it left.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jitvm.engine import code, pack, units
from jitvm.engine.backend import compile_object
from jitvm.engine.cache import Cache
from jitvm.engine.code import LEVEL_HANDLER
from jitvm.engine.layout import LAZY
from jitvm.engine.pack import Kept
from jitvm.engine.units import Units
from jitvm.errors import CacheError
from tests.fast_set import share
from tests.texts import link, reading_texts, texts_of_this_session

ROOT = Path(__file__).parents[2]
GUEST = """
import hashlib, json, sys
sys.path.insert(0, {root!r})
import jitvm.bare as bare
from jitvm.engine.accel import Accelerator
if {keep}:
    accel = bare.accelerator()
else:
    accel = bare._accelerator = Accelerator(keep=False)
m = bare.Bare("handlers", memory=1 << 16)
m.set_mode("prot32")
m.write(0x1000, bytes.fromhex("b903000000 01c8 0fafc1 894500 e2f6 f4"))
m.set_registers({{"eip": 0x1000, "ebp": 0x8000, "eax": 5}})
stop = m.run(100)
accel.keep()
print(json.dumps({{
    "end": [stop.reason, stop.retired, hashlib.sha256(m.ram.tobytes()).hexdigest(), m.registers()["eax"]],
    "numba": "numba" in sys.modules,
    "compiled": sum(t.compiled for kind, t in accel.code.tallies.items() if kind != "units"),
    "units": accel.units.compiled,
    "modules": sorted({{name.split(".")[0] for name, unit in accel.units.units.items() if unit.text}}),
    "warned": 0,
}}))
"""
UNUSED = frozenset(
    "apic bcd bmi cpuid far fxsave io iret msr shift simd string stringio syscall vme x87 x87_arith x87_env x87_move".split()
)
"""Modules of semantics that the guest has no use for."""
READ_ONLY = "import os; allowed = os.access; os.access = lambda path, mode: allowed(path, mode) and not mode & os.W_OK\n"
"""The mode alone would not stop root."""
FULL = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (2048, 2048))\n"


def command(keep: bool = True, before: str = "") -> list[str]:
    return [sys.executable, "-c", before + GUEST.format(root=str(ROOT), keep=keep)]


def environment(home: Path) -> dict[str, str]:
    return os.environ | {"XDG_CACHE_HOME": str(home)}


def run(home: Path, keep: bool = True, before: str = "") -> dict[str, Any]:
    """One guest; what it said, and its warnings."""
    done = subprocess.run(
        command(keep, before), env=environment(home), capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    said: dict[str, Any] = json.loads(done.stdout)
    return said | {"warned": done.stderr.count("jitvm: warning")}


def damage(path: Path, data: bytes) -> None:
    """Other bytes under this name only."""
    path.unlink()
    path.write_bytes(data)


@pytest.fixture(scope="module")
def cold(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A cache that one run has filled, and what that run said."""
    home = tmp_path_factory.mktemp("cold")
    texts_of_this_session(home)
    return home, run(home)


@pytest.fixture
def home(cold: tuple[Path, dict[str, Any]], tmp_path: Path) -> Path:
    """A copy of the filled cache."""
    shutil.copytree(cold[0] / "jitvm", tmp_path / "jitvm", copy_function=link)
    return tmp_path


def files(home: Path, pattern: str) -> list[Path]:
    return sorted((home / "jitvm").rglob(pattern))


def without_objects(home: Path) -> None:
    """As if the handlers had never been compiled (the units' texts are there, so Numba is not needed)."""
    for path in files(home, "*.o"):
        path.unlink()


def test_cold_start_compiles(cold: tuple[Path, dict[str, Any]]) -> None:
    home, said = cold
    assert said["compiled"] > 0
    assert said["warned"] == 0
    assert files(home, "*.o")
    assert not files(home, ".new-*")
    for folder in (home / "jitvm", *(p for p in (home / "jitvm").iterdir() if p.is_dir())):
        assert folder.stat().st_mode & 0o777 == 0o700


def test_warm_start_compiles_nothing_and_imports_no_numba(cold: tuple[Path, dict[str, Any]], home: Path) -> None:
    said = run(home)
    assert said["end"] == cold[1]["end"]
    assert not said["numba"]
    assert said["compiled"] == said["units"] == 0


@pytest.mark.slow
def test_objects_alone_need_no_numba(cold: tuple[Path, dict[str, Any]], home: Path) -> None:
    without_objects(home)
    said = run(home)
    assert said["end"] == cold[1]["end"]
    assert said["compiled"] > 0
    assert not said["numba"]
    assert run(home)["compiled"] == 0


@pytest.mark.slow
def test_really_cold_start(cold: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    said = run(tmp_path)
    assert said["end"] == cold[1]["end"]
    assert said["numba"]
    assert said["units"] > 50
    if len(os.sched_getaffinity(0)) > 1:
        texts = [path for path in (tmp_path / "jitvm" / "units").iterdir() if not path.name.startswith(".")]
        assert len(texts) > said["units"] + 50, "a second process had its share"


@pytest.mark.slow
def test_no_cache(cold: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    said = run(tmp_path, keep=False)
    assert said["end"] == cold[1]["end"]
    assert not (tmp_path / "jitvm").exists()
    assert "alu" in said["modules"]
    assert UNUSED.isdisjoint(said["modules"]), "nothing is compiled that the guest does not use"


def flip(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "the last byte flipped": lambda data: flip(data, len(data) - 1),
    "a byte in the middle flipped": lambda data: flip(data, len(data) // 2),
    "a byte of the digest flipped": lambda data: flip(data, 3),
    "truncated": lambda data: data[: len(data) // 2],
    "empty": lambda data: b"",
    "other bytes": lambda data: b"\xff\0[1]\n" * 10,
}


@pytest.mark.parametrize("turn", share([0, 3], 0))
def test_damaged_entries_are_made_anew(turn: int, cold: tuple[Path, dict[str, Any]], home: Path) -> None:
    """All entries at once, each in another way; what one run made anew the next one uses."""
    damaged = files(home, "*.o") + files(home, "*.json")
    assert len(damaged) > 3
    ways = list(DAMAGE.values())
    for k, path in enumerate(damaged):
        damage(path, ways[(k + turn) % len(ways)](path.read_bytes()))
    before = {path: path.read_bytes() for path in damaged}
    said = run(home)
    assert said["end"] == cold[1]["end"]
    assert said["compiled"] > 0
    assert said["warned"] == 0
    for path, data in before.items():
        assert not path.exists() or path.read_bytes() != data, f"{path.name} is still there"
    again = run(home)
    assert again["compiled"] == 0
    assert again["end"] == cold[1]["end"]


@pytest.mark.slow
def test_damaged_text_of_a_unit(cold: tuple[Path, dict[str, Any]], home: Path) -> None:
    """Only that unit goes through Numba again."""
    texts = [p for p in (home / "jitvm" / "units").iterdir() if b"u_branch_loop_(" in p.read_bytes()]
    assert texts
    for path in texts:
        damage(path, flip(path.read_bytes(), 100))
    without_objects(home)
    said = run(home)
    assert said["end"] == cold[1]["end"]
    assert 1 <= said["units"] <= len(texts)


@pytest.mark.slow
def test_two_processes_at_once(cold: tuple[Path, dict[str, Any]], home: Path) -> None:
    without_objects(home)
    both = [subprocess.Popen(command(), env=environment(home), stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for process in both:
        out, _ = process.communicate(timeout=300)
        assert json.loads(out)["end"] == cold[1]["end"]
    assert run(home)["compiled"] == 0


@pytest.mark.slow
def test_full_disk(cold: tuple[Path, dict[str, Any]], home: Path) -> None:
    """No file may grow beyond 2 KiB: nothing is kept, nothing is left over, the run goes on."""
    without_objects(home)
    for path in files(home, "*.json"):
        path.unlink()
    said = run(home, before=FULL)
    assert said["end"] == cold[1]["end"]
    assert not files(home, ".new-*")
    assert all(path.stat().st_size < 2048 for path in files(home, "*.o"))
    assert run(home)["end"] == cold[1]["end"]


def test_epoch_is_of_the_layout_that_was_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sources that change while a process starts must not let it keep code for the new ones with the old layout."""
    before = code.source_epoch()
    monkeypatch.setattr(code, "CPU", LAZY)
    assert code.source_epoch() != before


# ---- the folder ------------------------------------------------------------------------------------------------------
def test_texts_are_of_the_front_end_that_made_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not found again by a jitvm that would make other texts of the same functions."""
    kept: dict[str, str] = {}
    Units(kept).text("flags.less_than")
    again = Units(kept)
    again.text("flags.less_than")
    assert again.compiled == 0
    other = tmp_path / "numba_ir.py"
    other.write_bytes(units.FRONT_END.read_bytes() + b"# another\n")
    monkeypatch.setattr(units, "FRONT_END", other)
    changed = Units(kept)
    changed.text("flags.less_than")
    assert changed.compiled == 1


def test_world_writable_folder_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "jitvm"
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(CacheError, match="writable by others"):
        Cache(folder, "epoch")
    folder.chmod(0o770)
    with pytest.raises(CacheError, match="writable by others"):
        Cache(folder, "epoch")


def test_folder_inside_is_looked_at_too(tmp_path: Path) -> None:
    Cache(tmp_path / "jitvm", "epoch")
    (tmp_path / "jitvm" / "epoch").chmod(0o777)
    with pytest.raises(CacheError, match="writable by others"):
        Cache(tmp_path / "jitvm", "epoch")


def test_foreign_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "jitvm").mkdir(mode=0o700)
    monkeypatch.setattr(os, "getuid", lambda: os.stat(tmp_path).st_uid + 1)
    with pytest.raises(CacheError, match="belongs to another user"):
        Cache(tmp_path / "jitvm", "epoch")


def test_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "jitvm").write_text("")
    with pytest.raises(CacheError):
        Cache(tmp_path / "jitvm", "epoch")


def test_read_only_folder_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = Cache(tmp_path / "jitvm", "epoch")
    before["unit"] = "text"
    before.save("forms", [1])
    before.write_object(b"code", ["x"], [])
    there = sorted(tmp_path.rglob("*"))
    allowed = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: allowed(path, mode) and not mode & os.W_OK)
    cache = Cache(tmp_path / "jitvm", "epoch")
    assert (cache.writable, cache.get("unit"), cache.load("forms")) == (False, "text", [1])
    entry = cache.find("x")
    assert entry is not None and cache.read([entry]) == [Kept(("x",), (), b"code")]
    cache["other"] = "text"
    cache.save("forms", [2])
    assert cache.write_object(b"more", ["y"], []) is None
    cache.tidy(["x"])
    assert cache.find("y") is None
    assert sorted(tmp_path.rglob("*")) == there and cache.load("forms") == [1]


def test_read_only_folder_serves_a_warm_start(cold: tuple[Path, dict[str, Any]], home: Path) -> None:
    """With a warning, as nothing is kept."""
    there = {path: path.read_bytes() for path in files(home, "*") if path.is_file()}
    said = run(home, before=READ_ONLY)
    assert said["end"] == cold[1]["end"]
    assert (said["compiled"], said["units"], said["numba"], said["warned"]) == (0, 0, False, 1)
    assert {path: path.read_bytes() for path in files(home, "*") if path.is_file()} == there


def test_folder_that_can_not_be_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also for root, whom the mode does not stop."""
    (tmp_path / "jitvm").mkdir(mode=0o700)
    monkeypatch.setattr(os, "access", lambda *args: False)
    with pytest.raises(CacheError, match="can't be read"):
        Cache(tmp_path / "jitvm", "epoch")


def test_only_files_that_are_new_are_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there are: a cold start writes one after the other, and looks behind each."""
    opened: list[Path] = []
    cache, other = Cache(tmp_path, "epoch"), Cache(tmp_path, "epoch")
    look = pack.entries

    def entries(path: Path) -> list[pack.Entry] | None:
        opened.append(path)
        return look(path)

    monkeypatch.setattr(pack, "entries", entries)
    for n in range(50):
        assert cache.find(f"h{n}") is None
        cache.write_object(bytes([n]), [f"h{n}"], [])
    assert opened == [], "what it wrote itself it knows"
    other.write_object(b"other", ["other"], [])
    assert cache.find("other") is not None and len(opened) == 1


@pytest.mark.slow
def test_refused_folder_is_a_warning(cold: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    folder = tmp_path / "jitvm"
    folder.mkdir()
    folder.chmod(0o777)
    said = run(tmp_path, before=reading_texts(tmp_path / "texts"))
    assert said["warned"] == 1
    assert said["end"] == cold[1]["end"]
    assert list(folder.iterdir()) == []


def test_disk_that_became_read_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Writing fails from one moment to the next; what was there is still read."""
    cache = Cache(tmp_path / "jitvm", "epoch")
    cache["a"] = "text"
    cache.save("forms", [1])

    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("tempfile.mkstemp", refuse)
    cache["b"] = "text"
    cache.save("forms", [2])
    cache.write_object(b"code", ["x"], [])
    assert cache.get("a") == "text"
    assert cache.get("b") is None
    assert cache.load("forms") == [1]
    for name in ("x", "y"):
        entry = cache.find(name)
        assert entry is None or cache.read([entry]) == [None]


KILLED = """
import sys
sys.path.insert(0, {root!r})
from pathlib import Path
from jitvm.engine.cache import Cache
cache = Cache(Path(sys.argv[1]), "epoch")
k = 0
while True:
    cache.write_object(bytes([k & 255]) * 300_000, [f"h{{k}}"], [])
    cache[f"unit{{k}}"] = "text" * 50_000
    k += 1
    if k == 3:
        print("going", flush=True)
"""


def test_killed_while_writing(tmp_path: Path) -> None:
    """Whatever the moment was: all entries that there are are whole."""
    for _ in range(4):
        child = subprocess.Popen(
            [sys.executable, "-c", KILLED.format(root=str(ROOT)), str(tmp_path / "jitvm")], stdout=subprocess.PIPE
        )
        assert child.stdout is not None
        assert child.stdout.readline() == b"going\n"
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
        cache = Cache(tmp_path / "jitvm", "epoch")
        n = 0
        while (entry := cache.find(f"h{n}")) is not None:
            (kept,) = cache.read([entry])
            assert kept is not None
            assert len(kept.code) == 300_000
            n += 1
        assert n >= 3
        for path in (tmp_path / "jitvm" / "units").glob("unit*"):
            assert cache.get(path.name) == "text" * 50_000


def test_code_stays_where_it_is_when_another_batch_has_it_too(tmp_path: Path) -> None:
    """Two processes at once leave batches with symbols in common; who leads to the first one's code must find it there."""
    text = {name: f"define i64 @{name}() {{ ret i64 {n} }}\n" for n, name in enumerate(("i_first", "i_second"), 1)}
    cache = Cache(tmp_path / "cache", "epoch")
    cache.write_object(compile_object("".join(text.values()), LEVEL_HANDLER), list(text), [])
    loaded = code.Code(Units(cache), cache)
    loaded._link([Kept(("i_first",), (), compile_object(text["i_first"], LEVEL_HANDLER))])
    before = loaded.address["i_first"]
    assert loaded._load("i_second")
    assert loaded.address["i_first"] == before
    results = [ctypes.CFUNCTYPE(ctypes.c_uint64)(loaded.address[name])() for name in text]
    assert results == [1, 2]
