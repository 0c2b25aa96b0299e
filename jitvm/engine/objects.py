"""Object files as LLVM makes them on an ELF host of 64 bits, little-endian: functions, their code and relocations.

ELF-64 Object File Format: header, section header (sh_type 2 symbol table, 4 relocations with addends), symbol.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

SHT_SYMTAB, SHT_RELA = 2, 4
STT_FUNC = 2


class Function(NamedTuple):
    """A function: name, number of its section, offset in that section, bytes of code."""

    name: str
    section: int
    value: int
    size: int


class ObjectFile:
    """One object file; `data` is all of it."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        first = struct.unpack_from("<Q", data, 40)[0]
        count = struct.unpack_from("<H", data, 60)[0]
        self._sections = [struct.unpack_from("<IIQQQQIIQQ", data, first + 64 * k) for k in range(count)]
        table = next(s for s in self._sections if s[1] == SHT_SYMTAB)
        self._symbols = list(struct.iter_unpack("<IBBHQQ", data[table[4] : table[4] + table[5]]))
        self._strings = self._sections[table[6]][4]

    def _name(self, offset: int) -> str:
        start = self._strings + offset
        return self.data[start : self.data.index(b"\0", start)].decode()

    def functions(self) -> Iterator[Function]:
        """All functions that the object defines."""
        for name, info, _, section, value, size in self._symbols:
            if info & 15 == STT_FUNC and section:
                yield Function(self._name(name), section, value, size)

    def place(self, function: Function) -> int:
        """Where in the file a function's bytes are."""
        start: int = self._sections[function.section][4]
        return start + function.value

    def code(self, function: Function) -> bytes:
        """A function's bytes."""
        start = self.place(function)
        return self.data[start : start + function.size]

    def relocations(self, section: int) -> list[tuple[int, str, int, int]]:
        """Relocations in a section: offset, symbol, type, addend."""
        return [
            (at, self._name(self._symbols[info >> 32][0]), info & 0xFFFF_FFFF, addend)
            for s in self._sections
            if s[1] == SHT_RELA and s[7] == section
            for at, info, addend in struct.iter_unpack("<QQq", self.data[s[4] : s[4] + s[5]])
        ]
