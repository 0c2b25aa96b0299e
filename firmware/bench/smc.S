/* smc: a loop that patches an immediate of its own code in each iteration. */
    .intel_syntax noprefix
    .text
    .globl bench
    .balign 4096, 0x90
bench:
    mov     ecx, [esp + 4]
    xor     eax, eax
1:  mov     [patched + 1], ecx
    rol     eax, 1
patched:
    add     eax, 0x11111111             /* opcode 05, then the immediate */
    xor     eax, 0x5A5A5A5A
    dec     ecx
    jnz     1b
    ret
    .balign 4096, 0x90
