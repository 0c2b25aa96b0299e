/* Proves: 20,000 port accesses, single and string ones, that lose and double nothing: bytes
 * written to CMOS are read back, REP OUTSB prints a text, REP INSB reads one port 256 times.
 * Leaves with 0. */
#include "guest.h"
#define SCRATCH 0x6F
#define BUFFER 0x600
        .code16
        .globl  guest_main
guest_main:
        movb    $SCRATCH, %al
        outb    %al, $PORT_CMOS_INDEX
        inb     $PORT_CMOS_DATA, %al
        movb    %al, %bl                /* its old value */
        movw    $5000, %cx
1:      movb    $SCRATCH, %al
        outb    %al, $PORT_CMOS_INDEX
        movb    %cl, %al
        outb    %al, $PORT_CMOS_DATA
        movb    $SCRATCH, %al
        outb    %al, $PORT_CMOS_INDEX
        inb     $PORT_CMOS_DATA, %al
        cmpb    %cl, %al
        jne     bad
        loop    1b

        movb    $SCRATCH, %al           /* 5A, 256 times */
        outb    %al, $PORT_CMOS_INDEX
        movb    $0x5A, %al
        outb    %al, $PORT_CMOS_DATA
        movw    $BUFFER, %di
        movw    $PORT_CMOS_DATA, %dx
        movw    $256, %cx
        rep insb
        movw    $BUFFER, %di
        movw    $256, %cx
        movb    $0x5A, %al
        repe scasb
        jne     bad
        testw   %cx, %cx
        jnz     bad

        movb    $SCRATCH, %al
        outb    %al, $PORT_CMOS_INDEX
        movb    %bl, %al
        outb    %al, $PORT_CMOS_DATA
        movw    $string, %si
        movw    $string_end - string, %cx
        movw    $PORT_DEBUG, %dx
        rep outsb %cs:(%si), %dx
        cmpw    $string_end, %si
        jne     bad
        PUTS    good
        LEAVE   0
bad:    PUTS    wrong
        LEAVE   1
        .section .rodata
string: .ascii  "by rep outsb\r\n"
string_end:
good:   .asciz  "port storm ok\r\n"
wrong:  .asciz  "port storm: bytes lost or doubled\r\n"
