"""What a bench says of its figures: changes beyond the spread, charts, the page."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree.ElementTree import Element, fromstring, tostring

import pytest
from rich.console import Console

import jitvm.bench
from jitvm.bench import html, report
from jitvm.bench.chart import LABELS, RIGHT, WIDTH, Range, chart, spread_of, ticks
from jitvm.bench.errors import BenchError
from jitvm.bench.results import Cell, Results, StartUp, load


def cell(*seconds: float) -> Cell:
    """100 million instructions in so many seconds, by round."""
    return Cell(10, 100_000_000, list(seconds), list(seconds), "1")


def results(**rows: Cell) -> Results:
    """A run of jitvm and QEMU with these cells of jitvm's; QEMU has 100 MIPS."""
    found = Results({"jitvm": "1", "qemu": "7"}, ["jitvm", "qemu"], rounds=3, compute=list(rows))
    found.cells = {name: {"jitvm": mine, "qemu": cell(1.0, 1.0, 1.0)} for name, mine in rows.items()}
    return found


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (cell(1.0, 1.1, 1.2), cell(0.5, 0.6, 0.9), "faster"),
        (cell(0.5, 0.6, 0.9), cell(1.0, 1.1, 1.2), "SLOWER"),
        (cell(1.0, 1.1, 1.2), cell(0.5, 0.6, 1.05), ""),
        (cell(1.0), cell(0.1, 0.1), ""),
        (Cell(error="failed"), cell(0.1, 0.1), ""),
    ],
)
def test_a_change_is_told_beyond_the_spread_only(before: Cell, after: Cell, said: str) -> None:
    assert report.verdict(before, after) == said


def test_comparison_says_which_rows_changed(capsys: pytest.CaptureFixture[str]) -> None:
    old = results(alu=cell(1.0, 1.1), crc=cell(1.0, 1.1), calls=cell(1.0, 1.1))
    new = results(alu=cell(0.5, 0.6), crc=cell(0.99, 1.2), calls=cell(2.0, 2.1))
    old.start_up["first"] = {"jitvm": StartUp([0.5, 0.6])}
    new.start_up["first"] = {"jitvm": StartUp([0.3, 0.4])}
    Console(width=200).print(report.comparison(new, old))
    rows = {line.split("│")[1].strip(): line for line in capsys.readouterr().out.splitlines() if line.count("│") > 3}
    assert "faster" in rows["alu"] and "1.91" in rows["alu"]
    assert "SLOWER" in rows["calls"]
    assert not re.search("faster|SLOWER", rows["crc"])
    assert "faster" in rows["first"] and "1.57" in rows["first"]


# ---- charts ---------------------------------------------------------------------------------------------------------
def places(svg: Element) -> list[float]:
    """Where the dots of the series are, from left to right in the file."""
    return [float(dot.attrib["cx"]) for group in svg.iter("g") for dot in group.iter("circle")]


def test_chart_is_to_scale() -> None:
    """A logarithmic axis: the same ratio is the same distance, within the frame; the line at 1 lies at 1."""
    svg = chart(["a", "b", "c"], {"x": [Range(1, 1, 1), Range(10, 5, 20), Range(100, 100, 100)]}, one=True)
    assert fromstring(tostring(svg)).tag.endswith("svg")
    x = places(svg)
    assert x[1] - x[0] == pytest.approx(x[2] - x[1], abs=0.2)
    assert LABELS < x[0] < x[2] < WIDTH - RIGHT
    strong = [line for line in svg.findall("line") if line.get("stroke-opacity") == "0.7"]
    assert [float(line.attrib["x1"]) for line in strong] == [x[0]]
    spans = [line for group in svg.iter("g") for line in group.iter("line")]
    assert float(spans[1].attrib["x1"]) < x[1] < float(spans[1].attrib["x2"])


def test_chart_leaves_out_what_is_not_there() -> None:
    svg = chart(["a", "b"], {"x": [None, Range(3, 2, 4)], "y": [None, None]})
    assert len(places(svg)) == 1
    assert len(places(chart([], {}))) == 0
    assert spread_of([]) is None
    assert spread_of([0.0, 1.0]) is None
    assert spread_of([3.0, 1.0, 2.0]) == Range(2.0, 1.0, 3.0)


def test_ticks_are_round_and_few() -> None:
    assert ticks(0.4, 12) == [0.5, 1.0, 2.0, 5.0, 10.0]
    assert ticks(0.01, 1e6) == pytest.approx([10.0**k for k in range(-2, 7)])


# ---- the page -------------------------------------------------------------------------------------------------------
class Page(HTMLParser):
    """What a page refers to, the tags that are open at its end, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.open: list[str] = []
        self.tags: list[str] = []
        self.text: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href")]
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_page_is_whole_by_itself() -> None:
    old = results(alu=cell(1.0, 1.1))
    new = results(alu=cell(0.5, 0.6), crc=cell(1.0, 1.5))
    new.warnings.append("crc <b>&</b> differ")
    page = Page(html.page(new, old))
    assert page.open == []
    assert page.links == []
    assert "script" not in page.tags
    assert page.tags.count("svg") == page.tags.count("table") == 3
    text = " ".join(page.text)
    for words in ("Guest speed", "jitvm's speed by others'", "beside the older one", "faster", "crc <b>&</b> differ"):
        assert words in text
    assert "1.83 (1.67..2.00)" in text  # rates are 200 and 166.7 MIPS, QEMU's 100


def test_page_of_variants() -> None:
    found = results(alu=cell(0.5, 0.6))
    found.cells["alu"]["no-fuse"] = found.cells["alu"].pop("qemu")
    found.present = ["jitvm", "no-fuse"]
    page = Page(html.page(found, None))
    assert page.tags.count("svg") == 2
    assert "Speed with / without an optimisation" in page.text
    assert "fuse" in page.text


def test_the_command_writes_json_and_a_page(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out, again, page = tmp_path / "a.json", tmp_path / "b.json", tmp_path / "bench.html"
    run = "--only alu --runners jitvm --quick --target 0.02".split()
    assert jitvm.bench.main([*run, "--json", str(out)]) == 0
    assert jitvm.bench.main([*run, "--json", str(again), "--compare", str(out), "--html", str(page)]) == 0
    assert load(again).cells["alu"]["jitvm"].instructions > 0
    assert "beyond spread" in capsys.readouterr().out
    assert Page(page.read_text()).tags.count("svg") == 2


def test_a_page_that_can_not_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert jitvm.bench.main(["--only", "alu", "--html", str(tmp_path / "none" / "x.html")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    with pytest.raises(BenchError):
        html.save(results(alu=cell(1.0)), None, tmp_path)
