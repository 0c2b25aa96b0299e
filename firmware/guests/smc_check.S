/* Proves: code that was just rewritten is what runs next: an immediate patched in a loop, the
 * next instruction of the running block, an instruction across two pages, code rewritten by REP
 * MOVSB, and code written through another segment. The code runs from RAM at 0000:9000 (its
 * page border is at A000). Leaves with 0. */
#include "guest.h"
#define CODE 0x9000
#define BORDER 0xA000
        .code16
        .globl  guest_main
guest_main:
        pushw   %cs
        popw    %ds
        movw    $ram_code, %si
        movw    $CODE, %di
        movw    $ram_code_end - ram_code, %cx
        rep movsb
        xorw    %ax, %ax
        movw    %ax, %ds
        lcall   $0, $CODE
        testw   %ax, %ax
        jnz     bad
        PUTS    good
        LEAVE   0
bad:    addb    $'0', %al
        call    putc
        PUTS    wrong
        LEAVE   1

/* Position-dependent parts are addressed as AT(label). Returns AX = 0 or the failing step. */
#define AT(label) (CODE + (label) - ram_code)
ram_code:
        movw    $200, %cx               /* 1: the immediate of an ADD, changed each time round */
        xorw    %dx, %dx
        xorw    %bx, %bx
1:      movw    %cx, AT(patch1) + 2
        addw    %cx, %bx
patch1: addw    $0x7FFF, %dx            /* 81 C2 imm16 */
        loop    1b
        movw    $1, %ax
        cmpw    %bx, %dx
        jne     9f

        movb    $0x42, AT(patch2) + 1   /* 2: the very next instruction */
patch2: movb    $0x41, %al
        cmpb    $0x42, %al
        movw    $2, %ax
        jne     9f

        movw    $BORDER - 2, %di        /* 3: MOV AX, imm16; RET around the page border */
        movb    $0xB8, (%di)
        movw    $0x1111, 1(%di)
        movb    $0xC3, 3(%di)
        call    *%di
        movw    %ax, %bx
        movb    $0x22, BORDER           /* high byte of the immediate, in the second page */
        call    *%di
        cmpw    $0x1111, %bx
        jne     8f
        cmpw    $0x2211, %ax
        jne     8f
        movb    $0x33, BORDER - 1       /* low byte, in the first page */
        call    *%di
        cmpw    $0x2233, %ax
8:      movw    $3, %ax
        jne     9f

        movw    $AT(other), %si         /* 4: by REP MOVSB over code that has run */
        movw    $AT(patch4), %di
        movw    $3, %cx
        call    *%di
        rep movsb
        movw    $AT(patch4), %di
        call    *%di
        cmpw    $0x5678, %ax
        movw    $4, %ax
        jne     9f

        movw    $0x0100, %ax            /* 5: through another segment with the same bytes */
        movw    %ax, %es
        movw    $0x9ABC, %es:AT(patch4) + 1 - 0x1000
        call    *%di
        cmpw    $0x9ABC, %ax
        movw    $5, %ax
        jne     9f
        xorw    %ax, %ax
9:      movw    $0, %cx
        movw    %cx, %es
        lretw
patch4: movw    $0x1234, %ax
        ret
other:  movw    $0x5678, %ax
ram_code_end:
        .section .rodata
good:   .asciz  "smc self-check ok\r\n"
wrong:  .asciz  " is the step at which stale code ran\r\n"
