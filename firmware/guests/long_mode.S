/* Proves: long mode. Real mode, 32-bit protected mode, the faults on the way into long mode, 64-bit
 * code, compatibility mode and user code, exceptions with their frames and stacks, page faults
 * with every error code, far transfers, system calls, and the way back to real mode. Each case is
 * a line on the debug port: its name, and what came of it. Leaves with 0.
 *
 * A fault's line: *vector e=error code ip=return address less the expected one cs ss sp flags, the
 * place of the frame (on), and for page faults CR2 (at). Numbers are hexadecimal. */
#include "guest.h"

#define ROM 0xF0000
#define TSS 0x7000
#define LDT 0x7800
#define GDT 0x8000
#define IDT 0x9000
#define HERE 0x6000             /* the return address that the case expects */
#define RESUME 0x6008           /* where it goes on */
#define STRICT 0x6030           /* 1: this is not QEMU, which leaves some things unchecked */
#define PML4 0x10000
#define PDPT 0x11000
#define PD 0x12000
#define PT 0x13000
#define KSTACK 0x20000
#define RSP0 0x22008
#define IST1 0x24000
#define IST2 0x26000
#define USTACK 0x28000

#define CODE64 0x08
#define DATA 0x10
#define CODE32 0x18
#define UCODE32 0x23
#define UDATA 0x2B
#define UCODE64 0x33
#define CODE16 0x38
#define DATA16 0x40
#define SEL_TSS 0x48
#define SEL_GATE 0x58
#define SEL_LDT 0x68
#define SEL_SHORT 0x78
#define SEL_BOTH 0x88
#define GDT_LIMIT 0x8F

#define PAGE(n) (0x40000+(n)*0x1000)
#define ABSENT 0
#define READ_ONLY 1
#define SUPERVISOR 2
#define NO_EXECUTE 3
#define RESERVED 4
#define CLEAN 5
#define SUPER_READ_ONLY 6
#define CODE_PAGE 7             /* user's, with a RET in it */
#define LARGE 0x200000
#define LARGE_RESERVED 0x400000
#define GIGA 0x40000000
#define GIGA_RESERVED 0x80000000
#define BAD_PML4 (1 << 39)
#define HIGH 0xFFFF800000000000

#define EFER 0xC0000080
#define STAR 0xC0000081
#define LSTAR 0xC0000082
#define FMASK 0xC0000084
#define FS_BASE 0xC0000100
#define GS_BASE 0xC0000101
#define KERNEL_GS_BASE 0xC0000102

        .set    bits, 16
        .macro  PRINT routine
        .if     bits == 32
        call    \routine\()32
        .else
        call    \routine\()64
        .endif
        .endm
        .macro  SAY text
        PRINT   say
        .asciz  "\text"
        .endm
        /* A case: its name; 8 is where the frame must point to, 9 where the program goes on. */
        .macro  CASE name
        SAY     "\name"
        movl    $ROM + 8f, HERE
        movl    $ROM + 9f, RESUME
        .endm
        .macro  DONE
        SAY     " no fault\n"
9:
        .endm
        .macro  VALUE reg
        movq    \reg, %rdi
        call    hex64
        .endm
        .macro  NEWLINE
        movb    $10, %al
        outb    %al, $PORT_DEBUG
        .endm
        .macro  SET_MSR number, low, high=0
        movl    $\number, %ecx
        movl    $\low, %eax
        movl    $\high, %edx
        wrmsr
        .endm
        /* To user code at `label`: CPL 3, its own stack, interrupts off. */
        .macro  USER label cs=UCODE64
        pushq   $UDATA
        pushq   $USTACK
        pushq   $2
        pushq   $\cs
        movl    $ROM + \label, %ecx
        pushq   %rcx
        iretq
        .endm

        .code16
        .globl  guest_main
guest_main:
        movw    $ROM >> 4, %ax
        movw    %ax, %ds
        movw    $gdt, %si               /* descriptors to RAM, where their bits can be set */
        movw    $GDT, %di
        movw    $GDT_LIMIT + 1, %cx
        rep movsb
        xorw    %ax, %ax
        movw    %ax, %ds
        movl    $0x80000001, %eax
        cpuid
        testl   $1 << 29, %edx
        jnz     1f
        PUTS    no_long_mode
        LEAVE   1
1:      movl    $1, %eax
        cpuid
        shrl    $31, %ecx               /* running under a hypervisor, which only QEMU says here */
        xorb    $1, %cl
        movb    %cl, STRICT
        cli
        lgdtl   %cs:gdt_pointer
        lidtl   %cs:idt32_pointer
        movl    %cr0, %eax
        orb     $1, %al
        movl    %eax, %cr0
        ljmpl   $CODE32, $ROM + protected

/* ---- 32-bit protected mode: page tables, and what goes wrong on the way ------------------------ */
        .code32
        .set    bits, 32
protected:
        movw    $DATA, %ax
        movw    %ax, %ds
        movw    %ax, %es
        movw    %ax, %ss
        movl    $KSTACK, %esp
        movl    $PML4, %edi
        xorl    %eax, %eax
        movl    $0x4000 / 4, %ecx
        rep stosl
        movl    $TSS, %edi
        movl    $0x1000 / 4, %ecx
        rep stosl
        movl    $IDT, %edi
        movl    $0x1000 / 4, %ecx
        rep stosl
        movl    $PDPT + 7, PML4
        movl    $PDPT + 7, PML4 + 8 * 256
        movl    $PDPT + 0x87, PML4 + 8
        movl    $PD + 7, PDPT
        movl    $0x87, PDPT + 8
        movl    $0x2087, PDPT + 16
        movl    $PT + 7, PD
        movl    $0x87, PD + 8
        movl    $0x2087, PD + 16
        movl    $PT, %edi
        movl    $7, %eax
        movl    $512, %ecx
1:      movl    %eax, (%edi)
        addl    $0x1000, %eax
        addl    $8, %edi
        loop    1b
        movl    $0, PT + 8 * 0x40
        movl    $PAGE(READ_ONLY) + 5, PT + 8 * 0x41
        movl    $PAGE(SUPERVISOR) + 3, PT + 8 * 0x42
        movl    $1 << 31, PT + 8 * 0x43 + 4
        movl    $1 << 19, PT + 8 * 0x44 + 4
        movl    $PAGE(SUPER_READ_ONLY) + 1, PT + 8 * 0x46
        movb    $0xC3, PAGE(CODE_PAGE)
        movl    $RSP0, TSS + 4
        movl    $IST1, TSS + 0x24
        movl    $IST2, TSS + 0x2C
        movw    $0x68, TSS + 0x66

        movl    $PML4, %eax
        movl    %eax, %cr3
        movl    $EFER, %ecx
        xorl    %edx, %edx
        movl    $0x901, %eax            /* SCE, LME, NXE */
        wrmsr
        cmpb    $0, STRICT
        je      1f
        CASE    "32 cr4 reserved"
        movl    $1 << 31, %eax
8:      movl    %eax, %cr4
        DONE
        CASE    "32 paging without pae"
        movl    %cr0, %eax
        orl     $0x80010000, %eax       /* PG, WP */
8:      movl    %eax, %cr0
        DONE
1:      movl    $0x20, %eax             /* PAE */
        movl    %eax, %cr4
        movl    %cr0, %eax
        orl     $0x80010000, %eax
        movl    %eax, %cr0
        movl    $EFER, %ecx
        rdmsr
        SAY     "efer"
        PRINT   hex
        SAY     "\n"
        ljmpl   $CODE64, $ROM + long_mode

on_gp32:                                /* error code, EIP, CS, EFLAGS */
        popl    %ebx
        popl    %ecx
        SAY     " *d e="
        movl    %ebx, %eax
        PRINT   hex
        SAY     " ip="
        movl    %ecx, %eax
        subl    HERE, %eax
        PRINT   hex
        SAY     "\n"
        movl    $KSTACK, %esp
        jmp     *RESUME

/* Both of these are the same bytes in 32- and in 64-bit code, but for where they put things. */
        .code32
say32:                                  /* print the string behind the call */
        popl    %esi
1:      lodsb
        testb   %al, %al
        jz      2f
        outb    %al, $PORT_DEBUG
        jmp     1b
2:      jmp     *%esi
hex32:                                  /* " " and EAX, all eight digits */
        pushl   %ecx
        pushl   %edx
        movl    %eax, %edx
        movl    $8, %ecx
1:      roll    $4, %edx
        movb    %dl, %al
        andb    $15, %al
        cmpb    $10, %al
        sbbb    $0x69, %al
        das
        orb     $0x20, %al
        outb    %al, $PORT_DEBUG
        loop    1b
        popl    %edx
        popl    %ecx
        ret

        .code64
say64:
        popq    %rsi
1:      lodsb
        testb   %al, %al
        jz      2f
        outb    %al, $PORT_DEBUG
        jmp     1b
2:      jmp     *%rsi
hex64:                                  /* " " and RDI without leading zeros */
        movb    $' ', %al
hex64_as:                               /* AL and RDI */
        outb    %al, $PORT_DEBUG
        pushq   %rcx
        movl    $16, %ecx
1:      rolq    $4, %rdi
        testb   $15, %dil
        jnz     2f
        cmpl    $1, %ecx
        je      2f
        decl    %ecx
        jmp     1b
2:      movb    %dil, %al
        andb    $15, %al
        addb    $'0', %al
        cmpb    $'9', %al
        jbe     3f
        addb    $'a' - '9' - 1, %al
3:      outb    %al, $PORT_DEBUG
        rolq    $4, %rdi
        decl    %ecx
        jnz     2b
        popq    %rcx
        ret
        .set    bits, 64

/* ---- 64-bit mode --------------------------------------------------------------------------------- */
long_mode:
        movl    $DATA, %eax
        movl    %eax, %ss
        movl    $KSTACK, %esp
        movl    $ROM + vectors, %esi    /* 32 gates, with stubs of 16 bytes each */
        movl    $IDT, %edi
1:      movl    %esi, %eax
        andl    $0xFFFF, %eax
        orl     $CODE64 << 16, %eax
        movl    %eax, (%rdi)
        movl    %esi, %eax
        andl    $0xFFFF0000, %eax
        orl     $0xEE00, %eax           /* DPL 3, interrupt gate */
        movl    %eax, 4(%rdi)
        movl    $0xFFFF8000, 8(%rdi)    /* in the upper half */
        addl    $16, %esi
        addl    $16, %edi
        cmpl    $IDT + 32 * 16, %edi
        jb      1b
        movb    $1, IDT + 6 * 16 + 4    /* #UD and #DF on stacks of their own */
        movb    $2, IDT + 8 * 16 + 4
        movb    $1, IDT + 12 * 16 + 4   /* and #SS, whose stack is bad */
        lidt    idt64_pointer(%rip)
        lgdt    gdt64_pointer(%rip)
        movl    $SEL_TSS, %eax
        ltr     %ax
        SAY     "long mode\n"

/* ---- frames and stacks */
        CASE    "int3"
        int3
8:      DONE
        CASE    "int n"
        int     $19
8:      DONE
        CASE    "odd stack"
        movl    $KSTACK - 5, %esp
        int3
8:      DONE
        CASE    "ud on ist"
8:      ud2
        DONE
        CASE    "divide"
        xorl    %ecx, %ecx
8:      divl    %ecx
        DONE
        CASE    "gate absent"
8:      int     $0x40
        DONE
        CASE    "gate beyond"
8:      int     $0xFF
        DONE
        CASE    "double fault"
        andb    $0x7F, IDT + 13 * 16 + 5
8:      int     $0x40
        DONE
        orb     $0x80, IDT + 13 * 16 + 5
        CASE    "gate to 32-bit code"
        movw    $CODE32, IDT + 3 * 16 + 2
8:      int3
        DONE
        CASE    "gate to code that is both"
        movw    $SEL_BOTH, IDT + 3 * 16 + 2
8:      int3
        DONE
        movw    $CODE64, IDT + 3 * 16 + 2

/* ---- canonical addresses */
        movq    $1 << 47, %r15
        CASE    "load"
8:      movq    (%r15), %rax
        DONE
        CASE    "load around the hole"
        leaq    -4(%r15), %rcx
8:      movq    (%rcx), %rax
        DONE
        CASE    "push"
        leaq    8(%r15), %rsp
8:      pushq   %rax
        DONE
        CASE    "through rbp"
        movq    %r15, %rbp
8:      movq    (%rbp), %rax
        DONE
/* ---- page faults, level 0 */
        movl    $1, %eax
        CASE    "read absent"
8:      movl    PAGE(ABSENT) + 8, %eax
        DONE
        CASE    "write absent"
8:      movl    %eax, PAGE(ABSENT) + 8
        DONE
        CASE    "fetch absent"
        movl    $PAGE(ABSENT), %eax
        movl    %eax, HERE
        jmp     *%rax
8:      DONE
        CASE    "write read-only"
8:      movl    %eax, PAGE(READ_ONLY)
        DONE
        CASE    "write supervisor's read-only"
8:      movl    %eax, PAGE(SUPER_READ_ONLY)
        DONE
        CASE    "fetch no-execute"
        movl    $PAGE(NO_EXECUTE), %eax
        movl    %eax, HERE
        jmp     *%rax
8:      DONE
        CASE    "read reserved"
8:      movl    PAGE(RESERVED), %eax
        DONE
        CASE    "write reserved"
8:      movl    %eax, PAGE(RESERVED)
        DONE
        CASE    "read reserved of 2m"
8:      movl    LARGE_RESERVED, %eax
        DONE
        CASE    "read reserved of 1g"
        movl    $GIGA_RESERVED, %eax
8:      movl    (%rax), %eax
        DONE
        CASE    "read reserved of pml4"
        movq    $BAD_PML4, %rax
8:      movl    (%rax), %eax
        DONE
        CASE    "read absent pml4"
        movq    $0x7FFF00000000, %rax
8:      movl    (%rax), %eax
        DONE
        CASE    "read over the border"
8:      movq    PAGE(0) - 4, %rax
        DONE

/* ---- accessed and dirty bits, large pages, the upper half */
        SAY     "clean"
        VALUE   PT+8*0x45
        movl    PAGE(CLEAN), %eax
        VALUE   PT+8*0x45
        movl    %eax, PAGE(CLEAN)
        VALUE   PT+8*0x45
        NEWLINE
        SAY     "large"
        VALUE   PD+8
        movl    $0x1234567, PAGE(CLEAN)
        movl    LARGE + PAGE(CLEAN), %ebx
        VALUE   PD+8
        movl    %ebx, LARGE + PAGE(CLEAN) + 4
        VALUE   PD+8
        VALUE   PAGE(CLEAN)
        NEWLINE
        SAY     "giga"
        VALUE   PDPT+8
        movl    GIGA + PAGE(CLEAN), %ebx
        VALUE   PDPT+8
        VALUE   %rbx
        movl    $0x89ABCDEF, GIGA + PAGE(CLEAN)
        VALUE   PDPT+8
        VALUE   PAGE(CLEAN)
        NEWLINE
        SAY     "upper half"
        movq    $HIGH + PAGE(CLEAN), %rax
        movq    (%rax), %rbx
        VALUE   %rbx
        NEWLINE

/* ---- control registers and MSRs */
        SAY     "cr8"
        movl    $9, %eax
        movq    %rax, %cr8
        movq    %cr8, %rbx
        xorl    %eax, %eax
        movq    %rax, %cr8
        VALUE   %rbx
        NEWLINE

/* ---- segments */
        SAY     "null ss"
        xorl    %eax, %eax
        movl    %eax, %ss
        movl    %ss, %ebx
        VALUE   %rbx
        NEWLINE
        CASE    "int3 with null ss"
        int3
8:      DONE
        SET_MSR FS_BASE, 0x45000, 0
        SET_MSR GS_BASE, PAGE(CLEAN), 0xFFFF8000
        SET_MSR KERNEL_GS_BASE, PAGE(CLEAN)+4
        SAY     "bases"
        movl    %fs:0, %ebx
        VALUE   %rbx
        movl    %gs:0, %ebx
        VALUE   %rbx
        swapgs
        movl    %gs:0, %ebx
        VALUE   %rbx
        swapgs
        movl    $DATA, %eax
        movl    %eax, %fs
        movl    $FS_BASE, %ecx
        rdmsr
        VALUE   %rax
        NEWLINE
        CASE    "ltr busy"
        movl    $SEL_TSS, %eax
8:      ltr     %ax
        DONE
        CASE    "ldt"
        movq    GDT + DATA, %rax
        movq    %rax, LDT
        movl    $SEL_LDT, %eax
        lldt    %ax
        movl    $4, %eax                /* its first descriptor: data, in the upper half */
        movl    %eax, %fs
        movl    %fs, %ebx
        VALUE   %rbx
        movl    $12, %eax
8:      movl    %eax, %fs
        DONE
        SAY     "lar and lsl"
        movl    $SEL_GATE, %eax
        larl    %eax, %ebx
        andl    $0xF0FF00, %ebx         /* the others are undefined */
        VALUE   %rbx
        movl    $SEL_TSS, %eax
        lsll    %eax, %ebx
        VALUE   %rbx
        NEWLINE

/* ---- far transfers */
        CASE    "far jump to data"
        movl    $0, 0x6010
        movw    $DATA, 0x6014
8:      ljmpl   *0x6010
        DONE
        CASE    "far jump to the tss"
        movw    $SEL_TSS, 0x6014
8:      ljmpl   *0x6010
        DONE
        SAY     "compatibility mode"
        movl    $ROM + compat, 0x6010
        movw    $CODE32, 0x6014
        xorl    %ebx, %ebx
        lcall   *0x6010
        VALUE   %rbx
        NEWLINE
        SAY     "far call of 64 bits"
        movq    $HIGH, %rax
        movl    $ROM + far_routine, %ecx
        addq    %rcx, %rax
        movq    %rax, 0x6010
        movw    $CODE64, 0x6018
        .byte   0x48                    /* REX.W: the pointer is m16:64 */
        lcall   *0x6010
        VALUE   %rbx
        NEWLINE
        CASE    "gate from level 0"
        movw    $SEL_GATE, 0x6014
        movl    $0, %ebx
        lcall   *0x6010
8:      VALUE   %rbx
        DONE

/* ---- user code */
        CASE    "user int3"
        USER    u_int3
u_int3: int3
8:      DONE
        CASE    "user privileged"
        USER    8f
8:      hlt
        DONE
        CASE    "user reads supervisor"
        USER    8f
8:      movl    PAGE(SUPERVISOR), %eax
        DONE
        CASE    "user writes supervisor"
        USER    8f
8:      movl    %eax, PAGE(SUPERVISOR)
        DONE
        CASE    "user reads absent"
        USER    8f
8:      movl    PAGE(ABSENT), %eax
        DONE
        CASE    "user writes absent"
        USER    8f
8:      movl    %eax, PAGE(ABSENT)
        DONE
        CASE    "user writes read-only"
        USER    8f
8:      movl    %eax, PAGE(READ_ONLY)
        DONE
        CASE    "user reads reserved"
        USER    8f
8:      movl    PAGE(RESERVED), %eax
        DONE
        CASE    "user writes reserved"
        USER    8f
8:      movl    %eax, PAGE(RESERVED)
        DONE
        CASE    "user fetches absent"
        movl    $PAGE(ABSENT), HERE
        pushq   $UDATA
        pushq   $USTACK
        pushq   $2
        pushq   $UCODE64
        pushq   $PAGE(ABSENT)
        iretq
8:      DONE
        CASE    "user fetches no-execute"
        movl    $PAGE(NO_EXECUTE), HERE
        pushq   $UDATA
        pushq   $USTACK
        pushq   $2
        pushq   $UCODE64
        pushq   $PAGE(NO_EXECUTE)
        iretq
8:      DONE
        CASE    "user fetches supervisor"
        movl    $PAGE(SUPERVISOR), HERE
        pushq   $UDATA
        pushq   $USTACK
        pushq   $2
        pushq   $UCODE64
        pushq   $PAGE(SUPERVISOR)
        iretq
8:      DONE
        CASE    "user loads null ss"
        USER    1f
1:      xorl    %eax, %eax
8:      movl    %eax, %ss
        DONE
        CASE    "user gate of level 0"
        movb    $0x8E, IDT + 4 * 16 + 5
        USER    8f
8:      int     $4
        DONE
        movb    $0xEE, IDT + 4 * 16 + 5
        CASE    "user's call gate"
        USER    u_gate
u_gate: lcall   *0x6010
8:      int3
        DONE
        CASE    "32-bit user code"
        USER    u_32 UCODE32
        .code32
u_32:   movl    $0x7FFFFFFF, %eax
        .byte   0x40                    /* INC EAX, which is a REX prefix in 64-bit code */
        movl    %eax, %edx
        int3
8:
        .code64
        DONE
        SAY     "it has"
        VALUE   %rdx
        NEWLINE
        CASE    "iretq with null ss to level 3"
        pushq   $0
        pushq   $USTACK
        pushq   $2
        pushq   $UCODE64
        pushq   $ROM
8:      iretq
        DONE
        CASE    "iretq with nt"
        pushq   $0x4002
        popfq
8:      iretq
        DONE
        CASE    "short tss"             /* without the third stack of the table, which #BP asks for */
        movl    $SEL_SHORT, %eax
        ltr     %ax
        movb    $3, IDT + 3 * 16 + 4
        USER    8f
8:      int3
        DONE
        movb    $0, IDT + 3 * 16 + 4
        andb    $0xFD, GDT + SEL_TSS + 5
        movl    $SEL_TSS, %eax
        ltr     %ax

/* ---- system calls */
        SET_MSR STAR, 0x1234, 0x00230008
        SET_MSR LSTAR, ROM+on_syscall, 0xFFFF8000
        SET_MSR FMASK, 0x700
        CASE    "syscall"
        pushq   $UDATA
        pushq   $USTACK
        pushq   $0xCD7                  /* all flags that show */
        pushq   $UCODE64
        movl    $ROM + u_call, %ecx
        pushq   %rcx
        iretq
u_call: syscall
u_back: int3
8:      DONE
        CASE    "sysret to 32-bit code"
        movl    $ROM + u_s32, %ecx
        movl    $0x46, %r11d
        sysretl
        .code32
u_s32:  int3
8:
        .code64
        DONE
        CASE    "user sysret"
        USER    8f
8:      sysretq
        DONE
        CASE    "no syscall"
        SET_MSR EFER, 0x900
8:      syscall
        DONE
        SET_MSR EFER, 0x901
        SET_MSR 0x174, 8
        SET_MSR 0x175, (KSTACK-0x100)
        SET_MSR 0x176, ROM+on_sysenter, 0xFFFF8000
        CASE    "sysenter"
        USER    u_ent
u_ent:  sysenter
        DONE
        CASE    "sysexit"
        movl    $ROM + u_exit, %edx
        movl    $USTACK, %ecx
        sysexitq
u_exit: int3
8:      DONE
        CASE    "sysexit to 32-bit code"
        movl    $ROM + u_exit3, %edx
        sysexitl
u_exit3:
        int3
8:      DONE
/* ---- what QEMU's translator leaves unchecked */
        cmpb    $0, STRICT
        je      back
        movq    $1 << 47, %r15
        CASE    "jump"
8:      jmp     *%r15
        DONE
        CASE    "call"
8:      call    *%r15
        DONE
        CASE    "return"
        pushq   %r15
8:      ret
        DONE
        CASE    "iretq"
        pushq   $DATA
        pushq   $KSTACK
        pushq   $2
        pushq   $CODE64
        pushq   %r15
8:      iretq
        DONE
        CASE    "lgdt"
        movq    %r15, 0x6012
        movw    $0x80, 0x6010
8:      lgdt    0x6010
        DONE

        CASE    "leave paging"
        movq    %cr0, %rax
        andl    $0x7FFFFFFF, %eax
8:      movq    %rax, %cr0
        DONE
        CASE    "leave pae"
        movq    %cr4, %rax
        andl    $~0x20, %eax
8:      movq    %rax, %cr4
        DONE
        CASE    "wide cr0"
        movq    %cr0, %rax
        btsq    $32, %rax
8:      movq    %rax, %cr0
        DONE
        CASE    "wide cr4"
        movq    %cr4, %rax
        btsq    $32, %rax
8:      movq    %rax, %cr4
        DONE
        CASE    "wide dr7"
        movq    $1 << 32, %rax
8:      movq    %rax, %db7
        DONE
        CASE    "efer reserved"
        movl    $EFER, %ecx
        xorl    %edx, %edx
        movl    $0x903, %eax
8:      wrmsr
        DONE
        CASE    "wide cr3"
        movq    $1 << 62, %rax
8:      movq    %rax, %cr3
        DONE
        CASE    "efer without lme"
        movl    $EFER, %ecx
        xorl    %edx, %edx
        movl    $0x801, %eax
8:      wrmsr
        DONE
        CASE    "lstar"
        movl    $LSTAR, %ecx
        movl    $0x8000, %edx
8:      wrmsr
        DONE
        CASE    "cr8 too great"
        movl    $16, %eax
8:      movq    %rax, %cr8
        DONE
        CASE    "null ss of level 3"
        movl    $3, %eax
8:      movl    %eax, %ss
        DONE
        CASE    "sysret where nobody lives"
        movq    $1 << 47, %rcx
8:      sysretq
        DONE
        CASE    "sysexit where nobody lives"
        movq    $1 << 47, %rdx
8:      sysexitq
        DONE

back:
/* ---- and back: compatibility mode, paging off, long mode off, 16-bit, real mode */
        SAY     "back\n"
        movl    $ROM + leave_long, 0x6010
        movw    $CODE32, 0x6014
        ljmpl   *0x6010

far_routine:
        leaq    (%rip), %rbx
1:      shrq    $32, %rbx
        lretq

on_gate:                                /* words that the gate pushed: RIP, CS, and RSP and SS of another level */
        movl    $DATA, %eax
        movl    %eax, %ss
        SAY     " gate"
        VALUE   8(%rsp)
        VALUE   %rsp
        movq    8(%rsp), %rax
        testb   $3, %al
        jz      1f
        VALUE   16(%rsp)
        VALUE   24(%rsp)
1:      lretq

on_syscall:
        movq    %rsp, %rbx
        movl    $KSTACK, %esp
        movq    %rcx, %r8
        pushfq
        popq    %r9
        movl    %cs, %r10d
        SAY     " rcx"
        subl    $ROM + u_back, %r8d
        VALUE   %r8
        SAY     " r11"
        VALUE   %r11
        SAY     " flags"
        andl    $0x7700, %r9d           /* arithmetic flags aside */
        VALUE   %r9
        SAY     " cs"
        VALUE   %r10
        movl    %ss, %r10d
        VALUE   %r10
        SAY     " rsp"
        VALUE   %rbx
        movl    $ROM + u_back, %ecx
        movq    %rbx, %rsp
        sysretq

on_sysenter:
        SAY     " cs"
        movl    %cs, %ebx
        VALUE   %rbx
        movl    %ss, %ebx
        VALUE   %rbx
        VALUE   %rsp
        leaq    (%rip), %rbx
        shrq    $32, %rbx
        VALUE   %rbx
        NEWLINE
        movl    $KSTACK, %esp
        movl    RESUME, %eax
        jmp     *%rax

/* ---- exceptions: 32 stubs of 16 bytes, which leave vector and error code on the stack -------------- */
        .balign 16
vectors:
        .set    n, 0
        .rept   32
        .balign 16, 0x90
        .if     n == 8 || n == 10 || n == 11 || n == 12 || n == 13 || n == 14 || n == 17
        .else
        pushq   $0x5E                   /* no error code */
        .endif
        pushq   $n
        jmp     common
        .set    n, n + 1
        .endr
        .balign 8, 0x90
common:
        movq    %rsp, %rbp
        cld
        SAY     " *"
        movq    (%rbp), %rdi
        movb    $'v', %al
        call    hex64_as
        cmpb    $0x5E, 8(%rbp)
        je      1f
        SAY     " e"
        VALUE   8(%rbp)
1:      SAY     " ip"
        movq    16(%rbp), %rdi
        movl    HERE, %eax
        subq    %rax, %rdi
        PRINT   hex
        SAY     " cs"
        VALUE   24(%rbp)
        SAY     " ss"
        VALUE   48(%rbp)
        movl    %ss, %ebx
        VALUE   %rbx
        SAY     " sp"
        VALUE   40(%rbp)
        SAY     " fl"
        movq    32(%rbp), %rdi
        andl    $0x7700, %edi           /* arithmetic flags aside, and RF, which QEMU knows nothing of */
        PRINT   hex
        SAY     " on"
        leaq    16(%rbp), %rdi
        PRINT   hex
        cmpb    $14, (%rbp)
        jne     2f
        SAY     " at"
        movq    %cr2, %rax
        VALUE   %rax
2:      NEWLINE
        movl    $DATA, %eax
        movl    %eax, %ss
        movl    $KSTACK, %esp
        pushq   $2
        popfq
        movl    RESUME, %eax
        jmp     *%rax

/* ---- compatibility mode ----------------------------------------------------------------------------- */
        .code32
compat:
        movl    $0xFFFFFFFF, %ebx
        .byte   0x43                    /* INC EBX: wraps to 0, as a register of 32 bits */
        movl    $0x1234, %ebx
        .byte   0x43
        lretl

leave_long:
        movl    $DATA, %eax             /* user code cost DS what it held */
        movl    %eax, %ds
        movl    %cr0, %eax
        andl    $0x7FFFFFFF, %eax
        movl    %eax, %cr0
        movl    $EFER, %ecx
        rdmsr
        movl    %eax, %ebx
        xorl    %eax, %eax
        wrmsr
        movl    %eax, %cr4
        movl    %ebx, 0x6020
        ljmpl   $CODE16, $protected16
        .code16
protected16:
        movw    $DATA16, %ax
        movw    %ax, %ds
        movw    %ax, %es
        movw    %ax, %ss
        movl    %cr0, %eax
        andl    $0xFFFEFFFE, %eax
        movl    %eax, %cr0
        ljmp    $ROM_SEG, $real
real:
        xorw    %ax, %ax
        movw    %ax, %ds
        movw    %ax, %es
        movw    %ax, %ss
        movw    $0x7C00, %sp
        lidtl   %cs:ivt_pointer
        cmpl    $0x901, 0x6020          /* LMA went with PG */
        jne     1f
        PUTS    real_again
        movw    $bochs_ends, %si        /* Bochs ends by its port 8900h, before the other one */
        movw    $8, %cx
        movw    $0x8900, %dx
2:      lodsb   %cs:(%si), %al
        outb    %al, %dx
        loop    2b
        LEAVE   0
1:      PUTS    still_long
        LEAVE   1

        .section .rodata
no_long_mode:
        .asciz  "this CPU has no long mode\r\n"
bochs_ends:
        .ascii  "Shutdown"
real_again:
        .asciz  "real mode again\r\n"
still_long:
        .asciz  "EFER is wrong\r\n"
        .balign 8
gdt:    .quad   0
        .quad   0x00AF9B000000FFFF      /* 08 64-bit code */
        .quad   0x00CF93000000FFFF      /* 10 data */
        .quad   0x00CF9B000000FFFF      /* 18 32-bit code */
        .quad   0x00CFFB000000FFFF      /* 20 user's 32-bit code */
        .quad   0x00CFF3000000FFFF      /* 28 user's data */
        .quad   0x00AFFB000000FFFF      /* 30 user's 64-bit code */
        .quad   0x00009B0F0000FFFF      /* 38 16-bit code */
        .quad   0x000093000000FFFF      /* 40 16-bit data */
        .quad   0x0000890070000067, 0   /* 48 TSS */
        .word   on_gate, CODE64, 0xEC00, ROM >> 16      /* 58 call gate */
        .long   0xFFFF8000, 0
        .quad   0x000082007800000F, 0xFFFF8000  /* 68 LDT, in the upper half */
        .quad   0x0000890070000033, 0   /* 78 a TSS with two stacks in its table */
        .quad   0x00EF9B000000FFFF      /* 88 L and D */
gdt_pointer:
        .word   GDT_LIMIT
        .long   GDT
gdt64_pointer:
        .word   GDT_LIMIT
        .quad   HIGH + GDT
idt64_pointer:
        .word   32 * 16 - 1 + 0x400     /* 96 gates; those above 32 are absent */
        .quad   HIGH + IDT
ivt_pointer:
        .word   0x3FF
        .long   0
        .balign 8
idt32:  .fill   13, 8, 0
        .word   on_gp32, CODE32, 0x8E00, ROM >> 16
idt32_pointer:
        .word   14 * 8 - 1
        .long   ROM + idt32
