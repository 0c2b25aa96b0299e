/* Protected mode and back: u32 pm_call(function, argument) runs a 32-bit function below with
 * interrupts off, flat DS and ES, and CS and SS based at F0000, so that symbols of this image
 * mean the same in both modes. A fault that nobody expects ends the call; pm_call then returns
 * PM_FAULT | vector. Intel SDM volume 3, 9.9.
 *
 * A function gets the linear address of its argument in EAX (an offset in F000 made linear)
 * and returns EAX; it may change every register but ESP. */

#include "layout.h"
#include "pm.h"

        .code16
        .text
        .globl  pm_call
pm_call:
        pushfl
        cli
        pushl   %ebx
        pushl   %esi
        pushl   %edi
        pushl   %ebp
        movl    %eax, %ebx
        movl    %edx, %esi
        movl    %esp, pm_esp
        lgdtl   gdt_pointer
        movl    %cr0, %eax
        orb     $1, %al
        movl    %eax, %cr0
        ljmpl   $SEL_CODE32, $1f

        .code32
1:      movw    $SEL_FLAT32, %ax
        movw    %ax, %ds
        movw    %ax, %es
        movw    %ax, %fs
        movw    %ax, %gs
        movw    $SEL_STACK32, %ax
        movw    %ax, %ss
        lidtl   %cs:idt_pointer
        leal    BIOS_LINEAR(%esi), %eax
        cld
        calll   *%ebx

pm_leave:                               /* EAX is the result */
        movl    %eax, %ebx
        movl    %cr0, %eax
        andl    $0x7FFFFFFF, %eax       /* paging off; this code is mapped one to one */
        movl    %eax, %cr0
        ljmpl   $SEL_CODE16, $1f

        .code16
1:      movw    $SEL_DATA16, %ax        /* 64 KiB limits again */
        movw    %ax, %ds
        movw    %ax, %es
        movw    %ax, %fs
        movw    %ax, %gs
        movw    %ax, %ss
        movl    %cr0, %eax
        andb    $0xFE, %al
        movl    %eax, %cr0
        ljmp    $BIOS_SEG, $1f
1:      movw    $BIOS_SEG, %ax
        movw    %ax, %ds
        movw    %ax, %es
        movw    %ax, %ss
        movl    pm_esp, %esp
        lidtl   ivt_pointer
        movl    %ebx, %eax
        popl    %ebp
        popl    %edi
        popl    %esi
        popl    %ebx
        popfl
        retl

        .code32
/* Faults. Stubs of 16 bytes each make the frames alike: vector, error code, EIP, CS, EFLAGS.
 * Vectors with an error code: 8, 10 to 14, 17. */
        .balign 16
fault_stubs:
        .set    vector, 0
        .rept   32
        .balign 16
        .if     (vector == 8) || ((vector >= 10) && (vector <= 14)) || (vector == 17)
        .else
        pushl   $0
        .endif
        pushl   $vector
        jmp     fault
        .set    vector, vector + 1
        .endr

fault:
        pushl   %eax
        pushl   %ebx
        movl    8(%esp), %eax
        movl    %eax, %ss:pm_fault_vector
        movl    12(%esp), %ebx
        movl    %ebx, %ss:pm_fault_error
        incl    %ss:pm_fault_count
        cmpl    $14, %eax
        jne     1f
        movl    %cr2, %ebx
        movl    %ebx, %ss:pm_fault_cr2
        movl    %ss:pm_fixup_entry, %ebx
        testl   %ebx, %ebx
        jz      1f
        movl    %ss:pm_fixup_value, %eax  /* map the page and run the instruction again */
        movl    %eax, (%ebx)
        movl    %cr2, %ebx
        invlpg  (%ebx)
        movl    $0, %ss:pm_fixup_entry
        jmp     2f
1:      movl    %ss:pm_resume, %ebx     /* or go on where the test wants it */
        testl   %ebx, %ebx
        jz      3f
        movl    %ebx, 16(%esp)
        movl    $0, %ss:pm_resume
2:      popl    %ebx
        popl    %eax
        addl    $8, %esp
        iretl
3:      orl     $PM_FAULT, %eax         /* or give up: the stack is put right by pm_call */
        jmp     pm_leave

/* Copy: struct pm_copy { from, to, size }. */
        .globl  pm_copy
pm_copy:
        movl    0(%eax), %esi
        movl    4(%eax), %edi
        movl    8(%eax), %ecx
        movl    %ecx, %edx
        shrl    $2, %ecx
        rep movsl
        movl    %edx, %ecx
        andl    $3, %ecx
        rep movsb
        xorl    %eax, %eax
        retl

/* Exchange: struct pm_word { address, value }; the old value comes back in it. */
        .globl  pm_exchange
pm_exchange:
        movl    0(%eax), %ebx
        movl    4(%eax), %ecx
        xchgl   %ecx, (%ebx)
        movl    %ecx, 4(%eax)
        xorl    %eax, %eax
        retl

/* Write: struct pm_word { address, value }. */
        .globl  pm_write
pm_write:
        movl    0(%eax), %ebx
        movl    4(%eax), %ecx
        movl    %ecx, (%ebx)
        xorl    %eax, %eax
        retl

/* Self-test of segments: write through a segment based at 1 MiB, read flat; then loading a
 * selector beyond the GDT must be #GP(selector). Returns 0, or the step that failed. */
        .globl  pm_test_segments
pm_test_segments:
        movw    $SEL_HIGH, %ax
        movw    %ax, %fs
        movl    $0x100FFC, %ebx
        movl    (%ebx), %esi
        movl    $0x12345678, %fs:0xFFC
        movl    (%ebx), %ecx
        movl    %esi, (%ebx)
        movl    $1, %eax
        cmpl    $0x12345678, %ecx
        jne     1f
        movl    $pm_segments_fault, %ss:pm_resume
        movw    $SEL_BEYOND, %bx
        movw    %bx, %fs
        movl    $2, %eax
        jmp     1f
pm_segments_fault:
        movl    $3, %eax
        cmpl    $13, %ss:pm_fault_vector
        jne     1f
        movl    $4, %eax
        cmpl    $SEL_BEYOND, %ss:pm_fault_error
        jne     1f
        movl    $5, %eax                /* CR0 and CS as they must be */
        movl    %cr0, %ebx
        testb   $1, %bl
        jz      1f
        movw    %cs, %bx
        cmpw    $SEL_CODE32, %bx
        jne     1f
        xorl    %eax, %eax
1:      movl    $0, %ss:pm_resume
        movw    $SEL_FLAT32, %bx
        movw    %bx, %fs
        retl

/* Self-test of limits: a write whose last byte is beyond the segment must be #GP(0). Returns 0,
 * PM_NO_LIMITS when it was done, or the step that failed. */
        .globl  pm_test_limit
pm_test_limit:
        movw    $SEL_HIGH, %ax
        movw    %ax, %fs
        movl    0x100FFD, %esi
        movl    $pm_limit_fault, %ss:pm_resume
        movl    %esi, %fs:0xFFD
        movl    $PM_NO_LIMITS, %eax
        jmp     1f
pm_limit_fault:
        movl    $1, %eax
        cmpl    $13, %ss:pm_fault_vector
        jne     1f
        movl    $2, %eax
        cmpl    $0, %ss:pm_fault_error
        jne     1f
        xorl    %eax, %eax
1:      movl    $0, %ss:pm_resume
        movw    $SEL_FLAT32, %bx
        movw    %bx, %fs
        retl

/* Self-test of paging, tables at SCRATCH_LINEAR: directory, table of the first 4 MiB (one to
 * one), table of the second (page 0 is PAGE_A, page 1 is absent until the fault handler maps
 * it to PAGE_B). Returns 0, or the step that failed. */
#define DIRECTORY (SCRATCH_LINEAR)
#define TABLE0 (SCRATCH_LINEAR + 0x1000)
#define TABLE1 (SCRATCH_LINEAR + 0x2000)
#define PAGE_A (SCRATCH_LINEAR + 0x3000)
#define PAGE_B (SCRATCH_LINEAR + 0x4000)
#define WINDOW 0x400000
        .globl  pm_test_paging
pm_test_paging:
        movl    $DIRECTORY, %edi
        xorl    %eax, %eax
        movl    $0x5000 / 4, %ecx
        rep stosl
        movl    $TABLE0 + 3, DIRECTORY
        movl    $TABLE1 + 3, DIRECTORY + 4
        movl    $TABLE0, %edi
        movl    $3, %eax
1:      movl    %eax, (%edi)
        addl    $4, %edi
        addl    $0x1000, %eax
        cmpl    $0x400003, %eax
        jb      1b
        movl    $PAGE_A + 3, TABLE1
        movl    $0x0A0B0C0D, PAGE_A + 16
        movl    $DIRECTORY, %eax
        movl    %eax, %cr3
        movl    %cr0, %eax
        orl     $0x80000000, %eax
        movl    %eax, %cr0
        jmp     1f
1:      movl    $1, %eax                /* the window shows PAGE_A */
        cmpl    $0x0A0B0C0D, WINDOW + 16
        jne     9f
        movl    $2, %eax                /* accessed, not dirty */
        movl    TABLE1, %ebx
        andl    $0x60, %ebx
        cmpl    $0x20, %ebx
        jne     9f
        movl    $TABLE1 + 4, %ss:pm_fixup_entry
        movl    $PAGE_B + 3, %ss:pm_fixup_value
        movl    $0, %ss:pm_fault_count
        movl    $0x51525354, WINDOW + 0x1008  /* faults, is mapped, runs again */
        movl    $3, %eax
        cmpl    $1, %ss:pm_fault_count
        jne     9f
        movl    $4, %eax
        cmpl    $WINDOW + 0x1008, %ss:pm_fault_cr2
        jne     9f
        movl    $5, %eax                /* error code: write, page not present, supervisor */
        cmpl    $2, %ss:pm_fault_error
        jne     9f
        movl    $6, %eax
        cmpl    $0x51525354, PAGE_B + 8
        jne     9f
        movl    $7, %eax                /* accessed and dirty */
        movl    TABLE1 + 4, %ebx
        andl    $0x60, %ebx
        cmpl    $0x60, %ebx
        jne     9f
        movl    $pm_paging_fault, %ss:pm_resume
        movl    WINDOW + 0x2000, %ebx   /* a read of an absent page */
        movl    $8, %eax
        jmp     9f
pm_paging_fault:
        movl    $9, %eax
        cmpl    $0, %ss:pm_fault_error
        jne     9f
        movl    $10, %eax
        cmpl    $WINDOW + 0x2000, %ss:pm_fault_cr2
        jne     9f
        movl    %cr0, %ebx
        andl    $0x7FFFFFFF, %ebx
        movl    %ebx, %cr0
        jmp     1f
1:      movl    $11, %eax               /* paging off: the window is gone, PAGE_A is not */
        cmpl    $0x0A0B0C0D, PAGE_A + 16
        jne     9f
        xorl    %eax, %eax
9:      movl    $0, %ss:pm_resume
        movl    $0, %ss:pm_fixup_entry
        retl

        .section .rodata
        .balign 8
gdt:    .quad   0
        .quad   0x00CF9A0F0000FFFF      /* SEL_CODE32 */
        .quad   0x00CF92000000FFFF      /* SEL_FLAT32 */
        .quad   0x0040920F0000FFFF      /* SEL_STACK32 */
        .quad   0x00009A0F0000FFFF      /* SEL_CODE16 */
        .quad   0x0000920F0000FFFF      /* SEL_DATA16 */
        .quad   0x0040921000000FFF      /* SEL_HIGH */
        .quad   0x008F92000000FFFF      /* SEL_BIG16 */
gdt_end:
        .globl  gdt_pointer
gdt_pointer:
        .word   gdt_end - gdt - 1
        .long   BIOS_LINEAR + gdt
        .balign 8
idt:
        .set    vector, 0
        .rept   32
        .word   fault_stubs + 16 * vector, SEL_CODE32, 0x8E00, 0
        .set    vector, vector + 1
        .endr
idt_end:
idt_pointer:
        .word   idt_end - idt - 1
        .long   BIOS_LINEAR + idt
ivt_pointer:
        .word   0x3FF
        .long   0

        .bss
        .balign 4
pm_esp:                 .skip 4
pm_resume:              .skip 4
pm_fixup_entry:         .skip 4
pm_fixup_value:         .skip 4
        .globl  pm_fault_count, pm_fault_vector, pm_fault_error, pm_fault_cr2
pm_fault_count:         .skip 4
pm_fault_vector:        .skip 4
pm_fault_error:         .skip 4
pm_fault_cr2:           .skip 4
