"""The ROM of long_mode_vectors.py: it runs vectors in 64-bit and compatibility mode, and tells what came of them.

Each begins with tables, the task state segment and memory as they were.  IRETQ with TF set lets one instruction run;
whatever exception comes first ends it, #DF on a stack of its own (IST).  Handlers write down the frame, registers, selectors
and sums over memory, in hex on the debug port: one line a vector.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

from tests.engine.assembler import assemble
from tests.isa.vector_rom import HAS_ERROR, PRINT, closing, descriptor, image_of, places, stubs

TABLE, SIZE = 0x1000, 400
N_VECTORS = (0xFF00 - TABLE) // SIZE
ROM, GDT, IDT, TSS, TABLES = 0xF0000, 0x3000, 0x3800, 0x4000, 0x9000
"""Of linear memory, which is physical memory twice: at 0 and at `HIGH`."""
HIGH = 0xFFFF_8000_0000_0000
DATA, CODE = 0x10000, 0x20000
FIRST, N_RANDOM = 0x80, 14
"""Selector of the first random descriptor; the LDT begins there, too."""
REGISTERS = ("rax", "rcx", "rdx", "rbx", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11")
FIELDS = (
    "vector", "error", "rip", "cs", "rflags", "rsp", "ss", *REGISTERS, "ds", "es", "fs", "gs", "tr", "ldtr", "fs_base",
    "gs_base", "kernel_gs", "cr8", "dr6", "sum", "tables",
)  # fmt: skip
"""Of a line, in this order; 64 bits each."""
TF, IF, NT, RF = 0x100, 0x200, 0x4000, 0x10000
PACKED = struct.Struct("<16s11QQQQ6HI16s112s128s")
"""Code; registers; RSP, RFLAGS, RIP; CS, SS, DS, ES, FS, GS; FMASK; gate 40h; descriptors; what lies at SS:RSP."""
CODE_0, DATA_0, CODE_3, DATA_3, NARROW_0, NARROW_3, TASK, LDT, CODE16_3, CODE_1, DATA_1 = (
    0x08, 0x10, 0x33, 0x2B, 0x18, 0x23, 0x38, 0x48, 0x5B, 0x61, 0x69,
)  # fmt: skip
VARIABLES = 0x2000
PREPARED = VARIABLES + 0x200
assert PACKED.size == SIZE, PACKED.size


def system(base: int, limit: int, access: int) -> bytes:
    """16 bytes of a system segment."""
    return descriptor(base & 0xFFFFFFFF, limit, access) + struct.pack("<Q", base >> 32)


FIXED = b"".join((
    bytes(8), descriptor(0, 0xFFFFF, 0x9B, 10), descriptor(0, 0xFFFFF, 0x93, 12), descriptor(0, 0xFFFFF, 0x9B, 12),
    descriptor(0, 0xFFFFF, 0xFB, 12), descriptor(0, 0xFFFFF, 0xF3, 12), descriptor(0, 0xFFFFF, 0xFB, 10),
    system(TSS, 0x8F, 0x89), system(GDT + FIRST, 8 * N_RANDOM - 1, 0x82), descriptor(CODE, 0xFFFF, 0xFB),
    descriptor(0, 0xFFFFF, 0xBB, 10), descriptor(0, 0xFFFFF, 0xB3, 12), bytes(8), bytes(8),
))  # fmt: skip
assert len(FIXED) == FIRST
STUBS = stubs((8, *HAS_ERROR))
PAGE_TABLES = "".join(
    f"mov dword ptr [{TABLES + at:#x}], {value:#x}\n"
    for at, value in (
        (0, TABLES + 0x1007), (0x800, TABLES + 0x1007), (0x1000, TABLES + 0x2007), (0x2000, 0x87), (0x2008, 0x200087),
    )
)  # fmt: skip
"""2 MiB for all levels; the second ones are there so that an access may begin in the first."""
MSRS = {
    0xC0000081: 0x0020_0008 << 32, 0xC0000082: CODE + 0x800, 0xC0000083: CODE + 0x900, 0x174: 8, 0x175: DATA + 0x7000,
    0x176: CODE + 0x900, 0xC0000102: HIGH + 0x777,
}  # fmt: skip
"""STAR (SYSRET: 20h + 16), LSTAR, CSTAR, SYSENTER's, KERNEL_GS_BASE."""
SET_MSRS = "\n".join(
    f"mov ecx, {n:#x}; mov eax, {v & 0xFFFFFFFF:#x}; mov edx, {v >> 32:#x}; wrmsr" for n, v in MSRS.items()
)
SOURCE = f"""
.code16
    cli
    lgdt cs:[first - {ROM}]
    mov eax, 0x11
    mov cr0, eax
    .byte 0x66, 0xEA
    .long narrow
    .word {NARROW_0}
.balign 4
first: .word {len(FIXED) - 1}
    .long fixed
.code32
narrow:
    mov eax, {DATA_0}
    mov ds, eax
    mov es, eax
    mov ss, eax
    mov edi, {TABLES}
    mov ecx, 0xC00
    xor eax, eax
    rep stosd
    {PAGE_TABLES}
    mov eax, {TABLES}
    mov cr3, eax
    mov eax, 0x10620
    mov cr4, eax
    mov ecx, 0xC0000080
    mov eax, 0x101
    xor edx, edx
    wrmsr
    mov eax, 0x80000011
    mov cr0, eax
    .byte 0xEA
    .long wide
    .word {CODE_0}
.code64
wide:
    mov edi, {IDT}
    mov eax, offset stub_0
    xor ecx, ecx
1:  mov [rdi], ax
    mov word ptr [rdi + 2], {CODE_0}
    mov word ptr [rdi + 4], 0x8E00
    mov ebx, eax
    shr ebx, 16
    mov [rdi + 6], bx
    mov qword ptr [rdi + 8], 0
    add eax, 16
    add edi, 16
    inc ecx
    cmp ecx, 32
    jne 1b
    mov byte ptr [{IDT + 16 * 3 + 5}], 0xEE
    mov byte ptr [{IDT + 16 * 8 + 4}], 1
    mov dword ptr [v_at], {ROM + TABLE}
next:
    mov eax, {DATA_0}
    mov ds, eax
    mov es, eax
    mov ss, eax
    mov esp, 0x5F00
    cld
    xor eax, eax
    mov dr6, rax
    mov cr8, rax
    mov edi, {TSS}
    mov ecx, 0x40
    rep stosd
    mov edi, {VARIABLES}
    mov ecx, 0x60
    rep stosd
    mov edi, {IDT + 16 * 32}
    mov ecx, 4 * 32
    rep stosd
    mov ebx, [v_at]
    mov esi, offset fixed
    mov edi, {GDT}
    mov ecx, {len(FIXED) // 4}
    rep movsd
    lea esi, [rbx + 160]
    mov ecx, {2 * N_RANDOM}
    rep movsd
    lea esi, [rbx + 144]
    mov edi, {IDT + 16 * 0x40}
    mov ecx, 4
    rep movsd
    lgdt [gdtr]
    lidt [idtr]
    mov dword ptr [{TSS + 4}], 0x5F00
    mov dword ptr [{TSS + 12}], 0x6F00
    mov dword ptr [{TSS + 20}], 0x7F00
    mov dword ptr [{TSS + 0x24}], 0x8F00
    mov dword ptr [{TSS + 0x2C}], {DATA + 0x6008}
    mov dword ptr [{TSS + 0x66}], 0xA5A50068
    mov dword ptr [{TSS + 0x70}], 0x00FF5AA5
    mov dword ptr [{TSS + 0x8C}], 0xFFFFFFFF
    mov edi, {DATA}
    mov ecx, 0x2000
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
    mov rdi, [rbx + 120]
    and edi, 0xFFF
    add edi, {CODE}
    mov ecx, 4
    rep movsd
    mov edi, [rbx + 104]
    and edi, 0x7FFF
    or edi, {DATA}
    lea esi, [rbx + 272]
    mov ecx, 32
    rep movsd
    mov eax, {LDT}
    lldt ax
    mov eax, {TASK}
    ltr ax
    {SET_MSRS}
    mov ecx, 0xC0000084
    mov eax, [rbx + 140]
    xor edx, edx
    wrmsr
    movzx eax, word ptr [rbx + 132]
    mov ds, eax
    movzx eax, word ptr [rbx + 134]
    mov es, eax
    movzx eax, word ptr [rbx + 136]
    mov fs, eax
    movzx eax, word ptr [rbx + 138]
    mov gs, eax
    mov ecx, 0xC0000101
    mov eax, 0x1110
    mov edx, 0xFFFF8000
    wrmsr
    movzx eax, word ptr [rbx + 130]
    push rax
    push qword ptr [rbx + 104]
    push qword ptr [rbx + 112]
    movzx eax, word ptr [rbx + 128]
    push rax
    push qword ptr [rbx + 120]
    mov rcx, [rbx + 24]
    mov rdx, [rbx + 32]
    mov rbp, [rbx + 48]
    mov rsi, [rbx + 56]
    mov rdi, [rbx + 64]
    mov r8, [rbx + 72]
    mov r9, [rbx + 80]
    mov r10, [rbx + 88]
    mov r11, [rbx + 96]
    mov rax, [rbx + 16]
    mov rbx, [rbx + 40]
    iretq
common:
    mov [v_rax], rax
    mov [v_rcx], rcx
    mov [v_rdx], rdx
    mov [v_rbx], rbx
    mov [v_rbp], rbp
    mov [v_rsi], rsi
    mov [v_rdi], rdi
    mov [v_r8], r8
    mov [v_r9], r9
    mov [v_r10], r10
    mov [v_r11], r11
    mov [v_ds], ds
    mov [v_es], es
    mov [v_fs], fs
    mov [v_gs], gs
    str word ptr [v_tr]
    sldt word ptr [v_ldtr]
    mov rax, cr8
    mov [v_cr8], rax
    mov rax, dr6
    mov [v_dr6], rax
    pop qword ptr [v_vector]
    pop qword ptr [v_error]
    pop qword ptr [v_rip]
    pop rax
    movzx eax, ax
    mov [v_cs], rax
    pop qword ptr [v_rflags]
    pop qword ptr [v_rsp]
    pop rax
    movzx eax, ax
    mov [v_ss], rax
    mov ebx, offset v_fs_base
    mov ecx, 0xC0000100
3:  rdmsr
    mov [rbx], eax
    mov [rbx + 4], edx
    add ebx, 8
    inc ecx
    cmp ecx, 0xC0000103
    jne 3b
    mov eax, {DATA_0}
    mov ds, eax
    mov es, eax
    mov esp, 0x5F00
    push 2
    popfq
    mov esi, {DATA}
    mov ecx, 0x2000
    call sum
    mov [v_sum], eax
    mov esi, {GDT}
    mov ecx, {(FIRST + 8 * N_RANDOM) // 4}
    call sum
    mov esi, {TSS}
    mov ecx, 0x40
    call more
    mov [v_tables], eax
    mov edx, 0xE9
    mov esi, offset v_vector
4:  lodsq
    mov rbx, rax
    mov ecx, 16
5:  rol rbx, 4
    {PRINT}
    add dword ptr [v_at], {SIZE}
    cmp dword ptr [v_at], {ROM} + {{end}}
    jne next
    {closing("rsi")}
gdtr: .word {FIRST + 8 * N_RANDOM - 1}
    .quad {GDT}
idtr: .word {16 * 0x41 - 1}
    .quad {IDT}
.balign 8
fixed: .byte {", ".join(str(b) for b in FIXED)}
{STUBS}
{places(FIELDS, VARIABLES, 8)}
.equ v_at, {PREPARED}
"""


def image(folder: Path, vectors: Sequence[bytes]) -> Path:
    """The ROM that runs these packed vectors."""
    code = assemble(SOURCE.format(end=TABLE + SIZE * len(vectors)), ROM, 64)
    return image_of(folder, code, TABLE, vectors)
