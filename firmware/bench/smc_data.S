/* smc_data: a loop that changes data on its own page, never its code. */
    .intel_syntax noprefix
    .text
    .globl bench
    .balign 4096, 0x90
bench:
    mov     ecx, [esp + 4]
    xor     eax, eax
1:  inc     dword ptr [counter]
    add     eax, [counter]
    rol     eax, 3
    xor     eax, 0x5A5A5A5A
    mov     [last], eax
    dec     ecx
    jnz     1b
    ret
    .balign 64, 0x90
counter:
    .long   0
last:
    .long   0
    .balign 4096, 0x90
