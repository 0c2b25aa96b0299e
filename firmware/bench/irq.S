/* irq: INT 40h and IRET through a 32-bit interrupt gate, at ring 0. */
    .intel_syntax noprefix
    .equ    VECTOR, 0x40
    .text
    .globl prepare
prepare:
    mov     eax, offset handler
    mov     [idt + VECTOR*8], ax
    mov     word ptr [idt + VECTOR*8 + 2], 0x08
    mov     word ptr [idt + VECTOR*8 + 4], 0x8E00
    shr     eax, 16
    mov     [idt + VECTOR*8 + 6], ax
    lidt    [idt_pointer]
    ret

handler:
    rol     eax, 1
    add     eax, ecx
    iretd

    .globl bench
bench:
    mov     ecx, [esp + 4]
    xor     eax, eax
1:  int     VECTOR
    dec     ecx
    jnz     1b
    ret

    .data
    .balign 8
idt:
    .fill   VECTOR + 1, 8, 0
idt_pointer:
    .word   idt_pointer - idt - 1
    .long   idt
