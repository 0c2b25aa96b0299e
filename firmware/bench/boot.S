/* From the reset vector to C: 16-bit start, 32-bit flat mode, payload to RAM; for a guest that is
 * compiled for 64 bits (__x86_64__) long mode too, the first GiB mapped to itself by 2 MiB pages.
 *
 * Intel SDM volume 3, sections 9.9.1 (switching to protected mode) and 9.8.5 (initialising IA-32e
 * mode). The GDT stays in the ROM, so its descriptors are marked accessed beforehand: the CPU then
 * has nothing to write there.
 */
#define PML4 0x9000                     /* the page tables lie below the payload */
#define PDPT 0xA000
#define PD 0xB000
#define PRESENT_WRITABLE 3
#define LARGE_PAGE 0x80

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
#ifdef __x86_64__
    mov     edi, PML4
    mov     ecx, 3 * 1024
    rep stosd
    mov     dword ptr [PML4], PDPT + PRESENT_WRITABLE
    mov     dword ptr [PDPT], PD + PRESENT_WRITABLE
    mov     eax, LARGE_PAGE + PRESENT_WRITABLE
    mov     edi, PD
1:  mov     [edi], eax
    add     eax, 0x200000
    add     edi, 8
    cmp     edi, PD + 0x1000
    jb      1b
    mov     eax, cr4
    or      eax, 1 << 5                 /* PAE */
    mov     cr4, eax
    mov     eax, PML4
    mov     cr3, eax
    mov     ecx, 0xC0000080             /* IA32_EFER */
    rdmsr
    or      eax, 1 << 8                 /* LME */
    wrmsr
    mov     eax, cr0
    or      eax, 1 << 31                /* PG */
    mov     cr0, eax
    ljmp    0x28, offset start64

    .code64
start64:
#endif
    mov     eax, offset main
#ifdef __x86_64__
    call    rax
#else
    call    eax
#endif
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
#ifdef __x86_64__
    .quad   0x00AF9B000000FFFF          /* 0x28 code, 64 bits */
#endif
gdt_pointer:
    .word   gdt_pointer - gdt - 1
    .long   gdt
