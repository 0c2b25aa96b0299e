/* alu: register arithmetic only, eighteen instructions an iteration. */
    .intel_syntax noprefix
    .text
    .globl bench
bench:
    push    ebx
    push    esi
    push    edi
    push    ebp
    mov     ecx, [esp + 20]
    mov     eax, 0x12345678
    mov     ebx, 0x9ABCDEF0
    mov     edx, 1
    mov     esi, 0x0F1E2D3C
    mov     edi, 0x55AA1234
    mov     ebp, 7
    .balign 16
1:  add     eax, ebx
    xor     ebx, ecx
    lea     edx, [eax + ebx*4 + 7]
    sub     esi, edx
    rol     edi, 5
    add     edi, esi
    adc     ebp, eax
    shr     esi, 1
    and     edx, 0xFF00FF
    or      ebp, edx
    imul    eax, edi, 17
    neg     ebx
    inc     ebp
    cmp     eax, ebx
    sbb     esi, 3
    xor     edi, ebp
    dec     ecx
    jnz     1b
    xor     eax, ebx
    xor     eax, edx
    xor     eax, esi
    xor     eax, edi
    xor     eax, ebp
    pop     ebp
    pop     edi
    pop     esi
    pop     ebx
    ret
