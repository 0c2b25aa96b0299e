/* The boot sector of the `teach` guest: A20 through the 8042, protected mode, then load_kernel() in teach_load.c. */
        .code16
        .globl  boot
boot:
        cli
        xorw    %ax, %ax
        movw    %ax, %ds
        movw    %ax, %es
        movw    %ax, %ss
1:      inb     $0x64, %al
        testb   $2, %al
        jnz     1b
        movb    $0xD1, %al              /* the controller's output port: */
        outb    %al, $0x64
2:      inb     $0x64, %al
        testb   $2, %al
        jnz     2b
        movb    $0xDF, %al              /* A20 on */
        outb    %al, $0x60
        lgdtl   gdt_pointer
        movl    %cr0, %eax
        orl     $1, %eax
        movl    %eax, %cr0
        ljmpl   $8, $protected
        .code32
protected:
        movw    $0x10, %ax
        movw    %ax, %ds
        movw    %ax, %es
        movw    %ax, %ss
        xorw    %ax, %ax
        movw    %ax, %fs
        movw    %ax, %gs
        movl    $boot, %esp
        call    load_kernel
        .balign 4
gdt:    .quad   0
        .quad   0x00CF9A000000FFFF
        .quad   0x00CF92000000FFFF
gdt_pointer:
        .word   23
        .long   gdt
