"""Results of a bench: what was measured, as JSON, and read back from it."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jitvm.bench.errors import BenchError
from jitvm.bench.stats import median, paired_ratio, paired_ratios, ratio, spread

FORMAT = 1
"""Version of the JSON file."""


@dataclass
class Cell:
    """One workload on one runner.

    Attributes:
        iterations: of the measured runs.
        instructions: that the guest retired between its marks.
        seconds: between the marks, one for each round.
        walls: whole runs, from process start to end, one for each round.
        checksum: what the guest printed.
        exits: device accesses in the measured part.
        interrupts: interrupts in the measured part.
        blocks: guest blocks translated, as jitvm says; None for others.
        compile_seconds: time that jitvm spent compiling; None for others.
        error: why there is no figure.
    """

    iterations: int = 0
    instructions: int = 0
    seconds: list[float] = field(default_factory=list)
    walls: list[float] = field(default_factory=list)
    checksum: str = ""
    exits: int = 0
    interrupts: int = 0
    blocks: int | None = None
    compile_seconds: float | None = None
    error: str | None = None

    @property
    def mips(self) -> float | None:
        """Million guest instructions a second, from the median time."""
        rate = ratio(self.instructions, median(self.seconds))
        return None if rate is None or self.error else rate / 1e6

    @property
    def rates(self) -> list[float]:
        """The same for each round."""
        return [self.instructions / second / 1e6 for second in self.seconds if second and not self.error]

    @property
    def whole_mips(self) -> float | None:
        """The same over the whole run, with start-up and compilation."""
        rate = ratio(self.instructions, median(self.walls))
        return None if rate is None or self.error else rate / 1e6

    @property
    def exits_per_second(self) -> float | None:
        """Device accesses a second; None for a workload without."""
        return ratio(self.exits, median(self.seconds)) if self.exits and not self.error else None

    @property
    def exit_cost(self) -> float | None:
        """Seconds for each device access, its share of the loop included."""
        return ratio(1.0, self.exits_per_second)

    @property
    def interrupts_per_second(self) -> float | None:
        """Interrupts a second; None for a workload without."""
        return ratio(self.interrupts, median(self.seconds)) if self.interrupts and not self.error else None

    @property
    def noise(self) -> float | None:
        """The spread of the rounds (their middle half), as a part of the median."""
        return spread(self.seconds)


@dataclass
class StartUp:
    """Seconds from process start to a moment, on one runner; one a round."""

    seconds: list[float] = field(default_factory=list)
    error: str | None = None


@dataclass
class Results:
    """Everything that one call of the bench measured.

    Attributes:
        runners: runner name to its version, or to why it was left out.
        present: names of the runners that were there, in table order.
        cells: workload name to runner name to figures.
        start_up: row name to runner name to figures.
        rounds: measured runs of each workload on each runner.
        compute: names of the workloads in the geometric means.
        warnings: what the reader should know.
    """

    runners: dict[str, str] = field(default_factory=dict)
    present: list[str] = field(default_factory=list)
    cells: dict[str, dict[str, Cell]] = field(default_factory=dict)
    start_up: dict[str, dict[str, StartUp]] = field(default_factory=dict)
    rounds: int = 0
    compute: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def mips(self, workload: str, runner: str) -> float | None:
        """Million guest instructions a second, None if not measured."""
        cell = self.cells.get(workload, {}).get(runner)
        return cell.mips if cell else None

    def ratio(self, workload: str, ours: str, theirs: str) -> float | None:
        """How many times faster `ours` is than `theirs` between the marks."""
        pair = self._pair(workload, ours, theirs)
        if pair is None:
            return None
        a, b = pair
        return paired_ratio(a.instructions, a.seconds, b.instructions, b.seconds)

    def ratios(self, workload: str, ours: str, theirs: str) -> list[float]:
        """The same in each round."""
        pair = self._pair(workload, ours, theirs)
        if pair is None:
            return []
        a, b = pair
        return paired_ratios(a.instructions, a.seconds, b.instructions, b.seconds)

    def whole_ratio(self, workload: str, ours: str, theirs: str) -> float | None:
        """The same over whole runs, from process start to end."""
        pair = self._pair(workload, ours, theirs)
        if pair is None:
            return None
        a, b = pair
        return paired_ratio(a.instructions, a.walls, b.instructions, b.walls)

    def _pair(self, workload: str, ours: str, theirs: str) -> tuple[Cell, Cell] | None:
        """The cells of two runners, None if one has no figures."""
        row = self.cells.get(workload, {})
        a, b = row.get(ours), row.get(theirs)
        return None if a is None or b is None or a.error or b.error else (a, b)


def host() -> dict[str, Any]:
    """What the figures depend on: the machine and its Python."""
    model = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    except OSError:
        pass
    return {"cpu": model, "cores": os.cpu_count(), "python": platform.python_version()}


def save(results: Results, path: Path) -> None:
    """Write results as JSON, derived figures beside the raw ones."""
    cells = {
        workload: {
            runner: {**asdict(cell), "mips": cell.mips, "whole_mips": cell.whole_mips}
            for runner, cell in row.items()
        }
        for workload, row in results.cells.items()
    }
    document = {
        "format": FORMAT,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "host": host(),
        **asdict(results),
        "cells": cells,
    }
    try:
        path.write_text(json.dumps(document, indent=1) + "\n")
    except OSError as error:
        raise BenchError(f"{path}: {error.strerror}") from error


def load(path: Path) -> Results:
    """Read what `save` wrote."""
    try:
        document = json.loads(path.read_text())
    except OSError as error:
        raise BenchError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise BenchError(f"{path}: not JSON: {error}") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise BenchError(f"{path}: not a result file of this version of the bench")
    try:
        return _results(document)
    except (KeyError, TypeError, AttributeError) as error:
        raise BenchError(f"{path}: a broken result file: {error}") from error


def _results(document: Mapping[str, Any]) -> Results:
    """Results from a document; derived figures are computed anew."""
    derived = ("mips", "whole_mips")
    cells = {
        workload: {
            runner: Cell(**{key: value for key, value in cell.items() if key not in derived})
            for runner, cell in row.items()
        }
        for workload, row in document["cells"].items()
    }
    start_up = {
        name: {runner: StartUp(**figures) for runner, figures in row.items()}
        for name, row in document["start_up"].items()
    }
    plain = ("runners", "present", "rounds", "compute", "warnings")
    return Results(cells=cells, start_up=start_up, **{key: document[key] for key in plain})
