/* Proves: hardware tasks, call gates, conforming and expand-down segments, the LDT, virtual-8086 mode and the I/O map do
 * what the manual says; a line for each test on the debug port, a fault as vector:error:TR. Then it leaves with 0.
 * Intel SDM volume 3, chapters 5, 7 and 20. */
#include "guest.h"
#define DEBUG 0xE9
#define RESUME 0x500
#define GDT 0x1000
#define IDT 0x2000
#define TSS_MAIN 0x3000
#define TSS_NEW 0x3200
#define TSS_16 0x3400
#define LDT 0x3600
#define STACK 0x10000
#define STACK_NEW 0x11000
#define STACK_0 0x12000
#define STACK_3 0x13000
/* selectors */
#define CODE 0x08
#define DATA 0x10
#define MAIN 0x18
#define NEW 0x20
#define GATE 0x28
#define NARROW 0x30
#define CODE_3 0x3B
#define DATA_3 0x43
#define CALL_GATE 0x4B
#define CONFORMING 0x50
#define DOWN 0x58
#define LOCALS 0x60
#define ABSENT 0x68
#define SHORT 0x70
#define STACK_16 0x78

        .macro  PUT c
        movb    $\c, %al
        outb    %al, $DEBUG
        .endm
        .macro  TEST c
        movl    $9f, RESUME
        PUT     \c
        .endm
        .macro  END
9:      call    newline
        .endm
        .macro  SHOW what
        movl    \what, %eax
        call    hex
        .endm

        .code16
        .globl  guest_main
guest_main:
        cli
        lgdtl   %cs:rom_gdtr
        movl    %cr0, %eax
        orb     $1, %al
        movl    %eax, %cr0
        ljmpl   $CODE, $protected
        .section .rodata
        .align  8
gdt:    .quad   0
        .quad   0x00409B0F0000FFFF      /* code: base F0000h */
        .quad   0x00CF93000000FFFF
        .word   0xA0, TSS_MAIN, 0x8900, 0
        .word   0x67, TSS_NEW, 0x8900, 0
        .word   0, NEW, 0x8500, 0
        .word   0x2B, TSS_16, 0x8100, 0
        .quad   0x0040FB0F0000FFFF
        .quad   0x00CFF3000000FFFF
        .word   gate_code, CODE, 0xEC02, 0
        .quad   0x00409F0F0000FFFF      /* conforming */
        .word   0x0FFF, 0, 0x9700, 0x40 /* expand-down above FFFh */
        .word   0x0F, LDT, 0x8200, 0
        .word   0x67, TSS_NEW, 0x0900, 0
        .word   0x66, TSS_NEW, 0x8900, 0
        .quad   0x000093000000FFFF      /* a 16-bit stack */
gdt_end:
rom_gdtr: .word gdt_end - gdt - 1
        .long   0xF0000 + gdt
gdtr:   .word   gdt_end - gdt - 1
        .long   GDT
idtr:   .word   0x1FF
        .long   IDT

        .text
        .code32
protected:
        movl    $DATA, %eax
        movl    %eax, %ds
        movl    %eax, %es
        movl    %eax, %ss
        movl    $STACK, %esp
        lgdt    %cs:gdtr
        call    fresh
        /* IDT: faults 0 to 31, 31h a call of the monitor, 30h a task gate */
        xorl    %ecx, %ecx
1:      movl    %ecx, %edx
        shll    $4, %edx
        addl    $stubs, %edx
        orl     $CODE << 16, %edx
        movl    %edx, IDT(, %ecx, 8)
        movl    $0x8E00, IDT + 4(, %ecx, 8)
        incl    %ecx
        cmpl    $32, %ecx
        jb      1b
        movl    $(CODE << 16), %eax
        movw    $on_monitor, %ax
        movl    %eax, IDT + 8 * 0x31
        movl    $0xEE00, IDT + 8 * 0x31 + 4
        movl    $(NEW << 16), IDT + 8 * 0x30
        movl    $0xE500, IDT + 8 * 0x30 + 4
        lidt    %cs:idtr
        jmp     tests

/* GDT, TSSs, LDT and registers as new; the stack stays. */
fresh:  pushl   $2
        popfl
        xorl    %esi, %esi
1:      movb    %cs:gdt(%esi), %al
        movb    %al, GDT(%esi)
        incl    %esi
        cmpl    $gdt_end - gdt, %esi
        jb      1b
        movl    $TSS_MAIN, %edi
        movl    $0x200, %ecx
        xorl    %eax, %eax
        cld
        rep     stosl
        movl    $STACK_0, TSS_MAIN + 4
        movl    $DATA, TSS_MAIN + 8
        movw    $0x68, TSS_MAIN + 0x66
        movb    $0x10, TSS_MAIN + 0x68 + 0x64 / 8
        movb    $0xFF, TSS_MAIN + 0x68 + 0x20
        movl    $2, TSS_NEW + 0x24
        movl    $STACK_NEW, TSS_NEW + 0x38
        movl    $STACK_0, TSS_NEW + 4
        movl    $DATA, TSS_NEW + 8
        movl    $0x12345678, TSS_NEW + 0x28
        movl    $DATA, TSS_NEW + 0x48
        movl    $CODE, TSS_NEW + 0x4C
        movl    $DATA, TSS_NEW + 0x50
        movl    $DATA, TSS_NEW + 0x54
        movl    $0x0010FFFF, LDT + 8
        movl    $0x00409300, LDT + 12
        movl    $DATA, %eax
        movl    %eax, %ds
        movl    %eax, %es
        xorl    %eax, %eax
        movl    %eax, %fs
        movl    %eax, %gs
        lldt    %ax
        movl    $MAIN, %eax
        ltr     %ax
        movl    $0xFFFF0FF0, %eax
        movl    %eax, %dr6
        ret

        .align  16
stubs:  .irp    vector, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
        .align  16
        .if     (\vector == 8) || (\vector >= 10 && \vector <= 14)
        .else
        pushl   $0
        .endif
        pushl   $\vector
        jmp     on_fault
        .endr
        .rept   16
        .align  16
        pushl   $0
        pushl   $0x1F
        jmp     on_fault
        .endr

/* Tell of a fault: vector, error code, TR, and the saved CS; then go on with the next test. */
on_fault:
        movl    $DATA, %eax
        movl    %eax, %ds
        PUT     ' '
        popl    %eax
        call    hex8
        PUT     ':'
        popl    %eax
        call    hex
        str     %eax
        call    hex
        movl    4(%esp), %eax
        call    hex
        movl    %dr6, %eax
        call    hex
recover:
        movl    $DATA, %eax
        movl    %eax, %ss
        movl    $STACK, %esp
        movl    %eax, %ds
        movl    %eax, %es               /* a new task's bad DS is found before its ES is loaded */
        call    fresh
        jmp     *RESUME

/* INT 31h: who asks? */
on_monitor:
        movl    $DATA, %eax
        movl    %eax, %ds
        PUT     ' '
        movl    4(%esp), %eax
        call    hex
        movl    10(%esp), %eax          /* upper half of EFLAGS */
        call    hex
        movl    12(%esp), %eax
        call    hex
        jmp     recover

newline:
        PUT     '\n'
        ret
hex8:   rorl    $8, %eax
        pushl   $2
        jmp     hex_digits
hex:    rorl    $16, %eax
        pushl   $4
hex_digits:
        roll    $4, %eax
        pushl   %eax
        andb    $15, %al
        addb    $'0', %al
        cmpb    $'9', %al
        jbe     1f
        addb    $7, %al
1:      outb    %al, $DEBUG
        popl    %eax
        decl    (%esp)
        jnz     hex_digits
        addl    $4, %esp
        PUT     ' '
        ret

/* ---- what the new task does -------------------------------------------------------------------------------------- */
task_state:
        call    hex                     /* EAX as the TSS had it */
        str     %eax
        call    hex
        pushfl
        popl    %eax
        call    hex
        SHOW    TSS_NEW                 /* link */
        SHOW    GDT + MAIN + 4
        movl    %cr0, %eax
        call    hex
        ret
task_jumps:
        PUT     ' '
        movl    $0x5678, %eax
        call    task_state
        ljmp    $MAIN, $0
task_returns:
        PUT     ' '
        movl    $0x5678, %eax
        call    task_state
        iret
        PUT     'a'                     /* entered again behind its IRET */
        iret
task_skips:                             /* a handler of #UD: behind the two bytes */
        PUT     ' '
        SHOW    TSS_MAIN + 0x26         /* RF in the saved image */
        addl    $2, TSS_MAIN + 0x20
        iret
task_skips_error:                       /* a handler of #GP */
        PUT     ' '
        popl    %eax
        call    hex
        movl    %esp, %eax
        call    hex
        addl    $2, TSS_MAIN + 0x20
        iret
back:   PUT     'b'
        pushfl
        popl    %eax
        call    hex
        SHOW    GDT + NEW + 4
        SHOW    TSS_NEW + 0x24          /* the NT that was saved */
        movl    %ebx, %eax
        call    hex
        ret

/* ---- the tests ---------------------------------------------------------------------------------------------------- */
tests:
        TEST    'A'                     /* JMP to a TSS and back */
        movl    $task_jumps, TSS_NEW + 0x20
        movl    $0xBEEF, %ebx
        ljmp    $NEW, $0
        call    back
        call    fresh
        END
        TEST    'B'                     /* CALL and IRET, twice */
        movl    $task_returns, TSS_NEW + 0x20
        movl    $0xBEEF, %ebx
        lcall   $NEW, $0
        call    back
        lcall   $NEW, $0
        call    back
        call    fresh
        END
        TEST    'C'                     /* through a task gate of the GDT */
        movl    $task_returns, TSS_NEW + 0x20
        lcall   $GATE, $0
        call    fresh
        END
        TEST    'D'                     /* through one of the IDT */
        movl    $task_returns, TSS_NEW + 0x20
        int     $0x30
        call    fresh
        END
        TEST    'E'                     /* an exception with a task for handler */
        movl    $task_skips, TSS_NEW + 0x20
        pushl   IDT + 8 * 6
        pushl   IDT + 8 * 6 + 4
        movl    $(NEW << 16), IDT + 8 * 6
        movl    $0x8500, IDT + 8 * 6 + 4
        ud2
        popl    IDT + 8 * 6 + 4
        popl    IDT + 8 * 6
        call    fresh
        END
        TEST    'F'                     /* with an error code, which is pushed on the new stack */
        movl    $task_skips_error, TSS_NEW + 0x20
        pushl   IDT + 8 * 13
        pushl   IDT + 8 * 13 + 4
        movl    $(NEW << 16), IDT + 8 * 13
        movl    $0x8500, IDT + 8 * 13 + 4
        movl    $0x1238, %eax
        movl    %eax, %gs
        popl    IDT + 8 * 13 + 4
        popl    IDT + 8 * 13
        call    fresh
        END
        TEST    'G'                     /* busy */
        lcall   $MAIN, $0
        END
        TEST    'H'                     /* absent */
        ljmp    $ABSENT, $0
        END
        TEST    'I'                     /* too short */
        ljmp    $SHORT, $0
        END
        TEST    'J'                     /* not a TSS */
        movw    $DATA, GDT + GATE + 2
        ljmp    $GATE, $0
        END
        TEST    'K'                     /* IRET to a task that is not busy */
        movw    $NEW, TSS_MAIN
        pushl   $0x4002
        popfl
        iret
        END
        TEST    'L'                     /* DS beyond the GDT: a fault of the new task */
        movl    $0x1008, TSS_NEW + 0x54
        ljmp    $NEW, $0
        END
        TEST    'M'                     /* FS absent */
        movl    $DOWN, TSS_NEW + 0x58
        andb    $0x7F, GDT + DOWN + 5
        ljmp    $NEW, $0
        END
        TEST    'N'                     /* GS of an inner level */
        movl    $DATA | 3, TSS_NEW + 0x5C
        ljmp    $NEW, $0
        END
        TEST    'O'                     /* the T bit */
        movl    $1, TSS_NEW + 0x64
        movl    $task_jumps, TSS_NEW + 0x20
        ljmp    $NEW, $0
        END
        TEST    'P'                     /* a call gate from level 3, with two parameters */
        pushl   $DATA_3
        pushl   $STACK_3
        pushl   $0x3002
        pushl   $CODE_3
        pushl   $level_3
        iret
        END
        TEST    'Q'                     /* a conforming segment runs at the caller's level */
        pushl   $DATA_3
        pushl   $STACK_3
        pushl   $0x3002
        pushl   $CODE_3
        pushl   $level_3_conforming
        iret
        END
        TEST    'R'                     /* expand-down: above the limit, and at it */
        movl    $DOWN, %eax
        movl    %eax, %ds
        movl    0x1000, %eax
        PUT     '+'
        movl    0xFFF, %eax
        END
        TEST    'S'                     /* a segment of the LDT, and without one */
        movl    $LOCALS, %eax
        lldt    %ax
        movl    $0x0C, %eax
        movl    %eax, %ds
        PUT     '+'
        xorl    %eax, %eax
        lldt    %ax
        movl    $0x0C, %eax
        movl    %eax, %ds
        END
        TEST    'T'                     /* virtual-8086 mode: CLI without IOPL */
        movl    $v86_cli, %ebx
        movl    $0x20002, %ecx
        jmp     to_v86
        END
        TEST    'U'                     /* INT with IOPL 3 */
        movl    $v86_int, %ebx
        movl    $0x23002, %ecx
        jmp     to_v86
        END
        TEST    'V'                     /* the I/O map: E9h is open, 64h is not */
        movl    $v86_io, %ebx
        movl    $0x23002, %ecx
        jmp     to_v86
        END
        TEST    'W'                     /* a task in virtual-8086 mode */
        movl    $0x23002, TSS_NEW + 0x24
        movl    $v86_int, TSS_NEW + 0x20
        movl    $0xF000, TSS_NEW + 0x4C
        movl    $0x1400, TSS_NEW + 0x50
        movl    $0x100, TSS_NEW + 0x38
        lcall   $NEW, $0
        END
        TEST    'X'                     /* to a 16-bit TSS */
        movw    $task_16, TSS_16 + 0x0E
        movw    $0x0002, TSS_16 + 0x10
        movw    $0x4321, TSS_16 + 0x12
        movw    $0x9000, TSS_16 + 0x1A
        movw    $DATA, TSS_16 + 0x22
        movw    $CODE, TSS_16 + 0x24
        movw    $STACK_16, TSS_16 + 0x26
        movw    $DATA, TSS_16 + 0x28
        lcall   $NARROW, $0
        call    fresh
        END
        PUT     '.'
        call    newline
        movw    $PORT_DEBUG_EXIT, %dx
        xorl    %eax, %eax
        outb    %al, %dx
        cli
1:      hlt
        jmp     1b

task_16:
        movzwl  %sp, %esp               /* the upper half is not the TSS's */
        PUT     ' '
        movl    %cs, %eax
        call    hex
        str     %eax
        call    hex
        movzwl  TSS_16, %eax
        call    hex
        iret

level_3:
        movl    $DATA_3, %eax
        movl    %eax, %ds
        pushl   $0x1111
        pushl   $0x2222
        lcall   $CALL_GATE, $0
        movl    %esp, %eax
        call    hex
        int     $0x31
gate_code:
        PUT     ' '
        movl    %cs, %eax
        call    hex
        movl    %esp, %eax
        call    hex
        SHOW    8(%esp)
        SHOW    12(%esp)
        SHOW    16(%esp)
        SHOW    4(%esp)
        lret    $8
level_3_conforming:
        movl    $DATA_3, %eax
        movl    %eax, %ds
        lcall   $CONFORMING, $conforming
        int     $0x31
conforming:
        PUT     ' '
        movl    %cs, %eax
        call    hex
        lret

/* To F000:EBX with EFLAGS in ECX. */
to_v86: xorl    %eax, %eax
        pushl   %eax                    /* GS, FS, DS, ES */
        pushl   %eax
        pushl   $0x222
        pushl   $0x111
        pushl   $0x1400
        pushl   $0x100
        pushl   %ecx
        pushl   $0xF000
        pushl   %ebx
        iret
        .code16
v86_cli:
        cli
v86_int:
        pushf
        popw    %ax
        int     $0x31
v86_io: movb    $'v', %al
        outb    %al, $DEBUG
        inb     $0x64, %al
