"""A ROM on Bochs with a CPU of 2017."""

from __future__ import annotations

import subprocess
from pathlib import Path

from jitvm.bench.runners import Bochs
from tests.needs import need


def run_bochs(folder: Path, rom: Path) -> str:
    """What the ROM writes to port E9h."""
    need("bochs")
    command = Bochs(folder).command(rom)
    settings = folder / "bochsrc"
    settings.write_text(settings.read_text().replace("model=bx_generic", "model=corei7_skylake_x"))
    done = subprocess.run(command, capture_output=True, timeout=200, check=False, cwd=folder)
    return done.stdout.decode("latin-1")
