"""Long mode for tests of semantics in plain Python: tables of 16-byte descriptors and gates, 4-level paging, stacks."""

from __future__ import annotations

from typing import Any

import numpy as np

from jitvm.isa import mode
from tests.isa.plain_cpu import (
    CODE,
    CS,
    DS,
    ES,
    FS,
    GDT,
    GS,
    IDT,
    LDT,
    LDTR,
    SS,
    STACKS,
    TR,
    TSS,
    PlainMemory,
    descriptor,
    load_flat,
    make_cpu,
)

PML4, PDPT, DIRECTORY = 0x80000, 0x81000, 0x82000
HIGH = 0xFFFF_8000_0000_0000
"""The lowest address of the upper half: the first 2 MiB of memory appear there, too."""
GDT_SIZE, IDT_SIZE, TSS_SIZE = 0x200, 0x1000, 0x68
CODE64_0, DATA_0, CODE32_0, CODE64_3, DATA_3, CODE32_3 = 0x08, 0x10, 0x18, 0x23, 0x2B, 0x33
CODE64_1, DATA_1 = 0x39, 0x41
SEL_TSS, SEL_LDT, FREE = 0x50, 0x60, 0x70
"""16-byte descriptors; FREE: the first selector without one."""
CODE64, CODE32, DATA = 0xA09B, 0xC09B, 0xC093
IST_STACK = 0x18000


def gate64(selector: int, offset: int, attr: int, ist: int = 0) -> tuple[int, int]:
    """The two halves of a 64-bit gate."""
    low = offset & 0xFFFF | selector << 16 | ist << 32 | attr << 40 | (offset >> 16 & 0xFFFF) << 48
    return low, offset >> 32


def set_gate64(memory: PlainMemory, vector: int, selector: int, offset: int, attr: int = 0x8E, ist: int = 0) -> None:
    """Write a gate into the IDT."""
    memory.put(IDT + 16 * vector, "QQ", *gate64(selector, offset, attr, ist))


def set_system(memory: PlainMemory, selector: int, low: int, high: int) -> None:
    """Write a 16-byte descriptor into the GDT."""
    memory.put(GDT + (selector & 0xFFF8), "QQ", low, high)


def enter_level(c: Any, cpl: int, *, compat: bool = False) -> None:
    """Segments and stack of a privilege level (0, 1 or 3), in 64-bit or in compatibility mode."""
    c.cpl = cpl
    code, data = {0: (CODE64_0, DATA_0), 1: (CODE64_1, DATA_1), 3: (CODE64_3, DATA_3)}[cpl]
    if compat:
        code = {0: CODE32_0, 3: CODE32_3}[cpl]
    load_flat(c, CS, code, (CODE32 if compat else CODE64) | cpl << 5)
    for seg in (SS, DS, ES, FS, GS):
        load_flat(c, seg, data, DATA | cpl << 5)
    c.gpr[4] = STACKS[cpl] - 0x400
    mode.update_mode(c)


def long_mode(cpl: int = 0, *, compat: bool = False) -> tuple[Any, PlainMemory]:
    """A record in long mode with its memory: the first 2 MiB one to one for everybody, and again at HIGH."""
    c, memory = make_cpu(1 << 21)
    for selector, attr in (
        (CODE64_0, CODE64), (DATA_0, DATA), (CODE32_0, CODE32), (CODE64_3, CODE64 | 0x60), (DATA_3, DATA | 0x60),
        (CODE32_3, CODE32 | 0x60), (CODE64_1, CODE64 | 0x20), (DATA_1, DATA | 0x20),
    ):  # fmt: skip
        memory.put(GDT + (selector & 0xFFF8), "Q", descriptor(0, 0xFFFFFFFF, attr))
    set_system(memory, SEL_TSS, descriptor(TSS, TSS_SIZE - 1, 0x8B), 0)
    memory.put(TSS + 4, "QQQ", STACKS[0], STACKS[1], STACKS[2])
    for n in range(7):
        memory.put(TSS + 0x24 + 8 * n, "Q", IST_STACK + 0x1000 * n)
    c.gdt_base, c.gdt_limit, c.idt_base, c.idt_limit = GDT, GDT_SIZE - 1, IDT, IDT_SIZE - 1
    c.sel[LDTR], c.base[LDTR], c.limit[LDTR], c.attr[LDTR] = SEL_LDT, LDT, 0xFF, 0x82
    c.sel[TR], c.base[TR], c.limit[TR], c.attr[TR] = SEL_TSS, TSS, TSS_SIZE - 1, 0x8B
    memory.put(PML4, "Q", PDPT | 0x27)
    memory.put(PML4 + 8 * 256, "Q", PDPT | 0x27)
    memory.put(PDPT, "Q", DIRECTORY | 0x27)
    memory.put(DIRECTORY, "Q", 0xE7)
    c.cr0, c.cr3, c.cr4, c.efer = 0x80010011, PML4, 0x20, 0xD01
    c.features[2] = 1 << 29 | 1 << 11 | 1 << 20 | 1 << 26 | 1 << 27
    c.features[0] = 1 << 5 | 1 << 6 | 1 << 11
    c.rip, c.next_rip = CODE, CODE + 2
    c.tlb[:] = ~np.uint64(0)
    enter_level(c, cpl, compat=compat)
    return c, memory


def frame(c: Any, memory: PlainMemory, n: int = 5) -> tuple[int, ...]:
    """The `n` 8-byte words on top of the stack, the lowest first."""
    return memory.get(int(c.gpr[4]) & 0x1FFFFF, f"{n}Q")
