"""What the server of `tests/warm.py` has done before it forks: all modules are loaded, the engine is linked."""

from __future__ import annotations

import jitvm.crash_report
import jitvm.gdb_target
import jitvm.machine
import jitvm.progress
from jitvm.accelerators import shared_accelerator

LOADED = (jitvm.crash_report, jitvm.gdb_target, jitvm.machine, jitvm.progress)
ACCELERATOR = shared_accelerator()
