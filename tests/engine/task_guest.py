"""A guest with two tasks for tests of hardware task switches: flat 32-bit code, a current task and a new one.

Layout: GDT 5000h, IDT 4000h, LDT 5800h; the current TSS 6000h, the new one 6200h, both 32-bit or 16-bit; code 1000h, the
new task's code 2000h, its stack below 20000h.
"""

from __future__ import annotations

import struct
from typing import Any

from tests.engine.guest import CODE, GDT, IDT, Guest

ENGINES = ("plain", "handlers", "stencils", "regions")
LDT, OLD, NEW, NEW_CODE, STACK = 0x5800, 0x6000, 0x6200, 0x2000, 0x1F000
CODE0, DATA0, CODE3, DATA3, OLD_SEL, NEW_SEL, GATE, LDT_SEL, SPARE = (
    0x08,
    0x10,
    0x1B,
    0x23,
    0x28,
    0x30,
    0x38,
    0x40,
    0x48,
)
GDT_LIMIT = 0x7F
LOCAL_CODE, LOCAL_DATA = 0x04, 0x0C
VECTOR = 0x30
"""Vector of the task gate to the new task."""
NT, VM, IF = 0x4000, 0x20000, 0x200
NAMES_32 = "eip eflags eax ecx edx ebx esp ebp esi edi".split()
NAMES_16 = "ip flags ax cx dx bx sp bp si di".split()
SELECTORS = "es cs ss ds fs gs".split()
REGISTERS = {
    "eax": 0xA0A1A2A3,
    "ecx": 0xC0C1C2C3,
    "edx": 0xD0D1D2D3,
    "ebx": 0xB0B1B2B3,
    "esp": STACK,
    "ebp": 0xE0E1E2E3,
    "esi": 0x51525354,
    "edi": 0xD1D2D3D4,
}


def descriptor(base: int, limit: int, attr: int) -> int:
    """A descriptor; `attr` as in the CPU record (bits 0-7: type to P, bits 12-15: AVL to G)."""
    if attr & 0x8000:
        limit >>= 12
    low = limit & 0xFFFF | (base & 0xFFFFFF) << 16 | attr << 40
    return low | (limit & 0xF0000) << 32 | (base & 0xFF000000) << 32


class TaskGuest(Guest):
    """`old_wide`, `new_wide`: 32-bit TSSs.  The new task is in its TSS, available; the current one is in TR."""

    def __init__(self, engine: str, *, old_wide: bool = True, new_wide: bool = True, deliver: bool = False) -> None:
        super().__init__(engine, deliver=deliver)
        self.old_wide, self.new_wide = old_wide, new_wide
        self.put(CODE0, descriptor(0, 0xFFFFFFFF, 0xC09B))
        self.put(DATA0, descriptor(0, 0xFFFFFFFF, 0xC093))
        self.put(CODE3, descriptor(0, 0xFFFFFFFF, 0xC0FB))
        self.put(DATA3, descriptor(0, 0xFFFFFFFF, 0xC0F3))
        self.put(OLD_SEL, descriptor(OLD, 0x67 if old_wide else 0x2B, 0x8B if old_wide else 0x83))
        self.put(NEW_SEL, descriptor(NEW, 0x67 if new_wide else 0x2B, 0x89 if new_wide else 0x81))
        self.put(GATE, NEW_SEL << 16 | 0x85 << 40)
        self.put(LDT_SEL, descriptor(LDT, 0x0F, 0x82))
        self.put(LOCAL_CODE, descriptor(0, 0xFFFFFFFF, 0xC09B))
        self.put(LOCAL_DATA, descriptor(0, 0xFFFFFFFF, 0xC093))
        self.set_gate(VECTOR, NEW_SEL << 16 | 0xE5 << 40)
        c = self.c
        c.gdt_base, c.gdt_limit, c.idt_base, c.idt_limit = GDT, GDT_LIMIT, IDT, 0x3FF
        c.sel[:6] = DATA0
        c.sel[1] = CODE0
        c.attr[0], c.attr[2:6], c.attr[1] = 0xC093, 0xC093, 0xC09B
        c.sel[7], c.base[7] = OLD_SEL, OLD
        c.limit[7], c.attr[7] = (0x67, 0x8B) if old_wide else (0x2B, 0x83)
        c.sel[6], c.attr[6] = 0, 0
        self.fill(
            NEW, new_wide, eip=NEW_CODE, eflags=2, cr3=0x7000, es=DATA0, cs=CODE0, ss=DATA0, ds=DATA0, **REGISTERS
        )
        self.bare.write(NEW_CODE, b"\xf4")
        self.update()

    def put(self, selector: int, d: int) -> None:
        """Write a descriptor into the GDT, or the LDT by TI."""
        self.bare.write((LDT if selector & 4 else GDT) + (selector & 0xFFF8), struct.pack("<Q", d))

    def set_gate(self, vector: int, d: int) -> None:
        """Write a gate into the IDT."""
        self.bare.write(IDT + 8 * vector, struct.pack("<Q", d))

    def fill(self, at: int, wide: bool, **values: int) -> None:
        """Write fields of a TSS by the names of the 32-bit one; what a 16-bit TSS has not is left out."""
        for name, v in values.items():
            where, size = field(name, wide)
            if size:
                self.bare.write(at + where, (v & (1 << 8 * size) - 1).to_bytes(size, "little"))

    def look(self, at: int, wide: bool, name: str) -> int:
        """A field of a TSS."""
        where, size = field(name, wide)
        return int.from_bytes(self.bare.read(at + where, size), "little")

    def busy(self, selector: int) -> bool:
        """The busy bit of a TSS descriptor."""
        return bool(self.bare.read(GDT + selector + 5, 1)[0] & 2)

    def switch(self, by: str) -> str:
        """Execute one instruction that switches to the new task: jmp, call, gate-jmp, gate-call, int or iret."""
        code = {
            "jmp": b"\xea" + struct.pack("<IH", 0, NEW_SEL),
            "call": b"\x9a" + struct.pack("<IH", 0, NEW_SEL),
            "gate-jmp": b"\xea" + struct.pack("<IH", 0, GATE),
            "gate-call": b"\x9a" + struct.pack("<IH", 0, GATE),
            "int": bytes([0xCD, VECTOR]),
            "iret": b"\xcf",
        }[by]
        if by == "iret":
            self.bare.write(OLD, struct.pack("<H", NEW_SEL))
            rights = self.bare.read(GDT + NEW_SEL + 5, 1)[0]
            self.bare.write(GDT + NEW_SEL + 5, bytes([rights ^ 2]))
            self.registers(eflags=NT | 2)
        self.bare.write(CODE, code)
        self.registers(eip=CODE)
        self.code_size = len(code)
        self.before = self.state()
        return self.go(1)

    def selectors(self) -> list[int]:
        """ES to TR."""
        return [int(v) for v in self.c.sel]


def field(name: str, wide: bool) -> tuple[int, int]:
    """Offset and size of a field of a TSS (SDM vol. 3, figures 7-2 and 7-10); size 0: it has none."""
    if name == "link":
        return 0, 2
    if name in ("cr3", "t"):
        return (0x1C, 4) if name == "cr3" and wide else (0x64, 2) if wide else (0, 0)
    if name == "ldt":
        return (0x60, 2) if wide else (0x2A, 2)
    if name in SELECTORS:
        k = SELECTORS.index(name)
        return (0x48 + 4 * k, 2) if wide else (0x22 + 2 * k, 2 if k < 4 else 0)
    k = NAMES_32.index(name)
    return (0x20 + 4 * k, 4) if wide else (0x0E + 2 * k, 2)


def guest_of(engine: str, **options: Any) -> TaskGuest:
    """A `TaskGuest` whose current task has registers of its own."""
    guest = TaskGuest(engine, **options)
    guest.registers(**{name: 0x1010101 * (k + 1) for k, name in enumerate(NAMES_32[2:])})
    guest.registers(esp=0x1E000)
    return guest
