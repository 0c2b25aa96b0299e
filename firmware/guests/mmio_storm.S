/* Proves: memory-mapped accesses of every shape reach the device once, in order. The device is
 * the VGA in a planar mode, whose reads load latches and whose writes depend on them: a lost,
 * doubled or reordered access changes what is read back. Leaves with 0. */
#include "guest.h"
#define VGA_SEG 0xA000
        .code16

        /* Set register \index of the VGA block at \port to \value. */
        .macro  VGA port, index, value
        movw    $\port, %dx
        movw    $((\value) << 8) | (\index), %ax
        outw    %ax, %dx
        .endm
#define SEQUENCER 0x3C4
#define GRAPHICS 0x3CE

        .globl  guest_main
guest_main:
        movw    $0x3C2, %dx             /* memory on */
        movb    $0x63, %al
        outb    %al, %dx
        VGA     SEQUENCER, 0, 3
        VGA     SEQUENCER, 2, 0x0F      /* all planes */
        VGA     SEQUENCER, 4, 0x06      /* planar */
        VGA     GRAPHICS, 0, 0
        VGA     GRAPHICS, 1, 0
        VGA     GRAPHICS, 3, 0
        VGA     GRAPHICS, 4, 2          /* read plane 2 */
        VGA     GRAPHICS, 5, 0          /* write mode 0 */
        VGA     GRAPHICS, 6, 0x05       /* A0000, 64 KiB */
        VGA     GRAPHICS, 8, 0xFF
        movw    $VGA_SEG, %ax
        movw    %ax, %ds
        movw    %ax, %es

        xorw    %di, %di                /* 256 bytes, by single stores */
        movw    $256, %cx
1:      movb    %cl, (%di)
        incw    %di
        loop    1b

        VGA     GRAPHICS, 5, 1          /* write mode 1: MOVSB copies four planes by the latches */
        xorw    %si, %si
        movw    $0x1000, %di
        movw    $256, %cx
        rep movsb
        VGA     GRAPHICS, 5, 0
        VGA     GRAPHICS, 4, 3          /* plane 3 of the copy */
        xorw    %si, %si
        movw    $0x1000, %di
        movw    $256, %cx
        repe cmpsb
        jne     bad

        movb    $7, 0x2000              /* read-modify-write */
        movw    $1000, %cx
1:      incb    0x2000
        loop    1b
        cmpb    $(7 + 1000) & 0xFF, 0x2000
        jne     bad
        movb    $0x55, %al
        xchgb   %al, 0x2000
        cmpb    $(7 + 1000) & 0xFF, %al
        jne     bad

        movw    $0x1234, 0x2100         /* words, stack to and from the device */
        pushw   0x2100
        popw    %ax
        cmpw    $0x1234, %ax
        jne     bad
        pushw   $0x4321
        popw    0x2101
        movl    0x2100, %eax
        andl    $0x00FFFFFF, %eax
        cmpl    $0x00432134, %eax
        jne     bad

        VGA     GRAPHICS, 3, 0x18       /* XOR with the latches: read, then write */
        movb    $0xF0, 0x2200
        VGA     GRAPHICS, 3, 0
        movb    $0x3C, 0x2200
        VGA     GRAPHICS, 3, 0x18
        movb    0x2200, %al
        movb    $0xFF, 0x2200
        VGA     GRAPHICS, 3, 0
        cmpb    $0xC3, 0x2200
        jne     bad

        xorw    %bx, %bx                /* a storm: 10,000 stores and loads */
        movw    $10000, %cx
1:      movw    %cx, 0x3000(%bx)
        movw    0x3000(%bx), %ax
        cmpw    %cx, %ax
        jne     bad
        addw    $2, %bx
        andw    $0x0FFF, %bx
        loop    1b
        PUTS    good
        LEAVE   0
bad:    PUTS    wrong
        LEAVE   1
        .section .rodata
good:   .asciz  "mmio storm ok\r\n"
wrong:  .asciz  "mmio storm: accesses lost, doubled or reordered\r\n"
