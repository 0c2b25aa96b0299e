/* Reset vector, and the way from the ROM at the top of 4 GiB into shadow RAM at F0000.
 *
 * The CPU starts at FFFFFFF0 with a CS base of FFFF0000; as long as CS is not loaded we read
 * the ROM through it, whatever lies at F0000. So: open F0000..FFFFF as RAM in the 440FX (PAM0),
 * copy the whole segment there, and only then jump to F000. From here on the BIOS keeps its
 * variables and stacks inside its own segment. */

#include "board.h"
#include "layout.h"

        .code16
        .section .reset, "ax"
        .globl reset_vector
reset_vector:
        jmp     reset_entry
        .org    5
        .ascii  "01/01/26"              /* release date, at F000:FFF5 as in an AT */
        .org    14
        .byte   0xFC, 0                 /* model: AT */

        .text
        .globl reset_entry
reset_entry:
        cli
        cld
        cmpb    $0, %cs:in_shadow       /* 0 in ROM, 1 in RAM */
        jne     reset_machine

        movl    $0x80000000 | (PCI_HOST << 8) | (PAM0 & 0xFC), %eax
        movw    $PORT_PCI_ADDRESS, %dx
        outl    %eax, %dx
        movw    $PORT_PCI_DATA + (PAM0 & 3), %dx
        inb     %dx, %al
        orb     $PAM_READ_WRITE << 4, %al
        outb    %al, %dx

        movw    $BIOS_SEG, %ax
        movw    %ax, %es
        xorw    %si, %si
        xorw    %di, %di
        movw    $0x4000, %cx
        rep movsl %cs:(%si), %es:(%di)
        ljmp    $BIOS_SEG, $in_segment

in_segment:
        movw    %ax, %ds
        movw    %ax, %ss
        movl    $stack_top, %esp
        movb    $1, in_shadow
        cmpb    $1, in_shadow
        jne     no_shadow
        calll   post
        /* post never returns */
no_shadow:
        movw    $no_shadow_text, %si
1:      movw    $PORT_COM1, %dx
        lodsb   %cs:(%si), %al
        outb    %al, %dx
        testb   %al, %al
        jnz     1b
2:      cli
        hlt
        jmp     2b

/* Somebody jumped to F000:FFF0 while the BIOS runs from RAM: its variables are used up, so a
 * real reset is needed. Also called from C. */
        .globl reset_machine
reset_machine:
        cli
        movw    $PORT_RESET_CONTROL, %dx
        movb    $0x02, %al
        outb    %al, %dx
        movb    $0x06, %al
        outb    %al, %dx
        movb    $0xFE, %al              /* then by the keyboard controller */
        outb    %al, $PORT_KBC
1:      hlt
        jmp     1b

        .section .rodata
no_shadow_text:
        .asciz  "jitvm BIOS: no shadow RAM at F0000\r\n"

        .data
        .globl in_shadow
in_shadow:
        .byte   0
