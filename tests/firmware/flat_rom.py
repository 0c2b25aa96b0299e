"""How a ROM of tests comes to flat 32-bit code: assembly text, behind which data follows up to `FLAT`."""

from __future__ import annotations

START = """
start:
    cli
    lgdt cs:[gdtr - start]
    mov eax, cr0
    or al, 1
    mov cr0, eax
    .byte 0x66, 0xEA
    .long protected
    .word 8
    .align 8
gdt: .quad 0, 0x00CF9B000000FFFF, 0x00CF93000000FFFF
gdtr: .word 23
    .long gdt
"""
"""The reset vector's target: on to `protected`, with flat code and data segments."""
FLAT = """
    .code32
protected:
    mov ax, 0x10
    mov ds, ax
    mov es, ax
    mov ss, ax
    mov esp, 0x20000
"""
"""Behind the data: segments and a stack."""
