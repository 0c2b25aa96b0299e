"""An ELF file as if it were linked for another address, so that gdb finds symbols where the guest has them.

Addresses of sections that are loaded, of segments, of symbols and of the entry move by the same amount.

Source: System V ABI, "Object Files" (ELF header, sections, symbol table, program header).

Not modelled: 64-bit files; debug information, whose addresses are everywhere: such a file is not shifted.
"""

from __future__ import annotations

import struct

HEADER = struct.Struct("<16sHHIIIIIHHHHHH")
"""ident, type, machine, version, entry, phoff, shoff, flags, ehsize, phentsize, phnum, shentsize, shnum, shstrndx"""
ELF32_LITTLE = b"\x7fELF\x01\x01"
ENTRY, P_VADDR, P_PADDR = 24, 8, 12
SH_TYPE, SH_FLAGS, SH_ADDR, SH_OFFSET, SH_SIZE = 4, 8, 12, 16, 20
ST_VALUE, ST_SHNDX, SYMBOL_SIZE = 4, 14, 16
PT_LOAD, SHT_SYMTAB, SHT_DYNSYM, SHF_ALLOC, SHN_UNDEF, SHN_LORESERVE = 1, 2, 11, 2, 0, 0xFF00


def shifted(data: bytes, offset: int) -> bytes | None:
    """The file with `offset` added to its addresses; None for one that can't be shifted."""
    if data[:6] != ELF32_LITTLE or b"\0.debug_" in data:
        return None
    out = bytearray(data)

    def word(at: int) -> int:
        return int(struct.unpack_from("<I", out, at)[0])

    def move(at: int) -> None:
        struct.pack_into("<I", out, at, word(at) + offset & 0xFFFF_FFFF)

    try:
        _, _, _, _, _, phoff, shoff, _, _, phentsize, phnum, shentsize, shnum, _ = HEADER.unpack_from(out)
        move(ENTRY)
        for at in range(phoff, phoff + phnum * phentsize, phentsize or 1):
            if word(at) == PT_LOAD:
                move(at + P_VADDR)
                move(at + P_PADDR)
        for at in range(shoff, shoff + shnum * shentsize, shentsize or 1):
            if word(at + SH_FLAGS) & SHF_ALLOC:
                move(at + SH_ADDR)
            if word(at + SH_TYPE) in (SHT_SYMTAB, SHT_DYNSYM):
                start = word(at + SH_OFFSET)
                for symbol in range(start, start + word(at + SH_SIZE), SYMBOL_SIZE):
                    if SHN_UNDEF < struct.unpack_from("<H", out, symbol + ST_SHNDX)[0] < SHN_LORESERVE:
                        move(symbol + ST_VALUE)
    except struct.error:  # a table lies behind the file's end
        return None
    return bytes(out)
