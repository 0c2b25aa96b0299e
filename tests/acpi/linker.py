"""Firmware's part: the loader's script is run on memory of a test's own, and the tables are found in it as a guest does.

Source: QEMU 7.2, hw/acpi/bios-linker-loader.c; ACPI Specification 1.0b, 5.2.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping

ALLOCATE, ADD_POINTER, ADD_CHECKSUM, WRITE_POINTER = 1, 2, 3, 4
HIGH, F_SEGMENT = 1, 2
COMMAND = 128
ZONES = {HIGH: 0x0010_0000, F_SEGMENT: 0xF_0000}
SIZE = 0x20_0000


class Linker:
    """`memory` after the script; `places` of the files; `written`: (file, offset) -> value that firmware tells back."""

    def __init__(self, files: Mapping[str, bytes], script: bytes) -> None:
        assert len(script) % COMMAND == 0
        self.memory = bytearray(SIZE)
        self.files, self.places = files, dict[str, int]()
        self.written: dict[tuple[str, int], int] = {}
        self._free = dict(ZONES)
        does: dict[int, Callable[[bytes], None]] = {
            ALLOCATE: self._allocate,
            ADD_POINTER: self._add_pointer,
            ADD_CHECKSUM: self._add_checksum,
            WRITE_POINTER: self._write_pointer,
        }
        for at in range(0, len(script), COMMAND):
            (command,) = struct.unpack_from("<I", script, at)
            if command == 0:  # QEMU's script is filled up to whole pages
                assert not any(script[at:])
                break
            does[command](script[at + 4 : at + COMMAND])

    def _allocate(self, rest: bytes) -> None:
        file, align, zone = struct.unpack_from("<56sIB", rest)
        assert align & (align - 1) == 0
        name = text(file)
        assert name not in self.places, "a file is loaded once"
        at = self._free[zone] + align - 1 & -align
        self.places[name], self._free[zone] = at, at + len(self.files[name])
        self.memory[at : at + len(self.files[name])] = self.files[name]

    def _add_pointer(self, rest: bytes) -> None:
        file, to, offset, size = struct.unpack_from("<56s56sIB", rest)
        assert offset >= 0 and offset + size <= len(self.files[text(file)])
        at = self.places[text(file)] + offset
        inside = int.from_bytes(self.memory[at : at + size], "little")
        assert inside < len(self.files[text(to)]), "what is pointed to lies in the file"
        self.memory[at : at + size] = (inside + self.places[text(to)]).to_bytes(size, "little")

    def _add_checksum(self, rest: bytes) -> None:
        file, offset, start, length = struct.unpack_from("<56sIII", rest)
        base = self.places[text(file)]
        assert start <= offset < start + length <= len(self.files[text(file)])
        total = sum(self.memory[base + start : base + start + length])
        self.memory[base + offset] = self.memory[base + offset] - total & 0xFF

    def _write_pointer(self, rest: bytes) -> None:
        to, file, to_offset, offset, _size = struct.unpack_from("<56s56sIIB", rest)
        self.written[text(to), to_offset] = self.places[text(file)] + offset


def text(name: bytes) -> str:
    """A file's name of a command."""
    return name.rstrip(b"\0").decode()


def tables(memory: bytes | bytearray) -> dict[str, bytes]:
    """All tables by their signatures, from the RSDP on; each sums to 0 but the FACS, which has no checksum."""
    at = next(k for k in range(0xE_0000, 0x10_0000, 16) if memory[k : k + 8] == b"RSD PTR ")
    rsdp = bytes(memory[at : at + 20])
    assert sum(rsdp) & 0xFF == 0
    found = {"RSDP": rsdp}

    def take(address: int) -> bytes:
        signature, length = struct.unpack_from("<4sI", memory, address)
        assert address % (64 if signature == b"FACS" else 1) == 0
        table = found[signature.decode()] = bytes(memory[address : address + length])
        assert signature == b"FACS" or sum(table) & 0xFF == 0, signature
        return table

    root = take(struct.unpack_from("<I", rsdp, 16)[0])
    for (address,) in struct.iter_unpack("<I", root[36:]):
        take(address)
    for (address,) in struct.iter_unpack("<I", found["FACP"][36:44]):
        take(address)
    return found
