"""Firmware of other people, from Debian's packages, on the board: OVMF, U-Boot and qboot.

The 32-bit U-Boot is not among them: in real mode with limits of 64 KiB it calls the VGA's BIOS, which reads EDID from a
window of the VGA above them.  That is #GP (SDM vol. 3, "8086 Emulation"), at which U-Boot halts; QEMU's TCG does not ask
for limits there.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from jitvm.config import DriveConfig
from jitvm.machine import Machine
from tests.boot.guests import config, debug_output, serial
from tests.boot.test_linux_boot import KERNEL, KERNEL_AT, LINE, SETUP, image
from tests.engine.assembler import assemble
from tests.needs import OVMF_CODE, OVMF_VARS, QBOOT, UBOOT_64, need

CHUNK = 5_000_000
"""Instructions between two looks at COM1."""


class Talk:
    """A machine whose COM1 is talked to: `type` follows when `seen` has come."""

    def __init__(self, bios: Path | None, **more: Any) -> None:
        self.machine = Machine(config(bios, memory=128 << 20, timeout_s=300, **more))
        self._at = 0

    def until(self, seen: str, limit: int) -> str:
        """What came on COM1 up to a pattern, which must come within `limit` instructions."""
        for _ in range(0, limit, CHUNK):
            found = re.search(seen, said := serial(self.machine)[self._at :])
            if found:
                self._at += found.end()
                return said[: found.end()]
            assert self.machine.run(CHUNK).reason == "max-insns"
        raise AssertionError(f"'{seen}' never came: {said[-1000:]}")

    def type(self, text: str) -> None:
        self.machine.send(text.encode())

    def __enter__(self) -> Talk:
        return self

    def __exit__(self, *_: object) -> None:
        self.machine.close()


@pytest.mark.slow
def test_ovmf_comes_to_its_shell_and_keeps_variables(tmp_path: Path) -> None:
    """Two flashes as QEMU's users have them: the code, and a copy of the variables that is written."""
    need(OVMF_CODE, OVMF_VARS)
    kept = tmp_path / "vars.fd"
    shutil.copy(OVMF_VARS, kept)
    flashes = (
        DriveConfig(str(OVMF_CODE), interface="pflash", readonly=True),
        DriveConfig(str(kept), interface="pflash", index=1),
    )
    with Talk(None, drives=flashes) as talk:
        said = talk.until(r"Shell>", 20_000_000_000)
        assert "UEFI Interactive Shell" in said
        talk.type("set kept value-of-it\r")
        talk.until(r"Shell>", 1_000_000_000)
        talk.type("reset -s\r")
        assert talk.machine.run(1_000_000_000).reason == "poweroff"
    assert "value-of-it".encode("utf-16-le") in kept.read_bytes()


@pytest.mark.slow
def test_u_boot_takes_commands() -> None:
    need(UBOOT_64)
    with Talk(UBOOT_64) as talk:
        said = talk.until(r"Hit any key", 1_000_000_000)
        assert "CPU:   jitvm" in said and "DRAM:  128 MiB" in said and "QEMU x86 (I440FX)" in said
        talk.type("x")
        talk.until("=> ", 1_000_000_000)
        talk.type("\x08" + "pci\r")
        said = talk.until("=> ", 1_000_000_000)
        assert set(re.findall(r"0x8086\s+0x(\w{4})", said)) == {"1237", "7000", "7010", "7113"}, said
        talk.type("qfw list\r")
        assert "etc/e820" in talk.until("=> ", 1_000_000_000)


def test_qboot_starts_a_kernel(tmp_path: Path) -> None:
    need(QBOOT)
    kernel = tmp_path / "kernel"
    kernel.write_bytes(image(assemble(KERNEL, KERNEL_AT, 32), assemble(SETUP, 0x268, 16)))
    with Machine(config(QBOOT, kernel=kernel, append=LINE)) as machine:
        result = machine.run()
        assert (result.reason, debug_output(machine)) == ("debug-exit", f"{LINE}|\n")
