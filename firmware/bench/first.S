/* first: the smallest guest; its 'S' is among its first instructions.
 *
 * Linked without boot.S: it never leaves 16-bit real mode. From the start of
 * the process to the 'S' is the emulator's start-up time.
 */
    .intel_syntax noprefix
    .section .reset, "ax"
    .code16
    .globl reset_vector
reset_vector:
    ljmp    0xF000, 0xFC00              /* start16; image.ld checks */

    .section .header, "a"
    .ascii  "JVMBENCH"
    .long   BENCH_ITERATIONS, 0, 0, 0
    .asciz  BENCH_NAME
    .balign 8, 0

    .section .boot, "ax"
    .globl start16
start16:
    mov     al, 'S'
    out     0xE9, al
    cld
    mov     si, offset (message - start16 + 0xFC00)
1:  lods    al, cs:[si]
    test    al, al
    jz      2f
    out     0xE9, al
    jmp     1b
2:  mov     al, 0
    out     0xF4, al
    mov     si, offset (shutdown - start16 + 0xFC00)
    mov     dx, 0x8900
3:  lods    al, cs:[si]
    out     dx, al
    test    al, al
    jnz     3b
4:  cli
    hlt
    jmp     4b
message:
    .asciz  "E00000000\n"
shutdown:
    .asciz  "Shutdown"
