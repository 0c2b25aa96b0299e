"""The measurement: calibrate each runner, then interleaved rounds.

A workload gets as many iterations on each runner as make its measured part
take about the target time there, so rates are compared and not times. Then
the runners take turns (A B C A B C ...), so that a disturbance of the machine
meets all of them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jitvm.bench import jitvm_stats, measure
from jitvm.bench.errors import RunError
from jitvm.bench.results import Cell, Results
from jitvm.bench.runners import Jitvm, Runner
from jitvm.bench.workloads import Workload, load_image, patch

MAX_ITERATIONS = (1 << 32) - 1
MAX_GROWTH = 50.0
"""Calibration multiplies iterations by no more than this in one step."""


def environment(base: Mapping[str, str] | None = None) -> dict[str, str]:
    """The children's environment: they find this same jitvm, with its bytecode kept, as that of an installed one is."""
    result = dict(os.environ if base is None else base)
    if result.pop("PYTHONDONTWRITEBYTECODE", None) is not None:
        caches = result.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
        result.setdefault("PYTHONPYCACHEPREFIX", os.path.join(caches, "jitvm-bench"))
    root = str(Path(__file__).resolve().parents[2])
    rest = result.get("PYTHONPATH")
    result["PYTHONPATH"] = root if not rest else root + os.pathsep + rest
    return result


@dataclass
class Session:
    """What all measurements of one call share.

    Attributes:
        runners: the emulators that are installed.
        images: the folder of the bench images.
        scratch: a temporary folder for patched images.
        rounds: measured runs of each workload on each runner.
        target: seconds that a measured part should take.
        timeout: seconds after which a run has failed.
        say: told what goes on, for a progress line.
    """

    runners: list[Runner]
    images: Path
    scratch: Path
    rounds: int
    target: float
    timeout: float
    say: Callable[[str], None]

    def run(self, runner: Runner, workload: Workload, iterations: int) -> measure.Run:
        """One run of a workload with a number of iterations."""
        path = self.scratch / f"{workload.name}.bin"
        path.write_bytes(patch(load_image(self.images, workload.name), iterations))
        command = runner.command(path)
        if workload.cpus > 1:
            command += runner.several(workload.cpus) or []
        return measure.run(command, timeout=self.timeout, environment=environment())

    def calibrate(self, runner: Runner, workload: Workload) -> int:
        """The iterations whose measured part takes about the target time, what is done only once aside."""
        if workload.fixed:
            return workload.fixed
        iterations, first_wall = workload.start, 0.0
        while True:
            run = self.run(runner, workload, iterations)
            seconds, first_wall = run.seconds, first_wall or run.wall
            if seconds == 0.0 and run.wall > first_wall + self.target:
                raise RunError("both marks came at once: its debug port is buffered")
            scale = self.target / max(seconds, self.target / MAX_GROWTH)
            wanted = max(1, min(round(iterations * scale), MAX_ITERATIONS))
            if seconds >= self.target / 4 or wanted == iterations:
                return self._beyond_warm_up(runner, workload, iterations, seconds, wanted)
            iterations = wanted

    def _beyond_warm_up(self, runner: Runner, workload: Workload, iterations: int, seconds: float, wanted: int) -> int:
        """`wanted` as longer runs say: an iteration takes what it adds; translating and compiling are done once."""
        while iterations < MAX_ITERATIONS:
            more = min(max(wanted, 2 * iterations), MAX_ITERATIONS)
            longer = self.run(runner, workload, more).seconds
            each = max((longer - seconds) / (more - iterations), self.target / MAX_GROWTH / more)
            iterations, seconds = more, longer
            wanted = max(1, min(round(self.target / each), MAX_ITERATIONS))
            if wanted <= 2 * more:
                break
        return wanted

    def counted(self, runner: Runner, workload: Workload) -> Workload:
        """The workload with jitvm's exact instruction count, from two runs."""
        few, more = (1, 2) if not workload.fixed else (workload.fixed // 2, workload.fixed)
        counts = [
            jitvm_stats.retired_between_marks(
                jitvm_stats.document(self.run(runner, workload, iterations))
            )
            for iterations in (few, more)
        ]
        if counts[0] is None or counts[1] is None:
            return workload
        step, rest = divmod(counts[1] - counts[0], more - few)
        if rest:
            raise RunError(f"instruction count is not linear: {counts}")
        return replace(workload, constant=counts[0] - step * few, per_iteration=step)

    def measure(self, workload: Workload, results: Results) -> None:
        """Calibrate and measure one workload on every runner, into `results`."""
        row = results.cells.setdefault(workload.name, {})
        runners = [runner for runner in self.runners if runner.machine or workload.native]
        for runner in runners:
            cell = row[runner.name] = Cell()
            if workload.board and not runner.board:
                cell.error = "it is a CPU alone: no device interrupts it"
                continue
            if workload.cpus > 1 and runner.several(workload.cpus) is None:
                cell.error = "it has one CPU"
                continue
            self.say(f"{workload.name}: calibrating {runner.name}")
            try:
                if isinstance(runner, Jitvm) and workload.cpus == 1:
                    workload = self._jitvm_count(runner, workload, results)
                cell.iterations = self.calibrate(runner, workload)
            except RunError as error:
                cell.error = str(error)
        for cell in row.values():
            cell.instructions = workload.instructions(cell.iterations)
            cell.exits = workload.exits * cell.iterations
            cell.interrupts = workload.interrupts * cell.iterations
        for number in range(self.rounds):
            for runner in runners if number % 2 == 0 else reversed(runners):
                cell = row[runner.name]
                if cell.error is None:
                    self.say(f"{workload.name}: round {number + 1}, {runner.name}")
                    self._round(runner, workload, cell)

    def _jitvm_count(self, runner: Runner, workload: Workload, results: Results) -> Workload:
        """jitvm's count instead of the table's; a difference is worth a word."""
        counted = self.counted(runner, workload)
        if counted.per_iteration != workload.per_iteration:
            results.warnings.append(
                f"{workload.name}: {runner.name} counts {counted.per_iteration} instructions an "
                f"iteration, the table of the bench {workload.per_iteration}"
            )
        return counted

    def _round(self, runner: Runner, workload: Workload, cell: Cell) -> None:
        """One measured run into a cell."""
        try:
            run = self.run(runner, workload, cell.iterations)
        except RunError as error:
            cell.error = str(error)
            return
        cell.seconds.append(run.seconds)
        cell.walls.append(run.wall)
        if cell.checksum and cell.checksum != run.checksum:
            cell.error = f"checksum {run.checksum} after {cell.checksum}"
        cell.checksum = run.checksum
        if isinstance(runner, Jitvm):
            stats: dict[str, Any] = jitvm_stats.document(run)
            cell.blocks = jitvm_stats.blocks(stats)
            cell.compile_seconds = jitvm_stats.compile_seconds(stats)


def check_agreement(results: Results) -> None:
    """Warn of runners that gave different checksums for equal iterations."""
    for workload, row in results.cells.items():
        seen: dict[int, dict[str, str]] = {}
        for runner, cell in row.items():
            if cell.checksum:
                seen.setdefault(cell.iterations, {})[runner] = cell.checksum
        for iterations, sums in seen.items():
            if len(set(sums.values())) > 1:
                results.warnings.append(f"{workload}: {iterations} iterations differ: {sums}")
