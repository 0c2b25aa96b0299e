/* One access for access.c: try_access(kind, address) does it at level 0 or 3 and comes back, whether it faults or not. */
        .text
        .code32
        .globl  try_access, on_access_fault, on_user_done
try_access:
        pushal
        pushfl
        movl    %esp, saved_esp
        movl    40(%esp), %eax          /* kind */
        movl    44(%esp), %ecx
        movl    access_flags, %edx      /* EFLAGS.AC, for SMAP */
        pushl   %edx
        popfl
        cmpl    $4, %eax
        jae     user
        jmp     *supervisor(, %eax, 4)
read0:  movl    64(%ecx), %eax
        jmp     done
write0: movl    %eax, 64(%ecx)
        jmp     done
change0:
        incl    64(%ecx)
        jmp     done
fetch0: call    *%ecx
        jmp     done
user:   movw    $0x23, %dx
        movw    %dx, %ds
        movw    %dx, %es
        pushl   $0x23
        pushl   $user_stack + 4096
        pushl   access_flags
        pushl   $0x1B
        movl    saved_esp, %ebx
        movl    40(%ebx), %eax
        pushl   %ss:user_code - 16(, %eax, 4)
        iret
on_user_done:
        movl    $0x10, %eax
        movl    %eax, %ds
        movl    %eax, %es
        jmp     done
on_access_fault:
        movl    $0x10, %eax
        movl    %eax, %ds
        movl    %eax, %es
        popl    fault_error
        movl    %cr2, %eax
        movl    %eax, fault_address
        movl    $1, faulted
done:   movl    saved_esp, %esp
        popfl
        popal
        ret
        .balign 4096
        .globl  user_page
user_page:                              /* mapped for level 3 */
read3:  movl    64(%ecx), %eax
        int     $0x30
write3: movl    %eax, 64(%ecx)
        int     $0x30
change3:
        incl    64(%ecx)
        int     $0x30
fetch3: addl    $16, %ecx
        jmp     *%ecx
load3:  /* a segment register from an LDT in the page: the system's access, not the program's */
        movl    $7 | 4 << 3, %eax       /* descriptor 4 of the LDT */
        movl    %eax, %fs
        int     $0x30
        .balign 4096
        .section .rodata
supervisor:
        .long   read0, write0, change0, fetch0
user_code:
        .long   read3, write3, change3, fetch3, load3
