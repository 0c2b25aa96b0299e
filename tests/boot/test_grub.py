"""GRUB's own tests in the machine, as compilers made them for 32-bit code without an FPU: 64-bit arithmetic on pairs of
registers, setjmp, checked signatures (bignum products), and a file of the CD read through the BIOS and hashed."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from tests.needs import GRUB_RESCUE, SEABIOS_256K, needs

MODULES = Path("/usr/lib/grub/i386-pc")
FILE = "normal.mod"
TESTS = "shift mul div cmp ctz bswap setjmp signature xnu_uuid strtoull".split()
CONFIG = f"""serial --unit=0
terminal_output serial
sha256sum /boot/grub/i386-pc/{FILE}
for t in {" ".join(TESTS)}; do insmod ${{t}}_test; done
functional_test
lspci
halt
"""
pytestmark = [pytest.mark.slow, needs(*GRUB_RESCUE, MODULES / "functional_test.mod", SEABIOS_256K)]


def test_grub_tests_itself(tmp_path: Path) -> None:
    tree, image, log = tmp_path / "cd", tmp_path / "grub.iso", tmp_path / "serial.log"
    (tree / "boot" / "grub").mkdir(parents=True)
    (tree / "boot" / "grub" / "grub.cfg").write_text(CONFIG)
    subprocess.run(["grub-mkrescue", "-d", str(MODULES), "-o", str(image), str(tree)], check=True, capture_output=True)
    options = f"-m 64M --boot d --display none --no-reboot --serial file:{log} --timeout 600".split()
    done = subprocess.run(
        [sys.executable, "-m", "jitvm", "boot", str(SEABIOS_256K), "--cdrom", str(image), *options],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    said = log.read_text(errors="replace")
    assert done.returncode == 0, done.stderr + said[-2000:]
    assert hashlib.sha256((MODULES / FILE).read_bytes()).hexdigest() in said
    for name in TESTS:
        assert f"{name}_test: PASS" in said
    assert "ALL TESTS PASSED" in said and "FAIL" not in said
    assert "00:01.1 8086:7010 [0101] IDE Controller" in said
