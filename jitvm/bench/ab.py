"""``jitvm bench --ab NAME``: what an optimisation is worth, by runs with and without it that alternate."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from jitvm.bench.errors import BenchError
from jitvm.bench.report import NOTHING, OURS, number
from jitvm.bench.results import Results
from jitvm.bench.runners import Jitvm
from jitvm.bench.stats import geometric_mean, median
from jitvm.config import OPTIMISATIONS

WITHOUT = "no-"


def runners(names: str, options: Sequence[str]) -> list[Jitvm]:
    """jitvm, and jitvm without each of the optimisations in a comma-separated list."""
    wanted = list(dict.fromkeys(name.strip().replace("-", "_") for name in names.split(",") if name.strip()))
    for name in wanted:
        if name not in OPTIMISATIONS:
            raise BenchError(f"--ab: unknown optimisation {name!r}: choose from {', '.join(OPTIMISATIONS)}")
    if not wanted:
        raise BenchError(f"--ab: no optimisation named: choose from {', '.join(OPTIMISATIONS)}")
    return [Jitvm(options), *(Jitvm([*options, "--opt", WITHOUT + name], WITHOUT + name) for name in wanted)]


def certain(ratios: Sequence[float]) -> bool:
    """Whether all rounds agree on which is faster."""
    return bool(ratios) and (min(ratios) > 1 or max(ratios) < 1)


def worth(ratios: Sequence[float]) -> str:
    """Median and range of ratios; an asterisk where all rounds say the same of which is faster."""
    if not ratios:
        return NOTHING
    mark = "*" if certain(ratios) else " "
    return f"{number(median(ratios))} ({number(min(ratios))}..{number(max(ratios))}){mark}"


def table(results: Results) -> Table:
    """How many times faster jitvm is with each optimisation than without it."""
    variants = [name for name in results.present if name.startswith(WITHOUT)]
    shown = Table(title="Speed with / without: median of the rounds (least..most), * where all rounds agree on the faster")
    shown.add_column("workload")
    shown.add_column("MIPS", justify="right")
    for name in variants:
        shown.add_column(name.removeprefix(WITHOUT), justify="right")
    for workload in results.cells:
        ratios = [worth(results.ratios(workload, OURS, name)) for name in variants]
        marked = f"{workload} +" if workload in results.compute else workload
        shown.add_row(marked, number(results.mips(workload, OURS)), *ratios)
    means = [number(geometric_mean(results.ratio(w, OURS, name) for w in results.compute)) for name in variants]
    shown.add_section()
    shown.add_row("geometric mean of +", "", *means)
    return shown
