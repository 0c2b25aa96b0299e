/* port_storm: OUT 0x80 (POST code) and IN 0x61 (system control port B).
 *
 * Two port accesses and eight instructions an iteration. Port 0x61's bits 4
 * and 5 follow the refresh toggle and timer 2, so only bits 0 and 1 count.
 */
    .intel_syntax noprefix
    .text
    .globl prepare
prepare:
    mov     al, 1
    out     0x61, al
    ret

    .globl bench
bench:
    mov     ecx, [esp + 4]
    push    ebx
    xor     ebx, ebx
1:  mov     al, cl
    out     0x80, al
    in      al, 0x61
    and     eax, 3
    lea     ebx, [ebx + ebx*2]
    add     ebx, eax
    dec     ecx
    jnz     1b
    mov     eax, ebx
    pop     ebx
    ret
