"""Xen as it is, with Debian's kernel as its first guest: a hypervisor in level 0 whose guest's kernel runs in level 3, with
timers by the TSC's deadline, a TSS and an IST a processor, and all of the guest's page tables under its eyes.

It is an installed one, or that of the path in `JITVM_TEST_XEN`.
"""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import pytest

from tests.boot.test_linux import BUSYBOX, boot, initrd, kernel
from tests.needs import SEABIOS_256K, lacking, needs

pytestmark = [pytest.mark.slow, needs(BUSYBOX, SEABIOS_256K)]


def xen() -> bytes:
    """The multiboot kernel."""
    named = os.environ.get("JITVM_TEST_XEN")
    found = [Path(named)] if named else sorted(Path("/boot").glob("xen-*-amd64.gz"))
    if not found or not found[-1].is_file():
        lacking("needs Xen: /boot/xen-*-amd64.gz or JITVM_TEST_XEN")
    return gzip.decompress(found[-1].read_bytes())


def test_xen_and_its_first_guest_on_two_processors(tmp_path: Path) -> None:
    (tmp_path / "xen").write_bytes(xen())
    (tmp_path / "initrd").write_bytes(initrd(tmp_path))
    modules = f"{kernel()} console=hvc0 panic=-1,{tmp_path / 'initrd'}"
    options = ["--kernel", str(tmp_path / "xen"), "--append", "console=com1 loglvl=all", "--initrd", modules]
    said = boot(tmp_path / "serial.log", "-m", "512M", "--smp", "2", *options)
    assert "(XEN) TSC deadline timer enabled" in said and "(XEN) Brought up 2 CPUs" in said
    assert "(XEN) *** Building a PV Dom0 ***" in said and "smp: Brought up 1 node, 2 CPUs" in said
    assert "(XEN) Entering ACPI S5 state." in said
    assert "Unhandled" not in said and "stuck" not in said and "unstable" not in said
