/* rep_short: REP MOVSB of 8 to 16 bytes, nine lengths an iteration. */
    .intel_syntax noprefix
    .text
    .globl prepare
prepare:
    mov     ecx, 64
1:  mov     [source + ecx - 1], cl
    loop    1b
    ret

    .globl bench
bench:
    push    esi
    push    edi
    push    ebx
    mov     edx, [esp + 16]
    xor     eax, eax
1:  mov     ebx, 8
2:  lea     esi, [source + ebx]
    lea     edi, [target + ebx + 1]
    mov     ecx, ebx
    rep movsb
    add     eax, [target + ebx*2 - 3]
    rol     eax, 1
    inc     ebx
    cmp     ebx, 17
    jne     2b
    dec     edx
    jnz     1b
    pop     ebx
    pop     edi
    pop     esi
    ret

    .bss
    .comm   source, 64, 64
    .comm   target, 64, 64
