"""Descriptor tables and page walks in words, for a debugger's `monitor gdt|ldt|idt|pagewalk`.

Source: Intel SDM vol. 3, 3.4.5 and table 3-1 (segments), 3.5 and table 3-2 (system descriptors, gates), 4.3 (paging);
20.1.4 (the table of real mode's interrupts).

Not modelled: the 16-byte descriptors of long mode.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from gdbstub.errors import TargetError
from jitvm.gdb_memory import ENTRY, FRAME, LARGE, LARGE_MASK, PG, PRESENT, PSE, LinearMemory

PE = 1
MAX_ROWS = 256
SYSTEM = {
    1: "16-bit TSS, free", 2: "LDT", 3: "16-bit TSS, busy", 4: "16-bit call gate", 5: "task gate",
    6: "16-bit interrupt gate", 7: "16-bit trap gate", 9: "32-bit TSS, free", 11: "32-bit TSS, busy",
    12: "32-bit call gate", 14: "32-bit interrupt gate", 15: "32-bit trap gate",
}  # fmt: skip
GATES = frozenset({4, 5, 6, 7, 12, 14, 15})
PAGE_BITS = ((1, "W"), (2, "U"), (3, "PWT"), (4, "PCD"), (5, "A"), (6, "D"), (7, "PS"), (8, "G"))

Command = Callable[[Any, LinearMemory, Sequence[str]], str]


def describe(word: int) -> str:
    """A descriptor of 8 bytes."""
    if not word:
        return "null"
    kind, dpl = word >> 40 & 15, word >> 45 & 3
    rest = f"dpl {dpl}{'' if word >> 47 & 1 else ', not present'}"
    if not word >> 44 & 1 and kind in GATES:
        return f"{SYSTEM[kind]} to {word >> 16 & 0xFFFF:04x}:{word & 0xFFFF | word >> 32 & 0xFFFF_0000:08x}, {rest}"
    base = word >> 16 & 0xFF_FFFF | word >> 32 & 0xFF00_0000
    limit = word & 0xFFFF | word >> 32 & 0xF_0000
    if word >> 55 & 1:
        limit = limit << 12 | 0xFFF
    if not word >> 44 & 1:
        what = SYSTEM.get(kind, f"reserved type {kind}")
    elif kind & 8:
        what = f"{'32' if word >> 54 & 1 else '16'}-bit code{', readable' if kind & 2 else ''}"
        what += ", conforming" if kind & 4 else ""
    else:
        what = f"{'32' if word >> 54 & 1 else '16'}-bit data{', writable' if kind & 2 else ''}"
        what += ", expand-down" if kind & 4 else ""
    return f"{what}, base {base:08x}, limit {limit:08x}, {rest}"


def _rows(memory: LinearMemory, base: int, limit: int, size: int) -> Iterator[tuple[int, int]]:
    """(number, entry) of a table's entries that can be read, at most MAX_ROWS."""
    for number in range(min((limit + 1) // size, MAX_ROWS)):
        data = memory.read_linear(base + number * size, size)
        if len(data) < size:
            return
        yield number, int.from_bytes(data, "little")


def descriptor_at(c: Any, memory: LinearMemory, selector: int) -> int | None:
    """The descriptor that a selector names, None behind the table's end or where no memory is."""
    local = selector & 4
    base, limit = (int(c.base[6]), int(c.limit[6])) if local else (int(c.gdt_base), int(c.gdt_limit))
    at = selector & 0xFFF8
    data = memory.read_linear(base + at & 0xFFFF_FFFF, 8) if at + 7 <= limit else b""
    return int.from_bytes(data, "little") if len(data) == 8 else None


def gdt(c: Any, memory: LinearMemory, words: Sequence[str]) -> str:
    """The GDT's entries that are not null."""
    rows = _rows(memory, int(c.gdt_base), int(c.gdt_limit), 8)
    lines = [f"GDT at {int(c.gdt_base):08x}, limit {int(c.gdt_limit):04x}"]
    return "\n".join(lines + [f"{8 * number:04x}: {describe(word)}" for number, word in rows if word])


def ldt(c: Any, memory: LinearMemory, words: Sequence[str]) -> str:
    """The LDT's entries that are not null."""
    if not int(c.sel[6]) & ~3:
        return "there is no LDT"
    rows = _rows(memory, int(c.base[6]), int(c.limit[6]), 8)
    lines = [f"LDT {int(c.sel[6]):04x} at {int(c.base[6]):08x}, limit {int(c.limit[6]):04x}"]
    return "\n".join(lines + [f"{8 * number | 4:04x}: {describe(word)}" for number, word in rows if word])


def idt(c: Any, memory: LinearMemory, words: Sequence[str]) -> str:
    """The IDT's entries that are not null: gates, or real mode's far pointers."""
    base, limit = int(c.idt_base), int(c.idt_limit)
    lines = [f"IDT at {base:08x}, limit {limit:04x}"]
    if int(c.cr0) & PE:
        rows = _rows(memory, base, limit, 8)
        return "\n".join(lines + [f"{number:02x}: {describe(word)}" for number, word in rows if word])
    rows = _rows(memory, base, limit, 4)
    return "\n".join(lines + [f"{number:02x}: {word >> 16:04x}:{word & 0xFFFF:04x}" for number, word in rows if word])


def _flags(entry: int) -> str:
    return " ".join(name for bit, name in PAGE_BITS if entry >> bit & 1) or "-"


def pagewalk(c: Any, memory: LinearMemory, words: Sequence[str]) -> str:
    """Each level of a linear address's translation; no bit is set."""
    try:
        lin = int(words[0], 0)
    except (IndexError, ValueError):
        raise TargetError("write pagewalk ADDRESS") from None
    if len(words) != 1 or not 0 <= lin < 1 << 32:
        raise TargetError("write pagewalk ADDRESS, below 4 GiB")
    lines = [f"linear {lin:08x}"]
    if not int(c.cr0) & PG:
        lines.append("paging is off")
    else:
        at = (int(c.cr3) & FRAME) + (lin >> 22) * ENTRY
        pde = memory.entry(at)
        lines.append(f"PDE at {at:08x}: {pde:08x} {_flags(pde) if pde & PRESENT else 'not present'}")
        if pde & PRESENT and pde & LARGE and int(c.cr4) & PSE:
            lines.append(f"4 MiB page at {pde & ~LARGE_MASK:08x}")
        elif pde & PRESENT:
            at = (pde & FRAME) + (lin >> 12 & 0x3FF) * ENTRY
            pte = memory.entry(at)
            lines.append(f"PTE at {at:08x}: {pte:08x} {_flags(pte) if pte & PRESENT else 'not present'}")
    gpa = memory.walk(lin)
    lines.append("not mapped" if gpa is None else f"physical {gpa:08x}")
    return "\n".join(lines)
