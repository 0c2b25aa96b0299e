/* Proves: INT 13h writes. The boot sector writes a sector by AH=03 and one by AH=43, verifies
 * both by AH=04 and AH=44, reads each by the other way and compares. Leaves with 31h; a failed
 * step prints its letter and leaves with 32h. Changes blocks 40 and 41 of its disk, and writes
 * block 40 (cylinder 0, head 0, sector 41) as 512 bytes of 57h. */
#include "sector.h"
#define OUT_BUFFER 0x8000
#define IN_BUFFER 0x9000
        BOOT_SECTOR
        movb    %dl, drive
        movw    $OUT_BUFFER, %di
        movw    $256, %cx
        movw    $0x5757, %ax
        rep stosw

        movw    $0x0301, %ax            /* block 40 by AH=03 */
        call    chs
        movb    $'W', %al
        jc      bad
        movw    $0x0401, %ax
        call    chs
        movb    $'V', %al
        jc      bad
        movw    $0x4200, %ax
        movb    $40, packet + 8
        movw    $IN_BUFFER, packet + 4
        call    extended
        movb    $'R', %al
        jc      bad
        call    compare
        movb    $'D', %al
        jne     bad

        movw    $OUT_BUFFER, %di        /* block 41 by AH=43 */
        movw    $256, %cx
        movw    $0x3838, %ax
        rep stosw
        movb    $41, packet + 8
        movw    $OUT_BUFFER, packet + 4
        movw    $0x4300, %ax
        call    extended
        movb    $'w', %al
        jc      bad
        movw    $0x4400, %ax
        call    extended
        movb    $'v', %al
        jc      bad
        movw    $0x0201, %ax
        movw    $0x002A, %cx
        movw    $IN_BUFFER, %bx
        call    chs_at
        movb    $'r', %al
        jc      bad
        call    compare
        movb    $'d', %al
        jne     bad
        movw    $text_done, %si
        call    puts
        movb    $EXIT_GOOD, %al
        jmp     leave

bad:    movb    %al, text_bad + 5
        movw    $text_bad, %si
        call    puts
        movb    $EXIT_BAD, %al
leave:  outb    %al, $PORT_DEBUG_EXIT
1:      cli
        hlt
        jmp     1b

chs:    movw    $0x0029, %cx
        movw    $OUT_BUFFER, %bx
chs_at: movb    $0, %dh
        movb    drive, %dl
        int     $0x13
        ret

extended:
        movw    $1, packet + 2
        movb    drive, %dl
        movw    $packet, %si
        int     $0x13
        ret

compare:
        movw    $OUT_BUFFER, %si
        movw    $IN_BUFFER, %di
        movw    $256, %cx
        repe cmpsw
        ret

puts:   lodsb
        testb   %al, %al
        jz      1f
        outb    %al, $PORT_DEBUG
        movw    $PORT_COM1, %dx
        outb    %al, %dx
        movb    $0x0E, %ah
        movw    $7, %bx
        int     $0x10
        jmp     puts
1:      ret

drive:  .byte   0
        .balign 4
packet: .byte   16, 0
        .word   1, IN_BUFFER, 0
        .quad   40
text_done:
        .asciz  "disk writes ok\r\n"
text_bad:
        .asciz  "step X failed\r\n"
        .org    510
        .word   0xAA55
        .org    65536 - 1
        .byte   0
