"""Charts as SVG: a dot for each row and series, with a line from the least to the most of the rounds; a logarithmic axis."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple
from xml.etree.ElementTree import Element, SubElement

from jitvm.bench.stats import median

WIDTH, LABELS, RIGHT = 900, 170, 40
TOP, BOTTOM, ROW = 34, 30, 30
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#999933", "#882255", "#44aa99", "#000000")
"""Told apart by colour-blind people, too (Okabe and Ito)."""


class Range(NamedTuple):
    """A figure with the least and the most of its rounds."""

    middle: float
    low: float
    high: float


def spread_of(values: Sequence[float]) -> Range | None:
    """The range of rounds; None where there is nothing above nought to show."""
    middle = median(values)
    return Range(middle, min(values), max(values)) if middle and min(values) > 0 else None


def ticks(low: float, high: float) -> list[float]:
    """Round numbers on a logarithmic axis: 1, 2 and 5 times the powers of ten, only the powers where they are many."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    powers = [10.0**k for k in range(first, last + 1)]
    found = [m * p for p in powers for m in (1, 2, 5) if low <= m * p <= high]
    return found if len(found) <= 12 else [p for p in powers if low <= p <= high]


def _text(parent: Element, x: float, y: float, text: str, **more: str) -> None:
    SubElement(parent, "text", {"x": f"{x:.1f}", "y": f"{y:.1f}", **more}).text = text


def _line(parent: Element, x1: float, y1: float, x2: float, y2: float, **more: str) -> None:
    ends = {"x1": f"{x1:.1f}", "y1": f"{y1:.1f}", "x2": f"{x2:.1f}", "y2": f"{y2:.1f}"}
    SubElement(parent, "line", ends | more)


def chart(rows: Sequence[str], series: Mapping[str, Sequence[Range | None]], *, one: bool = False) -> Element:
    """The chart as an `svg` element.  `series`: a range or None for each row.  `one`: a ratio, with a line at 1."""
    shown = [r for ranges in series.values() for r in ranges if r is not None]
    low = min([r.low for r in shown] + [1.0] * one, default=1.0) / 1.2
    high = max([r.high for r in shown] + [1.0] * one, default=1.0) * 1.2
    height = TOP + ROW * len(rows) + BOTTOM
    bottom = height - BOTTOM
    box = {"xmlns": "http://www.w3.org/2000/svg", "viewBox": f"0 0 {WIDTH} {height}", "class": "chart", "role": "img"}
    svg = Element("svg", box | {"font-family": "sans-serif", "font-size": "12"})

    def across(value: float) -> float:
        part = math.log(value / low) / math.log(high / low)
        return LABELS + part * (WIDTH - LABELS - RIGHT)

    for value in ticks(low, high):
        x = across(value)
        _line(svg, x, TOP, x, bottom, stroke="currentColor", **{"stroke-opacity": "0.15"})
        _text(svg, x, bottom + 16, f"{value:,.10g}", fill="currentColor", **{"text-anchor": "middle"})
    if one:
        _line(svg, across(1), TOP, across(1), bottom, stroke="currentColor", **{"stroke-opacity": "0.7"})
    step = ROW / (len(series) + 1)
    for number, row in enumerate(rows):
        top = TOP + ROW * number
        if number % 2 == 0:
            band = {"x": "0", "y": f"{top}", "width": f"{WIDTH}", "height": f"{ROW}"}
            SubElement(svg, "rect", band | {"fill": "currentColor", "fill-opacity": "0.04"})
        _text(svg, LABELS - 10, top + ROW / 2 + 4, row, fill="currentColor", **{"text-anchor": "end"})
    for place, (name, ranges) in enumerate(series.items()):
        colour = COLOURS[place % len(COLOURS)]
        group = SubElement(svg, "g", {"fill": colour, "stroke": colour})
        for number, found in enumerate(ranges):
            if found is None:
                continue
            y = TOP + ROW * number + step * (place + 1)
            _line(group, across(found.low), y, across(found.high), y, **{"stroke-width": "2", "stroke-opacity": "0.5"})
            dot = SubElement(group, "circle", {"cx": f"{across(found.middle):.1f}", "cy": f"{y:.1f}", "r": "4"})
            tip = f"{rows[number]}, {name}: {found.middle:,.4g} ({found.low:,.4g} to {found.high:,.4g})"
            SubElement(dot, "title").text = tip
        x = LABELS + 130 * place
        SubElement(svg, "circle", {"cx": f"{x}", "cy": "14", "r": "5", "fill": colour})
        _text(svg, x + 10, 18, name, fill="currentColor")
    return svg
