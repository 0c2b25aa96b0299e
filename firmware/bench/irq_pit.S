/* irq_pit: timer interrupts as fast as the board gives them.
 *
 * An iteration loads counter 0 of the 8254 with the smallest count that it takes in mode 0
 * (interrupt on terminal count), halts until the interrupt has come through the 8259A, and ends it
 * there: three port writes, one interrupt. Intel 8254 and 8259A data sheets (mode 0; ICW1 to ICW4;
 * non-specific EOI). On a CPU with a local APIC its LINT0 is opened for the 8259A (Intel SDM
 * volume 3, 10.5.1).
 */
    .intel_syntax noprefix
#include "idt.h"
    .equ    APIC, 0xFEE00000
    .equ    SPURIOUS, 0xF0
    .equ    LVT_LINT0, 0x350
    .equ    EXTINT, 0x700
    .text
    .globl prepare
prepare:
    load_idt
    mov     dword ptr [APIC + SPURIOUS], 0x1FF
    mov     dword ptr [APIC + LVT_LINT0], EXTINT
    mov     al, 0x11                    /* ICW1: edge, cascade, ICW4 follows */
    out     0x20, al
    out     0xA0, al
    mov     al, VECTOR                  /* ICW2 */
    out     0x21, al
    mov     al, VECTOR + 8
    out     0xA1, al
    mov     al, 4                       /* ICW3 */
    out     0x21, al
    mov     al, 2
    out     0xA1, al
    mov     al, 1                       /* ICW4: 8086 */
    out     0x21, al
    out     0xA1, al
    mov     al, 0xFE                    /* only line 0 */
    out     0x21, al
    mov     al, 0xFF
    out     0xA1, al
    mov     al, 0x10                    /* counter 0, low byte only, mode 0 */
    out     0x43, al
    ret

handler:
    inc     ebx
    mov     al, 0x20
    out     0x20, al
    iretd

    .globl bench
bench:
    push    ebx
    mov     ecx, [esp + 8]
    xor     ebx, ebx
1:  lea     edx, [ebx + 1]
    mov     al, 0x10
    out     0x43, al
    mov     al, 1
    out     0x40, al
2:  sti
    hlt
    cli
    cmp     ebx, edx
    jne     2b
    dec     ecx
    jnz     1b
    mov     eax, ebx
    pop     ebx
    ret
