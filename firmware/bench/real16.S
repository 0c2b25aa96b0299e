/* real16: a 16-bit real-mode loop with segment loads and memory operands.
 *
 * bench() leaves protected mode (Intel SDM volume 3, section 9.9.2: 16-bit
 * segments first), runs at 0x1000:offset and comes back. A real-mode loop
 * counts in 16 bits, so 32-bit ECX counts here, by an operand-size prefix, as
 * big programs of that time did it: one prefixed DEC an iteration.
 */
    .intel_syntax noprefix
    .section .real16, "awx"          /* image.ld puts it at 0x10000 */
base:
    .code32
    .globl bench
bench:
    push    ebx
    push    esi
    push    edi
    push    ebp
    mov     ecx, [esp + 20]
    mov     [saved_esp], esp
    ljmp    0x18, offset (leave_protected - base)

    .code16
leave_protected:
    mov     eax, 0x20
    mov     ds, eax
    mov     es, eax
    mov     ss, eax
    mov     eax, cr0
    and     eax, 0xFFFFFFFE
    mov     cr0, eax
    ljmp    0x1000, offset (real - base)
real:
    mov     ax, 0x1000
    mov     ds, ax
    mov     ss, ax
    mov     sp, offset (stack16 - base)
    xor     ax, ax
    xor     bx, bx
    xor     dx, dx
    xor     si, si
1:  les     di, [far_pointer - base]
    add     ax, es:[di + bx]
    mov     [si + table - base], ax
    push    ax
    mov     ax, ds
    mov     es, ax
    pop     ax
    call    step
    add     dx, es:[si + table - base]
    add     si, 2
    and     si, 62
    mov     bx, si
    xor     bl, 6
    dec     ecx
    jnz     1b
    mov     [result - base], ax
    mov     [result + 2 - base], dx
    mov     eax, cr0
    or      eax, 1
    mov     cr0, eax
    data32 ljmp 0x08, offset protected
step:
    rol     ax, 1
    adc     ax, 0x1357
    ret

    .code32
protected:
    mov     eax, 0x10
    mov     ds, eax
    mov     es, eax
    mov     ss, eax
    mov     esp, [saved_esp]
    mov     eax, [result]
    pop     ebp
    pop     edi
    pop     esi
    pop     ebx
    ret

    .balign 4096, 0x90                  /* data on a page without any code */
saved_esp:
    .long   0
result:
    .long   0
far_pointer:
    .word   table - base, 0x1000
    .balign 64
table:
    .fill   32, 2, 0x1234
    .fill   64, 2, 0
stack16:
    .balign 4096, 0x90
