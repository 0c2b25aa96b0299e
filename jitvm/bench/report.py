"""The bench's tables: guest speed, start-up, costs, comparison with an older run."""

from __future__ import annotations

from collections.abc import Callable

from rich.console import Console
from rich.table import Table

from jitvm.bench.results import Cell, Results, StartUp, host
from jitvm.bench.stats import geometric_mean, median, ratio
from jitvm.bench.workloads import WORKLOADS

OURS = "jitvm"
NOTHING = "-"


def number(value: float | None) -> str:
    """A figure with three significant digits, a dash for None."""
    if value is None:
        return NOTHING
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _seconds(value: float | None) -> str:
    """A duration in the unit that fits."""
    if value is None:
        return NOTHING
    if value < 1e-3:
        return f"{value * 1e6:.2f} us"
    return f"{value * 1e3:.1f} ms" if value < 1 else f"{value:.2f} s"


def _base(results: Results) -> str | None:
    """Whose speed the ratios are of: jitvm, without it QEMU or what there is."""
    return next((name for name in (OURS, *results.present) if name in results.present), None)


def _others(results: Results) -> list[str]:
    """The runners beside the one whose speed the ratios are of."""
    return [name for name in results.present if name != _base(results)]


def _by_runner(title: str, first: str, results: Results, *, ratios: bool = False) -> Table:
    """A table with a column for each runner, and for each ratio."""
    table = Table(title=title)
    table.add_column(first)
    for name in results.present:
        table.add_column(name, justify="right")
    for name in _others(results) if ratios else ():
        table.add_column(f"{_base(results)} / {name}", justify="right")
    return table


def speed(results: Results) -> Table:
    """Guest MIPS of each workload on each runner, and the ratios."""
    base, others = _base(results), _others(results)
    title = "Guest speed: million instructions a second, medians; ratios by rounds"
    table = _by_runner(title, "workload", results, ratios=True)
    for title in ("noise", "exits/s", "blocks", "compile"):
        table.add_column(title, justify="right")
    for workload, row in results.cells.items():
        marked = f"{workload} *" if workload in results.compute else workload
        ours = row.get(base or "") or Cell()
        noises = [cell.noise for cell in row.values() if cell.noise is not None]
        table.add_row(
            marked,
            *(_speed_cell(row.get(name)) for name in results.present),
            *(number(results.ratio(workload, base or "", name)) for name in others),
            f"{max(noises):.0%}" if noises else NOTHING,
            number(ours.exits_per_second),
            NOTHING if ours.blocks is None else f"{ours.blocks:,}",
            _seconds(ours.compile_seconds),
        )
    means = [
        number(geometric_mean(results.mips(w, name) for w in results.compute))
        for name in results.present
    ]
    shares = [
        number(geometric_mean(results.ratio(w, base or "", name) for w in results.compute))
        for name in others
    ]
    table.add_section()
    table.add_row("geometric mean of *", *means, *shares, "", "", "", "")
    if others:
        whole = [
            number(geometric_mean(results.whole_ratio(w, base or "", o) for w in results.compute))
            for o in others
        ]
        blank = [""] * len(results.present)
        table.add_row("  of whole runs", *blank, *whole, "", "", "", "")
    return table


def _speed_cell(cell: Cell | None) -> str:
    """MIPS, or that the run failed."""
    if cell is None:
        return NOTHING
    return "failed" if cell.error else number(cell.mips)


def costs(results: Results) -> Table | None:
    """What one device access costs on each runner; None if not measured."""
    rows = [w.name for w in WORKLOADS if w.exits and w.name in results.cells]
    if not rows:
        return None
    table = _by_runner("One device access, with its share of the loop", "workload", results)
    for workload in rows:
        row = results.cells[workload]
        cells = (row.get(name) for name in results.present)
        table.add_row(workload, *(_seconds(cell.exit_cost if cell else None) for cell in cells))
    return table


def interrupts(results: Results) -> Table | None:
    """Interrupts a second on each runner, and the ratios; None if not measured."""
    rows = [w.name for w in WORKLOADS if w.interrupts and w.name in results.cells]
    if not rows:
        return None
    base, others = _base(results), _others(results)
    table = _by_runner("Interrupts a second, served and ended; ratios by rounds", "workload", results, ratios=True)
    for workload in rows:
        row = results.cells[workload]
        cells = (row.get(name) for name in results.present)
        table.add_row(
            workload,
            *(number(cell.interrupts_per_second if cell else None) for cell in cells),
            *(number(results.ratio(workload, base or "", name)) for name in others),
        )
    return table


def start_up(results: Results) -> Table | None:
    """Times from process start; None if not measured."""
    if not results.start_up:
        return None
    table = _by_runner("From process start, medians", "until", results)
    for title, row in results.start_up.items():
        texts = []
        for name in results.present:
            figures = row.get(name)
            failed = figures is not None and figures.error is not None
            texts.append(
                "failed" if failed else _seconds(median(figures.seconds if figures else []))
            )
        table.add_row(title, *texts)
    return table


def verdict(before: Cell, after: Cell) -> str:
    """Whether a change is more than the spread: no round of the one is within the rounds of the other."""
    old, new = before.rates, after.rates
    if min(len(old), len(new)) < 2:
        return ""
    if min(new) > max(old):
        return "faster"
    return "SLOWER" if max(new) < min(old) else ""


def comparison(new: Results, old: Results) -> Table:
    """Speeds beside those of an older file, where both have a figure, and whether a change is beyond the spread.

    The ratio to QEMU is compared too: it says more than MIPS when the machine
    was in another mood.
    """
    base = _base(new) or OURS
    table = Table(title=f"{base}: this run beside the older one")
    for title in ("workload", "old MIPS", "new MIPS", "new / old", "beyond spread", "old / QEMU", "new / QEMU"):
        table.add_column(title, justify="left" if title in ("workload", "beyond spread") else "right")
    changes: list[float | None] = []
    for workload in new.cells:
        before, after = old.mips(workload, base), new.mips(workload, base)
        change = ratio(after, before)
        if workload in new.compute:
            changes.append(change)
        shares = [results.ratio(workload, base, "qemu") for results in (old, new)]
        cells = [results.cells.get(workload, {}).get(base) or Cell() for results in (old, new)]
        table.add_row(workload, number(before), number(after), number(change), verdict(*cells), *map(number, shares))
    table.add_section()
    table.add_row("geometric mean", "", "", number(geometric_mean(changes)), "", "", "")
    for title in new.start_up:
        times = [(results.start_up.get(title, {}).get(base) or StartUp()).seconds for results in (old, new)]
        earlier, later = median(times[0]), median(times[1])
        far = len(times[0]) > 1 < len(times[1]) and (max(times[1]) < min(times[0]) or min(times[1]) > max(times[0]))
        mark = ("faster" if (later or 0) < (earlier or 0) else "SLOWER") if far else ""
        table.add_row(title, _seconds(earlier), _seconds(later), number(ratio(earlier, later)), mark, "", "")
    return table


def show(results: Results, old: Results | None, console: Console, main: Table) -> None:
    """Print everything; `main` is the first table."""
    about = host()
    console.print(f"{about['cpu']}, {about['cores']} cores, Python {about['python']}")
    for name, version in results.runners.items():
        console.print(f"  {name}: {version}")
    console.print(main)
    builders: tuple[Callable[[Results], Table | None], ...] = (costs, interrupts, start_up)
    for builder in builders:
        table = builder(results)
        if table is not None:
            console.print(table)
    for workload, row in results.cells.items():
        for runner, cell in row.items():
            if cell.error:
                console.print(f"{workload} on {runner}: {cell.error}", markup=False)
    for title, figures in results.start_up.items():
        for runner, times in figures.items():
            if times.error:
                console.print(f"{title} on {runner}: {times.error}", markup=False)
    for warning in results.warnings:
        console.print(f"warning: {warning}", markup=False)
    if old is not None:
        console.print(comparison(results, old))
