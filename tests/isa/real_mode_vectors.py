"""Single instructions with random registers, as a ROM: what they leave, exceptions included, in real mode.

Each vector is some bytes of code at CS:IP, with all registers given.  IRET with TF set lets one instruction run; #DB or
whatever exception comes first ends it.  Handlers write down registers, the exception's frame and a sum over the memory
that the segments reach, in hex on the debug port: one line a vector.

Segment limits are real mode's, so that wraps of IP and SP, and accesses at FFFFh, are part of what is compared.
Not made: HLT, port accesses, loads of control, debug and descriptor-table registers, x87, SSE and MMX.
"""

from __future__ import annotations

import random
import struct
from dataclasses import dataclass
from pathlib import Path

import iced_x86 as ix

from tests.engine.assembler import assemble
from tests.isa.vector_rom import DIGIT, image_of

TABLE, SIZE = 0x1000, 64
N_VECTORS = (0xFFE0 - TABLE) // SIZE
CODE_SEGMENT, ARENA, ARENA_SIZE = 0x4000, 0x20000, 0x20000
REGISTERS = ("eax", "ecx", "edx", "ebx", "ebp", "esi", "edi", "esp")
FIELDS = ("vector", "flags", "cs", "ip", *REGISTERS, "es", "ss", "ds", "fs", "gs", "sum")
"""Of a line, in this order."""
TF = 0x100
PARAMETERS = ("eax", "ecx", "edx", "ebx", "ebp", "esi", "edi", "esp", "es", "ss", "ds", "fs", "gs", "flags", "ip")
"""Of a vector, behind its 16 bytes of code: 8 of 32 bits, the others of 16."""
PACKED = struct.Struct("<16s8I7H2x")
assert PACKED.size == SIZE
VARIABLES = 0xF00
SOURCE = f"""
{"".join(f".equ v_{name}, {VARIABLES + 4 * k}{chr(10)}" for k, name in enumerate(FIELDS))}
.equ v_end, {VARIABLES + 4 * len(FIELDS)}
.equ at, v_end
start:              # to RAM, where variables can lie beside the code
    cli
    cld
    mov eax, cr0
    and eax, 0x9FFFFFFF
    mov cr0, eax
    xor si, si
    mov ax, 0x600
    mov es, ax
    xor di, di
    mov cx, 0x800
    rep movsw es:[di], cs:[si]
    .byte 0xEA
    .word begin, 0x600
begin:
    mov word ptr cs:[at], {TABLE}
    xor ax, ax
    mov ds, ax
    mov di, 0x1000  # 256 handlers of 16 bytes: MOV BYTE PTR CS:[vector], n; JMP common
    xor bx, bx
1:  mov eax, 0x0006C62E + (v_vector << 24)
    mov es:[di], eax
    mov al, v_vector >> 8
    mov ah, bl
    mov es:[di + 4], ax
    mov byte ptr es:[di + 6], 0xE9
    mov ax, offset common - 9
    sub ax, di
    mov es:[di + 7], ax
    mov si, bx
    shl si, 2
    mov [si], di
    mov word ptr [si + 2], cs
    add di, 16
    inc bx
    cmp bx, 256
    jne 1b
    mov ax, {ARENA >> 4}
    call pattern
    mov ax, {(ARENA >> 4) + 0x1000}
    call pattern
next:
    mov ax, 0xF000
    mov ds, ax
    mov si, cs:[at]
    mov ax, {CODE_SEGMENT}
    mov es, ax
    mov di, [si + 60]
    mov cx, 16
    mov bx, si
2:  mov al, [bx]
    mov es:[di], al
    inc bx
    inc di
    jz 3f           # what is behind FFFFh is left out
    loop 2b
3:  mov ax, [si + 52]
    mov cs:[v_ds], ax
    mov eax, [si + 36]
    mov cs:[v_esi], eax
    mov ss, [si + 50]
    mov esp, [si + 44]
    pushw [si + 58]
    pushw {CODE_SEGMENT}
    pushw [si + 60]
    mov es, [si + 48]
    mov fs, [si + 54]
    mov gs, [si + 56]
    mov eax, [si + 16]
    mov ecx, [si + 20]
    mov edx, [si + 24]
    mov ebx, [si + 28]
    mov ebp, [si + 32]
    mov edi, [si + 40]
    mov ds, cs:[v_ds]
    mov esi, cs:[v_esi]
    iretw
common:
    mov cs:[v_eax], eax
    mov cs:[v_ecx], ecx
    mov cs:[v_edx], edx
    mov cs:[v_ebx], ebx
    mov cs:[v_ebp], ebp
    mov cs:[v_esi], esi
    mov cs:[v_edi], edi
    popw cs:[v_ip]
    popw cs:[v_cs]
    popw cs:[v_flags]
    mov cs:[v_esp], esp
    mov cs:[v_es], es
    mov cs:[v_ss], ss
    mov cs:[v_ds], ds
    mov cs:[v_fs], fs
    mov cs:[v_gs], gs
    mov bp, sp      # the frame's flags may be undefined ones: memory forgets them
    xor ax, ax
    mov [bp - 2], ax
    mov [bp - 4], ax
    mov [bp - 6], ax
    mov ss, ax
    mov esp, 0x5000
    cld
    mov ax, {ARENA >> 4}
    xor edi, edi
    call sum
    mov ax, {(ARENA >> 4) + 0x1000}
    call sum
    mov cs:[v_sum], edi
    mov dx, 0xE9
    mov si, v_vector
4:  lodsd eax, cs:[si]
    mov ebx, eax
    mov cx, 8
5:  rol ebx, 4
    {DIGIT}    cmp si, v_end
    jne 4b
    mov al, 10
    out dx, al
    add word ptr cs:[at], {SIZE}
    cmp word ptr cs:[at], {{end}}
    jne next
    mov al, '.'
    out dx, al
    mov al, 10
    out dx, al
    mov si, offset shutdown
    mov cx, 8
    mov dx, 0x8900
7:  lodsb al, cs:[si]
    out dx, al
    loop 7b
    mov al, 0
    out 0xF4, al
    hlt
shutdown: .ascii "Shutdown"
sum:
    mov es, ax
    xor si, si
    mov cx, 0x4000
8:  rol edi, 1
    add edi, es:[si]
    add si, 4
    loop 8b
    ret
pattern:
    mov es, ax
    mov ebx, 0x01234567
    xor di, di
    mov cx, 0x4000
9:  mov eax, ebx
    stosd
    imul ebx, ebx, 1664525
    add ebx, 1013904223
    loop 9b
    ret
"""
VALUES = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x100, 0x7FFE, 0x7FFF, 0x8000, 0xFFF8, 0xFFFD, 0xFFFE, 0xFFFF)
LARGE = (0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFF0000, 0xFFFFFFFE, 0xFFFFFFFF)
ONE_BYTE = [
    *range(0x0F), *range(0x10, 0x26), *range(0x27, 0x2E), 0x2F, *range(0x30, 0x36), *range(0x37, 0x3E), *range(0x3F, 0x64),
    *range(0x68, 0x6C), *range(0x70, 0x9B), *range(0x9C, 0xD8), *range(0xE0, 0xE4), *range(0xE8, 0xEC), 0xF1,
    0xF5, *range(0xF6, 0x100),
]  # fmt: skip
TWO_BYTES = [
    0x00, 0x02, 0x03, 0x04, 0x0A, 0x0B, 0x0C, 0x24, 0x25, 0x26, 0x27, *range(0x40, 0x50), *range(0x80, 0xA2),
    *range(0xA3, 0xA6), *range(0xA8, 0xAA), *range(0xAB, 0xAE), *range(0xAF, 0xC2), *range(0xC8, 0xD0), 0xFF,
]  # fmt: skip
PREFIXES = (0x26, 0x2E, 0x36, 0x3E, 0x64, 0x65, 0x66, 0x67, 0xF0, 0xF2, 0xF3)


@dataclass(frozen=True)
class Vector:
    """Code and what the registers hold before it."""

    code: bytes
    values: dict[str, int]

    def pack(self) -> bytes:
        """Its 64 bytes in the ROM."""
        return PACKED.pack(self.code, *(self.values[name] for name in PARAMETERS))


def code_of(rng: random.Random) -> bytes:
    """Prefixes, an opcode, and bytes that serve as ModRM, SIB, displacement and immediate."""
    n = rng.choice((0, 0, 0, 1, 1, 2, 3))
    prefixes = bytes(rng.choice(PREFIXES) for _ in range(n))
    two = rng.random() < 0.25
    opcode = bytes([0x0F, rng.choice(TWO_BYTES)]) if two else bytes([rng.choice(ONE_BYTE)])
    tail = bytearray(rng.randrange(256) for _ in range(15))
    if rng.random() < 0.3:
        tail[1:5] = rng.choice((0, 1, 0xFFFF, 0x10000, 0xFFFFFFFF)).to_bytes(4, "little")
    return (prefixes + opcode + tail)[:16]


def value_of(rng: random.Random) -> int:
    """A register: often one that addresses memory, or lies at an edge."""
    way = rng.random()
    if way < 0.5:
        return rng.randrange(0x10000)
    if way < 0.8:
        return rng.choice(VALUES)
    return rng.choice(LARGE) if way < 0.9 else rng.getrandbits(32)


def writes_sp(code: bytes) -> bool:
    """Whether any value may come into SP: with 1, 3 or 5 there an exception has no room, and the machine shuts down."""
    ins = ix.Decoder(16, code).decode()
    if ins.mnemonic in (ix.Mnemonic.LEAVE, ix.Mnemonic.ENTER):
        return True
    stack = ix.Register.SP, ix.Register.ESP
    return ins.op_count > 0 and ins.op0_kind == ix.OpKind.REGISTER and ins.op0_register in stack


def make_vector(rng: random.Random) -> Vector:
    """Segments lie in the arena; there is room for the frame that TF makes."""
    values = {name: value_of(rng) for name in PARAMETERS[:8]}
    stack = rng.choice((rng.randrange(16, 0x10000), rng.randrange(16, 0x10000) & ~1, 16, 0xFFFE, 0xFFFF, 0x8000))
    values["esp"] = stack | (rng.getrandbits(16) << 16 if rng.random() < 0.2 else 0)
    for name in ("es", "ss", "ds", "fs", "gs"):
        values[name] = (ARENA >> 4) + rng.randrange(0x1001)
    values["flags"] = (rng.getrandbits(12) & 0xCD5) | TF | 2
    values["ip"] = rng.choice((0x100, 0x100, rng.randrange(0xFF00), rng.randrange(0xFFF0, 0x10000), 0xFFFF))
    code = code_of(rng)
    while writes_sp(code):
        code = code_of(rng)
    return Vector(code, values)


def make(seed: int, n: int = N_VECTORS) -> list[Vector]:
    """Vectors of a seed."""
    rng = random.Random(seed)
    return [make_vector(rng) for _ in range(n)]


def image(folder: Path, vectors: list[Vector]) -> Path:
    """The ROM that runs them."""
    code = assemble(SOURCE.format(end=TABLE + SIZE * len(vectors)), 0, 16)
    assert len(code) <= VARIABLES
    return image_of(folder, code, TABLE, [v.pack() for v in vectors])
