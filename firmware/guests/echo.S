/* Proves: interrupt-driven serial input. What comes in on COM1 goes out again, by IRQ 4, until
 * a 'q' comes; then it leaves with 0. The CPU halts between characters. */
#include "guest.h"
#define LAST 0x500                      /* last character, in RAM */
        .code16
        .globl  guest_main
guest_main:
        call    irq_setup
        movw    $serial, 4 * (8 + 4)
        movw    $ROM_SEG, 4 * (8 + 4) + 2
        movw    $0, LAST
        PUTS    ready
        movw    $COM1_MCR, %dx          /* DTR, RTS, OUT2: interrupts reach the 8259A */
        movb    $0x0B, %al
        outb    %al, %dx
        movw    $COM1_IER, %dx          /* received data */
        movb    $1, %al
        outb    %al, %dx
        movb    $0xEF, %al
        outb    %al, $PORT_PIC1 + 1
1:      cli
        cmpb    $'q', LAST
        je      2f
        sti
        hlt
        jmp     1b
2:      PUTS    bye
        LEAVE   0

serial: pushw   %ax
        pushw   %dx
1:      movw    $COM1_LSR, %dx
        inb     %dx, %al
        testb   $1, %al
        jz      2f
        movw    $PORT_COM1, %dx
        inb     %dx, %al
        movb    %al, LAST
        call    putc
        jmp     1b
2:      movb    $0x20, %al
        outb    %al, $PORT_PIC1
        popw    %dx
        popw    %ax
        iretw
        .section .rodata
ready:  .asciz  "echo: q ends\r\n"
bye:    .asciz  "\r\nbye\r\n"
