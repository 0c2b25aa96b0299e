/* Proves: an exception without a usable IDT ends in a triple fault that resets the machine (or
 * ends it, under --no-reboot), RAM and CMOS live on, CPU state does not. The first life leaves a
 * mark in CMOS byte 6F, the second finds it and leaves with 0. */
#include "guest.h"
#define SCRATCH 0x6F
#define MARK 0x3C
        .code16
        .globl  guest_main
guest_main:
        movb    $SCRATCH, %al
        outb    %al, $PORT_CMOS_INDEX
        inb     $PORT_CMOS_DATA, %al
        cmpb    $MARK, %al
        je      second
        movb    $SCRATCH, %al
        outb    %al, $PORT_CMOS_INDEX
        movb    $MARK, %al
        outb    %al, $PORT_CMOS_DATA
        PUTS    first_text
        lidtl   %cs:no_idt
        ud2
        PUTS    alive
        LEAVE   1
second: movb    $SCRATCH, %al
        outb    %al, $PORT_CMOS_INDEX
        movb    $0, %al
        outb    %al, $PORT_CMOS_DATA
        PUTS    second_text
        LEAVE   0
        .section .rodata
no_idt: .word   0
        .long   0
first_text:
        .asciz  "triple fault now\r\n"
second_text:
        .asciz  "reset by triple fault\r\n"
alive:  .asciz  "no triple fault\r\n"
