"""``jitvm bench --html FILE``: the results as one page that needs nothing else: charts as SVG, their figures in tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from xml.etree.ElementTree import Element, SubElement, tostring

from jitvm.bench.ab import WITHOUT
from jitvm.bench.chart import Range, chart, spread_of
from jitvm.bench.errors import BenchError
from jitvm.bench.report import NOTHING, OURS, number, verdict
from jitvm.bench.results import Cell, Results, host

STYLE = """
body { font: 15px/1.5 sans-serif; max-width: 960px; margin: 2em auto; padding: 0 1em; color: #222; background: #fff; }
h1 { font-size: 1.5em } h2 { font-size: 1.15em; margin-top: 2em }
table { border-collapse: collapse; font-size: 0.85em; margin: 1em 0 }
th, td { padding: 0.15em 0.8em; text-align: right; border-bottom: 1px solid #8884; white-space: nowrap }
th:first-child, td:first-child { text-align: left }
.chart { width: 100%; height: auto }
@media (prefers-color-scheme: dark) { body { color: #ddd; background: #1b1b1b } }
"""
Series = Mapping[str, Sequence[Range | None]]


def _cell(found: Range | None) -> str:
    return f"{number(found.middle)} ({number(found.low)}..{number(found.high)})" if found is not None else NOTHING


def _section(
    body: Element, title: str, rows: Sequence[str], series: Series, *, one: bool, notes: Sequence[str] = ()
) -> None:
    """A chart with its figures below; `notes`: a last column."""
    SubElement(body, "h2").text = title
    body.append(chart(rows, series, one=one))
    table = SubElement(body, "table")
    head = SubElement(SubElement(table, "thead"), "tr")
    for name in ("", *series, *([""] if notes else [])):
        SubElement(head, "th").text = name
    lines = SubElement(table, "tbody")
    for k, row in enumerate(rows):
        line = SubElement(lines, "tr")
        for text in (row, *(_cell(ranges[k]) for ranges in series.values()), *([notes[k]] if notes else [])):
            SubElement(line, "td").text = text


def page(results: Results, old: Results | None) -> str:
    """The whole page."""
    root = Element("html", {"lang": "en"})
    head, body = SubElement(root, "head"), SubElement(root, "body")
    SubElement(head, "meta", {"charset": "utf-8"})
    SubElement(head, "title").text = "jitvm bench"
    SubElement(head, "style").text = STYLE
    SubElement(body, "h1").text = "jitvm bench"
    about = host()
    SubElement(body, "p").text = f"{about['cpu']}, {about['cores']} cores, Python {about['python']}; {results.rounds} rounds"
    versions = SubElement(body, "ul")
    for name, version in results.runners.items():
        SubElement(versions, "li").text = f"{name}: {version}"
    rows = list(results.cells)
    speeds = {name: [spread_of(_cell_of(results, row, name).rates) for row in rows] for name in results.present}
    _section(body, "Guest speed, million instructions a second", rows, speeds, one=False)
    others = [name for name in results.present if name != OURS]
    if others and OURS in results.present:
        variants = any(name.startswith(WITHOUT) for name in others)
        title = "Speed with / without an optimisation" if variants else f"{OURS}'s speed by others'"
        ratios = {name: [spread_of(results.ratios(row, OURS, name)) for row in rows] for name in others}
        _section(body, title, rows, {name.removeprefix(WITHOUT): r for name, r in ratios.items()}, one=True)
    if old is not None:
        pairs = [(_cell_of(old, row, OURS), _cell_of(results, row, OURS)) for row in rows]
        changes = {"new / old": [_change(before, after) for before, after in pairs]}
        notes = [verdict(before, after) for before, after in pairs]
        _section(body, "This run beside the older one", rows, changes, one=True, notes=notes)
    for warning in results.warnings:
        SubElement(body, "p").text = f"Warning: {warning}"
    return "<!DOCTYPE html>\n" + tostring(root, encoding="unicode", method="html") + "\n"


def _cell_of(results: Results, workload: str, runner: str) -> Cell:
    return results.cells.get(workload, {}).get(runner) or Cell()


def _change(before: Cell, after: Cell) -> Range | None:
    """How many times faster, and at worst and at best, by the rounds."""
    a, b = spread_of(before.rates), spread_of(after.rates)
    return Range(b.middle / a.middle, b.low / a.high, b.high / a.low) if a is not None and b is not None else None


def save(results: Results, old: Results | None, path: Path) -> None:
    """Write the page."""
    try:
        path.write_text(page(results, old), encoding="utf-8")
    except OSError as error:
        raise BenchError(f"{path}: {error.strerror}") from error
