"""ACPI tables by the embedded firmware: it runs the loader's script, of jitvm and of QEMU."""

from __future__ import annotations

import struct
from pathlib import Path

from jitvm.config import DriveConfig
from jitvm.machine import Machine
from tests.acpi.linker import tables
from tests.acpi.test_tables import loaded
from tests.boot.guests import BIOS, config
from tests.engine.assembler import assemble
from tests.firmware.qemu import DEBUG_EXIT, ICOUNT, QEMU, drive, run_qemu
from tests.needs import need

BOOT_AT = 0x7C00
TELL = """
    cli
    xor ebx, ebx
    mov di, 0x500
1:  mov eax, 0xE820
    mov edx, 0x534D4150
    mov ecx, 20
    int 0x15
    jc 2f
    add di, 20
    test ebx, ebx
    jnz 1b
2:  mov cx, di
    sub cx, 0x500
    mov si, 0x500
    mov dx, 0xE9
    rep outsb
    mov ax, 0xF000
    mov ds, ax
    xor si, si
3:  cmp dword ptr [si], 0x20445352
    je 4f
    add si, 16
    jnz 3b
    jmp 5f
4:  mov cx, 20
    rep outsb
5:  mov al, 0x10
    out 0xF4, al
    hlt
"""
"""A boot sector: the memory map's entries, and then the RSDP, go to the debug port."""
ENTRY = struct.Struct("<QQI")
RAM, RESERVED = 1, 2


def boot_sector(folder: Path) -> Path:
    path = folder / "disk.img"
    path.write_bytes(assemble(TELL, BOOT_AT, 16).ljust(510, b"\0") + b"\x55\xaa" + bytes(63 * 512 * 16))
    return path


def test_tables_lie_in_memory_that_is_reserved(tmp_path: Path) -> None:
    with Machine(config(BIOS, smp=2)) as machine:
        assert machine.run().reason == "poweroff"
        found, expected = tables(machine.ram.tobytes()), loaded(machine)
        assert set(found) == set(expected)
        assert found["DSDT"] == expected["DSDT"] and found["APIC"] == expected["APIC"]
        assert found["FACP"][44:] == expected["FACP"][44:]


def told(output: bytes, size: int) -> None:
    """The RSDP sums to 0 and leads to the end of RAM, which is reserved."""
    rsdp = output[-20:]
    assert rsdp[:8] == b"RSD PTR " and sum(rsdp) & 0xFF == 0
    (root,) = struct.unpack_from("<I", rsdp, 16)
    entries = [(kind, at, length) for at, length, kind in ENTRY.iter_unpack(output[:-20])]
    (reserved,) = [(at, length) for kind, at, length in entries if kind == RESERVED and at <= root < at + length]
    assert sum(reserved) == size
    assert (RAM, 1 << 20, reserved[0] - (1 << 20)) in entries


def test_on_jitvm(tmp_path: Path) -> None:
    with Machine(config(BIOS, drives=(DriveConfig(str(boot_sector(tmp_path)), snapshot=True),))) as machine:
        assert machine.run().reason == "debug-exit"
        told(machine.debug_output(0xE9), 32 << 20)


def test_on_qemu(tmp_path: Path) -> None:
    need(QEMU)
    run_qemu(tmp_path, BIOS, *drive(boot_sector(tmp_path)), "-m", "32M", "-smp", "2", *ICOUNT, *DEBUG_EXIT)
    told((tmp_path / "debug.txt").read_bytes(), 32 << 20)


def test_too_little_memory_for_tables() -> None:
    with Machine(config(BIOS, memory=2 << 20)) as machine:
        assert machine.run().reason == "poweroff"
        assert b"RSD PTR " not in machine.ram[0xE0000:].tobytes()
