"""Exceptions in words: names of vectors, what an error code says, what the CPU looked at when it delivered one.

Source: Intel SDM vol. 3, table 6-1 (vectors), 6.13 (error codes), 4.7 (page faults), 20.1.4 (real mode).
"""

from __future__ import annotations

from typing import Any

from jitvm.gdb_memory import LinearMemory, address_mask, is_long
from jitvm.gdb_tables import PE, describe, descriptor_at, gate_size, pagewalk

VECTORS = {
    0: "#DE divide error", 1: "#DB debug exception", 2: "NMI", 3: "#BP breakpoint", 4: "#OF overflow",
    5: "#BR bound range exceeded", 6: "#UD invalid opcode", 7: "#NM no coprocessor", 8: "#DF double fault",
    10: "#TS invalid TSS", 11: "#NP segment not present", 12: "#SS stack fault", 13: "#GP general protection",
    14: "#PF page fault", 16: "#MF x87 error", 17: "#AC alignment check", 18: "#MC machine check", 19: "#XM SIMD error",
}  # fmt: skip
SHORT = {words.split()[0].removeprefix("#").lower(): vector for vector, words in VECTORS.items()}
"""pf, gp, ... to vectors."""
DF, TS, NP, SS, GP, PF = 8, 10, 11, 12, 13, 14
SELECTOR_FAULTS = frozenset({TS, NP, SS, GP})


def vector_words(vector: int) -> str:
    """`#PF page fault`, or `interrupt 21`."""
    return VECTORS.get(vector, f"interrupt {vector:02x}")


def vector_name(vector: int) -> str:
    """`#PF`, or `interrupt 21`."""
    words = vector_words(vector)
    return words.split()[0] if vector in VECTORS else words


def error_words(vector: int, error: int) -> str:
    """What an error code says."""
    if vector == PF:
        parts = ["protection" if error & 1 else "page not present", "write" if error & 2 else "read"]
        parts.append("user" if error & 4 else "supervisor")
        parts += ["reserved bit set"] if error & 8 else []
        parts += ["instruction fetch"] if error & 16 else []
        return ", ".join(parts)
    if vector not in SELECTOR_FAULTS:
        return ""
    if not error & ~1:
        return "no selector" + (", external event" if error & 1 else "")
    table = "IDT" if error & 2 else "LDT" if error & 4 else "GDT"
    what = f"IDT entry {error >> 3:02x}" if error & 2 else f"{table} selector {error & 0xFFF8 | error & 4:04x}"
    return what + (", external event" if error & 1 else "")


def fault_words(vector: int, error: int | None, cr2: int = 0) -> str:
    """An exception with its error code and, for a page fault, the address."""
    words = vector_words(vector)
    if error is not None:
        decoded = error_words(vector, error)
        words += f", error {error:04x}" + (f" ({decoded})" if decoded else "")
    return words + (f", CR2 {cr2:08x}" if vector == PF else "")


def gate_words(c: Any, memory: LinearMemory, vector: int) -> list[str]:
    """The gate by which an event is delivered, as the CPU sees it now, and the code segment that it names."""
    base, limit, size = int(c.idt_base), int(c.idt_limit), gate_size(c)
    lin = base + vector * size & address_mask(c)
    where = f"IDT entry {vector:02x}"
    if vector * size + size - 1 > limit:
        return [f"{where} lies behind the IDT's limit {limit:04x}"]
    data = memory.read_linear(lin, size)
    if len(data) < size:
        return [f"{where} at {lin:08x} can't be read", *walk_words(c, memory, lin)]
    word = int.from_bytes(data, "little")
    if not int(c.cr0) & PE:
        return [f"{where}: {word >> 16:04x}:{word & 0xFFFF:04x}"]
    lines = [f"{where}: {describe(word, long=is_long(c))}"]
    if word >> 47 & 1:
        lines += selector_words(c, memory, word >> 16 & 0xFFFF)
    return lines


def selector_words(c: Any, memory: LinearMemory, selector: int) -> list[str]:
    """The descriptor that a selector names."""
    table = "LDT" if selector & 4 else "GDT"
    word = descriptor_at(c, memory, selector)
    what = f"lies behind the {table}'s limit, or can't be read" if word is None else describe(word, long=is_long(c))
    return [f"{table} selector {selector & ~3:04x}: {what}"]


def walk_words(c: Any, memory: LinearMemory, lin: int) -> list[str]:
    """How a linear address is translated, in one line."""
    return [", ".join(pagewalk(c, memory, [hex(lin & address_mask(c))]).split("\n"))]


def seen_words(c: Any, memory: LinearMemory, vector: int, error: int | None, cr2: int) -> list[str]:
    """What an exception speaks of: the page, the gate or the descriptor, as it is now."""
    if vector == PF:
        return walk_words(c, memory, cr2)
    if vector in SELECTOR_FAULTS and error is not None and error & ~3:
        if error & 2:
            return gate_words(c, memory, error >> 3)
        return selector_words(c, memory, error & 0xFFFC)
    return []
