"""What is told about an engine: the perf map, the trace for viewers, statistics by tier."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from jitvm import perf_map, stats
from jitvm.bench.workloads import images_folder, load_image, patch
from jitvm.config import MachineConfig
from jitvm.engine.accel import Accelerator
from jitvm.engine.cache import Cache
from jitvm.errors import BackendError
from jitvm.exits import ExitReason
from jitvm.machine import Machine
from jitvm.perf_map import PerfMap
from jitvm.replay import silent
from jitvm.trace_json import CHUNK, JsonFile, TraceJson
from tests.boot.guests import config
from tests.engine.guest import Guest
from tests.engine.test_code_cache import TINY, many_blocks, many_loops
from tests.needs import host_cannot, need

ROOT = Path(__file__).resolve().parents[1]
LINE = re.compile(r"([0-9a-f]+) ([0-9a-f]+) (\S.*)")


def bench_image(folder: Path, name: str, iterations: int) -> Path:
    """A bench guest with its number of iterations."""
    path = folder / f"{name}.bin"
    path.write_bytes(patch(load_image(images_folder(), name), iterations))
    return path


def sieve(folder: Path, **more: Any) -> MachineConfig:
    """A run with hot loops, whose regions the guest waits for."""
    symbols = images_folder() / "sieve.elf"
    return replace(config(bench_image(folder, "sieve", 40)), jit="sync", symbols=symbols, **more)


def parsed(path: Path) -> list[tuple[int, int, str]]:
    """Address, size and name of each line; all lines are of that form."""
    lines = path.read_text().splitlines()
    found = [LINE.fullmatch(line) for line in lines]
    assert all(found)
    return [(int(m[1], 16), int(m[2], 16), m[3]) for m in found if m]


def overlaps(pieces: list[tuple[int, int, str]]) -> list[str]:
    """Pieces that begin inside of the one before."""
    ordered = sorted(pieces)
    return [f"{a} {b}" for a, b in itertools.pairwise(ordered) if a[0] + a[1] > b[0]]


# ---- the perf map ---------------------------------------------------------------------------------------------------
def test_perf_map_names_all_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the file where perf looks: handlers, blocks and regions, the guest's by their symbols, no address twice."""
    path = tmp_path / "perf.map"
    assert perf_map.default_path() == Path(f"/tmp/perf-{os.getpid()}.map")
    monkeypatch.setattr(perf_map, "default_path", lambda: path)
    monkeypatch.setattr("jitvm.accelerators._accelerators", {})  # as in a new process: observed from the first link on
    cfg = sieve(tmp_path, perf_map=True)
    with Machine(cfg) as m:
        m.run()
        engine = m.vcpus[0].engine
        installed, promoted = engine.regions.installed, int(engine.c.stat_promoted)
        assert engine._code is not None
        first = engine._code.executable
        used = int(engine.c.code_next) - int(engine.c.code_start)
        assert m.accel.code.observers
    assert not m.accel.code.observers
    pieces = parsed(path)
    blocks = [p for p in pieces if p[2].startswith("block ")]
    regions = [p for p in pieces if p[2].startswith("region ")]
    assert len(blocks) == promoted > 3
    assert all(first <= address and address + size <= first + used for address, size, _ in blocks)
    assert len(regions) == installed > 0
    assert any(re.fullmatch(r"block 0x[0-9a-f]+ bench(\+0x[0-9a-f]+)?", name) for _, _, name in blocks)
    assert all(re.fullmatch(r"region 0x[0-9a-f]+ [a-z_]+(\+0x[0-9a-f]+)?, \d+ blocks?", name) for _, _, name in regions)
    handlers = {name for _, _, name in pieces if name.startswith("handler ")}
    assert len(handlers) > 20
    assert any(re.fullmatch(r"handler alu.sub r32,i32 \(fused, condition \d+\)", name) for name in handlers)
    assert not overlaps(pieces)
    assert path.stat().st_mode & 0o777 == 0o600


def perf(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Linux perf, in user space alone, by the clock: what any user may."""
    return subprocess.run(["perf", *map(str, arguments)], capture_output=True, text=True, check=False, timeout=300)


@pytest.mark.slow
def test_linux_perf_names_guest_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Real perf, on a process of its own: a hot loop's samples are its region's."""
    need("perf")
    data, record = tmp_path / "perf.data", ("record", "-q", "-e", "cpu-clock:u", "-F", "499")
    if perf(*record, "-o", data, "true").returncode:
        host_cannot("this kernel lets no user measure (perf_event_paranoid)")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    image = bench_image(tmp_path, "sieve", 20_000)
    boot = (
        sys.executable,
        "-m",
        "jitvm",
        "boot",
        image,
        "--serial",
        "null",
        "--device",
        "isa-debug-exit",
        "--jit",
        "sync",
    )
    done = perf(*record, "-o", data, "--", *boot, "--perf-map")
    assert "jitvm: warning" not in done.stderr, done.stderr
    pids = set(perf("script", "-i", data, "-F", "pid").stdout.split())
    report = perf("report", "-i", data, "--stdio", "--sort", "dso,sym", "-F", "overhead,dso,sym").stdout
    for pid in pids:
        Path(f"/tmp/perf-{pid}.map").unlink(missing_ok=True)
    ours = re.findall(r"([\d.]+)% +\[JIT\] tid \d+ +\[\.\] (.*)", report)
    regions = sum(float(share) for share, name in ours if re.match(r"region 0x[0-9a-f]+.*, \d+ blocks?", name))
    assert regions > 0.5 * sum(float(share) for share, _ in ours) > 0, report


def test_functions_linked_before_are_not_invented(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second machine of a process tells of its own blocks only; the first one's observer is told no more."""
    path = tmp_path / "perf.map"
    monkeypatch.setattr(perf_map, "default_path", lambda: path)
    accel = Accelerator()
    with Machine(sieve(tmp_path), accel=accel) as m:
        m.run()
    with Machine(sieve(tmp_path, perf_map=True), accel=accel) as m:
        m.run()
    assert {name.split()[0] for _, _, name in parsed(path)} == {"block"}


@pytest.mark.parametrize("source", [many_blocks(150, 4), many_loops(24, 2)])
def test_retired_code_keeps_its_addresses(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Code is forgotten again and again for want of room, and no address means two things."""
    from jitvm import bare

    accel = Accelerator()
    monkeypatch.setattr(bare, "_accelerator", accel)
    names = PerfMap(None, tmp_path / "perf.map")
    accel.observe(names)
    guest = Guest("handlers", memory=0x80000, options=TINY)
    guest.load(source, 0x30000)
    assert guest.go(1_000_000) == "hlt"
    assert int(guest.c.stat_flushes) > 0
    assert accel.regions.evicted == 0
    assert accel.regions.keep_all
    guest.bare.vcpu.tell_copied()
    accel.unobserve(names)
    names.close()
    assert not accel.regions.keep_all
    pieces = parsed(tmp_path / "perf.map")
    assert sum(name.startswith("block ") for _, _, name in pieces) == int(guest.c.stat_promoted)
    assert not overlaps(pieces)


def copied(m: Machine) -> int:
    """Pieces of machine code that were copied for blocks: a pinned one has two."""
    c = m.vcpus[0].engine.c
    return int(c.stat_promoted) + int(c.stat_pinned)


def test_more_blocks_than_the_log_has_room_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from jitvm.engine import observer

    monkeypatch.setattr(observer, "COPIED_ROOM", 3)
    accel = Accelerator()
    names = PerfMap(None, tmp_path / "perf.map")
    cfg = replace(sieve(tmp_path), jit="stencils", engine=(("beside", False),))
    with Machine(cfg, accel=accel) as plain:
        plain.run()
        wanted = plain.vcpus[0].retired, copied(plain)
    accel.observe(names)
    with Machine(cfg, accel=accel) as m:
        m.run()
        m.vcpus[0].engine.tell_copied()
        assert (m.vcpus[0].retired, copied(m)) == wanted
    accel.unobserve(names)
    names.close()
    assert sum(name.startswith("block ") for _, _, name in parsed(tmp_path / "perf.map")) == wanted[1] > 3


def test_a_map_is_not_written_through_a_link_or_without_a_folder(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    for path in (tmp_path / "link", tmp_path / "none" / "perf.map"):
        with pytest.raises(BackendError, match="--perf-map"):
            PerfMap(None, path)
    assert not (tmp_path / "elsewhere").exists()


# ---- the trace for viewers ------------------------------------------------------------------------------------------
def events_of(path: Path) -> list[dict[str, Any]]:
    """The file's events."""
    found = json.loads(path.read_text())
    assert isinstance(found, list)
    return found


def test_trace_adds_up(tmp_path: Path) -> None:
    """Turns have all instructions and exits; compiled code, regions and copied blocks have their events."""
    path = tmp_path / "trace.json"
    with Machine(sieve(tmp_path, trace_json=path), accel=Accelerator()) as m:
        m.run()
        found, retired = m.stats(), m.vcpus[0].retired
        compiled = m.accel.code.tallies["regions"].compiled
    events = events_of(path)
    turns = [e for e in events if e["name"] == "guest"]
    assert sum(e["args"]["instructions"] for e in turns) == retired
    exits: dict[str, int] = {}
    for e in turns:
        assert e["args"]["guest_us"] <= e["dur"] + 1
        for kind, n in e["args"]["exits"].items():
            exits[kind.lower()] = exits.get(kind.lower(), 0) + n
    assert exits == found["exits"]
    assert [e["args"] for e in events if e["ph"] == "C"] == [e["args"]["exits"] for e in turns]
    assert {e["tid"] for e in turns} == {0}
    regions = [e for e in events if e["name"] == "region"]
    assert len(regions) == found["tiers"]["regions"]["installed"] > 0
    assert all(e["tid"] == 0 and e["args"]["linear"] in e["args"]["blocks"] for e in regions)
    made = [e for e in events if e["ph"] == "X" and e["args"].get("tier") == "regions"]
    assert len(made) == compiled
    copied = [e["args"]["n"] for e in events if e["name"] == "copied blocks"]
    assert sum(copied) == found["tiers"]["stencils"]["blocks"]
    assert all(e["ts"] >= 0 for e in events if "ts" in e)


def test_trace_names_what_is_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Handlers that the cache does not have are compiled, and named by what they do."""
    accel, path = Accelerator(), tmp_path / "trace.json"
    monkeypatch.setattr(accel.code, "cache", Cache(None, ""))
    before = accel.code.tallies["handlers"].compiled
    with Machine(replace(sieve(tmp_path, trace_json=path), jit="handlers"), accel=accel) as m:
        m.run()
    made = [e for e in events_of(path) if e["ph"] == "X" and e["args"].get("tier") == "handlers"]
    assert sum(e["args"]["n"] for e in made) == accel.code.tallies["handlers"].compiled - before > 0
    assert all(e["tid"] == 0 and e["dur"] > 0 for e in made[1:])
    assert any(name.startswith("alu.add r32,") for e in made for name in e["args"]["names"])


def test_a_json_file_is_complete_at_any_time(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    file = JsonFile(path)
    assert events_of(path) == []
    for k in range(CHUNK + 3):
        file.add({"name": "x", "k": k})
    assert [e["k"] for e in events_of(path)] == list(range(CHUNK))
    file.close()
    assert [e["k"] for e in events_of(path)] == list(range(CHUNK + 3))


def test_a_json_file_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    file = JsonFile(path, most=50_000)
    for k in range(5000):
        file.add({"name": "x", "k": k})
    file.close()
    events = events_of(path)
    assert path.stat().st_size <= 50_200
    assert events[-1]["name"] == "the trace is full"
    assert len(events) > 1000


def test_turns_grow_longer_as_the_file_fills(tmp_path: Path) -> None:
    trace = TraceJson(tmp_path / "trace.json", most=3000)
    with Machine(sieve(tmp_path)) as m:
        trace.watch(m.vcpus[0])
        for k in range(2000):
            trace.file.add({"name": "x", "k": k})
        for _ in range(50):
            m.run(1000)
        turns = trace._turns[0]
        assert turns.entries > 0
    trace.close()
    assert (tmp_path / "trace.json").stat().st_size < 3300


def test_a_trace_that_can_not_be_written(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="--trace-json"):
        TraceJson(tmp_path / "none" / "trace.json")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_trace_is_complete_when_the_run_is_killed(number: signal.Signals, tmp_path: Path) -> None:
    image, path = bench_image(tmp_path, "port_storm", 1 << 31), tmp_path / "trace.json"
    options = ["--serial", "null", "--debugcon", "stdio", "--trace-json", str(path)]
    with subprocess.Popen(
        [sys.executable, "-m", "jitvm", "boot", str(image), *options],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
    ) as process:
        assert process.stdout is not None
        while not process.stdout.readline().startswith(b"bench"):
            assert process.poll() is None
        assert process.stdout.read(1) == b"S"
        process.send_signal(number)
        process.wait(60)
    events = events_of(path)
    if number == signal.SIGINT:
        assert process.returncode == 130
        assert sum(e["args"]["entries"] for e in events if e["name"] == "guest") > 10
        assert any(ExitReason.IO.name in e["args"]["exits"] for e in events if e["name"] == "guest")


def test_the_second_run_of_a_crash_report_writes_no_files(tmp_path: Path) -> None:
    again = silent(sieve(tmp_path, perf_map=True, trace_json=tmp_path / "trace.json"))
    assert not again.perf_map
    assert again.trace_json is None


# ---- statistics -----------------------------------------------------------------------------------------------------
def test_statistics_by_tier(tmp_path: Path) -> None:
    with Machine(sieve(tmp_path, engine=(("count", True),)), accel=Accelerator()) as m:
        m.run()
        found = m.stats()
        tiers = found["tiers"]
        installed = m.vcpus[0].engine.regions.installed
    assert json.loads(json.dumps(found)) == found
    assert tiers["regions"]["installed"] == installed > 0
    assert tiers["regions"]["compiled"] + tiers["regions"]["from_cache"] >= tiers["regions"]["linked"] > 0
    assert tiers["regions"]["linked_bytes"] > 4096 * tiers["regions"]["linked"]
    assert tiers["handlers"]["compiled"] + tiers["handlers"]["from_cache"] > 20
    assert tiers["handlers"]["bytes"] > 1000 and tiers["runtime"]["bytes"] > 1000
    assert 0 < tiers["stencils"]["blocks"] < tiers["handlers"]["blocks"]
    assert tiers["stencils"]["copied_bytes"] > 100
    assert tiers["stencils"]["pinned_blocks"] == 0, "there are regions"
    counted = [tiers[tier]["instructions"] for tier in ("handlers", "stencils", "regions")]
    assert sum(counted) == found["retired"]
    assert counted[2] > counted[1] > 0 and counted[0] > 0


def test_each_figure_is_told_once(tmp_path: Path) -> None:
    """No two names of `--stats` are of the same counter: whatever is counted by tier is told there alone."""
    with Machine(sieve(tmp_path), accel=Accelerator()) as m:
        m.run()
        engine = m.vcpus[0].engine
        owners: dict[str, Any] = {name: engine.c for name in engine.array.dtype.names or () if name.startswith("stat_")}
        owners |= dict.fromkeys(("asked", "installed"), engine.regions)
        values = {name: 1_000_000_007 + k for k, name in enumerate(owners)}  # unlike any other figure
        for name, owner in owners.items():
            setattr(owner, name, values[name])
        shown = [value for _, value in stats.flat(m.stats())]
    told = {name: shown.count(f"{value:,}") for name, value in values.items()}
    assert not [name for name, n in told.items() if n > 1]
    assert all(told[name] for name in ("stat_blocks", "stat_promoted", "stat_code_bytes", "asked", "installed"))


def test_instructions_by_tier_are_not_there_uncounted(tmp_path: Path) -> None:
    with Machine(sieve(tmp_path)) as m:
        m.run(1000)
        assert "instructions" not in m.stats()["tiers"]["regions"]
