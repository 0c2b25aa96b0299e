/* Where the other processors begin (real mode, by SIPI 08): protected mode, a stack of their own, then other_main(index).
 * Intel SDM volume 3, 8.4.4. The number is taken from `index_of`, by the local APIC's ID; a processor that has none yet
 * takes the next one. */
        .section .rodata
        .globl  trampoline, trampoline_end
        .code16
trampoline:
        cli
        cld
        movw    %cs, %ax
        movw    %ax, %ds
        lgdtl   trampoline_gdt - trampoline
        movl    %cr0, %eax
        andl    $0x9FFFFFFF, %eax
        orb     $1, %al
        movl    %eax, %cr0
        ljmpl   $8, $other32
trampoline_gdt:
        .word   23
        .long   gdt_copy
trampoline_end:

        .text
        .code32
other32:
        movl    $0x10, %eax
        movl    %eax, %ds
        movl    %eax, %es
        movl    %eax, %fs
        movl    %eax, %gs
        movl    %eax, %ss
        movl    0xFEE00020, %ebx
        shrl    $24, %ebx
        movzbl  index_of(%ebx), %eax
        testl   %eax, %eax
        jnz     1f
        movl    $1, %eax
        lock xaddl %eax, n_numbered
        movb    %al, index_of(%ebx)
        movb    %bl, apic_id_of(%eax)
1:      movl    %eax, %esp
        shll    $12, %esp
        addl    $stacks + 4096, %esp
        pushl   %eax
        call    other_main
2:      cli
        hlt
        jmp     2b
