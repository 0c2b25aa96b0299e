"""What tests need besides Python: programs, firmware files, modules.  One place decides what a missing one means.

A test is skipped where something is missing, and says what.  Where `JITVM_REQUIRE_TOOLS` is set, as in CI, that is an
error: nothing is left out unseen.  What this host's CPU or kernel can't do is another matter and stays a skip.

    pytestmark = needs("qemu-system-i386", SEABIOS)     # a module, a class or a test: before any fixture is made
    need(SEABIOS)                                       # in the middle of a test
    lacking("unicorn 2.0 is another version")           # the reason was found otherwise
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path
from typing import NoReturn

import pytest

REQUIRE = "JITVM_REQUIRE_TOOLS"
TOOLCHAIN = ("gcc", "as", "ld", "objcopy")
SEABIOS = Path("/usr/share/seabios/bios.bin")
SEABIOS_256K = Path("/usr/share/seabios/bios-256k.bin")
VGABIOS = Path("/usr/share/seabios/vgabios-stdvga.bin")
OVMF_CODE, OVMF_VARS = Path("/usr/share/OVMF/OVMF_CODE.fd"), Path("/usr/share/OVMF/OVMF_VARS.fd")
UBOOT_64 = Path("/usr/lib/u-boot/qemu-x86_64/u-boot.rom")
QBOOT = Path("/usr/share/qemu/qboot.rom")
PROGRAMS = (*TOOLCHAIN, "nm", "qemu-system-i386", "qemu-system-x86_64", "gdb", "lldb", "bochs", "nasm", "perf", "iasl")
GRUB_RESCUE = ("grub-mkrescue", "xorriso", "mformat", "cpio")
FILES = (SEABIOS, SEABIOS_256K, VGABIOS, OVMF_CODE, OVMF_VARS, UBOOT_64, QBOOT)
MODULES = ("hypothesis", "unicorn", "pygdbmi")


def required() -> bool:
    """Must everything be there?"""
    return bool(os.environ.get(REQUIRE))


def missing(*things: str | Path) -> list[str]:
    """Those of the programs (names) and files (paths) that this host lacks."""
    return [
        str(thing)
        for thing in things
        if not (thing.is_file() if isinstance(thing, Path) else shutil.which(thing) is not None)
    ]


def missing_of_all() -> list[str]:
    """What this host lacks of all that any test asks for."""
    return missing(*PROGRAMS, *GRUB_RESCUE, *FILES) + [
        name for name in MODULES if importlib.util.find_spec(name) is None
    ]


def lacking(reason: str) -> NoReturn:
    """End the test because of something that can be installed: skipped, or failed where everything is required."""
    if required():
        pytest.fail(f"{reason} ({REQUIRE} is set)", pytrace=False)
    pytest.skip(reason)


def host_cannot(reason: str) -> NoReturn:
    """Skip the test: this host's CPU or kernel can't do what it compares with, which nothing that is installed changes."""
    pytest.skip(reason)


def need(*things: str | Path) -> None:
    """Go on only with these programs and files."""
    absent = missing(*things)
    if absent:
        lacking(f"needs {', '.join(absent)}")


def needs(*things: str | Path) -> pytest.MarkDecorator:
    """The same as a mark; `tests/conftest.py` looks at it before the test's fixtures."""
    return pytest.mark.needs(*things)
