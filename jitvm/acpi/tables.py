"""The tables that stand behind the RSDP, and the files of fw_cfg that firmware makes them from.

FACS, DSDT, FADT, MADT and RSDT are one file, "etc/acpi/tables"; pointers in it are offsets until firmware has placed it.
Revisions are those of QEMU 7.2's "pc": ACPI 1.0, which every guest knows.

Source: ACPI Specification 1.0b, 5.2 (tables); 6.5, 5.2.12 (MADT), table 5.9 (flags of the FADT).

Not modelled: HPET, WAET, SRAT and others for hardware that is not there.
"""

from __future__ import annotations

import struct

from jitvm.acpi import loader
from jitvm.acpi.dsdt import dsdt
from jitvm.acpi.hardware import Apics, Hardware

TABLES, RSDP, LOADER = "etc/acpi/tables", "etc/acpi/rsdp", "etc/table-loader"
HEADER = struct.Struct("<4sIBB6s8sI4sI")
CHECKSUM_AT = 9
OEM, OEM_TABLE, OEM_REVISION, COMPILER, COMPILER_REVISION = b"JITVM ", b"JITVMPC ", 1, b"JTVM", 1
FILE_SIZE = 0x2_0000
"""QEMU's file has this size, whatever is in it; firmware's memory map is the same then."""
FACS_ALIGN, RSDP_ALIGN = 64, 16

FADT_FACS, FADT_DSDT, RSDP_RSDT, RSDP_CHECKSUM = 36, 40, 16, 8
DUAL_PIC = 1
"""INT_MODEL of ACPI 1.0, and a flag of the MADT: there are 8259As too."""
EVENT_LENGTH, CONTROL_LENGTH, TIMER_LENGTH = 4, 2, 4
NO_C2, NO_C3 = 0xFFF, 0xFFF
WBINVD, PROC_C1, SLP_BUTTON, PLATFORM_CLOCK, CLUSTER = 1 << 0, 1 << 2, 1 << 5, 1 << 15, 1 << 18
"""SLP_BUTTON: there is no fixed sleep button.  CLUSTER: logical destinations of APICs are clustered."""
FLAT_APICS = 8
"""Flat logical destinations have room for so many."""

LOCAL_APIC, IO_APIC, OVERRIDE, LOCAL_NMI = 0, 1, 2, 4
ENABLED, ALL_PROCESSORS, NMI_LINT = 1, 0xFF, 1
ACTIVE_HIGH_LEVEL = 0b1101
"""Flags of an override: active high, level-triggered; 0: as the bus has it."""


def files(hardware: Hardware) -> dict[str, bytes]:
    """The files by name; the script first puts the tables into memory, then the RSDP."""
    blob, script = bytearray(), [loader.allocate(TABLES, FACS_ALIGN, loader.HIGH)]

    def add(signature: bytes, revision: int, body: bytes, *pointers: int) -> int:
        """Append a table with pointers at these offsets into the same file; where it is."""
        at, length = len(blob), HEADER.size + len(body)
        blob.extend(_header(signature, revision, length) + body)
        script.extend(loader.add_pointer(TABLES, at + pointer, TABLES) for pointer in pointers)
        script.append(loader.add_checksum(TABLES, at + CHECKSUM_AT, at, length))
        return at

    blob += struct.pack("<4sI", b"FACS", FACS_ALIGN).ljust(FACS_ALIGN, b"\0")
    code = add(b"DSDT", 1, dsdt(hardware))
    found = [add(b"FACP", 1, _fadt(hardware, 0, code), FADT_FACS, FADT_DSDT)]
    if hardware.apics is not None:
        found.append(add(b"APIC", 1, _madt(hardware.apics)))
    entries = [HEADER.size + 4 * k for k in range(len(found))]
    root = add(b"RSDT", 1, struct.pack(f"<{len(found)}I", *found), *entries)
    rsdp = struct.pack("<8sB6sBI", b"RSD PTR ", 0, OEM, 0, root)
    script += [
        loader.allocate(RSDP, RSDP_ALIGN, loader.F_SEGMENT),
        loader.add_pointer(RSDP, RSDP_RSDT, TABLES),
        loader.add_checksum(RSDP, RSDP_CHECKSUM, 0, len(rsdp)),
    ]
    return {TABLES: bytes(blob).ljust(FILE_SIZE, b"\0"), RSDP: rsdp, LOADER: b"".join(script)}


def _header(signature: bytes, revision: int, length: int) -> bytes:
    return HEADER.pack(signature, length, revision, 0, OEM, OEM_TABLE, OEM_REVISION, COMPILER, COMPILER_REVISION)


def _fadt(hardware: Hardware, facs: int, code: int) -> bytes:
    """The fixed hardware, behind the header."""
    power = hardware.power
    flags = WBINVD | PROC_C1 | SLP_BUTTON | PLATFORM_CLOCK | CLUSTER * (hardware.n_cpus > FLAT_APICS)
    return (
        struct.pack("<IIBBHI", facs, code, DUAL_PIC, 0, power.sci, power.smi_command)
        + struct.pack("<BBBB", power.acpi_enable, power.acpi_disable, 0, 0)
        + struct.pack("<IIII", power.event, 0, power.control, 0)
        + struct.pack("<IIII", 0, power.timer, power.gpe, 0)
        + struct.pack("<BBBBBBBB", EVENT_LENGTH, CONTROL_LENGTH, 0, TIMER_LENGTH, power.gpe_length, 0, 0, 0)
        + struct.pack("<HHHHBBBBB", NO_C2, NO_C3, 0, 0, 0, 0, 0, 0, hardware.century)
        + struct.pack("<HBI", 0, 0, flags)
    )


def _madt(apics: Apics) -> bytes:
    """Processors, the I/O APIC, and where ISA interrupts differ from what their bus says, behind the header."""
    entries = [struct.pack("<BBBBI", LOCAL_APIC, 8, k, number, ENABLED) for k, number in enumerate(apics.ids)]
    entries.append(struct.pack("<BBBBII", IO_APIC, 12, 0, 0, apics.io, 0))
    entries += [struct.pack("<BBBBIH", OVERRIDE, 10, 0, irq, pin, 0) for irq, pin in apics.pins.items()]
    entries += [struct.pack("<BBBBIH", OVERRIDE, 10, 0, irq, irq, ACTIVE_HIGH_LEVEL) for irq in apics.level]
    entries.append(struct.pack("<BBBHB", LOCAL_NMI, 6, ALL_PROCESSORS, 0, NMI_LINT))
    return struct.pack("<II", apics.local, DUAL_PIC) + b"".join(entries)
