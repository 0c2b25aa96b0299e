"""The power button: a guest that asked for it hears of it by the SCI, and switches off."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from jitvm.config import DriveConfig
from jitvm.machine import Machine
from tests.boot.guests import BIOS, config, debug_output
from tests.engine.assembler import assemble

BOOT_AT = 0x7C00
GUEST = """
    cli
    xor ax, ax
    mov ds, ax
    mov word ptr [0x71 * 4], offset pressed
    mov word ptr [0x71 * 4 + 2], 0
    mov al, 0xFB
    out 0x21, al
    mov al, 0xFD
    out 0xA1, al
    mov al, 0xF1
    out 0xB2, al
    mov dx, 0x602
    mov ax, 0x100
    out dx, ax
    mov al, 'w'
    out 0xE9, al
    sti
1:  {wait}
    jmp 1b
pressed:
    mov dx, 0x600
    in ax, dx
    mov dx, 0xE9
    mov al, ah
    add al, '0'
    out dx, al
    mov dx, 0x604
    mov ax, 0x2000
    out dx, ax
    hlt
"""
"""A boot sector: ACPI's mode on, PWRBTN_EN, and IRQ 9 leads to where PM1_STS is told and S5 entered."""


@pytest.mark.parametrize("wait", ["hlt", "nop"])
@pytest.mark.parametrize("smp", [{}, {"smp": 2}, {"smp": 2, "smp_threads": True}], ids=["one", "turns", "threads"])
def test_a_press(wait: str, smp: dict[str, int], tmp_path: Path) -> None:
    disk = tmp_path / "disk.img"
    disk.write_bytes(assemble(GUEST.format(wait=wait), BOOT_AT, 16).ljust(510, b"\0") + b"\x55\xaa" + bytes(63 * 512 * 16))
    with Machine(config(BIOS, drives=(DriveConfig(str(disk), snapshot=True),), **smp)) as machine:
        machine.start()
        while machine.running and debug_output(machine) != "w":
            machine.monitor.command("status")  # lets it stand and go on
            time.sleep(0.02)
        assert machine.monitor.command("system_powerdown") == ""
        assert machine.wait().reason == "poweroff"
        assert debug_output(machine) == "w1"
