"""Machines in processes of their own, which end with their test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.gdb.vm import Start, Vm


@pytest.fixture
def boot(tmp_path: Path) -> Iterator[Start]:
    made: list[Vm] = []

    def start(bios: Path, *options: str) -> Vm:
        made.append(Vm(tmp_path, bios, *options))
        return made[-1]

    yield start
    for vm in made:
        vm.close()
