"""The bench guests and their harness; no test here depends on how long anything takes.

Checksums at tiny iteration counts must agree between emulators: the image
measures the same work everywhere, and the emulators do it right.
"""

from __future__ import annotations

import functools
import importlib.util
import itertools
import json
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from rich.console import Console

import jitvm.bench
from jitvm.bench import ab, jitvm_stats, measure, report, runners
from jitvm.bench.errors import BenchError, RunError
from jitvm.bench.results import Cell, Results, StartUp, load, save
from jitvm.bench.session import Session, check_agreement, environment
from jitvm.bench.stats import geometric_mean, median, paired_ratio, ratio, spread
from jitvm.bench.workloads import (
    WORKLOADS,
    Workload,
    images_folder,
    load_image,
    patch,
    select,
)
from jitvm.machine import Machine
from tests.boot.guests import config
from tests.needs import lacking, need

IMAGES = images_folder()
TIMEOUT = 120.0

CHECKSUMS = {
    "alu": "8c738842",
    "one_cpu": "00001818",
    "two_cpus": "00001818",
    "sieve": "00000c0c",
    "crc": "8427cf50",
    "cmix": "571cd71d",
    "quicksort": "8077ed64",
    "cmix64": "571cd71d",
    "quicksort64": "9843f33e",
    "matrix": "dfeba740",
    "mandel": "950ab5ce",
    "mandel_sse2": "00001c14",
    "memcpy_loop": "5fce8ace",
    "calls": "4e13a9aa",
    "real16": "5c27a73d",
    "paging_chase": "03d1c6c0",
    "rep_movsd": "31420035",
    "rep_stosb": "05050505",
    "rep_short": "efe981fd",
    "fresh": "ce44e1a6",
    "smc": "eeeeeeeb",
    "smc_data": "888888f8",
    "irq": "00000005",
    "irq_ipi": "00000002",
    "irq_pit": "00000002",
    "port_storm": "00000007",
    "mmio_storm": "00000007",
    "port_latch": "00000007",
    "port_empty": "000003f7",
    "vga_text": "00000007",
    "apic_eoi": "00000007",
}
"""Checksums of two iterations; the emulators and jitvm must give these."""

NAMES = [workload.name for workload in WORKLOADS]
ONE_CPU = [workload.name for workload in WORKLOADS if workload.cpus == 1]
ALONE = [workload.name for workload in WORKLOADS if not workload.board]
"""What a CPU without a board can run."""
NATIVE = [workload.name for workload in WORKLOADS if workload.native]
"""What this host's CPU can run as a program."""


@pytest.fixture(scope="module")
def scratch() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def _run(runner: runners.Runner, name: str, iterations: int, scratch: Path) -> measure.Run:
    """Run a workload; skips the test where the emulator is not installed."""
    missing = runner.missing()
    if missing:
        lacking(f"{runner.name}: {missing}")
    image = scratch / f"{name}.bin"
    image.write_bytes(patch(load_image(IMAGES, name), iterations))
    workload = next(w for w in WORKLOADS if w.name == name)
    more = runner.several(workload.cpus) if workload.cpus > 1 else []
    assert more is not None, "an emulator with as many CPUs"
    return measure.run([*runner.command(image), *more], timeout=TIMEOUT, environment=environment())


@functools.cache
def _jitvm(name: str, iterations: int, scratch: Path) -> measure.Run:
    """A run of ours, for all that it is asked."""
    return _run(runners.Jitvm(), name, iterations, scratch)


def _count(name: str, iterations: int, scratch: Path) -> int:
    """Instructions between the marks by unicorn's hook."""
    if importlib.util.find_spec("unicorn") is None:
        lacking("unicorn: not installed")
    image = scratch / f"{name}.bin"
    image.write_bytes(patch(load_image(IMAGES, name), iterations))
    command = [*runners.Unicorn().command(image), "--count"]
    return int(measure.run(command, timeout=TIMEOUT, environment=environment()).messages)


@pytest.mark.parametrize(
    ("emulator", "name"),
    [
        *itertools.product(["jitvm", "qemu"], NAMES),
        *(("bochs", name) for name in ONE_CPU),
        *(("unicorn", name) for name in ALONE),
        *(("native", name) for name in NATIVE),
    ],
)
def test_checksum(emulator: str, name: str, scratch: Path) -> None:
    runner = {r.name: r for r in runners.all_runners(scratch)}[emulator]
    run = _jitvm(name, 2, scratch) if emulator == "jitvm" else _run(runner, name, 2, scratch)
    assert run.match[1].decode() == name
    assert run.checksum == CHECKSUMS[name]


@pytest.mark.parametrize("name", ONE_CPU)
def test_jitvm_counts_what_the_table_says(name: str, scratch: Path) -> None:
    workload = next(w for w in WORKLOADS if w.name == name)
    counts = [
        jitvm_stats.retired_between_marks(jitvm_stats.document(_jitvm(name, iterations, scratch)))
        for iterations in (2, 5)
    ]
    assert counts[0] is not None and counts[1] is not None, "jitvm's statistics have no marks"
    assert counts[1] - counts[0] == 3 * workload.per_iteration


def test_two_cpus_count_what_the_table_says(scratch: Path) -> None:
    """The second one; the first does the same, and waits for it."""
    workload = next(w for w in WORKLOADS if w.name == "two_cpus")
    image, counts = scratch / "two.bin", []
    for iterations in (10, 20):
        image.write_bytes(patch(load_image(IMAGES, "two_cpus"), iterations))
        with Machine(config(image, smp=2, cpu="max")) as machine:
            assert machine.run().reason == "debug-exit"
            counts.append(machine.vcpus[1].retired)
    assert 2 * (counts[1] - counts[0]) == 10 * workload.per_iteration


@pytest.mark.parametrize("name", ALONE)
def test_unicorn_counts_what_the_table_says(name: str, scratch: Path) -> None:
    workload = next(w for w in WORKLOADS if w.name == name)
    few, more = _count(name, 1, scratch), _count(name, 3, scratch)
    assert more - few == 2 * workload.per_iteration
    assert abs(few - workload.instructions(1)) < 30


def test_iterations_change_the_checksum(scratch: Path) -> None:
    runner = runners.Qemu()
    assert _run(runner, "crc", 1, scratch).checksum != _run(runner, "crc", 2, scratch).checksum


@pytest.mark.parametrize("name", [*NAMES, "first"])
def test_image_header(name: str) -> None:
    image = load_image(IMAGES, name)
    patched = patch(image, 0x01020304)
    assert patched[0xFF00:0xFF04] == b"\x04\x03\x02\x01"
    assert patched[:0xFF00] == image[:0xFF00]
    assert patched[0xFF04:] == image[0xFF04:]
    assert image[0xFFF0] == 0xEA, "a far jump at the reset vector"


@pytest.mark.parametrize("iterations", [0, -1, 1 << 32])
def test_patch_refuses(iterations: int) -> None:
    with pytest.raises(ValueError, match="iterations"):
        patch(bytes(0x10000), iterations)


def test_load_image_refuses(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="build the bench guests"):
        load_image(tmp_path, "alu")
    (tmp_path / "alu.bin").write_bytes(bytes(0x10000))
    with pytest.raises(BenchError, match="not a bench image"):
        load_image(tmp_path, "alu")
    shutil.copy(IMAGES / "crc.bin", tmp_path / "alu.bin")
    with pytest.raises(BenchError, match="another workload"):
        load_image(tmp_path, "alu")


def test_rebuild_is_identical(tmp_path: Path) -> None:
    source = Path(__file__).resolve().parents[2] / "firmware/bench/build_bench.py"
    need("gcc")
    spec = importlib.util.spec_from_file_location("build_bench", source)
    assert spec is not None
    assert spec.loader is not None
    builder = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(builder)
    once, again = builder.build(tmp_path / "1"), builder.build(tmp_path / "2")
    assert len(once) == 2 * (len(WORKLOADS) + 1)
    for one, two in zip(once, again, strict=True):
        assert one.read_bytes() == two.read_bytes()
    assert {w.name for w in WORKLOADS} == set(builder.WORKLOADS)


def test_median() -> None:
    assert median([3.0, 1.0, 2.0]) == 2.0
    assert median([4.0, 1.0, 2.0, 3.0]) == 2.5
    assert median([]) is None


def test_geometric_mean() -> None:
    assert geometric_mean([1.0, 4.0]) == pytest.approx(2.0)
    assert geometric_mean([2.0, None, 8.0, 0.0]) == pytest.approx(4.0)
    assert geometric_mean([]) is None
    assert geometric_mean([None]) is None


def test_ratio_and_spread() -> None:
    assert ratio(6.0, 3.0) == 2.0
    assert ratio(None, 3.0) is None
    assert ratio(6.0, None) is None
    assert ratio(6.0, 0.0) is None
    assert spread([8.0, 9.0, 10.0, 12.0, 90.0]) == pytest.approx(0.3)
    assert spread([]) is None
    assert spread([1.0]) is None


def test_paired_ratio() -> None:
    """Twice as fast in each round, whatever the round; and twice the work."""
    assert paired_ratio(1, [1.0, 5.0, 2.0], 1, [2.0, 10.0, 4.0]) == 2.0
    assert paired_ratio(2, [1.0, 5.0, 2.0], 1, [2.0, 10.0, 4.0]) == 4.0
    assert paired_ratio(1, [1.0, 1.0, 1.0], 1, [3.0, 1.0, 2.0]) == 2.0
    assert paired_ratio(1, [], 1, []) is None
    assert paired_ratio(1, [1.0], 0, [1.0]) is None


def _invented() -> Results:
    """A run with round figures: jitvm 200 MIPS, QEMU 100 MIPS on alu."""
    results = Results(
        runners={"jitvm": "1", "qemu": "7", "bochs": "not installed"},
        present=["jitvm", "qemu"],
        rounds=3,
        compute=["alu"],
    )
    ours = Cell(10, 100_000_000, [0.5, 0.4, 0.6], [1.0, 1.0, 1.0], "12345678")
    ours.blocks, ours.compile_seconds = 12, 0.02
    theirs = Cell(5, 50_000_000, [0.5, 0.5, 0.5], [1.0, 1.0, 1.0], "87654321")
    results.cells["alu"] = {"jitvm": ours, "qemu": theirs}
    storm = Cell(1000, 8019, [0.002], [0.1], "1", exits=2000)
    results.cells["port_storm"] = {"jitvm": storm, "qemu": Cell(error="no end within 1 s")}
    timer = Cell(2000, 32_011, [0.1], [0.2], "7d0", interrupts=2000)
    results.cells["irq_pit"] = {"jitvm": timer, "qemu": Cell(1000, 16_011, [0.1], [0.2], "3e8", interrupts=1000)}
    results.start_up["first instruction"] = {"jitvm": StartUp([0.3]), "qemu": StartUp([0.1])}
    return results


def test_rates_on_invented_data() -> None:
    results = _invented()
    assert results.mips("alu", "jitvm") == pytest.approx(200.0)
    assert results.ratio("alu", "jitvm", "qemu") == pytest.approx(2.0)
    assert results.whole_ratio("alu", "jitvm", "qemu") == pytest.approx(2.0)
    storm = results.cells["port_storm"]["jitvm"]
    assert storm.exits_per_second == pytest.approx(1e6)
    assert storm.exit_cost == pytest.approx(1e-6)
    assert results.cells["irq_pit"]["qemu"].interrupts_per_second == pytest.approx(10_000)
    assert storm.interrupts_per_second is None
    assert results.mips("port_storm", "qemu") is None
    assert results.ratio("port_storm", "jitvm", "qemu") is None
    assert results.ratio("alu", "jitvm", "bochs") is None
    assert results.ratio("none", "jitvm", "qemu") is None


def test_results_survive_json(tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    save(_invented(), path)
    assert load(path) == _invented()
    assert json.loads(path.read_text())["cells"]["alu"]["qemu"]["mips"] == pytest.approx(100.0)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": 1}', '{"format": 1, "cells": 3}'])
def test_broken_result_file(content: str, tmp_path: Path) -> None:
    path = tmp_path / "old.json"
    path.write_text(content)
    with pytest.raises(BenchError):
        load(path)


def test_report_shows_everything(capsys: pytest.CaptureFixture[str]) -> None:
    older = _invented()
    older.cells["alu"]["jitvm"].seconds = [1.0]
    report.show(_invented(), older, Console(width=200), report.speed(_invented()))
    shown = capsys.readouterr().out
    for text in ("alu *", "200", "2.00", "bochs: not installed", "no end within 1 s", "1.00 us", "20,000", "10,000"):
        assert text in shown


def test_disagreeing_checksums_are_told() -> None:
    results = _invented()
    check_agreement(results)
    assert results.warnings == []
    results.cells["alu"]["qemu"].iterations = 10
    check_agreement(results)
    assert "alu" in results.warnings[0]


class _Scripted:
    """A runner that is a Python script; its checksum is its iteration count."""

    name = "scripted"
    board = False
    machine = True

    def missing(self) -> str | None:
        return None

    def version(self) -> str:
        return "0"

    def command(self, image: Path) -> list[str]:
        count = int.from_bytes(image.read_bytes()[0xFF00:0xFF04], "little")
        script = f"print('bench alu\\nSE{count:08x}')"
        return [sys.executable, "-c", script]

    def several(self, cpus: int) -> list[str] | None:
        return None


def test_session_with_a_scripted_runner(tmp_path: Path) -> None:
    runner = _Scripted()
    workload = Workload("alu", 1, 10, 5, fixed=7)
    session = Session([runner], IMAGES, tmp_path, 3, 0.1, TIMEOUT, lambda _text: None)
    results = Results(present=["scripted"])
    session.measure(workload, results)
    cell = results.cells["alu"]["scripted"]
    assert cell.error is None
    assert (cell.iterations, cell.instructions, cell.checksum) == (7, 45, "00000007")
    assert len(cell.seconds) == len(cell.walls) == 3


def test_a_cpu_without_a_board_gets_no_interrupts(tmp_path: Path) -> None:
    session = Session([_Scripted()], IMAGES, tmp_path, 3, 0.1, TIMEOUT, lambda _text: None)
    results = Results(present=["scripted"])
    session.measure(Workload("irq_pit", 1, 10, 5, fixed=7, interrupts=1, board=True), results)
    cell = results.cells["irq_pit"]["scripted"]
    assert cell.error is not None and "CPU alone" in cell.error
    assert cell.seconds == []
    assert cell.interrupts_per_second is None


def test_what_needs_a_machine_is_no_row_of_this_host(tmp_path: Path) -> None:
    runner = _Scripted()
    runner.machine = False
    session = Session([runner], IMAGES, tmp_path, 1, 0.1, TIMEOUT, lambda _text: None)
    results = Results(present=["scripted"])
    session.measure(Workload("alu", 1, 10, 5, fixed=7), results)
    session.measure(Workload("sieve", 1, 10, 5, fixed=7, native=True), results)
    assert results.cells["alu"] == {} and results.cells["sieve"]["scripted"].error is None


def test_a_guest_that_this_host_cannot_build_is_a_reason(tmp_path: Path) -> None:
    native = runners.Native(tmp_path)
    if native.missing():
        lacking(f"native: {native.missing()}")
    image = bytearray(load_image(IMAGES, "sieve"))
    image[0xFF10:0xFF16] = b"nosuch"
    (tmp_path / "nosuch.bin").write_bytes(image)
    with pytest.raises(RunError, match="nosuch can't be built for this host"):
        native.command(tmp_path / "nosuch.bin")
    native.sources = tmp_path
    assert native.missing() == "the guests' sources are not here"


def test_one_cpu_gets_no_work_for_two(tmp_path: Path) -> None:
    session = Session([_Scripted()], IMAGES, tmp_path, 3, 0.1, TIMEOUT, lambda _text: None)
    results = Results(present=["scripted"])
    session.measure(Workload("two_cpus", 1, 10, 5, fixed=7, cpus=2), results)
    cell = results.cells["two_cpus"]["scripted"]
    assert cell.error == "it has one CPU" and cell.seconds == []


@dataclass
class _Timed:
    """What calibration looks at in a run."""

    seconds: float
    wall: float


def test_buffered_marks_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = Session([], IMAGES, tmp_path, 1, 0.5, TIMEOUT, lambda _text: None)

    def invented(_self: Session, _runner: object, _work: Workload, iterations: int) -> _Timed:
        return _Timed(0.0, 0.1 + iterations * 1e-6)

    monkeypatch.setattr(Session, "run", invented)
    with pytest.raises(RunError, match="buffered"):
        session.calibrate(_Scripted(), Workload("alu", 10, 0, 1))


def test_calibration_reaches_the_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = Session([], IMAGES, tmp_path, 1, 0.5, TIMEOUT, lambda _text: None)
    asked: list[int] = []

    def invented(_self: Session, _runner: object, _work: Workload, iterations: int) -> _Timed:
        asked.append(iterations)
        return _Timed(iterations * 1e-6, 0.1 + iterations * 1e-6)

    monkeypatch.setattr(Session, "run", invented)
    assert session.calibrate(_Scripted(), Workload("alu", 10, 0, 1)) == 500_000
    assert asked[0] == 10
    assert asked == sorted(asked)


def test_calibration_is_not_misled_by_a_long_warm_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is done once takes longer than the target: the iterations are those of the steady part."""
    session = Session([], IMAGES, tmp_path, 1, 0.5, TIMEOUT, lambda _text: None)

    def invented(_self: Session, _runner: object, _work: Workload, iterations: int) -> _Timed:
        return _Timed(0.6 + iterations * 1e-6, 0.7 + iterations * 1e-6)

    monkeypatch.setattr(Session, "run", invented)
    assert session.calibrate(_Scripted(), Workload("alu", 10, 0, 1)) == 500_000


def test_children_keep_their_bytecode() -> None:
    """As an installed program does; where nothing is to be written beside the sources, in the cache's folder."""
    child = environment({"PYTHONDONTWRITEBYTECODE": "1", "XDG_CACHE_HOME": "/caches"})
    assert "PYTHONDONTWRITEBYTECODE" not in child
    assert child["PYTHONPYCACHEPREFIX"] == "/caches/jitvm-bench"
    assert "PYTHONPYCACHEPREFIX" not in environment({})


def test_failed_run_is_a_reason() -> None:
    with pytest.raises(RunError, match="status 3: broken"):
        measure.run([sys.executable, "-c", "import sys; print('broken'); sys.exit(3)"])
    with pytest.raises(RunError, match="no end within"):
        measure.run([sys.executable, "-c", "import time; time.sleep(60)"], timeout=0.2)
    with pytest.raises(RunError, match="No such file"):
        measure.run(["/nonexistent/emulator"])


def test_statistics_of_jitvm() -> None:
    stats = {
        "marks": [[5, 98], [100, ord("S")], [1100, "E"], [1200, 10]],
        "tiers": {
            "handlers": {"blocks": 7, "compile_seconds": 0.25},
            "stencils": {"blocks": 4},
            "regions": {"compile_seconds": 0.5},
        },
    }
    assert jitvm_stats.retired_between_marks(stats) == 1000
    assert jitvm_stats.blocks(stats) == 7
    assert jitvm_stats.compile_seconds(stats) == 0.75
    assert jitvm_stats.retired_between_marks({}) is None
    assert jitvm_stats.blocks({}) is jitvm_stats.compile_seconds({}) is None


def test_statistics_are_found_in_the_output() -> None:
    script = (
        "import sys; print('bench alu\\nSE00000001'); "
        "print('some {note}\\n{ not json', file=sys.stderr); "
        "print('{\\n \"blocks\": 3\\n}', file=sys.stderr)"
    )
    assert jitvm_stats.document(measure.run([sys.executable, "-c", script])) == {"blocks": 3}
    silent = "print('bench alu\\nSE00000001')"
    assert jitvm_stats.document(measure.run([sys.executable, "-c", silent])) == {}


@pytest.mark.parametrize(
    "arguments",
    [
        ["--rounds", "0"],
        ["--rounds", "x"],
        ["--target", "-1"],
        ["--only", "nosuch"],
        ["--runners", "nosuch"],
        ["--nosuch"],
        ["surplus"],
        ["--compare", "/nonexistent.json"],
        ["--json", "/nonexistent/out.json", "--only", "alu"],
        ["--images", "/nonexistent"],
        ["--jitvm-options", "'"],
        ["--ab", "nosuch"],
        ["--ab", ","],
        ["--ab", "fuse", "--runners", "qemu"],
    ],
)
def test_bad_arguments(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert jitvm.bench.main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("jitvm bench: ")
    assert captured.err.count("\n") == 1


def test_nothing_installed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for runner in (runners.Jitvm, runners.Qemu, runners.Bochs, runners.Unicorn, runners.Native):
        monkeypatch.setattr(runner, "missing", lambda _self: "not installed")
    out = tmp_path / "bench.json"
    assert jitvm.bench.main(["--quick", "--only", "alu", "--json", str(out)]) == 0
    assert capsys.readouterr().out.count("not installed") == 5
    assert load(out).present == []


def test_with_and_without(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Same counts and checksums with a switch; ratios of the rounds, and where they agree."""
    out = tmp_path / "ab.json"
    arguments = "--ab pads,no_such".split()
    assert jitvm.bench.main(arguments) == 2
    capsys.readouterr()
    arguments = f"--ab jump-cache --only calls --quick --target 0.02 --json {out}".split()
    assert jitvm.bench.main(arguments) == 0
    results = load(out)
    assert results.present == ["jitvm", "no-jump_cache"]
    assert results.warnings == []
    cells = results.cells["calls"]
    assert all(cell.error is None and len(cell.seconds) == 2 for cell in cells.values())
    assert len(results.ratios("calls", "jitvm", "no-jump_cache")) == 2
    assert "jump_cache" in capsys.readouterr().out


def test_spread_of_ratios() -> None:
    assert ab.worth([]) == "-"
    assert ab.worth([1.5, 1.2, 2.0]) == "1.50 (1.20..2.00)*"
    assert ab.worth([0.9, 1.2, 1.0]) == "1.00 (0.90..1.20) "
    assert ab.worth([0.5, 0.25]) == "0.38 (0.25..0.50)*"


def test_select_keeps_the_order_of_the_table() -> None:
    assert [w.name for w in select("crc, alu")] == ["alu", "crc"]
    assert select(None) == WORKLOADS


def test_no_numba() -> None:
    command = [
        sys.executable,
        "-c",
        "import sys, jitvm.bench; print('(%s)' % ('numba' in sys.modules))",
    ]
    run = measure.run(command, re.compile(rb"\((\w+)\)"), environment=environment())
    assert run.match[1] == b"False"
