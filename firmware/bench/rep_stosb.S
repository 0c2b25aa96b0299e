/* rep_stosb: 16 KiB filled by REP STOSB, once an iteration. */
    .intel_syntax noprefix
    .equ    BYTES, 16384
    .text
    .globl bench
bench:
    push    edi
    mov     edx, [esp + 8]
    push    ebx
    xor     ebx, ebx
1:  mov     eax, edx
    mov     edi, offset target
    mov     ecx, BYTES
    rep stosb
    rol     ebx, 1
    add     ebx, [target + BYTES - 4]
    dec     edx
    jnz     1b
    mov     eax, ebx
    pop     ebx
    pop     edi
    ret

    .bss
    .comm   target, BYTES, 4096
