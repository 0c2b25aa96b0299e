"""Run a BIOS with a disk and print the run's fingerprint as JSON: a process of its own for the tests.

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
        print(json.dumps({"reason": result.reason, "code": result.code, **fingerprint(m)}))


main(*sys.argv[1:])
