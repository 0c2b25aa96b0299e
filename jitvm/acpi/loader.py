"""The script by which firmware puts tables from fw_cfg into memory: QEMU's "etc/table-loader".

Firmware allocates each file, adds the files' addresses to the pointers in them, and makes checksums.

Source: QEMU 7.2, hw/acpi/bios-linker-loader.c (the commands and their layout, little endian).  Of its commands
WRITE_POINTER (4) is not used: nothing here needs to know where firmware has put a file.
"""

from __future__ import annotations

import struct

SIZE = 128
ALLOCATE, ADD_POINTER, ADD_CHECKSUM = 1, 2, 3
HIGH, F_SEGMENT = 1, 2
"""Zones: below 4 GiB; where a table is looked for, F0000h to FFFFFh."""


def allocate(file: str, align: int, zone: int) -> bytes:
    """Load a file into memory."""
    return struct.pack("<I56sIB", ALLOCATE, file.encode(), align, zone).ljust(SIZE, b"\0")


def add_pointer(file: str, offset: int, to: str, size: int = 4) -> bytes:
    """Add the address of `to` to the number at `offset` of `file`."""
    return struct.pack("<I56s56sIB", ADD_POINTER, file.encode(), to.encode(), offset, size).ljust(SIZE, b"\0")


def add_checksum(file: str, offset: int, start: int, length: int) -> bytes:
    """Make the byte at `offset`, which is 0, so that the bytes from `start` on sum to 0."""
    return struct.pack("<I56sIII", ADD_CHECKSUM, file.encode(), offset, start, length).ljust(SIZE, b"\0")
