/* Routines of the ROM guests, which start at guest_main with flat low RAM: DS = ES = SS = 0,
 * SP = 7C00, interrupts off. */

#include "guest.h"

        .code16
        .section .reset, "ax"
        .globl  reset_vector
reset_vector:
        ljmp    $ROM_SEG, $start

        .text
start:
        cli
        cld
        xorw    %ax, %ax
        movw    %ax, %ds
        movw    %ax, %es
        movw    %ax, %ss
        movw    $0x7C00, %sp
        movw    $COM1_LCR, %dx          /* COM1: 115200 8N1, FIFO off */
        movb    $0x83, %al
        outb    %al, %dx
        movw    $PORT_COM1, %dx
        movb    $1, %al
        outb    %al, %dx
        movw    $COM1_IER, %dx
        movb    $0, %al
        outb    %al, %dx
        movw    $COM1_LCR, %dx
        movb    $3, %al
        outb    %al, %dx
        movw    $COM1_MCR, %dx
        outb    %al, %dx
        jmp     guest_main

/* Print the string at CS:SI on the debug port and COM1. Keeps all registers but SI and AX. */
        .globl  puts
puts:
        lodsb   %cs:(%si), %al
        testb   %al, %al
        jz      1f
        call    putc
        jmp     puts
1:      ret

/* Print AL. */
        .globl  putc
putc:
        pushw   %dx
        outb    %al, $PORT_DEBUG
        movb    %al, %ah
        movw    $COM1_LSR, %dx
1:      inb     %dx, %al
        testb   $0x20, %al
        jz      1b
        movb    %ah, %al
        movw    $PORT_COM1, %dx
        outb    %al, %dx
        popw    %dx
        ret

/* Leave with code AL: when COM1 has sent all, through isa-debug-exit; without it, halt. */
        .globl  leave
leave:
        movb    %al, %ah
        movw    $COM1_LSR, %dx
1:      inb     %dx, %al
        testb   $0x40, %al
        jz      1b
        movb    %ah, %al
        outb    %al, $PORT_DEBUG_EXIT
2:      cli
        hlt
        jmp     2b

/* Interrupt controllers: vectors 08 and 70, all lines masked; and, on a CPU with a local APIC,
 * its LINT0, which is masked after reset, opened for the 8259A (Intel SDM volume 3, 11.5.1).
 * The APIC is reached from big real mode: DS gets a 4 GiB limit in protected mode. */
        .globl  irq_setup
irq_setup:
        movb    $0x11, %al
        outb    %al, $PORT_PIC1
        outb    %al, $PORT_PIC2
        movb    $0x08, %al
        outb    %al, $PORT_PIC1 + 1
        movb    $0x70, %al
        outb    %al, $PORT_PIC2 + 1
        movb    $0x04, %al
        outb    %al, $PORT_PIC1 + 1
        movb    $0x02, %al
        outb    %al, $PORT_PIC2 + 1
        movb    $0x01, %al
        outb    %al, $PORT_PIC1 + 1
        outb    %al, $PORT_PIC2 + 1
        movb    $0xFF, %al
        outb    %al, $PORT_PIC1 + 1
        outb    %al, $PORT_PIC2 + 1
        movl    $1, %eax
        cpuid
        testl   $0x200, %edx            /* APIC */
        jz      1f
        lgdtl   %cs:gdt_pointer
        movl    %cr0, %eax
        orb     $1, %al
        movl    %eax, %cr0
        movw    $8, %bx
        movw    %bx, %ds
        andb    $0xFE, %al
        movl    %eax, %cr0
        xorw    %bx, %bx
        movw    %bx, %ds
        movl    $0xFEE00000, %ebx
        movl    $0x1FF, 0xF0(%ebx)      /* enabled, spurious vector FF */
        movl    $0x700, 0x350(%ebx)     /* LINT0: external interrupts */
1:      ret

        .section .rodata
        .balign 8
gdt:    .quad   0
        .quad   0x00CF92000000FFFF      /* flat data */
gdt_pointer:
        .word   15
        .long   (ROM_SEG << 4) + gdt
