"""Descriptor tables and page walks in words, for a debugger's `monitor gdt|ldt|idt|pagewalk`.

Source: Intel SDM vol. 3, 3.4.5 and table 3-1 (segments), 3.5 and table 3-2 (system descriptors, gates; 16 bytes in long
mode: figures 5-8, 6-8 and 7-4), 4.3-4.5 (paging); 20.1.4 (the table of real mode's interrupts).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from gdbstub.errors import TargetError
from jitvm.gdb_memory import PG, PRESENT, LinearMemory, address_mask, is_canonical, is_long

PE = 1
MAX_ROWS = 256
SYSTEM = {
    1: "16-bit TSS, free", 2: "LDT", 3: "16-bit TSS, busy", 4: "16-bit call gate", 5: "task gate",
    6: "16-bit interrupt gate", 7: "16-bit trap gate", 9: "32-bit TSS, free", 11: "32-bit TSS, busy",
    12: "32-bit call gate", 14: "32-bit interrupt gate", 15: "32-bit trap gate",
}  # fmt: skip
LONG_SYSTEM = {
    2: "LDT", 9: "64-bit TSS, free", 11: "64-bit TSS, busy", 12: "64-bit call gate", 14: "64-bit interrupt gate",
    15: "64-bit trap gate",
}  # fmt: skip
"""Types in long mode, where their descriptors have 16 bytes."""
GATES = frozenset({4, 5, 6, 7, 12, 14, 15})
PAGE_BITS = ((1, "W"), (2, "U"), (3, "PWT"), (4, "PCD"), (5, "A"), (6, "D"), (7, "PS"), (8, "G"), (63, "XD"))
PAGE_SIZES = {21: "2 MiB", 22: "4 MiB", 30: "1 GiB"}

Command = Callable[[Any, LinearMemory, Sequence[str]], str]


def describe(word: int, *, long: bool = False) -> str:
    """A descriptor of 8 bytes, or of 16 where long mode has such; `long`: long mode is active."""
    if not word:
        return "null"
    kind, dpl = word >> 40 & 15, word >> 45 & 3
    rest = f"dpl {dpl}{'' if word >> 47 & 1 else ', not present'}"
    segment = word >> 44 & 1
    known = LONG_SYSTEM if long else SYSTEM
    if not segment and kind in GATES and kind in known:
        offset = word & 0xFFFF | word >> 32 & 0xFFFF_0000
        stack = word >> 32 & 7 if long and kind in (14, 15) else 0
        target = f"{offset | word >> 64 << 32 & 0xFFFF_FFFF_0000_0000:016x}" if long else f"{offset:08x}"
        return f"{known[kind]} to {word >> 16 & 0xFFFF:04x}:{target}, {f'ist {stack}, ' if stack else ''}{rest}"
    base = word >> 16 & 0xFF_FFFF | word >> 32 & 0xFF00_0000
    limit = word & 0xFFFF | word >> 32 & 0xF_0000
    if word >> 55 & 1:
        limit = limit << 12 | 0xFFF
    width = "64" if long and word >> 53 & 1 and kind & 8 else "32" if word >> 54 & 1 else "16"
    if not segment:
        what = known.get(kind, f"reserved type {kind}")
    elif kind & 8:
        what = f"{width}-bit code{', readable' if kind & 2 else ''}{', conforming' if kind & 4 else ''}"
    else:
        what = f"{width}-bit data{', writable' if kind & 2 else ''}{', expand-down' if kind & 4 else ''}"
    if long and not segment:
        return f"{what}, base {base | (word >> 64 & 0xFFFF_FFFF) << 32:016x}, limit {limit:08x}, {rest}"
    return f"{what}, base {base:08x}, limit {limit:08x}, {rest}"


def is_wide(c: Any, word: int) -> bool:
    """A descriptor that begins so has 16 bytes: a system one in long mode."""
    return is_long(c) and not word >> 44 & 1 and word >> 40 & 15 in LONG_SYSTEM


def _rows(c: Any, memory: LinearMemory, base: int, limit: int, size: int) -> Iterator[tuple[int, int]]:
    """(number, entry) of a table's entries that can be read, at most MAX_ROWS; of `size` bytes, but system descriptors of
    long mode, which take two."""
    number = 0
    while number < min((limit + 1) // size, MAX_ROWS):
        word = _word(c, memory, base + number * size, size)
        if word is None:
            return
        n = 1
        if size == 8 and is_wide(c, word) and (number + 2) * size <= limit + 1:
            word, n = _word(c, memory, base + number * size, 2 * size) or word, 2
        yield number, word
        number += n


def _word(c: Any, memory: LinearMemory, lin: int, size: int) -> int | None:
    data = memory.read_linear(lin & address_mask(c), size)
    return int.from_bytes(data, "little") if len(data) == size else None


def descriptor_at(c: Any, memory: LinearMemory, selector: int) -> int | None:
    """The descriptor that a selector names, None behind the table's end or where no memory is."""
    local = selector & 4
    base, limit = (int(c.base[6]), int(c.limit[6])) if local else (int(c.gdt_base), int(c.gdt_limit))
    at = selector & 0xFFF8
    word = _word(c, memory, base + at, 8) if at + 7 <= limit else None
    if word is not None and is_wide(c, word) and at + 15 <= limit:
        return _word(c, memory, base + at, 16)
    return word


def _base(c: Any, base: int) -> str:
    return f"{base:016x}" if is_long(c) else f"{base:08x}"


def _lines(c: Any, rows: Iterator[tuple[int, int]], scale: int, local: int, digits: int) -> list[str]:
    """A line for each entry that is not null, numbered as it is asked for: by selector, or by vector."""
    long = is_long(c)
    return [f"{scale * number | local:0{digits}x}: {describe(word, long=long)}" for number, word in rows if word]


def gdt(c: Any, memory: LinearMemory, words: Sequence[str]) -> str:
    """The GDT's entries that are not null."""
    base, limit = int(c.gdt_base), int(c.gdt_limit)
    head = f"GDT at {_base(c, base)}, limit {limit:04x}"
    return "\n".join([head, *_lines(c, _rows(c, memory, base, limit, 8), 8, 0, 4)])


def ldt(c: Any, memory: LinearMemory, words: Sequence[str]) -> str:
    """The LDT's entries that are not null."""
    if not int(c.sel[6]) & ~3:
        return "there is no LDT"
    base, limit = int(c.base[6]), int(c.limit[6])
    head = f"LDT {int(c.sel[6]):04x} at {_base(c, base)}, limit {limit:04x}"
    return "\n".join([head, *_lines(c, _rows(c, memory, base, limit, 8), 8, 4, 4)])


def gate_size(c: Any) -> int:
    """Bytes of an entry of the IDT: gates, or real mode's far pointers."""
    return 16 if is_long(c) else 8 if int(c.cr0) & PE else 4


def idt(c: Any, memory: LinearMemory, words: Sequence[str]) -> str:
    """The IDT's entries that are not null: gates, or real mode's far pointers."""
    base, limit = int(c.idt_base), int(c.idt_limit)
    head = f"IDT at {_base(c, base)}, limit {limit:04x}"
    rows = _rows(c, memory, base, limit, gate_size(c))
    if int(c.cr0) & PE:
        return "\n".join([head, *_lines(c, rows, 1, 0, 2)])
    return "\n".join([head, *(f"{number:02x}: {word >> 16:04x}:{word & 0xFFFF:04x}" for number, word in rows if word)])


def _flags(entry: int) -> str:
    return " ".join(name for bit, name in PAGE_BITS if entry >> bit & 1) or "-"


def pagewalk(c: Any, memory: LinearMemory, words: Sequence[str]) -> str:
    """Each level of a linear address's translation; no bit is set."""
    try:
        lin = int(words[0], 0)
    except (IndexError, ValueError):
        raise TargetError("write pagewalk ADDRESS") from None
    if len(words) != 1 or lin & ~address_mask(c) or lin < 0:
        raise TargetError(f"write pagewalk ADDRESS, {'of 64 bits' if is_long(c) else 'below 4 GiB'}")
    lines = [f"linear {_base(c, lin)}"]
    if not int(c.cr0) & PG:
        lines.append("paging is off")
    elif is_long(c) and not is_canonical(lin):
        lines.append("not canonical: bits 47 to 63 differ")
    else:
        for level in memory.levels(lin):
            said = _flags(level.entry) if level.entry & PRESENT else "not present"
            lines.append(f"{level.name} at {level.at:08x}: {level.entry:0{2 * level.size}x} {said}")
            if level.page and level.shift in PAGE_SIZES:
                lines.append(f"{PAGE_SIZES[level.shift]} page at {level.frame:08x}")
    gpa = memory.walk(lin)
    lines.append("not mapped" if gpa is None else f"physical {gpa:08x}")
    return "\n".join(lines)
