/* vga_text: words written to and read from the VGA's text memory at B8000h.
 *
 * In text modes planes 0 and 1 lie interleaved behind the window (odd/even addressing), so that it
 * is memory like any other to the program.
 *
 * Two accesses and nine instructions an iteration, over 4096 bytes.
 */
    .intel_syntax noprefix
#include "vga.h"
    .text
    vga_prepare misc=0x67               /* colour ports, memory enabled */

    .globl bench
bench:
    push    ebx
    mov     ecx, [esp + 8]
    mov     edx, 0xB8000
    xor     ebx, ebx
1:  mov     [edx], cx
    movzx   eax, word ptr [edx]
    lea     ebx, [ebx + ebx*2]
    add     ebx, eax
    add     edx, 2
    and     edx, 0xB8FFF
    or      edx, 0xB8000
    dec     ecx
    jnz     1b
    mov     eax, ebx
    pop     ebx
    ret

    .section .rodata
sequencer:
    .byte   0, 3, 1, 0, 2, 3, 4, 2, 0xFF, 0xFF
graphics:
    .byte   0, 0, 1, 0, 3, 0, 4, 0, 5, 0x10, 6, 0x0E, 7, 0, 8, 0xFF, 0xFF, 0xFF
