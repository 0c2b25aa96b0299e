/* Proves: keystrokes. The boot sector prints the code of each key that INT 16h AH=10 hands out
 * as four hex digits, and the shift state of AH=02 behind it, until 'q' comes (leaves with 31h). */
#include "sector.h"
        BOOT_SECTOR
        movw    $text_ready, %si
2:      lodsb
        testb   %al, %al
        jz      next
        call    putc
        jmp     2b
next:   movb    $0x10, %ah
        int     $0x16
        movw    %ax, %bx
        movb    %bh, %al
        call    hex
        movb    %bl, %al
        call    hex
        movb    $'/', %al
        call    putc
        movb    $0x02, %ah
        int     $0x16
        call    hex
        movb    $' ', %al
        call    putc
        cmpb    $'q', %bl
        jne     next
        movb    $EXIT_GOOD, %al
        outb    %al, $PORT_DEBUG_EXIT
1:      cli
        hlt
        jmp     1b

hex:    pushw   %ax
        shrb    $4, %al
        call    digit
        popw    %ax
digit:  andb    $15, %al
        addb    $'0', %al
        cmpb    $'9', %al
        jbe     putc
        addb    $'a' - '9' - 1, %al
putc:   outb    %al, $PORT_DEBUG
        ret

text_ready:
        .asciz  "keys: "
        .org    510
        .word   0xAA55
        .org    65536 - 1
        .byte   0
