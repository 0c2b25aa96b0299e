/* The beginning of a ROM guest written in C: from the reset vector to main() in flat 32-bit code, without paging, with the
 * stack below 10000h, .bss cleared and interrupts off. flat.lds says where things lie.
 * Intel SDM volume 3, 9.9.1 (switching to protected mode). */
        .code16
        .section .reset, "ax"
        .globl  reset_vector
reset_vector:
        ljmp    $0xF000, $start16_offset

        .text
        .globl  start16
start16:
        cli
        cld
        lgdtl   %cs:flat_gdt_offset
        movl    %cr0, %eax
        andl    $0x9FFFFFFF, %eax       /* caches on */
        orb     $1, %al
        movl    %eax, %cr0
        ljmpl   $8, $start32
        .code32
start32:
        movl    $0x10, %eax
        movl    %eax, %ds
        movl    %eax, %es
        movl    %eax, %fs
        movl    %eax, %gs
        movl    %eax, %ss
        movl    $0x10000, %esp
        movl    $bss_start, %edi
        movl    $bss_end, %ecx
        subl    %edi, %ecx
        xorl    %eax, %eax
        rep stosb
        call    main
1:      cli
        hlt
        jmp     1b

        .section .rodata
        .balign 8
gdt:    .quad   0
        .quad   0x00CF9B000000FFFF
        .quad   0x00CF93000000FFFF
        .globl  flat_gdt
flat_gdt:
        .word   23
        .long   gdt
