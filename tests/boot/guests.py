"""Machines for tests: our images, ROMs of a few bytes, and a fingerprint of what a run left behind."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from jitvm.config import DeviceConfig, DriveConfig, MachineConfig
from jitvm.isa.mode import update_mode
from jitvm.machine import Machine
from tests.needs import SEABIOS as SEABIOS  # what tests of machines take from here too
from tests.needs import need as need

IMAGES = Path(__file__).resolve().parents[2] / "firmware" / "images"
BIOS = IMAGES / "jitvm-bios.bin"
GUESTS = IMAGES / "guests"
DEBUG_EXIT = DeviceConfig("isa-debug-exit", (("iobase", 0xF4),))
GOOD = 0x31 << 1 | 1
"""Exit status of a boot sector guest whose checks all passed."""
ROM_SIZE = 0x10000
FS, APIC_PAGE = 4, 0xFEE0_0000
RESET_VECTOR = bytes.fromhex("ea000000f0")
"""At FFFFFFF0h: jmp F000:0000, where the low alias of the ROM begins."""


def rom(folder: Path, code: str) -> Path:
    """A 64 KiB BIOS image that runs `code` (hex, blanks allowed) at F000:0000 in real mode."""
    image = bytearray(b"\xf4" * ROM_SIZE)
    data = bytes.fromhex(code)
    image[: len(data)] = data
    image[0xFFF0 : 0xFFF0 + len(RESET_VECTOR)] = RESET_VECTOR
    path = folder / "rom.bin"
    path.write_bytes(image)
    return path


def config(bios: Path | None, **more: Any) -> MachineConfig:
    """COM1 and the debug port in memory, isa-debug-exit at F4h, a time-out that a healthy run never meets."""
    values: dict[str, Any] = {
        "bios": bios, "serials": ("memory",), "debugcons": ((0xE9, "memory"),), "devices": (DEBUG_EXIT,),
        "memory": 32 << 20, "timeout_s": 100,
    }  # fmt: skip
    return MachineConfig(**values | more)


FIRST_STEPS = """
    cli
    xor ax, ax
    mov ds, ax
    mov ss, ax
    mov dword ptr fs:[0xF0], 0x1FF
"""
"""Of a processor with the local APIC's page behind FS: data and stack in the first 64 KiB, the APIC switched on."""
WITH_A_HANDLER = f"""{FIRST_STEPS}
    mov sp, 0x7000
    mov word ptr [0x41 * 4], offset on_41
    mov word ptr [0x41 * 4 + 2], 0xF000
"""
"""And a stack, and a handler of interrupt 41h."""


def two_at_once(folder: Path, code: str, jit: str = "handlers") -> Machine:
    """Two processors that run at the same time, in real mode, with the local APIC's page behind FS."""
    machine = Machine(config(rom(folder, code), smp=2, smp_threads=True, jit=jit))
    for vcpu in machine.vcpus:
        vcpu.engine.c.base[FS] = APIC_PAGE
        with np.errstate(over="ignore"):
            update_mode(vcpu.engine.c)
    return machine


def disk(name: str) -> tuple[DriveConfig, ...]:
    """A guest's disk whose writes are thrown away."""
    return (DriveConfig(str(GUESTS / f"{name}.img"), snapshot=True),)


def debug_output(machine: Machine, port: int = 0xE9) -> str:
    """What the guest wrote to a debug port whose backend is `memory`."""
    return machine.debug_output(port).decode("latin-1").replace("\r\n", "\n")


def serial(machine: Machine) -> str:
    """What the guest wrote to COM1."""
    return machine.serial_output().decode("latin-1").replace("\r\n", "\n")


def fingerprint(machine: Machine) -> dict[str, Any]:
    """What must be the same in two runs: counts, time, exits by reason and address, registers, RAM."""
    vcpu = machine.vcpus[0]
    return {
        "retired": vcpu.retired,
        "virtual_ns": machine.clock.now_ns,
        "exits": sorted([int(reason), int(address), n] for (reason, address), n in vcpu.exits.items()),
        "registers": machine.registers(),
        "ram": hashlib.sha256(machine.ram.tobytes()).hexdigest(),
    }
