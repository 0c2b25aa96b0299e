"""What all tests share: in CI every tool that a test asks for must be there, so that none is skipped unseen."""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path

import pytest

REQUIRE = "JITVM_REQUIRE_TOOLS"
"""Set by `.ci/run`: a missing tool ends the session instead of skipping its tests."""
PROGRAMS = ("gcc", "as", "ld", "objcopy", "qemu-system-i386", "qemu-system-x86_64", "gdb", "bochs", "nasm")
FILES = ("/usr/share/seabios/bios.bin", "/usr/share/seabios/bios-256k.bin", "/usr/share/seabios/vgabios-stdvga.bin")
MODULES = ("hypothesis", "unicorn", "pygdbmi")


def pytest_sessionstart(session: pytest.Session) -> None:
    """Refuse to start without the tools, where they are required."""
    if not os.environ.get(REQUIRE):
        return
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    missing += [name for name in FILES if not Path(name).is_file()]
    missing += [name for name in MODULES if importlib.util.find_spec(name) is None]
    if missing:
        pytest.exit(f"{REQUIRE} is set and these are missing: {', '.join(missing)}", returncode=3)
