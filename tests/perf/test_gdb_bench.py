"""The bench of the debugger's side: its figures and its table; no test here depends on how long anything takes."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from jitvm.bench import gdb_bench
from jitvm.bench.errors import RunError
from jitvm.bench.gdb_bench import GDB_HITS, HITS, IDLE, LATENCIES, READS, STEPS, WATCHED, Bench, Measure, Results
from jitvm.bench.gdb_client import Debuggee, Jitvm, Qemu
from tests.needs import need


def test_figures_are_medians_and_worst_cases_the_worst() -> None:
    results, worst = Results(), LATENCIES["hlt"][1]
    for value in (3.0, 1.0, 2.0):
        results.add(STEPS, "jitvm", value)
        results.add(worst, "jitvm", value)
    assert results.value(STEPS, "jitvm") == 2.0 and results.value(worst, "jitvm") == 3.0
    assert results.value(STEPS, "qemu") is None


@pytest.mark.parametrize(("row", "good", "bad"), [(STEPS, 500, 499), (WATCHED, 2, 2.1), (IDLE, 0.97, 0.96)])
def test_aims(row: Measure, good: float, bad: float) -> None:
    assert row.met(good) and not row.met(bad) and READS.met(0)


def test_the_table_says_what_was_missed() -> None:
    results = Results()
    for row, value in ((STEPS, 1000.0), (HITS, 100.0)):
        results.add(row, "jitvm", value)
    results.add(STEPS, "qemu", 500.0)
    console = Console(width=120)
    with console.capture() as captured:
        console.print(gdb_bench.table(results, ["jitvm", "qemu"]))
    steps, hits = (line for line in captured.get().splitlines() if "/s" in line)
    assert "1,000" in steps and "2.00" in steps and "yes" in steps and "NO" in hits and ">= 800" in hits


@pytest.mark.parametrize("who", [Jitvm(), Qemu()], ids=["jitvm", "qemu"])
def test_a_short_round(tmp_path: Path, who: Debuggee) -> None:
    need("gdb", *([Qemu.program] if who.name == "qemu" else []))
    results = Results()
    Bench(tmp_path, results, 0.01).round(who)
    assert results.errors == []
    assert {STEPS, HITS, READS, GDB_HITS, IDLE, WATCHED, *LATENCIES["storm"]} <= set(results.values)
    assert all(values[who.name][0] > 0 for values in results.values.values())


def test_what_fails_is_told_and_the_rest_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Bench, who: Debuggee) -> None:
        raise RunError("no answer")

    def nothing(self: Bench, who: Debuggee) -> None:
        self.results.add(READS, who.name, 1.0)

    monkeypatch.setattr(Bench, "packets", fail)
    for name in ("with_gdb", "latencies", "speed"):
        monkeypatch.setattr(Bench, name, nothing)
    fail.__name__ = "packets"
    results = Results()
    Bench(tmp_path, results).round(Jitvm())
    assert results.errors == ["jitvm, packets: no answer"] and results.values[READS]["jitvm"] == [1.0] * 3
