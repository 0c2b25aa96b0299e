/* Where the `teach` kernel begins: 4 MiB pages (CR4.PSE) at 0 and at 80000000h, then main() above. And what another
 * processor executes at 7000h: the kernel leaves page directory, stack and function below it. */
#define KERNEL 0x80000000
        .text
        .code32
        .globl  entry
entry:
        movl    %cr4, %eax
        orl     $0x10, %eax
        movl    %eax, %cr4
        movl    $boot_directory - KERNEL, %eax
        movl    %eax, %cr3
        movl    %cr0, %eax
        orl     $0x80010000, %eax
        movl    %eax, %cr0
        movl    $first_stack + 4096, %esp
        movl    $main, %eax
        jmp     *%eax

        .code16
        .globl  other_start, other_end
other_start:
        cli
        xorw    %ax, %ax
        movw    %ax, %ds
        movw    %ax, %es
        movw    %ax, %ss
        lgdtl   other_gdt - other_start + 0x7000
        movl    %cr0, %eax
        orl     $1, %eax
        movl    %eax, %cr0
        ljmpl   $8, $other_protected - other_start + 0x7000
        .code32
other_protected:
        movw    $0x10, %ax
        movw    %ax, %ds
        movw    %ax, %es
        movw    %ax, %ss
        movl    %cr4, %eax
        orl     $0x10, %eax
        movl    %eax, %cr4
        movl    0x6FF4, %eax
        movl    %eax, %cr3
        movl    %cr0, %eax
        orl     $0x80010000, %eax
        movl    %eax, %cr0
        movl    0x6FFC, %esp
        call    *0x6FF8
        .balign 4
other_descriptors:
        .quad   0
        .quad   0x00CF9A000000FFFF
        .quad   0x00CF92000000FFFF
other_gdt:
        .word   23
        .long   other_descriptors - other_start + 0x7000
other_end:

/* Interrupts: number and error code (0 if there is none) on the stack, all registers, then on_trap(). */
        .globl  stubs
        .balign 16
stubs:
        .set    vector, 0
        .rept   256
        .balign 16
        .if     !(vector == 8 || (vector >= 10 && vector <= 14) || vector == 17)
        pushl   $0
        .endif
        pushl   $vector
        jmp     all_traps
        .set    vector, vector + 1
        .endr
all_traps:
        pushl   %ds
        pushl   %es
        pushl   %fs
        pushl   %gs
        pushal
        movw    $0x10, %ax
        movw    %ax, %ds
        movw    %ax, %es
        pushl   %esp
        call    on_trap
        addl    $4, %esp
        .globl  return_from_trap
return_from_trap:
        popal
        popl    %gs
        popl    %fs
        popl    %es
        popl    %ds
        addl    $8, %esp
        iret

/* User code: two system calls, the first with a number to be doubled, the second with the answer. */
        .globl  user_start, user_end
user_start:
        movl    $21, %ebx
        movl    $1, %eax
        int     $0x40
        movl    %eax, %ebx
        movl    $2, %eax
        int     $0x40
        cli                             /* not at level 3 */
user_end:
