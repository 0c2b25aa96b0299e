/* Proves: reset vector, far jump into the ROM below 1 MiB, port output to the debug port and
 * COM1, and the end by isa-debug-exit with 0 (QEMU's status 1). */
#include "guest.h"
        .code16
        .globl  guest_main
guest_main:
        PUTS    text
        LEAVE   0
        .section .rodata
text:   .asciz  "hello from the ROM\r\n"
