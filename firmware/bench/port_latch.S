/* port_latch: ports that hold what is written to them and do nothing else.
 *
 * OUT to the POST code port 80h and to the DMA page register 81h, IN from the latter: three port
 * accesses and eight instructions an iteration. IBM PC AT Technical Reference (DMA page registers,
 * manufacturing port).
 */
    .intel_syntax noprefix
    .text
    .globl prepare
prepare:
    ret

    .globl bench
bench:
    mov     ecx, [esp + 4]
    push    ebx
    xor     ebx, ebx
    xor     eax, eax
1:  mov     al, cl
    out     0x80, al
    out     0x81, al
    in      al, 0x81
    lea     ebx, [ebx + ebx*2]
    add     ebx, eax
    dec     ecx
    jnz     1b
    mov     eax, ebx
    pop     ebx
    ret
