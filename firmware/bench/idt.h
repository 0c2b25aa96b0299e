/* An interrupt table whose one gate leads to `handler`: 32-bit interrupt gate, ring 0, code selector 08h.
 * Intel SDM volume 3, 6.11. */
    .equ    VECTOR, 0x40

    .macro  load_idt                    /* changes EAX */
    mov     eax, offset handler
    mov     [idt + VECTOR*8], ax
    mov     word ptr [idt + VECTOR*8 + 2], 0x08
    mov     word ptr [idt + VECTOR*8 + 4], 0x8E00
    shr     eax, 16
    mov     [idt + VECTOR*8 + 6], ax
    lidt    [idt_pointer]
    .endm

    .pushsection .data
    .balign 8
idt:
    .fill   VECTOR + 1, 8, 0
idt_pointer:
    .word   idt_pointer - idt - 1
    .long   idt
    .popsection
