"""Single instructions with random descriptors: what protected and virtual-8086 mode make of them (protected_mode_rom.py).

Each vector has its own descriptors (in GDT and LDT alike), a gate for INT 40h, task state segments, a stack and registers,
at privilege level 0, 1 or 3 or in virtual-8086 mode.

Not made: paging, instructions that write CR0, CR4, the descriptor-table registers or MSRs, x87, SSE.
"""

from __future__ import annotations

import random
import struct
from dataclasses import dataclass

from tests.isa.protected_mode_rom import (
    CODE,
    CODE_0_16,
    CODE_1,
    CODE_3,
    CODE_3_16,
    DATA,
    DATA_0,
    DATA_1,
    DATA_2,
    DATA_3,
    FIRST,
    GDT,
    IF,
    LDT,
    N_RANDOM,
    N_VECTORS,
    NT,
    PACKED,
    REGISTERS,
    RF,
    STACK_0,
    STACK_0_16,
    TF,
    TSS,
    TSS_A,
    TSS_B,
    TSS_C,
    VECTOR_CODE_0,
    VM,
)  # fmt: skip
from tests.isa.vector_rom import descriptor, gate

OFFSETS = (
    0, 1, 0x7F0, 0xFFE, 0xFFF, 0x1000, 0x2345, 0x7FFF, 0x8000, 0xEFFF, 0xFFFC, 0xFFFD, 0xFFFE, 0xFFFF, 0x10000, 0xFFFFFFFC,
)  # fmt: skip
LIMITS = (
    0, 1, 0x2A, 0x2B, 0x66, 0x67, 0x68, 0x8F, 0x7FF, 0x8FF, 0xFFE, 0xFFF, 0x1000, 0xFFFE, 0xFFFF, 0xFFFF, 0xFFFF, 0xFFFFF,
)  # fmt: skip
KNOWN = (CODE_3, DATA_3, TSS, LDT, VECTOR_CODE_0, STACK_0, CODE_3_16, CODE_1, DATA_1, DATA_2)
CALL_GATES, TSSES, TASK_GATE, INT_GATES = (4, 12), (1, 3, 9, 11), 5, (6, 7, 14, 15)
TASKS, LEVELS = (FIRST, FIRST + 8), (VECTOR_CODE_0, VECTOR_CODE_0, CODE_0_16, CODE_1 & ~3, CODE_3)
"""The random descriptors that are tasks, nearly always; code of all levels."""


@dataclass(frozen=True)
class Vector:
    """Code, what the registers hold before it, CR4, gate 40h, descriptors, and 64 bytes of which 48 lie at SS:ESP."""

    code: bytes
    registers: tuple[int, ...]
    esp: int
    eflags: int
    eip: int
    selectors: tuple[int, ...]
    """CS, SS, DS, ES, FS, GS."""
    cr4: int
    gate: bytes
    descriptors: bytes
    stack: bytes

    def pack(self) -> bytes:
        """Its 256 bytes in the ROM."""
        values = self.esp, self.eflags, self.eip, *self.selectors, self.cr4
        return PACKED.pack(self.code, *self.registers, *values, self.gate, self.descriptors, self.stack)


def selector_of(rng: random.Random) -> int:
    """Most often one of the random descriptors; of the GDT or the LDT; any RPL."""
    way = rng.random()
    if way < 0.07:
        return rng.randrange(4)
    if way < 0.3:
        return rng.choice(KNOWN) & ~3 | rng.randrange(4)
    if way < 0.36:
        return rng.choice((FIRST + 8 * N_RANDOM, 0x7FF8, 0xFFF8, FIRST + 8 * N_RANDOM - 8 | 4)) | rng.randrange(4)
    k = 8 * rng.randrange(N_RANDOM)
    return (k | 4 if rng.random() < 0.35 else FIRST + k) | rng.choice((0, 3, rng.randrange(4)))


def task_of(rng: random.Random, base: int, kind: int) -> bytes:
    """A TSS, most often one that can be switched to."""
    limit = rng.choice((0x67, 0x67, 0x67, 0x8F, 0x66, 0x2B, 0x2A, 0xFFF))
    return descriptor(base, limit, rng.choice((0x80, 0xE0, 0xE0, 0xE0, 0xA0, 0x60)) | kind, rng.choice((0, 0, 8)))


def segment_of(rng: random.Random) -> bytes:
    """A random descriptor: code, data, or a system segment or gate."""
    access = rng.choice((0, 0, 3, 3, 3, 1, 2)) << 5 | (0x80 if rng.random() < 0.9 else 0)
    way = rng.random()
    if way < 0.38:
        flags = rng.choice((0, 4, 4, 12, 8))
        return descriptor(CODE, rng.choice(LIMITS), access | 0x18 | rng.randrange(8), flags)
    if way < 0.68:
        flags = rng.choice((0, 4, 4, 12, 8))
        return descriptor(DATA, rng.choice(LIMITS), access | 0x10 | rng.randrange(8), flags)
    kind = rng.choice((*CALL_GATES, *CALL_GATES, *TSSES, *TSSES, TASK_GATE, TASK_GATE, *INT_GATES, 2, *range(16)))
    if kind in TSSES:
        base = rng.choice((TSS_C if kind < 8 else TSS_B, TSS_C if kind < 8 else TSS_B, TSS_A))
        return task_of(rng, base, kind)
    if kind == 2:
        return descriptor(GDT + FIRST, rng.choice((8 * N_RANDOM - 1, 7, 0)), access | 2)
    return gate_of(rng, access | kind)


def gate_of(rng: random.Random, access: int) -> bytes:
    """A gate, half of the time to code or to a task that there is."""
    offset = rng.choice((0x800, 0x800, 0x900, 0xFFF, 0x10000800, 0x1000, 0xFFFF))
    known = TASKS if access & 15 == TASK_GATE else LEVELS
    selector = rng.choice(known) if rng.random() < 0.5 else selector_of(rng)
    return gate(selector, offset, access, rng.choice((0, 1, 3, 31, rng.randrange(256))))


PUSHES = (
    b"\x50", b"\x58", b"\x60", b"\x61", b"\x9c", b"\x9d", b"\x06", b"\x0e", b"\x0f\xa8", b"\x68\x01\x02\x03\x04",
)  # fmt: skip


def modrm(rng: random.Random, reg: int, offset: int) -> bytes:
    """ModRM and a 32-bit offset."""
    return bytes([reg << 3 | 5]) + struct.pack("<I", offset)


def code_of(rng: random.Random, cs16: bool, gates: list[int]) -> bytes:
    """An instruction that asks descriptors, privilege levels, or limits; `gates`: what can be called."""
    wide = rng.random() < 0.7
    head = b"" if wide != cs16 else b"\x66"
    address = b"\x67" if cs16 else b""
    selector = rng.choice(gates) if rng.random() < 0.6 else selector_of(rng)
    offset = rng.choice((0x800, 0x800, 0x900, 0xFFF, 0x1000, 0xFFFF, 0x10000))
    pointer = struct.pack("<IH" if wide else "<HH", offset if wide else offset & 0xFFFF, selector)
    memory = modrm(rng, rng.randrange(8), rng.choice(OFFSETS))
    override = rng.choice((b"", b"", b"", b"\x2e", b"\x36", b"\x26", b"\x64", b"\x65"))
    at_stack = b"\x36" + address  # SS:[ESP]: the far pointer that lies there
    register = bytes([0xC0 | rng.randrange(8)])
    simple = [
        head + b"\x8e" + bytes([0xC0 | rng.choice((0, 2, 3, 4, 5, 1)) << 3]),
        head + rng.choice((b"\x07", b"\x17", b"\x1f", b"\x0f\xa1", b"\x0f\xa9")),
        head + at_stack + rng.choice((b"\xc4", b"\xc5", b"\x0f\xb2", b"\x0f\xb4", b"\x0f\xb5")) + b"\x04\x24",
        head + b"\xea" + pointer, head + b"\x9a" + pointer, head + b"\xea" + pointer, head + b"\x9a" + pointer,
        head + at_stack + b"\xff" + bytes([rng.choice((0x1C, 0x2C)), 0x24]),
        head + b"\xcb", head + b"\xcb", head + b"\xca" + rng.choice((b"\x00\x00", b"\x04\x00", b"\x08\x00", b"\xff\xff")),
        head + b"\xcf", head + b"\xcf", head + b"\xcf",
        b"\xcd\x40", b"\xcd\x40", b"\xcd" + bytes([rng.choice((0x40, 3, 13, 8, 0x41, 0xFF, 0x20))]),
        b"\xcc", b"\xce", b"\xf1",
        head + b"\x0f\x02" + register, head + b"\x0f\x03" + register, b"\x0f\x00" + bytes([0xE0 | rng.randrange(16)]),
        head + b"\x63" + bytes([0xC0 | rng.randrange(64)]), b"\x0f\x00" + bytes([0xD0 | rng.randrange(16)]),
        head + b"\x0f\x00" + bytes([0xC0 | rng.randrange(16)]), head + b"\x0f\x01" + bytes([0xE0 | rng.randrange(8)]),
        override + address + head + rng.choice((b"\x8b", b"\x89", b"\x01", b"\x8a")) + memory,
        override + address + head + b"\xa1" + struct.pack("<I", rng.choice(OFFSETS)),
        head + rng.choice(PUSHES),
        head + b"\xc8" + struct.pack("<HB", rng.choice((0, 8, 0x1000, 0xFFFF)), rng.choice((0, 1, 2, 31))),
        head + rng.choice((b"\xfa", b"\xfb", b"\x9c", b"\x9d", b"\x9d", b"\x0f\x06", b"\x0f\x0b", b"\xd6")),
        head + bytes([rng.choice((0xE4, 0xE5, 0xE6)), rng.choice((0x50, 0x52, 0x54, 0x55, 0x58, 0x5A))]),
        head + rng.choice((b"", b"\xf3", b"\xf2")) + rng.choice((b"\xa4", b"\xa5", b"\xab", b"\xac", b"\xa6", b"\xae")),
        head + b"\xe8" + struct.pack("<I", rng.choice((0x100, 0xFFFFF000, 0x10000))), head + b"\xc3", head + b"\xc2\x04\x00",
        head + b"\xff" + bytes([rng.choice((0xE0, 0xD0)) | rng.randrange(4)]),
        b"\xf4" if rng.random() < 0.3 else b"\x0f\x09",
        head + override + address + b"\x62" + memory, address + b"\x0f\x01" + modrm(rng, rng.choice((0, 1, 7)), 0x100),
    ]  # fmt: skip
    return rng.choice(simple)


def stack_of(rng: random.Random, wide: bool, starts: tuple[int, int]) -> bytes:
    """Frames as RETF and IRET like them, more or less, and behind those what the tasks are made of."""
    kind = "I" if wide else "H"
    cut = 0xFFFFFFFF if wide else 0xFFFF
    offset = rng.choice((0x800, 0x800, 0x900, 0xFFF, 0x10000, 0xFFFF))
    flags = rng.getrandbits(16) & 0x7ED5 | rng.choice((0, 0, 0, VM, RF, 0x240000)) | (TF if rng.random() < 0.5 else 0)
    cs = starts[0] if rng.random() < 0.35 else selector_of(rng)
    ss = starts[1] if rng.random() < 0.35 else selector_of(rng)
    sp = rng.choice((0x3000, 0x2002, 0xF000, 0x12345678))
    if rng.random() < 0.5:
        values = [offset, cs, flags, sp, ss, 0x1000, 0x1001, 0x1002, 0x1003, 0x1004]
    else:
        values = [offset, cs, sp, ss, flags, selector_of(rng), 4, 5, 6, 7]
    frame = struct.pack(f"<10{kind}", *(value & cut for value in values))
    task_flags = 2 | rng.getrandbits(12) & 0xCD5 | rng.choice((0, NT, IF, 0x3000, VM if rng.random() < 0.3 else 0))
    task_cs, task_ss = rng.choice(STARTS) if rng.random() < 0.7 else (selector_of(rng), selector_of(rng))
    task = struct.pack(
        "<4HIBxH", task_cs, task_ss, rng.choice((0, DATA_3, selector_of(rng))), rng.choice((LDT, 0, selector_of(rng))),
        task_flags, int(rng.random() < 0.15), 0,
    )  # fmt: skip
    return frame[:48].ljust(48, b"\x11") + task


STARTS = ((VECTOR_CODE_0, STACK_0), (VECTOR_CODE_0, STACK_0_16), (CODE_0_16, STACK_0), (CODE_3, DATA_3), (CODE_3, DATA_3),
          (CODE_3_16, DATA_3), (CODE_1, DATA_1))  # fmt: skip


def make_vector(rng: random.Random) -> Vector:
    """Level 0, 1 or 3, or virtual-8086 mode; the stack has room for a frame."""
    starts = rng.choice(STARTS)
    virtual = rng.random() < 0.15
    cs16 = virtual or starts[0] in (CODE_0_16, CODE_3_16)
    descriptors = [task_of(rng, TSS_B, 9), task_of(rng, TSS_C, 1), *(segment_of(rng) for _ in range(N_RANDOM - 2))]
    called = {*CALL_GATES, *TSSES, TASK_GATE}
    gates = [FIRST + 8 * k | rng.choice((0, 3)) for k, d in enumerate(descriptors) if d[5] & 0x1F in called]
    code = code_of(rng, cs16, gates)
    while (code == b"\xf4" and not (virtual or starts[0] & 3)) or len(code) > 15:
        code = code_of(rng, cs16, gates)
    values = [
        rng.choice((selector_of(rng), selector_of(rng), rng.choice(OFFSETS), rng.getrandbits(32))) for _ in REGISTERS
    ]
    values[1] = rng.choice((0, 1, 5, 0x10, values[1] & 0xFF))
    flags = rng.getrandbits(12) & 0xCD5 | TF | 2 | rng.choice((0, 0x3000, 0x1000)) | (NT if rng.random() < 0.12 else 0)
    flags |= VM if virtual else 0
    if code[-1:] == b"\xcf" and not virtual and rng.random() < 0.3:
        flags |= NT
    data = [rng.choice((0, DATA_0, DATA_3, DATA_3, STACK_0, DATA_1)) for _ in range(4)]
    selectors = (0x2000, 0x1000, *(0x1000 + rng.randrange(4) for _ in range(4))) if virtual else (*starts, *data)
    esp = rng.choice((0x2000, 0x2002, 0x3001, 0xF000, rng.randrange(0x400, 0xF800)))
    kind = rng.choice((*INT_GATES, *INT_GATES, TASK_GATE, TASK_GATE, 4, 12, 1))
    gate_40 = gate_of(rng, (0x80 if rng.random() < 0.9 else 0) | rng.choice((0, 3, 3, 3)) << 5 | kind)
    return Vector(
        code.ljust(16, b"\xcc"), tuple(values), esp, flags, rng.choice((0x400, 0x7F0, 0x123)), selectors,
        rng.choice((0, 0, 1, 2, 3)), gate_40, b"".join(descriptors), stack_of(rng, rng.random() < 0.7, starts),
    )  # fmt: skip


def make(seed: int, n: int = N_VECTORS) -> list[Vector]:
    """Vectors of a seed."""
    rng = random.Random(seed)
    return [make_vector(rng) for _ in range(n)]
