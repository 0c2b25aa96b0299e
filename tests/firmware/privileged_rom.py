"""A ROM of many small cases in 32-bit code at level 0, each from the same state: it tells the events that each had.

A line is `name vv:eeee@oooo/ffffff ... =rrrrrrrr`: vector, error code, place (from the beginning of the case) and flags (IF,
TF, IOPL, NT, VM, AC, VIF, VIP) of each event, and the result that the case left at 600h.  The first event ends a case,
unless it has set `STAYS`: then interrupts are acknowledged, and TF is cleared, before their IRET.  A fault always ends it.
"""

from __future__ import annotations

from tests.engine.assembler import assemble
from tests.firmware.flat_rom import DESCRIPTORS, FLAT, SEGMENTS, enter

BASE = 0xF0000
IDT, GDT, TSS, DIRECTORY, LOW, WINDOW, APIC = 0x1000, 0x2000, 0x3000, 0x10000, 0x11000, 0x12000, 0x13000
RESULT, STAYS = "dword ptr [0x600]", "mov byte ptr [0x504], 1"
PAGE = 0x400000
"""Linear address of a page whose entry is `ENTRY`; it is not present at first."""
ENTRY = f"dword ptr [{WINDOW:#x}]"
SHOWN_FLAGS = 0x1E7300
PAGING = f"mov eax, {DIRECTORY:#x}\n mov cr3, eax\n mov eax, cr0\n or eax, 0x80010000\n mov cr0, eax"


def at_level_3(code: str, flags: int = 2) -> str:
    """Code as a program runs it."""
    return f"""mov eax, 0x23
    mov ds, ax
    mov es, ax
    push 0x23
    push 0x30000
    push {flags}
    push 0x1B
    push offset 77f
    iretd
77: {code}"""


def virtual_8086(code: str, flags: int) -> str:
    """16-bit code in virtual-8086 mode; HLT ends it, which is #GP."""
    return f"""push 0; push 0; push 0; push 0
    push 0x4000
    push 0x1000
    push {flags | 0x20002}
    push 0xF000
    mov eax, offset 77f
    and eax, 0xFFFF
    push eax
    iretd
    .code16
77: {code}
    hlt
    .code32"""


ERRORS = {8, 10, 11, 12, 13, 14, 17}
START = f"""
start:
    cli{enter("gdtr - start", "protected")}
    .align 8
gdt: .quad {DESCRIPTORS}, 0x00CFFB000000FFFF, 0x00CFF3000000FFFF
    .word 0x2FF, {TSS:#x}, 0x8900, 0
    .word 0xFFF, 0, 0x9300, 0x40
    .word 0xFFF, 0, 0xF300, 0x40
gdt_end:
gdtr: .word gdt_end - gdt - 1
    .long gdt
real_gdtr: .word gdt_end - gdt - 1
    .long {GDT:#x}
idtr: .word 0x7FF
    .long {IDT:#x}
    .align 16
{FLAT}
    lidt cs:[idtr]
    mov eax, cr0
    and eax, 0xFFFFFFD1
    or eax, 0x20
    mov cr0, eax
    mov dword ptr [0x500], offset table
next:
    mov eax, cr0
    and eax, 0x7FFEFFF1
    mov cr0, eax
    xor eax, eax
    mov cr4, eax
    mov dr7, eax
    mov eax, 0xFFFF0FF0
    mov dr6, eax
    lgdt cs:[gdtr]
    xor eax, eax
    lldt ax
{SEGMENTS}
    mov fs, ax
    mov gs, ax
    mov esp, 0x20000
    push 2
    push 8
    push offset 4f
    iretd
4:  mov esi, offset gdt
    mov edi, {GDT:#x}
    mov ecx, offset gdt_end - gdt
    rep movsb
    lgdt cs:[real_gdtr]
    mov edi, {TSS:#x}
    xor eax, eax
    mov ecx, 0x300 / 4
    rep stosd
    mov dword ptr [{TSS + 4:#x}], 0x28000
    mov dword ptr [{TSS + 8:#x}], 0x10
    mov word ptr [{TSS + 0x66:#x}], 0x88
    mov byte ptr [{TSS + 0x88:#x}], 0xFF
    mov eax, 0x28
    ltr ax
    xor ecx, ecx
1:  mov eax, ecx
    shl eax, 4
    add eax, offset stubs
    mov [{IDT:#x} + ecx*8], eax
    mov word ptr [{IDT:#x} + ecx*8 + 2], 8
    mov eax, offset stubs
    mov ax, 0x8E00
    mov [{IDT:#x} + ecx*8 + 4], eax
    inc ecx
    cmp ecx, 0x100
    jne 1b
    mov edi, {DIRECTORY:#x}
    xor eax, eax
    mov ecx, 0x4000 / 4
    rep stosd
    mov dword ptr [{DIRECTORY:#x}], {LOW | 7:#x}
    mov dword ptr [{DIRECTORY + 4:#x}], {WINDOW | 7:#x}
    mov dword ptr [{DIRECTORY + 4 * 0x3FB:#x}], {APIC | 7:#x}
    mov dword ptr [{APIC + 4 * 0x200:#x}], 0xFEE00007
    mov edi, {LOW:#x}
    mov eax, 7
2:  stosd
    add eax, 0x1000
    cmp eax, 0x400007
    jne 2b
    mov dword ptr [0x600], 0
    mov dword ptr [0x604], 0
    mov edi, 0xFEE00000
    mov dword ptr [edi + 0xF0], 0x1FF
    mov dword ptr [edi + 0x80], 0
    mov dword ptr [edi + 0x320], 0x10000
    mov byte ptr [0x504], 2
    mov ecx, 6
3:  sti
    nop
    nop
    cli
    mov dword ptr [edi + 0xB0], 0
    dec ecx
    jnz 3b
    fninit
    mov byte ptr [0x504], 0
    mov ebx, [0x500]
    mov esi, [ebx + 4]
    test esi, esi
    jz ended
    call puts
    xor eax, eax
    xor ecx, ecx
    xor edx, edx
    xor ebp, ebp
    mov esi, 0x8000
    jmp dword ptr [ebx]
done:
    mov eax, 0x10
    mov ds, ax
    mov es, ax
    mov esp, 0x20000
    mov byte ptr [0x504], 0
    mov al, ' '
    call putc
    mov al, '='
    call putc
    mov eax, [0x600]
    mov ecx, 8
    call hex
    mov al, 10
    call putc
    add dword ptr [0x500], 8
    jmp next
ended:
    mov al, '.'
    call putc
    mov al, 10
    call putc
    mov esi, offset shutdown
    mov ecx, 8
    mov dx, 0x8900
    rep outsb
    mov al, 0
    out 0xF4, al
    hlt
puts:
    mov al, [esi]
    test al, al
    jz 1f
    call putc
    inc esi
    jmp puts
1:  ret
putc:
    out 0xE9, al
    ret
hex:
    mov edx, eax
    push ecx
    neg ecx
    lea ecx, [ecx*4 + 32]
    shl edx, cl
    pop ecx
1:  rol edx, 4
    mov al, dl
    and al, 15
    cmp al, 10
    sbb al, 0x69
    das
    or al, 0x20
    call putc
    dec ecx
    jnz 1b
    ret
event:
    pushad
    push ds
    push es
    mov eax, 0x10
    mov ds, ax
    mov es, ax
    mov ebx, esp
    cmp byte ptr [0x504], 2
    je 3f
    mov al, ' '
    call putc
    mov eax, [ebx + 40]
    mov ecx, 2
    call hex
    mov al, ':'
    call putc
    mov eax, [ebx + 44]
    mov ecx, 4
    call hex
    mov al, '@'
    call putc
    mov eax, [0x500]
    mov ecx, [ebx + 48]
    sub ecx, [eax]
    mov eax, ecx
    mov ecx, 4
    call hex
    mov al, '/'
    call putc
    mov eax, [ebx + 56]
    and eax, {SHOWN_FLAGS:#x}
    mov ecx, 6
    call hex
    mov eax, [ebx + 40]
    dec eax
    cmp eax, 2
    jb 6f
    cmp eax, 0x1F
    jb 7f
6:  cmp byte ptr [0x504], 0
    jne 3f
7:  mov eax, cr0
    and eax, 0x7FFFFFFF
    mov cr0, eax
    jmp done
3:  cmp dword ptr [ebx + 40], 1
    jne 4f
    and dword ptr [ebx + 56], 0xFFFFFEFF
4:  cmp dword ptr [ebx + 40], 0x40
    jb 5f
    mov edi, 0xFEE00000
    mov dword ptr [edi + 0xB0], 0
5:  pop es
    pop ds
    popad
    add esp, 8
    iretd
shutdown: .ascii "Shutdown"
    .align 16
stubs:
"""


def source(cases: dict[str, str]) -> str:
    """The whole ROM."""
    parts = [START]
    for vector in range(0x100):
        parts.append(("" if vector in ERRORS else "push 0\n") + f"push {vector}\n jmp event\n .align 16")
    parts.append("table:")
    parts += [f".long c{k}, n{k}" for k in range(len(cases))]
    parts.append(".long 0, 0")
    for k, (name, code) in enumerate(cases.items()):
        parts.append(f'n{k}: .asciz "{name}"\n c{k}: {code}\n jmp done')
    return "\n".join(parts)


def code_of(cases: dict[str, str]) -> bytes:
    """Its bytes, from F0000h on."""
    return assemble(source(cases), BASE, 16)
