/* port_empty: a port where nobody is.
 *
 * OUT to and IN from EDh, which Linux takes for delays where port 80h is in use (Documentation of
 * io_delay=0xed): two port accesses and seven instructions an iteration. It reads as all ones.
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
1:  out     0xED, al
    in      al, 0xED
    lea     ebx, [ebx + ebx*2]
    add     ebx, eax
    xor     ebx, ecx
    dec     ecx
    jnz     1b
    mov     eax, ebx
    pop     ebx
    ret
