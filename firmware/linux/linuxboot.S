/* Option ROM that starts the Linux kernel of --kernel: fw_cfg has the kernel's parts and where each is to lie.
 *
 * fw_cfg's DMA puts each part into its place, also above 1 MiB.
 * Source: Linux Documentation/x86/boot.rst (registers at the setup code's entry). */
#define STACK 0x7000
#define ACCESS 0x7010
#include "rom.h"
        .code16
        .text

#define SETUP_SEG 0x1000
#define SETUP_STACK 0xE000

        ROM_HEADER 1

name:   .asciz  "Linux loader"
/* Keys of where a part lies, of its size, of its bytes. */
parts:  .word   0x16, 0x17, 0x18        /* setup */
        .word   0x13, 0x14, 0x15        /* command line */
        .word   0x07, 0x08, 0x11        /* kernel */
        .word   0x0A, 0x0B, 0x12        /* initial RAM disk */
end_of_parts:

boot:   cli
        cld
        xorw    %ax, %ax
        movw    %ax, %ss
        movw    $STACK, %sp
        movw    $parts, %si
1:      call    load
        cmpw    $end_of_parts, %si
        jb      1b
        movw    $SETUP_SEG, %ax
        movw    %ax, %ds
        movw    %ax, %es
        movw    %ax, %fs
        movw    %ax, %gs
        movw    %ax, %ss
        movw    $SETUP_STACK, %sp
        ljmp    $SETUP_SEG + 0x20, $0

        FETCHING

        .org    512
