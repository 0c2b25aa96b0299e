"""A ROM of vectors on jitvm and on Bochs, and where the two differ."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from jitvm.machine import Machine
from tests.boot.bochs import run_bochs
from tests.boot.guests import config, debug_output
from tests.isa.vector_rom import parse

V = TypeVar("V")
Line = dict[str, int]


def run_both(folder: Path, rom: Path, fields: Sequence[str], digits: int = 8) -> tuple[list[Line], list[Line]]:
    """What the ROM tells of its vectors here, and there."""
    theirs = parse(run_bochs(folder, rom), fields, digits)
    with Machine(config(rom, jit="handlers", cpu="max")) as machine:
        assert machine.run().reason == "debug-exit"
        ours = parse(debug_output(machine), fields, digits)
    return ours, theirs


def unsettled(
    vectors: Sequence[V],
    lines: tuple[list[Line], list[Line]],
    fields: Sequence[str],
    is_settled: Callable[[V, Line, Line, set[str]], bool],
    shown: Callable[[V], object],
) -> list[str]:
    """The vectors in which they differ, but for those of which it is known who is right."""
    wrong = []
    for v, a, b in zip(vectors, *lines, strict=True):
        differ = {name for name in fields if a[name] != b[name]}
        if differ and not is_settled(v, a, b, differ):
            said = ", ".join(f"{name} {a[name]:x}, Bochs {b[name]:x}" for name in fields if name in differ)
            wrong.append(f"{shown(v)} {v}: {said}")
    return wrong
