"""The ROM of protected_mode_vectors.py: it runs vectors in protected and virtual-8086 mode, and tells what came of them.

Each begins with tables, task state segments and memory as they were.  IRET with TF set lets one instruction run; whatever
exception comes first ends it, #DF by a task of its own.  Handlers write down the frame, registers, selectors and sums over
memory, in hex on the debug port: one line a vector.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

from tests.engine.assembler import assemble
from tests.isa.vector_rom import HAS_ERROR, PRINT, closing, descriptor, image_of, places, stubs

TABLE, SIZE = 0x1000, 256
N_VECTORS = (0xFF00 - TABLE) // SIZE
GDT, IDT, TSS_A, TSS_B, TSS_C, TSS_DF = 0x3000, 0x3800, 0x4000, 0x4200, 0x4400, 0x4600
DATA, CODE = 0x10000, 0x20000
FIRST, N_RANDOM = 0x80, 14
"""Selector of the first random descriptor; the LDT begins there, too."""
REGISTERS = ("eax", "ecx", "edx", "ebx", "ebp", "esi", "edi")
FIELDS = (
    "vector", "error", "eip", "cs", "eflags", "outer_esp", "outer_ss", "v_es", "v_ds", "v_fs", "v_gs", "ss", "esp",
    *REGISTERS,
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
VECTOR_CODE_0, STACK_0, STACK_0_16, CODE_0_16 = 0x40, 0x48, 0x50, 0x58
CODE_3_16, CODE_1, DATA_1, DATA_2 = 0x63, 0x69, 0x71, 0x7A


FIXED = b"".join((
    bytes(8), descriptor(0xF0000, 0xFFFF, 0x9B, 4), descriptor(0, 0xFFFFF, 0x93, 12),
    descriptor(CODE, 0xFFFF, 0xFB, 4), descriptor(DATA, 0xFFFF, 0xF3, 4), descriptor(TSS_A, 0x8F, 0x89),
    descriptor(GDT + FIRST, 8 * N_RANDOM - 1, 0x82), descriptor(TSS_DF, 0x67, 0x89),
    descriptor(CODE, 0xFFFF, 0x9B, 4), descriptor(DATA, 0xFFFF, 0x93, 4), descriptor(DATA, 0xFFFF, 0x93),
    descriptor(CODE, 0xFFFF, 0x9B), descriptor(CODE, 0xFFFF, 0xFB), descriptor(CODE, 0xFFFF, 0xBB, 4),
    descriptor(DATA, 0xFFFF, 0xB3, 4), descriptor(DATA, 0xFFFF, 0xD3, 4),
))  # fmt: skip
STUBS = stubs(HAS_ERROR)
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
    mov ecx, 256                    # where CR4.VME redirects INT n: to INT3
    mov eax, {CODE << 12 | 0x900}
    xor edi, edi
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
    {PRINT}
    add dword ptr [v_at], {SIZE}
    cmp dword ptr [v_at], 0xF0000 + {{end}}
    jne next
    {closing("esi", 0xF0000)}
gdtr: .word {FIRST + 8 * N_RANDOM - 1}
    .long {GDT}
idtr: .word {8 * 0x41 - 1}
    .long {IDT}
.balign 8
fixed: .byte {", ".join(str(b) for b in FIXED)}
{STUBS}
{places(FIELDS, VARIABLES, 4)}
.equ v_at, {PREPARED}
.equ v_pointer, {PREPARED + 8}
"""


def image(folder: Path, vectors: Sequence[bytes]) -> Path:
    """The ROM that runs these packed vectors."""
    code = assemble(SOURCE.format(end=TABLE + SIZE * len(vectors)), 0, 16)
    return image_of(folder, code, TABLE, vectors)
