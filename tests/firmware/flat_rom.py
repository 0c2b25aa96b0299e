"""How a ROM of tests comes to flat 32-bit code: assembly text, behind which data follows up to `FLAT`."""

from __future__ import annotations


def enter(gdtr: str, target: str) -> str:
    """From real mode, with caches on, to 32-bit code at the label `target`; GDTR's image is at `gdtr` of CS."""
    return f"""
    lgdt cs:[{gdtr}]
    mov eax, cr0
    and eax, 0x9FFFFFFF
    or al, 1
    mov cr0, eax
    .byte 0x66, 0xEA
    .long {target}
    .word 8"""


DESCRIPTORS = "0, 0x00CF9B000000FFFF, 0x00CF93000000FFFF"
"""None, flat code, flat data."""
SEGMENTS = """
    mov ax, 0x10
    mov ds, ax
    mov es, ax
    mov ss, ax"""
START = f"""
start:
    cli{enter("gdtr - start", "protected")}
    .align 8
gdt: .quad {DESCRIPTORS}
gdtr: .word 23
    .long gdt
"""
"""The reset vector's target: on to `protected`, with flat code and data segments."""
FLAT = f"""
    .code32
protected:{SEGMENTS}
    mov esp, 0x20000
"""
"""Behind the data: segments and a stack."""
