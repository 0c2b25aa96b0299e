"""Run a BIOS with a disk in a process of its own; print the run's fingerprint as JSON, and how many functions were compiled.

python -m tests.boot.fingerprint BIOS [DISK]
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from jitvm.config import DriveConfig
from jitvm.machine import Machine
from tests.boot.guests import config, fingerprint


def main(bios: str, image: str = "") -> None:
    """One run to its end."""
    drives = (DriveConfig(image, snapshot=True),) if image else ()
    with Machine(config(Path(bios), drives=drives, timeout_s=500)) as m:
        result = m.run()
        compiled = sum(tally.compiled for tally in m.accel.code.tallies.values())
        print(json.dumps({"reason": result.reason, "code": result.code, **fingerprint(m)}), compiled, sep="\n")


main(*sys.argv[1:])
