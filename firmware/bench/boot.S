/* From the reset vector to C: 16-bit start, 32-bit flat mode, payload to RAM.
 *
 * Intel SDM volume 3, section 9.9.1 (switching to protected mode). The GDT
 * stays in the ROM, so its descriptors are marked accessed beforehand: the
 * CPU then has nothing to write there.
 */
    .intel_syntax noprefix

    .section .reset, "ax"
    .code16
    .globl reset_vector
reset_vector:
    ljmp    0xF000, 0xFC00              /* start16; image.ld checks */

    .section .header, "a"
    .ascii  "JVMBENCH"
    .globl  iterations
iterations:
    .long   BENCH_ITERATIONS
    .long   0, 0, 0
    .globl  bench_name
bench_name:
    .asciz  BENCH_NAME
    .balign 8, 0

    .section .boot, "ax"
    .code16
    .globl start16
start16:
    cli
    cld
    lgdt    cs:[gdt_pointer - start16 + 0xFC00]
    in      al, 0x92                    /* A20 on; bit 0 would reset the CPU */
    or      al, 2
    and     al, 0xFE
    out     0x92, al
    mov     eax, cr0
    or      eax, 1
    mov     cr0, eax
    data32 ljmp 0x08, offset start32

    .code32
start32:
    mov     eax, 0x10
    mov     ds, eax
    mov     es, eax
    mov     fs, eax
    mov     gs, eax
    mov     ss, eax
    mov     esp, offset stack_top
    mov     esi, 0xF0000
    mov     edi, offset payload_start
    mov     ecx, offset payload_dwords
    rep movsd
    xor     eax, eax
    mov     edi, offset bss_start
    mov     ecx, offset bss_dwords
    rep stosd
    mov     eax, offset main
    call    eax
halt:
    cli
    hlt
    jmp     halt

    .balign 8
    .globl gdt_pointer
gdt:
    .quad   0
    .quad   0x00CF9B000000FFFF          /* 0x08 code, 32 bits, flat */
    .quad   0x00CF93000000FFFF          /* 0x10 data, flat */
    .quad   0x00009B010000FFFF          /* 0x18 code, 16 bits, base 0x10000 */
    .quad   0x000093010000FFFF          /* 0x20 data, 64 KiB, base 0x10000 */
gdt_pointer:
    .word   gdt_pointer - gdt - 1
    .long   gdt
