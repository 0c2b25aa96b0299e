/* Proves: INT 13h AH=42 across and beyond block 2^28, where LBA28 ends, on a disk of more than
 * 128 GiB. Prints the first eight characters of the blocks 2^28 - 1 and 2^28, read at once, and
 * of the disk's last block; leaves with 31h, or with 32h when a read fails. */
#include "sector.h"
#define BUFFER 0x8000
        BOOT_SECTOR
        movb    %dl, drive
        call    read
        movw    $BUFFER, %si
        call    print8
        movw    $BUFFER + 512, %si
        call    print8

        movb    $0x48, %ah
        movb    drive, %dl
        movw    $0x600, %si
        movw    $0x1A, (%si)
        int     $0x13
        jc      bad
        movl    0x610, %eax
        movl    0x614, %edx
        subl    $1, %eax
        sbbl    $0, %edx
        movl    %eax, packet + 8
        movl    %edx, packet + 12
        movw    $1, packet + 2
        call    read
        movw    $BUFFER, %si
        call    print8
        movb    $EXIT_GOOD, %al
leave:  outb    %al, $PORT_DEBUG_EXIT
1:      cli
        hlt
        jmp     1b
bad:    movb    $EXIT_BAD, %al
        jmp     leave

read:   movb    $0x42, %ah
        movb    drive, %dl
        movw    $packet, %si
        int     $0x13
        jc      bad
        ret

print8: movw    $8, %cx
1:      lodsb
        outb    %al, $PORT_DEBUG
        loop    1b
        movb    $'\n', %al
        outb    %al, $PORT_DEBUG
        ret

drive:  .byte   0
        .balign 4
packet: .byte   16, 0
        .word   2, BUFFER, 0
        .quad   0x0FFFFFFF
        .org    510
        .word   0xAA55
        .org    65536 - 1
        .byte   0
