/* mmio_storm: byte writes and reads of VGA memory in planar mode.
 *
 * The VGA window at 0xA0000 is there on every PC board, and in planar mode
 * (sequencer memory mode 06h: neither chain-4 nor odd/even) every access goes
 * through the latches and masks, so that no emulator maps it as plain RAM.
 * All planes are written alike and plane 0 is read, so the checksum is that
 * of plain memory: what is measured is the way to the device and back.
 *
 * Two MMIO accesses and eight instructions an iteration.
 */
    .intel_syntax noprefix
#include "vga.h"
    .text
    vga_prepare misc=0x63               /* colour ports, memory enabled */

    .globl bench
bench:
    push    ebx
    mov     ecx, [esp + 8]
    mov     edx, 0xA0000
    xor     ebx, ebx
1:  mov     [edx], cl
    movzx   eax, byte ptr [edx]
    lea     ebx, [ebx + ebx*2]
    add     ebx, eax
    inc     edx
    and     edx, 0xA0FFF
    dec     ecx
    jnz     1b
    mov     eax, ebx
    pop     ebx
    ret

    .section .rodata
sequencer:
    .byte   0, 3, 1, 1, 2, 0x0F, 4, 6, 0xFF, 0xFF
graphics:
    .byte   0, 0, 1, 0, 3, 0, 4, 0, 5, 0, 6, 5, 7, 0, 8, 0xFF, 0xFF, 0xFF
