/* rep_movsd: 16 KiB copied by REP MOVSD, once an iteration. */
    .intel_syntax noprefix
    .equ    DWORDS, 4096
    .text
    .globl prepare
prepare:
    push    edi
    mov     edi, offset source
    mov     ecx, DWORDS
    mov     eax, 0x01234567
1:  imul    eax, eax, 1664525
    add     eax, 1013904223
    stosd
    dec     ecx
    jnz     1b
    pop     edi
    ret

    .globl bench
bench:
    push    esi
    push    edi
    mov     edx, [esp + 12]
    xor     eax, eax
1:  mov     esi, offset source
    mov     edi, offset target
    mov     ecx, DWORDS
    rep movsd
    rol     eax, 1
    add     eax, [target + 4*DWORDS - 4]
    dec     edx
    jnz     1b
    pop     edi
    pop     esi
    ret

    .bss
    .balign 4096
    .comm   source, 4*DWORDS, 4096
    .comm   target, 4*DWORDS, 4096
