"""Single instructions with random descriptors, as a ROM: what protected and virtual-8086 mode make of them.

Each vector has its own descriptors (in GDT and LDT alike), a gate for INT 40h, task state segments, a stack and registers, at
privilege level 0, 1 or 3 or in virtual-8086 mode.  IRET with TF set lets one instruction run; whatever exception comes first
ends it, #DF by a task of its own.  Handlers write down the frame, registers, selectors and sums over memory, in hex on the
debug port: one line a vector.

Not made: paging, instructions that write CR0, CR4, the descriptor-table registers or MSRs, x87, SSE.
"""

from __future__ import annotations

import random
import struct
from dataclasses import dataclass
from pathlib import Path

from tests.boot.guests import RESET_VECTOR, ROM_SIZE
from tests.engine.assembler import assemble

TABLE, SIZE = 0x1000, 256
N_VECTORS = (0xFF00 - TABLE) // SIZE
GDT, IDT, TSS_A, TSS_B, TSS_C, TSS_DF = 0x3000, 0x3800, 0x4000, 0x4200, 0x4400, 0x4600
DATA, CODE = 0x10000, 0x20000
FIRST, N_RANDOM = 0x80, 14
"""Selector of the first random descriptor; the LDT begins there, too."""
REGISTERS = ("eax", "ecx", "edx", "ebx", "ebp", "esi", "edi")
FIELDS = (
    "vector", "error", "eip", "cs", "eflags", "outer_esp", "outer_ss", "v_es", "v_ds", "v_fs", "v_gs", "ss", "esp", *REGISTERS,
    "ds", "es", "fs", "gs", "tr", "ldtr", "dr6", "cr0", "sum", "tables",
)  # fmt: skip
"""Of a line, in this order."""
TF, IF, NT, RF, VM = 0x100, 0x200, 0x4000, 0x10000, 0x20000
PACKED = struct.Struct("<16s7I3I6HI8s112s64s")
"""Code; registers; ESP, EFLAGS, EIP; CS, SS, DS, ES, FS, GS; CR4; gate 40h; descriptors; what lies at SS:ESP."""
assert PACKED.size == SIZE
VARIABLES = 0x2000
PREPARED = VARIABLES + 0x200
CODE_0, DATA_0, CODE_3, DATA_3, TSS, LDT = 0x08, 0x10, 0x1B, 0x23, 0x28, 0x30
VECTOR_CODE_0, STACK_0, STACK_0_16, CODE_0_16, CODE_3_16, CODE_1, DATA_1, DATA_2 = 0x40, 0x48, 0x50, 0x58, 0x63, 0x69, 0x71, 0x7A


def descriptor(base: int, limit: int, access: int, flags: int = 0) -> bytes:
    """8 bytes of a segment or a system segment; `flags`: G, D/B, L, AVL."""
    low = limit & 0xFFFF | (base & 0xFFFFFF) << 16 | access << 40
    return (low | (limit >> 16 & 15) << 48 | flags << 52 | (base >> 24) << 56).to_bytes(8, "little")


def gate(selector: int, offset: int, access: int, n: int = 0) -> bytes:
    """8 bytes of a gate; `n`: parameters."""
    return struct.pack("<HHBBH", offset & 0xFFFF, selector, n, access, offset >> 16)


FIXED = b"".join((
    bytes(8), descriptor(0xF0000, 0xFFFF, 0x9B, 4), descriptor(0, 0xFFFFF, 0x93, 12),
    descriptor(CODE, 0xFFFF, 0xFB, 4), descriptor(DATA, 0xFFFF, 0xF3, 4), descriptor(TSS_A, 0x8F, 0x89),
    descriptor(GDT + FIRST, 8 * N_RANDOM - 1, 0x82), descriptor(TSS_DF, 0x67, 0x89),
    descriptor(CODE, 0xFFFF, 0x9B, 4), descriptor(DATA, 0xFFFF, 0x93, 4), descriptor(DATA, 0xFFFF, 0x93),
    descriptor(CODE, 0xFFFF, 0x9B), descriptor(CODE, 0xFFFF, 0xFB), descriptor(CODE, 0xFFFF, 0xBB, 4),
    descriptor(DATA, 0xFFFF, 0xB3, 4), descriptor(DATA, 0xFFFF, 0xD3, 4),
))  # fmt: skip
HAS_ERROR = (10, 11, 12, 13, 14, 17)
STUBS = "\n".join(
    f".balign 16\n stub_{n}:" + ("" if n in HAS_ERROR else " push 0\n") + f" push {n}\n jmp common" for n in range(32)
)
SOURCE = f"""
.code16
    cli
    lgdt cs:[first]
    mov eax, cr0
    or al, 1
    and eax, 0x9FFFFFFF
    mov cr0, eax
    .byte 0xEA
    .word protected, {CODE_0}
first: .word {len(FIXED) - 1}
    .long 0xF0000 + fixed
.code32
protected:
    mov eax, {DATA_0}
    mov ds, eax
    mov es, eax
    mov ss, eax
    mov esp, 0x5F00
    mov edi, {IDT}
    mov eax, offset stub_0
    xor ecx, ecx
1:  mov [edi], ax
    mov word ptr [edi + 2], {CODE_0}
    mov word ptr [edi + 4], 0x8E00
    mov word ptr [edi + 6], 0
    add eax, 16
    add edi, 8
    inc ecx
    cmp ecx, 32
    jne 1b
    xor eax, eax
    mov ecx, 64
    rep stosd
    mov byte ptr [{IDT + 8 * 3 + 5}], 0xEE
    mov byte ptr [{IDT + 8 * 4 + 5}], 0xEE
    mov dword ptr [{IDT + 8 * 8}], 0x380000
    mov dword ptr [{IDT + 8 * 8 + 4}], 0x8500
    mov dword ptr [v_at], 0xF0000 + {TABLE}
next:
    mov eax, {DATA_0}
    mov ds, eax
    mov es, eax
    mov ss, eax
    mov esp, 0x5F00
    cld
    clts
    xor eax, eax
    mov dr6, eax
    mov edi, {TSS_A}
    mov ecx, 0x200
    rep stosd
    mov edi, {VARIABLES}
    mov ecx, 0x40
    rep stosd
    mov esi, 0xF0000 + offset fixed
    mov edi, {GDT}
    mov ecx, {len(FIXED) // 4}
    rep movsd
    mov ebx, [v_at]
    lea esi, [ebx + 80]
    mov ecx, {2 * N_RANDOM}
    rep movsd
    lgdt cs:[gdtr]
    lidt cs:[idtr]
    mov eax, [ebx + 68]
    mov cr4, eax
    mov eax, [ebx + 72]
    mov [{IDT + 8 * 0x40}], eax
    mov eax, [ebx + 76]
    mov [{IDT + 8 * 0x40 + 4}], eax
    mov dword ptr [{TSS_A + 4}], 0x5F00
    mov dword ptr [{TSS_A + 8}], {DATA_0}
    mov dword ptr [{TSS_A + 12}], 0x6F00
    mov dword ptr [{TSS_A + 16}], {DATA_1}
    mov dword ptr [{TSS_A + 20}], 0x7F00
    mov dword ptr [{TSS_A + 24}], {DATA_2}
    mov dword ptr [{TSS_A + 0x66}], 0xA5A50068 # I/O map: ports 40h to 7Fh are open as the bits say
    mov dword ptr [{TSS_A + 0x70}], 0x00FF5AA5
    mov dword ptr [{TSS_A + 0x8C}], 0xFFFFFFFF
    mov esi, {TSS_B}                # the 32-bit task, and what of it the vector says
    mov dword ptr [esi + 4], 0x5F00
    mov dword ptr [esi + 8], {DATA_0}
    mov dword ptr [esi + 12], 0x6F00
    mov dword ptr [esi + 16], {DATA_1}
    mov dword ptr [esi + 32], 0x900
    mov eax, [ebx + 192 + 56]
    mov [esi + 36], eax
    mov dword ptr [esi + 56], 0x3000
    mov ax, [ebx + 192 + 48]
    mov [esi + 76], ax
    mov ax, [ebx + 192 + 50]
    mov [esi + 80], ax
    mov ax, [ebx + 192 + 52]
    mov [esi + 72], ax
    mov [esi + 84], ax
    mov ax, [ebx + 192 + 54]
    mov [esi + 96], ax
    mov al, [ebx + 192 + 60]
    mov [esi + 100], al
    mov esi, {TSS_C}                # the 16-bit one
    mov dword ptr [esi + 2], 0x00105F00
    mov dword ptr [esi + 6], 0x00716F00
    mov word ptr [esi + 14], 0x900
    mov ax, [ebx + 192 + 56]
    mov [esi + 16], ax
    mov word ptr [esi + 26], 0x3000
    mov ax, [ebx + 192 + 48]
    mov [esi + 36], ax
    mov ax, [ebx + 192 + 50]
    mov [esi + 38], ax
    mov ax, [ebx + 192 + 52]
    mov [esi + 34], ax
    mov [esi + 40], ax
    mov ax, [ebx + 192 + 54]
    mov [esi + 42], ax
    mov esi, {TSS_DF}
    mov dword ptr [esi + 32], offset double_fault
    mov dword ptr [esi + 36], 2
    mov dword ptr [esi + 56], 0x8F00
    mov dword ptr [esi + 72], {DATA_0}
    mov dword ptr [esi + 76], {CODE_0}
    mov dword ptr [esi + 80], {DATA_0}
    mov dword ptr [esi + 84], {DATA_0}
    mov edi, {DATA}
    mov ecx, 0x4000
    mov eax, 0x01234567
2:  stosd
    imul eax, eax, 1664525
    add eax, 1013904223
    loop 2b
    mov edi, {CODE}
    mov ecx, 0x400
    mov eax, 0xCCCCCCCC
    rep stosd
    mov esi, ebx
    mov edi, [ebx + 52]
    and edi, 0xFFFF
    add edi, {CODE}
    mov ecx, 4
    rep movsd
    movzx edi, word ptr [ebx + 44]
    add edi, {DATA}
    lea esi, [ebx + 192]
    mov ecx, 12
    rep movsd
    mov eax, {LDT}
    lldt ax
    mov eax, {TSS}
    ltr ax
    movzx eax, word ptr [ebx + 60]
    movzx ecx, word ptr [ebx + 62]
    movzx esi, word ptr [ebx + 64]
    movzx edi, word ptr [ebx + 66]
    mov edx, [ebx + 48]
    test edx, {VM}
    jz 3f
    push edi
    push esi
    push ecx
    push eax
    jmp 4f
3:  mov es, ecx
    mov fs, esi
    mov gs, edi
    mov [v_pointer + 4], ax
    test byte ptr [ebx + 56], 3
    jnz 4f
    mov ss, [ebx + 58]
    mov esp, [ebx + 44]
    jmp 5f
4:  movzx eax, word ptr [ebx + 58]
    push eax
    push dword ptr [ebx + 44]
5:  push edx
    movzx eax, word ptr [ebx + 56]
    push eax
    push dword ptr [ebx + 52]
    mov eax, [ebx + 36]
    mov [v_pointer], eax
    mov edi, [ebx + 40]
    mov ebp, [ebx + 32]
    mov eax, [ebx + 16]
    mov ecx, [ebx + 20]
    mov edx, [ebx + 24]
    push dword ptr [ebx + 28]
    pop ebx
    lds esi, [v_pointer]
    iretd
double_fault:
    str [v_tr]
    sldt [v_ldtr]
    pop dword ptr [v_error]
    mov dword ptr [v_vector], 8
    jmp report
common:
    push ds
    push {DATA_0}
    pop ds
    mov [v_eax], eax
    mov [v_ecx], ecx
    mov [v_edx], edx
    mov [v_ebx], ebx
    mov [v_ebp], ebp
    mov [v_esi], esi
    mov [v_edi], edi
    pop eax
    mov [v_ds], ax
    mov [v_es], es
    mov [v_fs], fs
    mov [v_gs], gs
    str [v_tr]
    sldt [v_ldtr]
    pop dword ptr [v_vector]
    pop dword ptr [v_error]
    pop dword ptr [v_eip]
    pop eax
    mov [v_cs], ax
    pop dword ptr [v_eflags]
    test dword ptr [v_eflags], {VM}
    jnz 1f
    test al, 3
    jz 2f
1:  pop dword ptr [v_outer_esp]
    pop eax
    mov [v_outer_ss], ax
    test dword ptr [v_eflags], {VM}
    jz 2f
    pop eax
    mov [v_v_es], ax
    pop eax
    mov [v_v_ds], ax
    pop eax
    mov [v_v_fs], ax
    pop eax
    mov [v_v_gs], ax
2:  mov [v_ss], ss
    mov [v_esp], esp
report:
    mov eax, {DATA_0}
    mov ss, eax
    mov ds, eax
    mov es, eax
    mov esp, 0x5F00
    push 2
    popfd
    mov eax, dr6
    mov [v_dr6], eax
    mov eax, cr0
    mov [v_cr0], eax
    mov esi, {DATA}
    mov ecx, 0x4000
    call sum
    mov [v_sum], eax
    mov esi, {GDT}
    mov ecx, {(FIRST + 8 * N_RANDOM) // 4}
    call sum
    mov esi, {TSS_A}
    mov ecx, 0x200
    call more
    mov [v_tables], eax
    mov edx, 0xE9
    mov esi, offset v_vector
4:  lodsd
    mov ebx, eax
    mov ecx, 8
5:  rol ebx, 4
    mov al, bl
    and al, 15
    add al, '0'
    cmp al, '9'
    jbe 6f
    add al, 39
6:  out dx, al
    loop 5b
    cmp esi, offset v_end
    jne 4b
    mov al, 10
    out dx, al
    add dword ptr [v_at], {SIZE}
    cmp dword ptr [v_at], 0xF0000 + {{end}}
    jne next
    mov esi, 0xF0000 + offset shutdown
    mov ecx, 8
    mov edx, 0x8900
    rep outsb
    mov al, 0
    out 0xF4, al
    hlt
shutdown: .ascii "Shutdown"
sum: xor eax, eax
more: rol eax, 1
    add eax, [esi]
    add esi, 4
    loop more
    ret
gdtr: .word {FIRST + 8 * N_RANDOM - 1}
    .long {GDT}
idtr: .word {8 * 0x41 - 1}
    .long {IDT}
.balign 8
fixed: .byte {", ".join(str(b) for b in FIXED)}
{STUBS}
{"".join(f".equ v_{name}, {VARIABLES + 4 * k}{chr(10)}" for k, name in enumerate(FIELDS))}
.equ v_end, {VARIABLES + 4 * len(FIELDS)}
.equ v_at, {PREPARED}
.equ v_pointer, {PREPARED + 8}
"""
OFFSETS = (0, 1, 0x7F0, 0xFFE, 0xFFF, 0x1000, 0x2345, 0x7FFF, 0x8000, 0xEFFF, 0xFFFC, 0xFFFD, 0xFFFE, 0xFFFF, 0x10000, 0xFFFFFFFC)
LIMITS = (0, 1, 0x2A, 0x2B, 0x66, 0x67, 0x68, 0x8F, 0x7FF, 0x8FF, 0xFFE, 0xFFF, 0x1000, 0xFFFE, 0xFFFF, 0xFFFF, 0xFFFF, 0xFFFFF)
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
        return rng.choice((CODE_3, DATA_3, TSS, LDT, VECTOR_CODE_0, STACK_0, CODE_3_16, CODE_1, DATA_1, DATA_2)) & ~3 | rng.randrange(4)
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
        b"\xcd\x40", b"\xcd\x40", b"\xcd" + bytes([rng.choice((0x40, 3, 13, 8, 0x41, 0xFF, 0x20))]), b"\xcc", b"\xce", b"\xf1",
        head + b"\x0f\x02" + register, head + b"\x0f\x03" + register, b"\x0f\x00" + bytes([0xE0 | rng.randrange(16)]),
        head + b"\x63" + bytes([0xC0 | rng.randrange(64)]), b"\x0f\x00" + bytes([0xD0 | rng.randrange(16)]),
        head + b"\x0f\x00" + bytes([0xC0 | rng.randrange(16)]), head + b"\x0f\x01" + bytes([0xE0 | rng.randrange(8)]),
        override + address + head + rng.choice((b"\x8b", b"\x89", b"\x01", b"\x8a", b"\xff\x05"[:1])) + memory,
        override + address + head + b"\xa1" + struct.pack("<I", rng.choice(OFFSETS)),
        head + rng.choice((b"\x50", b"\x58", b"\x60", b"\x61", b"\x9c", b"\x9d", b"\x06", b"\x0e", b"\x0f\xa8", b"\x68\x01\x02\x03\x04")),
        head + b"\xc8" + struct.pack("<HB", rng.choice((0, 8, 0x1000, 0xFFFF)), rng.choice((0, 1, 2, 31))),
        head + rng.choice((b"\xfa", b"\xfb", b"\x9c", b"\x9d", b"\x9d", b"\x0f\x06", b"\x0f\x0b", b"\x0f\xa2"[:0] + b"\xd6")),
        head + bytes([rng.choice((0xE4, 0xE5, 0xE6)), rng.choice((0x50, 0x52, 0x54, 0x55, 0x58, 0x5A))]),
        head + rng.choice((b"", b"\xf3", b"\xf2")) + rng.choice((b"\xa4", b"\xa5", b"\xab", b"\xac", b"\xa6", b"\xae")),
        head + b"\xe8" + struct.pack("<I", rng.choice((0x100, 0xFFFFF000, 0x10000))), head + b"\xc3", head + b"\xc2\x04\x00",
        head + b"\xff" + bytes([rng.choice((0xE0, 0xD0)) | rng.randrange(4)]), b"\xf4" if rng.random() < 0.3 else b"\x0f\x09",
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
    gates = [FIRST + 8 * k | rng.choice((0, 3)) for k, d in enumerate(descriptors) if d[5] & 0x1F in (*CALL_GATES, *TSSES, TASK_GATE)]
    code = code_of(rng, cs16, gates)
    while (code == b"\xf4" and not (virtual or starts[0] & 3)) or len(code) > 15:
        code = code_of(rng, cs16, gates)
    values = [rng.choice((selector_of(rng), selector_of(rng), rng.choice(OFFSETS), rng.getrandbits(32))) for _ in REGISTERS]
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
        code.ljust(16, b"\xcc"), tuple(values), esp, flags, rng.choice((0x400, 0x7F0, 0x123)), selectors, rng.choice((0, 0, 1, 2, 3)),
        gate_40, b"".join(descriptors), stack_of(rng, rng.random() < 0.7, starts),
    )  # fmt: skip


def make(seed: int, n: int = N_VECTORS) -> list[Vector]:
    """Vectors of a seed."""
    rng = random.Random(seed)
    return [make_vector(rng) for _ in range(n)]


def image(folder: Path, vectors: list[Vector]) -> Path:
    """The ROM that runs them."""
    code = assemble(SOURCE.format(end=TABLE + SIZE * len(vectors)), 0, 16)
    assert len(code) <= TABLE, len(code)
    content = bytearray((code.ljust(TABLE, b"\0") + b"".join(v.pack() for v in vectors)).ljust(ROM_SIZE, b"\0"))
    content[0xFFF0 : 0xFFF0 + len(RESET_VECTOR)] = RESET_VECTOR
    path = folder / "vectors.bin"
    path.write_bytes(content)
    return path


def parse(output: str) -> list[dict[str, int]]:
    """What the ROM wrote: a dict a vector."""
    lines = [line for line in output.splitlines() if len(line) == 8 * len(FIELDS)]
    return [{name: int(line[8 * k : 8 * k + 8], 16) for k, name in enumerate(FIELDS)} for line in lines]
