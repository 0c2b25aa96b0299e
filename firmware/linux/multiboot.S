/* Option ROM that starts the multiboot kernel of --kernel: fw_cfg has it, its modules and the information structure.
 *
 * What only the firmware knows of memory is filled in here; then the kernel is put into its place and entered.  It may lie
 * where firmware puts option ROMs and boot sectors, so that all of this moves below 4000h first.
 * Sources: Multiboot Specification 0.6.96, 3.2 (machine state) and 3.3 (information); ACPI Specification 6.5, 15.1 (INT 15h,
 * E820h); PC/AT Technical Reference (port 92h, INT 12h). */
#define ACCESS 0xA00
#include "rom.h"
        .code16
        .text

#define SIZE 1024
#define RUN_SEG 0x60
#define STACK 0x3000            /* above it: the map and the structure */
#define MAGIC 0x2BADB002
#define SMAP 0x534D4150
#define FAST_A20 0x92
#define PE_ET 0x11
#define CODE32 0x08
#define DATA32 0x10
#define RAM 1
#define RAM_BEGIN 0x100000

/* The information structure, */
#define MEM_LOWER 4
#define MEM_UPPER 8
#define MMAP_LENGTH 44
#define MMAP_ADDR 48
/* and an entry of its memory map: what its size says begins behind it. */
#define ENTRY_SIZE 0
#define ENTRY_BASE 4
#define ENTRY_LENGTH 12
#define ENTRY_TYPE 20
#define E820_SIZE 20

        ROM_HEADER SIZE / 512

name:   .asciz  "Multiboot loader"
/* Keys of where a part lies, of its size, of its bytes. */
info:   .word   0x0A, 0x0B, 0x12
kernel: .word   0x07, 0x08, 0x11
entry:  .word   0x10

        .align  8
gdt:    .quad   0, 0x00CF9B000000FFFF, 0x00CF93000000FFFF
end_of_gdt:

boot:   cli
        cld
        movw    %cs, %ax
        movw    %ax, %ds
        movw    $RUN_SEG, %ax
        movw    %ax, %es
        xorw    %si, %si
        xorw    %di, %di
        movw    $SIZE, %cx
        rep movsb
        ljmp    $RUN_SEG, $moved
moved:  xorw    %ax, %ax
        movw    %ax, %ss
        movw    $STACK, %sp
        movw    %ax, %ds
        movw    %ax, %es
        movw    $info, %si
        call    load
        movw    $info, %si
        call    number
        movl    %eax, %ebp              /* the structure, in the first 64 KiB */
        int     $0x12
        movzwl  %ax, %eax
        movl    %eax, MEM_LOWER(%bp)

        movw    MMAP_ADDR(%bp), %di     /* the map ends before the structure begins */
        xorl    %ebx, %ebx
1:      leaw    4 + E820_SIZE(%di), %ax
        cmpw    %bp, %ax
        ja      2f
        movl    $0xE820, %eax
        movl    $SMAP, %edx
        movl    $E820_SIZE, %ecx
        addw    $ENTRY_BASE, %di
        pushl   %ebp
        int     $0x15
        popl    %ebp
        leaw    -ENTRY_BASE(%di), %di
        jc      2f
        movl    $E820_SIZE, ENTRY_SIZE(%di)
        addw    $4 + E820_SIZE, %di
        testl   %ebx, %ebx
        jnz     1b
2:      subw    MMAP_ADDR(%bp), %di
        movzwl  %di, %edi
        movl    %edi, MMAP_LENGTH(%bp)

/* RAM from 1 MiB to the first hole, up to EDX; entries may come in any order. */
        addw    MMAP_ADDR(%bp), %di     /* the map's end */
        movl    $RAM_BEGIN, %edx
3:      movw    MMAP_ADDR(%bp), %si
4:      cmpw    %di, %si
        jae     6f
        cmpl    $RAM, ENTRY_TYPE(%si)
        jne     5f
        cmpl    $0, ENTRY_BASE + 4(%si)
        jne     5f
        movl    ENTRY_BASE(%si), %eax
        cmpl    %edx, %eax
        ja      5f
        addl    ENTRY_LENGTH(%si), %eax
        cmpl    %edx, %eax
        jbe     5f
        movl    %eax, %edx
        jmp     3b
5:      addw    $4 + E820_SIZE, %si
        jmp     4b
6:      subl    $RAM_BEGIN, %edx
        shrl    $10, %edx
        movl    %edx, MEM_UPPER(%bp)

        inb     $FAST_A20, %al
        orb     $0x02, %al
        andb    $0xFE, %al              /* bit 0 would reset */
        outb    %al, $FAST_A20
        pushl   %ebp
        movw    $kernel, %si
        call    load
        popl    %ebx
        movw    $entry, %si
        call    number
        movl    %eax, %edi
        xorl    %ecx, %ecx
        movw    %cs, %cx
        shll    $4, %ecx
        leal    gdt(%ecx), %eax
        movw    $end_of_gdt - gdt - 1, ACCESS
        movl    %eax, ACCESS + 2
        lgdtl   ACCESS
        leal    protected(%ecx), %edx
        movl    $PE_ET, %eax
        movl    %eax, %cr0
        pushl   $CODE32
        pushl   %edx
        lretl

        FETCHING

        .code32
protected:
        movl    $DATA32, %eax
        movl    %eax, %ds
        movl    %eax, %es
        movl    %eax, %fs
        movl    %eax, %gs
        movl    %eax, %ss
        movl    $MAGIC, %eax
        jmp     *%edi

        .org    SIZE
