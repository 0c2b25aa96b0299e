/* port_storm: OUT and IN of the CMOS data port 71h.
 *
 * Two port accesses and eight instructions an iteration; no port of a latch, so that every access
 * goes to the real-time clock's chip. Byte 0Fh of the CMOS memory is the shutdown status, of no
 * effect before a reset. Motorola MC146818A data sheet; IBM PC AT Technical Reference (port 70h).
 */
    .intel_syntax noprefix
    .text
    .globl prepare
prepare:
    mov     al, 0x0F
    out     0x70, al
    ret

    .globl bench
bench:
    mov     ecx, [esp + 4]
    push    ebx
    xor     ebx, ebx
1:  mov     al, cl
    out     0x71, al
    in      al, 0x71
    movzx   eax, al
    lea     ebx, [ebx + ebx*2]
    add     ebx, eax
    dec     ecx
    jnz     1b
    mov     eax, ebx
    pop     ebx
    ret
