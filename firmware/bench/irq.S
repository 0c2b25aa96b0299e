/* irq: INT 40h and IRET through a 32-bit interrupt gate, at ring 0. */
    .intel_syntax noprefix
#include "idt.h"
    .text
    .globl prepare
prepare:
    load_idt
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
