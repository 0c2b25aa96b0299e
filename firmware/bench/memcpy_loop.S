/* memcpy_loop: 4 KiB copied four bytes at a time by a plain loop. */
    .intel_syntax noprefix
    .equ    DWORDS, 1024
    .text
    .globl prepare
prepare:
    mov     ecx, DWORDS
    mov     eax, 0x01234567
1:  imul    eax, eax, 1664525
    add     eax, 1013904223
    mov     [source + ecx*4 - 4], eax
    loop    1b
    ret

    .globl bench
bench:
    push    esi
    push    edi
    push    ebx
    mov     edx, [esp + 16]
    xor     eax, eax
1:  mov     esi, offset source
    mov     edi, offset target
    mov     ecx, DWORDS
2:  mov     ebx, [esi]
    mov     [edi], ebx
    add     esi, 4
    add     edi, 4
    dec     ecx
    jnz     2b
    rol     eax, 1
    add     eax, [target + 4*DWORDS - 4]
    dec     edx
    jnz     1b
    pop     ebx
    pop     edi
    pop     esi
    ret

    .bss
    .comm   source, 4*DWORDS, 4096
    .comm   target, 4*DWORDS, 4096
