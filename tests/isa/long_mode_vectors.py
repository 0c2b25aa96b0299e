"""Single instructions with random descriptors: what 64-bit and compatibility mode make of them (long_mode_rom.py).

Each vector has its own descriptors (in GDT and LDT alike), a gate for INT 40h, a stack and registers, in 64-bit code at
privilege level 0, 1 or 3, or in compatibility mode at 0 or 3.

Not made: page faults but by addresses that are not mapped, instructions that write CR0, CR4 or the descriptor-table
registers, x87, SSE.
"""

from __future__ import annotations

import random
import struct
from dataclasses import dataclass

from tests.isa.long_mode_rom import (
    CODE,
    CODE16_3,
    CODE_0,
    CODE_1,
    CODE_3,
    DATA,
    DATA_0,
    DATA_1,
    DATA_3,
    FIRST,
    HIGH,
    IF,
    LDT,
    N_RANDOM,
    N_VECTORS,
    NARROW_0,
    NARROW_3,
    NT,
    PACKED,
    REGISTERS,
    RF,
    TASK,
    TF,
    TSS,
    system,
)  # fmt: skip
from tests.isa.vector_rom import descriptor, gate

TARGETS = (
    CODE + 0x800, CODE + 0x800, CODE + 0x900, 0x800, 0xFFF, HIGH | CODE + 0x800, 1 << 47, 0x1_0002_0800, CODE + 0xFFF,
)  # fmt: skip
"""Where transfers go: all but the addresses that are not canonical or not mapped are filled with INT3."""
PLACES = (
    DATA + 0x100, DATA + 0x1FF9, DATA + 0x3000, HIGH | DATA + 0x4000, (1 << 47) - 4, 1 << 47, HIGH - 1, 0x40_0000, 0x2020,
)  # fmt: skip
LOW_PLACES = (DATA + 0x100, DATA + 0x1FF9, DATA + 0x3000, 0x40_0000, 0x2020)
"""For compatibility mode: whether 4 GiB end a segment is left open (SDM vol. 3, 5.3)."""
STACKS = (DATA + 0x2000, DATA + 0x2008, DATA + 0x3003, HIGH | DATA + 0x5000, 1 << 47, HIGH + 4, DATA + 0x1000)
KNOWN = (CODE_0, DATA_0, CODE_3, DATA_3, NARROW_0, NARROW_3, TASK, LDT, CODE16_3, CODE_1, DATA_1, TASK + 8)
STARTS = ((CODE_0, DATA_0), (CODE_0, 0), (CODE_3, DATA_3), (CODE_3, DATA_3), (NARROW_0, DATA_0), (NARROW_3, DATA_3),
          (CODE16_3, DATA_3), (CODE_1, DATA_1))  # fmt: skip
CALL_GATE, INT_GATES = 12, (14, 15)
MEMORY = (b"\x8b", b"\x89", b"\x87", b"\x01", b"\x8a")
STACKED = (b"\x50", b"\x58", b"\x9c", b"\x9d", b"\x9d", b"\x68\x01\x02\x03\x04", b"\xc9", b"\xff\x36", b"\x8f\x06")
PLAIN = (
    b"\xfa",
    b"\xfb",
    b"\x0f\x06",
    b"\x0f\x0b",
    b"\xd6",
    b"\x27",
    b"\x60",
    b"\x9a",
    b"\xea",
    b"\xc4\xc0",
    b"\xc5\x00",
)


@dataclass(frozen=True)
class Vector:
    """Code, what the registers hold before it, FMASK, gate 40h, descriptors, and what lies at SS:RSP."""

    code: bytes
    registers: tuple[int, ...]
    rsp: int
    rflags: int
    rip: int
    selectors: tuple[int, ...]
    """CS, SS, DS, ES, FS, GS."""
    fmask: int
    gate: bytes
    descriptors: bytes
    stack: bytes

    def pack(self) -> bytes:
        """Its bytes in the ROM."""
        values = self.rsp, self.rflags, self.rip, *self.selectors, self.fmask
        return PACKED.pack(self.code, *self.registers, *values, self.gate, self.descriptors, self.stack)


def selector_of(rng: random.Random) -> int:
    """Most often one of the random descriptors; of the GDT or the LDT; any RPL."""
    way = rng.random()
    if way < 0.1:
        return rng.randrange(4)
    if way < 0.4:
        return rng.choice(KNOWN) & ~3 | rng.choice((0, 3, rng.randrange(4)))
    if way < 0.45:
        return rng.choice((FIRST + 8 * N_RANDOM, FIRST + 8 * N_RANDOM - 8, 0xFFF8, 8 * N_RANDOM - 4)) | rng.randrange(4)
    k = 8 * rng.randrange(N_RANDOM)
    return (k | 4 if rng.random() < 0.35 else FIRST + k) | rng.choice((0, 3, rng.randrange(4)))


def access_of(rng: random.Random) -> int:
    """Privilege level and presence."""
    return rng.choice((0, 0, 3, 3, 3, 1, 2)) << 5 | (0x80 if rng.random() < 0.9 else 0)


def segment_of(rng: random.Random) -> bytes:
    """Code, data, or a system segment."""
    access, way = access_of(rng), rng.random()
    if way < 0.5:
        flags = rng.choice((2, 10, 10, 4, 12, 0, 6, 14))
        base, limit = rng.choice(((0, 0xFFFFF), (0, 0xFFFFF), (CODE, 0xFFFF), (CODE, 0x7FF)))
        return descriptor(base, limit, access | 0x18 | rng.randrange(8), flags)
    if way < 0.9:
        return descriptor(rng.choice((0, DATA)), rng.choice((0xFFFFF, 0xFFF)), access | 0x10 | rng.randrange(8), 12)
    return descriptor(rng.choice((TSS, DATA)), rng.choice((0x67, 0x66)), access | rng.randrange(16))


def gate_of(rng: random.Random, access: int, ist: int = 0) -> bytes:
    """16 bytes of a gate, half of the time to 64-bit code that there is."""
    selector = rng.choice((CODE_0, CODE_0, CODE_1 & ~3, CODE_3)) if rng.random() < 0.5 else selector_of(rng)
    target = rng.choice(TARGETS)
    return gate(selector, target & 0xFFFFFFFF, access, ist) + struct.pack("<Q", target >> 32)


def descriptors_of(rng: random.Random, spoilt: bool) -> list[bytes]:
    """14 of 8 bytes: two call gates (the first `spoilt`: by its second half) and a system segment, the rest at random."""
    made = [gate_of(rng, access_of(rng) | CALL_GATE), gate_of(rng, access_of(rng) | CALL_GATE)]
    base = rng.choice((TSS, DATA, 1 << 47, HIGH | DATA))
    made.append(system(base, rng.choice((0x67, 0xFFF)), access_of(rng) | rng.choice((9, 11, 2))))
    made += [segment_of(rng) for _ in range(8)]
    if spoilt:  # the type in its second half is not 0
        made[0] = made[0][:12] + struct.pack("<I", 0x1F00)
    return [part[k : k + 8] for part in made for k in range(0, len(part), 8)]


def code_of(rng: random.Random, bits: int) -> bytes:
    """An instruction that asks descriptors, privilege levels, or addresses."""
    rex = rng.choice((b"", b"\x48")) if bits == 64 else b""
    size = rng.choice((b"", b"", b"\x66"))
    register = bytes([0xC0 | rng.randrange(8)])
    at_stack = (b"\x67" if bits == 16 else b"") + size + rex
    far = rng.choice((0x1C, 0x2C))
    pointer = b"\x67" if bits == 16 else b""
    memory = pointer + size + rex
    place = struct.pack("<Q", rng.choice(PLACES if bits == 64 else LOW_PLACES))
    known = [
        size + rex + b"\x8e" + bytes([0xC0 | rng.choice((0, 2, 3, 4, 5, 1)) << 3]),
        size + rng.choice((b"\x0f\xa1", b"\x0f\xa9")),
        size + rng.choice((b"\x0f\xa0", b"\x0f\xa8", b"\x06", b"\x0e", b"\x1f")),
        at_stack + rng.choice((b"\x0f\xb2", b"\x0f\xb4", b"\x0f\xb5")) + b"\x04\x24",
        *(at_stack + b"\xff" + bytes([far, 0x24]) for _ in range(5)),
        *(size + rex + b"\xcb" for _ in range(3)), size + rex + b"\xca" + rng.choice((b"\x00\x00", b"\x08\x00")),
        *(size + rex + b"\xcf" for _ in range(5)),
        *(b"\xcd\x40" for _ in range(4)), b"\xcd" + bytes([rng.choice((3, 13, 0x41, 0x30, 0x20))]), b"\xcc", b"\xce",
        b"\xf1",
        size + rex + b"\x0f\x02" + register, size + rex + b"\x0f\x03" + register,
        b"\x0f\x00" + bytes([0xE0 | rng.randrange(16)]),
        b"\x0f\x00" + bytes([0xD0 | rng.randrange(16)]), size + rex + b"\x0f\x00" + bytes([0xC0 | rng.randrange(16)]),
        size + rex + b"\x0f\x01" + bytes([0xE0 | rng.randrange(8)]), size + b"\x63" + bytes([0xC0 | rng.randrange(64)]),
        *(rng.choice((b"\x0f\x05", b"\x0f\x34", rex + b"\x0f\x07", rex + b"\x0f\x35", b"\x0f\x01\xf8")) for _ in range(5)),
        b"\xf3" + rex + b"\x0f\xae" + bytes([0xC0 | rng.randrange(32)]),
        (b"\x44" if rng.random() < 0.5 else b"") + b"\x0f\x20\xc0",
        b"\x44\x0f\x22\xc0" if bits == 64 else b"\x0f\x21\xc0",
        *(memory + rng.choice(MEMORY) + bytes([rng.randrange(8) << 3 | 6]) for _ in range(3)),
        rng.choice((b"\x64", b"\x65", b"\x36", b"")) + rex + b"\xa1" + place,
        size + rng.choice(STACKED),
        size + b"\xc8" + struct.pack("<HB", rng.choice((0, 8, 0x1000)), rng.choice((0, 1, 2))),
        rng.choice(PLAIN),
        size + bytes([rng.choice((0xE4, 0xE5, 0xE6)), rng.choice((0x50, 0x52, 0x54, 0x55, 0x58, 0x5A))]),
        size + rex + rng.choice((b"", b"\xf3")) + rng.choice((b"\xa4", b"\xa5", b"\xab", b"\xac")),
        size + b"\xc3", size + b"\xc2\x08\x00", size + b"\xff" + bytes([rng.choice((0xE0, 0xD0)) | rng.randrange(4)]),
        size + b"\xe8" + struct.pack("<i", rng.choice((0x100, -0x7FFFFFF0))),
        rng.choice((b"\xf4", b"\x0f\x09", b"\x0f\x08")),
        b"\x0f\x01" + bytes([rng.choice((0, 1, 7)) << 3 | 6]), rex + b"\x0f\xc7\x0e",
    ]  # fmt: skip
    return rng.choice(known)


def stack_of(rng: random.Random, starts: tuple[int, int]) -> bytes:
    """Frames as RETF and IRET like them, or a far pointer, in words of 2, 4 or 8 bytes."""
    size, kind = rng.choice(((8, "Q"), (8, "Q"), (4, "I"), (2, "H")))
    mask = (1 << 8 * size) - 1
    flags = rng.getrandbits(16) & 0x3ED5 | rng.choice((0, 0, RF, 0x240000, 0x20000)) | (TF if rng.random() < 0.5 else 0)
    cs = rng.choice((starts[0], CODE_0, CODE_3, NARROW_3)) if rng.random() < 0.5 else selector_of(rng)
    ss = rng.choice((starts[1], DATA_0, DATA_3, 0, 3)) if rng.random() < 0.5 else selector_of(rng)
    if rng.random() < 0.35:
        pointer = struct.pack("<QH" if size == 8 else "<IH" if size == 4 else "<HH", rng.choice(TARGETS) & mask, cs)
        return pointer.ljust(128, b"\x55")
    middle = [flags] if rng.random() < 0.6 else []
    values = [rng.choice(TARGETS), cs, *middle, rng.choice(STACKS), ss, rng.getrandbits(64), 5, 6]
    return struct.pack(f"<{len(values)}{kind}", *(value & mask for value in values)).ljust(128, b"\x33")


def make_vector(rng: random.Random) -> Vector:
    """64-bit code at level 0, 1 or 3, or compatibility mode; the stack of level 0 has room for a frame."""
    starts = rng.choice(STARTS)
    bits = {CODE16_3: 16, NARROW_0: 32, NARROW_3: 32}.get(starts[0], 64)
    code = code_of(rng, bits)
    while len(code) > 15 or (code == b"\xf4" and starts[0] & 3 == 0):
        code = code_of(rng, bits)
    values = [
        rng.choice((*PLACES, *TARGETS, selector_of(rng), selector_of(rng), rng.getrandbits(64))) for _ in REGISTERS
    ]
    values[1] = rng.choice((0, 1, CODE + 0x800, 1 << 47, HIGH | CODE + 0x900, values[1] & 0xFF))
    values[5], values[6] = rng.choice(PLACES), rng.choice(PLACES)
    if bits != 64:
        values = [value & 0xFFFFFFFF for value in values]
        values[5], values[6] = DATA + 0x1000 + rng.randrange(8), DATA + 0x1200 + rng.randrange(8)
    flags = rng.getrandbits(12) & 0xCD5 | TF | 2 | rng.choice((0, 0x3000, 0x1000)) | (NT if rng.random() < 0.1 else 0)
    data = [rng.choice((0, 3, DATA_0, DATA_3, DATA_3, DATA_1)) for _ in range(4)]
    kind = rng.choice((*INT_GATES, *INT_GATES, *INT_GATES, CALL_GATE, 5, 6, 7))
    access = (0x80 if rng.random() < 0.92 else 0) | rng.choice((0, 3, 3, 3)) << 5 | kind
    rsp = rng.choice(STACKS) if bits == 64 and starts[0] & 3 else DATA + rng.choice((0x2000, 0x2008, 0x3003, 0x4444))
    return Vector(
        code.ljust(16, b"\xcc"), tuple(values), rsp, flags,
        rng.choice((0x400, 0x7F0, 0x123)) + (0 if starts[0] == CODE16_3 else CODE), (*starts, *data),
        rng.choice((0, 0x4700, 0x100, IF | 0x8D5)), gate_of(rng, access, rng.choice((0, 0, 0, 1, 2, 3))),
        b"".join(descriptors_of(rng, b"\x0f\x02" not in code and rng.random() < 0.2)), stack_of(rng, starts),
    )  # fmt: skip


def make(seed: int, n: int = N_VECTORS) -> list[Vector]:
    """Vectors of a seed."""
    rng = random.Random(seed)
    return [make_vector(rng) for _ in range(n)]
