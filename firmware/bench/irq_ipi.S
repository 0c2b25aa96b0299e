/* irq_ipi: an interrupt from the local APIC to its own CPU, served and ended there.
 *
 * An iteration writes the interrupt command register (shorthand "self"), waits until the handler
 * has counted, and the handler ends with EOI: two register writes, one interrupt. How long the
 * loop waits is the emulator's affair, so the checksum counts interrupts alone. Intel SDM volume 3,
 * sections 10.6.1 (interrupt command register) and 10.8.5 (EOI).
 */
    .intel_syntax noprefix
#include "idt.h"
    .equ    APIC, 0xFEE00000
    .equ    EOI, 0xB0
    .equ    SPURIOUS, 0xF0
    .equ    ICR_LOW, 0x300
    .equ    SELF_ASSERT, 0x44000
    .text
    .globl prepare
prepare:
    load_idt
    mov     al, 0xFF                    /* nothing from the 8259As */
    out     0x21, al
    out     0xA1, al
    mov     dword ptr [APIC + SPURIOUS], 0x1FF
    ret

handler:
    inc     dword ptr [served]
    mov     dword ptr [APIC + EOI], 0
    iretd

    .globl bench
bench:
    mov     ecx, [esp + 4]
    mov     edx, APIC
    xor     eax, eax
    sti
1:  mov     dword ptr [edx + ICR_LOW], SELF_ASSERT + VECTOR
2:  cmp     [served], eax
    je      2b
    mov     eax, [served]
    dec     ecx
    jnz     1b
    cli
    ret

    .bss
    .balign 4
served:
    .long   0
