/* What the small guests share: ports, the ROM's segment, and how they print and leave. */
#ifndef GUEST_H
#define GUEST_H

#define PORT_PIC1 0x20
#define PORT_PIC2 0xA0
#define PORT_PIT0 0x40
#define PORT_PIT_CONTROL 0x43
#define PORT_CMOS_INDEX 0x70
#define PORT_CMOS_DATA 0x71
#define PORT_POST 0x80
#define PORT_DEBUG 0xE9
#define PORT_DEBUG_EXIT 0xF4
#define PORT_COM1 0x3F8
#define COM1_IER 0x3F9
#define COM1_FCR 0x3FA
#define COM1_LCR 0x3FB
#define COM1_MCR 0x3FC
#define COM1_LSR 0x3FD

#define ROM_SEG 0xF000

        /* Print a string of this image, by its offset from CS. */
        .macro  PUTS text
        movw    $\text, %si
        call    puts
        .endm

        /* Leave through isa-debug-exit: the status of QEMU is code * 2 + 1. */
        .macro  LEAVE code
        movb    $\code, %al
        jmp     leave
        .endm

#endif
