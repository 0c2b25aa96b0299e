/* Proves: HLT waits for an interrupt, STI delays it by one instruction, and the 8254 makes IRQ 0
 * through the 8259A five times at 1 kHz, each waking the CPU once. Leaves with 0. */
#include "guest.h"
#define TICKS 0x500                     /* counter in RAM */
        .code16
        .globl  guest_main
guest_main:
        call    irq_setup
        movw    $tick, 4 * 8
        movw    $ROM_SEG, 4 * 8 + 2
        movw    $0, TICKS
        movb    $0x34, %al              /* channel 0, mode 2, 1193 counts */
        outb    %al, $PORT_PIT_CONTROL
        movb    $1193 & 0xFF, %al
        outb    %al, $PORT_PIT0
        movb    $1193 >> 8, %al
        outb    %al, $PORT_PIT0
        movb    $0xFE, %al
        outb    %al, $PORT_PIC1 + 1
        movw    $5, %cx
1:      movw    TICKS, %bx
        sti
        hlt
        movw    TICKS, %ax
        subw    %bx, %ax
        cmpw    $1, %ax
        jne     bad
        PUTS    dot
        loop    1b
        PUTS    good
        LEAVE   0
bad:    PUTS    wrong
        LEAVE   1
tick:   incw    TICKS                   /* returns with interrupts off: one tick per STI, HLT */
        pushw   %ax
        pushw   %bp
        movw    %sp, %bp
        andw    $~0x200, 8(%bp)
        popw    %bp
        movb    $0x20, %al
        outb    %al, $PORT_PIC1
        popw    %ax
        iretw
        .section .rodata
dot:    .asciz  "tick "
good:   .asciz  "halt-with-timer ok\r\n"
wrong:  .asciz  "halt-with-timer: not one tick per halt\r\n"
