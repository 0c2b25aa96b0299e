"""Compiled code is as long as golden.json says: a change there is a change of speed."""

from __future__ import annotations

import json
import platform
from pathlib import Path

import pytest

from tests.engine.golden import FILE, HostCode, measure, written
from tests.needs import lacking


def test_figures_are_as_written_down(tmp_path: Path) -> None:
    """Where this fails, and the change is meant: look at the benchmark, then `make golden`, and at the diff."""
    if platform.machine() != "x86_64":
        lacking("an x86-64 host, for stencils")
    found, golden = measure(tmp_path), json.loads(FILE.read_text())
    assert {part: list(rows) for part, rows in found.items()} == {part: list(rows) for part, rows in golden.items()}
    changed = [
        f"{part}, {name}: {row} now, {golden[part][name]} before"
        for part, rows in found.items()
        for name, row in rows.items()
        if row != golden[part][name]
    ]
    assert not changed, "\n".join(["run `make golden` when this is meant:", *changed])


def test_the_file_is_what_the_command_writes() -> None:
    text = FILE.read_text()
    assert written(json.loads(text)) == text


def test_regions_are_the_shortest() -> None:
    """Each tier is worth its place: fewer host instructions an iteration than the tier below."""
    for name, row in json.loads(FILE.read_text())["loops"].items():
        assert row["region"] < row["stencils"] < row["handlers"], name
        assert row["pinned"] < row["stencils"], name


@pytest.mark.parametrize(
    ("code", "instructions"),
    [
        ("ffc0 75fc c3", 2),  # L: inc eax; jnz L; ret
        ("90 eb01 90 ffc0 7402 ebfa c3", 3),  # nop; jmp L; nop; L: inc eax; jz out; jmp L; out: ret
        ("ffc0 7402 75fa 90 ebf7", 3),  # L: inc eax; jz out; jnz L; out: nop; jmp L
    ],
)
def test_shortest_cycle(code: str, instructions: int) -> None:
    assert HostCode(bytes.fromhex(code)).shortest_cycle() == instructions


@pytest.mark.parametrize(
    ("code", "ends", "instructions"),
    [
        ("ffc0 75fc c3", (), 3),
        ("90 eb01 90 ffc0 c3", (), 4),  # nop; jmp L; nop; L: inc eax; ret
        ("ffc0 ffe0 90", (), 2),  # inc eax; jmp rax
        ("ffc0 e900000000 90", (3,), 2),  # inc eax; a jump that leads out
    ],
)
def test_likely_way(code: str, ends: tuple[int, ...], instructions: int) -> None:
    assert HostCode(bytes.fromhex(code), ends).straight() == instructions


def test_what_never_ends_is_an_error() -> None:
    with pytest.raises(AssertionError, match="is a loop"):
        HostCode(bytes.fromhex("90 ebfd")).straight()
    with pytest.raises(AssertionError, match="no loop"):
        HostCode(bytes.fromhex("90 c3")).shortest_cycle()
