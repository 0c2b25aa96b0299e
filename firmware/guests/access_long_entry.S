/* One access for access_long.c, by 64-bit code: try_access(kind) is called by 32-bit code in compatibility mode, does it at
 * level 0 or 3 at TARGET, which lies above 4 GiB, and comes back, whether it faults or not. */
#define TARGET 0x8000000000
#define CODE32 0x08
#define DATA 0x10
#define CODE64 0x18
#define USER_CODE 0x23
#define USER_DATA 0x2B
#define TSS 0x30
#define LDT 0x40
        .text
        .code32
        .globl  load_tables, try_access, on_access_fault, on_user_done, on_other
try_access:
        pushal
        pushfl
        movl    %esp, saved_esp
        movl    40(%esp), %eax          /* kind */
        ljmp    $CODE64, $long_code
        .code64
long_code:
        movabs  $TARGET, %rcx
        invlpg  (%rcx)
        movl    %eax, %ebx
        movl    saved_esp(%rip), %esp
        pushq   access_flags(%rip)            /* EFLAGS.AC, for SMAP */
        popfq
        cmpl    $4, %ebx
        jae     user
        movl    $supervisor, %edx
        movl    (%rdx, %rbx, 4), %edx
        jmp     *%rdx
read0:  movl    64(%rcx), %eax
        jmp     done
write0: movl    %eax, 64(%rcx)
        jmp     done
change0:
        incl    64(%rcx)
        jmp     done
fetch0: call    *%rcx
        jmp     done
user:   movl    $user_code - 16, %edx
        movl    (%rdx, %rbx, 4), %edx
        pushq   $USER_DATA
        movl    $user_stack + 4096, %eax
        pushq   %rax
        pushq   access_flags(%rip)
        pushq   $USER_CODE
        pushq   %rdx
        iretq
on_access_fault:
        popq    fault_error(%rip)
        movq    %cr2, %rax
        movq    %rax, fault_address(%rip)
        movl    $1, faulted(%rip)
on_user_done:
done:   movl    saved_esp(%rip), %esp
        movl    $DATA, %eax
        movl    %eax, %ss
        movl    %eax, %ds
        movl    %eax, %es
        ljmp    *compatible(%rip)
on_other:
        movl    saved_esp(%rip), %esp
        movl    $DATA, %eax
        movl    %eax, %ss
        movl    %eax, %ds
        movl    %eax, %es
        ljmp    *unexpected_at(%rip)
load_long_tables:                       /* 16-byte descriptors are for 64-bit mode alone */
        movl    $TSS, %eax
        ltr     %ax
        movl    $LDT, %eax
        lldt    %ax
        ljmp    *tables_loaded(%rip)
        .code32
load_tables:
        ljmp    $CODE64, $load_long_tables
back_loaded:
        ret
back:   popfl
        popal
        ret
        .balign 4096
        .globl  user_page
user_page:                              /* mapped for level 3 */
        .code64
read3:  movl    64(%rcx), %eax
        int     $0x30
write3: movl    %eax, 64(%rcx)
        int     $0x30
change3:
        incl    64(%rcx)
        int     $0x30
fetch3: addq    $16, %rcx
        jmp     *%rcx
load3:  /* a segment register from an LDT in the page: the system's access, not the program's */
        movl    $7 | 4 << 3, %eax       /* descriptor 4 of the LDT */
        movl    %eax, %fs
        int     $0x30
        .balign 4096
        .section .rodata
compatible:
        .long   back
        .word   CODE32
tables_loaded:
        .long   back_loaded
        .word   CODE32
unexpected_at:
        .long   unexpected
        .word   CODE32
        .balign 4
supervisor:
        .long   read0, write0, change0, fetch0
user_code:
        .long   read3, write3, change3, fetch3, load3
