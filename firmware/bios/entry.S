/* The way from an interrupt into C and back, the timer tick, calls from C into the interrupt
 * vectors, and the jump to the boot sector.
 *
 * C runs with DS = ES = SS = F000, interrupts off and DF clear. A caller with a stack of its
 * own gets one of STACK_LEVELS stacks; a caller already on ours (the BIOS itself, or an
 * interrupt during a service) goes on where it is. */

#include "board.h"
#include "layout.h"

        .code16
        .text

        .macro  SERVICE label, handler
        .globl  \label
\label: pushw   $\handler
        jmp     service
        .endm

        SERVICE int00_entry, exception_00
        SERVICE int06_entry, exception_06
        SERVICE int09_entry, int09
        SERVICE int10_entry, int10
        SERVICE int11_entry, int11
        SERVICE int12_entry, int12
        SERVICE int13_entry, int13
        SERVICE int14_entry, int14
        SERVICE int15_entry, int15
        SERVICE int16_entry, int16
        SERVICE int18_entry, int18
        SERVICE int19_entry, int19
        SERVICE int1a_entry, int1a
        SERVICE int70_entry, int70

        /* Hardware interrupts without a handler of their own: one stub per line. */
        .macro  IRQ line
irq\line\()_entry:
        pushw   $irq\line\()_c
        jmp     service
        .endm
        .irp    line, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13, 14, 15
        IRQ     \line
        .endr

        .globl  iret_entry
iret_entry:
        iretw

service:                                /* stack: handler, caller's IP, CS, FLAGS */
        cli
        pushw   %ds
        pushw   $BIOS_SEG
        popw    %ds
        popw    entry_ds
        popw    entry_handler
        movl    %eax, entry_eax
        movl    %esp, entry_esp
        movw    %ss, entry_ss
        movw    %ss, %ax
        cmpw    $BIOS_SEG, %ax
        je      1f
        movzwl  stack_level, %eax
        cmpw    $STACK_LEVELS - 1, %ax
        jbe     0f
        movw    $STACK_LEVELS - 1, %ax
0:      shll    $STACK_SIZE_LOG2, %eax
        negl    %eax
        addl    $stack_top, %eax
        incw    stack_level
        pushw   %ds
        popw    %ss
        movl    %eax, %esp
        jmp     2f
1:      movzwl  %sp, %esp
2:      pushw   $0                      /* struct regs, from its end */
        pushw   entry_ss
        pushl   entry_esp
        pushw   $0
        pushw   $0
        pushw   %gs
        pushw   %fs
        pushw   %es
        pushw   entry_ds
        pushl   entry_eax
        pushl   %ecx
        pushl   %edx
        pushl   %ebx
        pushl   %ebp
        pushl   %esi
        pushl   %edi
        cld
        movl    %esp, %ebx
        movw    entry_ss, %es
        movw    entry_esp, %si          /* 16 bits: the frame may go round the segment's end */
        movw    %es:4(%si), %ax
        movw    %ax, 36(%ebx)           /* regs.flags */
        pushw   %ds
        popw    %es
        movl    %ebx, %eax
        movzwl  entry_handler, %ecx
        calll   *%ecx

        cli
        movl    %esp, %ebx
        movw    36(%ebx), %ax
        movw    44(%ebx), %es           /* regs.caller_ss */
        movw    40(%ebx), %si           /* regs.caller_esp */
        movw    %ax, %es:4(%si)
        cmpw    $BIOS_SEG, 44(%ebx)
        je      3f
        decw    stack_level
3:      popl    %edi
        popl    %esi
        popl    %ebp
        popl    %ebx
        popl    %edx
        popl    %ecx
        popl    entry_eax
        popw    entry_ds
        popw    %es
        popw    %fs
        popw    %gs
        addw    $4, %sp
        popl    entry_esp
        popw    entry_ss
        movw    entry_ss, %ss
        movl    entry_esp, %esp
        movl    entry_eax, %eax
        movw    entry_ds, %ds
        iretw

/* IRQ 0: count the tick in the BIOS data area, let INT 1Ch see it, end the interrupt. */
        .globl  int08_entry
int08_entry:
        pushw   %ds
        pushl   %eax
        movw    $BDA_SEG, %ax
        movw    %ax, %ds
        incw    %cs:irq_count
        incl    0x6C
        cmpl    $0x1800B0, 0x6C         /* ticks of a day */
        jb      1f
        movl    $0, 0x6C
        movb    $1, 0x70
1:      int     $0x1C
        movb    $0x20, %al
        outb    %al, $PORT_PIC1
        popl    %eax
        popw    %ds
        iretw

/* void call_int(u32 vector, struct regs *r) */
        .globl  call_int
call_int:
        pushl   %ebx
        pushl   %esi
        pushl   %edi
        pushl   %ebp
        pushl   %edx
        xorw    %cx, %cx
        movw    %cx, %fs
        movl    %fs:(,%eax,4), %ecx
        pushfw
        cli
        pushw   %cs
        pushw   $1f
        pushl   %ecx                    /* CS:IP of the handler, for LRET */
        movl    0(%edx), %edi
        movl    4(%edx), %esi
        movl    8(%edx), %ebp
        movl    12(%edx), %ebx
        movl    20(%edx), %ecx
        movl    24(%edx), %eax
        movw    30(%edx), %es
        movl    16(%edx), %edx
        lretw
1:      pushw   %es                     /* back by IRET; below these lies r */
        pushfw
        pushl   %edx
        pushw   $BIOS_SEG
        popw    %ds
        movl    8(%esp), %edx
        movl    %edi, 0(%edx)
        movl    %esi, 4(%edx)
        movl    %ebp, 8(%edx)
        movl    %ebx, 12(%edx)
        popl    16(%edx)
        movl    %ecx, 20(%edx)
        movl    %eax, 24(%edx)
        popw    36(%edx)
        popw    30(%edx)

call_done:
        movw    $BIOS_SEG, %ax
        movw    %ax, %ds
        movw    %ax, %es
        cld
        popl    %edx
        popl    %ebp
        popl    %edi
        popl    %esi
        popl    %ebx
        retl

/* void boot_jump(u32 drive): leave the BIOS for the boot sector at 0000:7C00. */
        .globl  boot_jump
boot_jump:
        cli
        movzbl  %al, %edx
        movw    $0, stack_level
        xorl    %eax, %eax
        movw    %ax, %ss
        movl    $0x7C00, %esp
        movw    %ax, %ds
        movw    %ax, %es
        movw    %ax, %fs
        movw    %ax, %gs
        xorl    %ebx, %ebx
        xorl    %ecx, %ecx
        xorl    %esi, %esi
        xorl    %edi, %edi
        xorl    %ebp, %ebp
        sti
        ljmp    $0, $0x7C00

/* Handlers of the lines 0..15, for the vector table (vectors.c). */
        .section .rodata
        .globl  irq_entries
irq_entries:
        .word   int08_entry, int09_entry, irq2_entry, irq3_entry
        .word   irq4_entry, irq5_entry, irq6_entry, irq7_entry
        .word   int70_entry, irq9_entry, irq10_entry, irq11_entry
        .word   irq12_entry, irq13_entry, irq14_entry, irq15_entry

        .bss
        .balign 4
entry_eax:      .skip 4
entry_esp:      .skip 4
entry_ss:       .skip 2
entry_ds:       .skip 2
entry_handler:  .skip 2
        .globl  stack_level
stack_level:    .skip 2
