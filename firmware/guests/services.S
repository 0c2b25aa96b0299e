/* Proves: the BIOS services that bootsect leaves out. A20 by INT 15h AX=24xx, block move (87),
 * waits (86 and 83), configuration (C0); tick count, time, date and alarm by INT 1Ah; INT 16h
 * AH=05; INT 13h errors; and that a service keeps the upper halves of registers. Leaves with 31h;
 * a failed step prints its letter and leaves with 32h. Sets the clock to 2031-07-08 12:34:56. */
#include "sector.h"
#define TICKS 0x46C
#define FROM 0xA000
#define BACK 0xB000
#define FLAG 0x600

        /* Name the step that follows. */
        .macro  STEP letter
        movb    $\letter, step
        .endm

        BOOT_SECTOR
        movb    %dl, drive
        movw    $0x0207, %ax            /* the rest of this program */
        movw    $0x0002, %cx
        movb    $0, %dh
        movw    $0x7E00, %bx
        int     $0x13
        jnc     a20

bad:    movb    $EXIT_BAD, %ah
        movb    step, %al
        movb    %al, text_bad + 5
        movw    $text_bad, %si
        jmp     end
good:   movb    $EXIT_GOOD, %ah
        movw    $text_good, %si
end:    lodsb
        testb   %al, %al
        jz      1f
        outb    %al, $PORT_DEBUG
        movw    $PORT_COM1, %dx
        outb    %al, %dx
        jmp     end
1:      movb    %ah, %al
        outb    %al, $PORT_DEBUG_EXIT
2:      cli
        hlt
        jmp     2b

drive:  .byte   0
step:   .byte   'L'
text_good:
        .asciz  "services ok\r\n"
text_bad:
        .asciz  "step X failed\r\n"
        .org    510
        .word   0xAA55

a20:    STEP    'A'
        movw    $0x2400, %ax
        int     $0x15
        jc      bad
        movw    $0x2402, %ax
        int     $0x15
        jc      bad
        testb   %al, %al
        jnz     bad
        movw    $0xFFFF, %ax
        movw    %ax, %es
        movb    $0x11, FLAG
        movb    $0x22, %es:FLAG + 0x10
        cmpb    $0x22, FLAG             /* wraps */
        jne     bad
        movw    $0x2401, %ax
        int     $0x15
        jc      bad
        movw    $0x2402, %ax
        int     $0x15
        cmpb    $1, %al
        jne     bad
        movb    $0x33, %es:FLAG + 0x10
        cmpb    $0x22, FLAG             /* does not */
        jne     bad

        STEP    'M'                     /* 512 bytes to 1 MiB + 64 KiB and back */
        pushw   %ds
        popw    %es
        movw    $FROM, %di
        movw    $256, %cx
1:      movw    %cx, %ax
        stosw
        loop    1b
        movb    $0x87, %ah
        movw    $table, %si
        movw    $256, %cx
        int     $0x15
        jc      bad
        movl    table + 0x12, %eax      /* swap the ends */
        xchgl   %eax, table + 0x1A
        movl    %eax, table + 0x12
        movb    $BACK >> 8, table + 0x1B
        movb    $0x87, %ah
        movw    $table, %si
        movw    $256, %cx
        int     $0x15
        jc      bad
        movw    $FROM, %si
        movw    $BACK, %di
        movw    $256, %cx
        repe cmpsw
        jne     bad

        STEP    'W'                     /* 300 ms are 5 or 6 ticks; a busy host loses some */
        movl    TICKS, %ebx
        movb    $0x86, %ah
        movw    $300000 >> 16, %cx
        movw    $300000 & 0xFFFF, %dx
        int     $0x15
        jc      bad
        movl    TICKS, %eax
        subl    %ebx, %eax
        cmpl    $2, %eax
        jb      bad

        STEP    'E'                     /* bit 7 of a byte of ours after 20 ms */
        movb    $0, FLAG
        movw    $0x8300, %ax
        movw    $0, %cx
        movw    $20000, %dx
        movw    $FLAG, %bx
        int     $0x15
        jc      bad
        movl    TICKS, %ebx
1:      hlt
        movl    TICKS, %eax
        subl    %ebx, %eax
        cmpl    $40, %eax
        ja      bad
        testb   $0x80, FLAG
        jz      1b

        STEP    'C'
        movb    $0xC0, %ah
        int     $0x15
        jc      bad
        cmpb    $0xFC, %es:2(%bx)
        jne     bad
        pushw   %ds
        popw    %es

        STEP    'T'                     /* tick count */
        movb    $0x01, %ah
        movw    $1, %cx
        movw    $0x2345, %dx
        int     $0x1A
        movb    $0x00, %ah
        int     $0x1A
        cmpw    $1, %cx
        jne     bad
        subw    $0x2345, %dx
        cmpw    $20, %dx
        ja      bad

        STEP    'D'                     /* date and time */
        movb    $0x05, %ah
        movw    $0x2031, %cx
        movw    $0x0708, %dx
        int     $0x1A
        movb    $0x03, %ah
        movw    $0x1234, %cx
        movw    $0x5600, %dx
        int     $0x1A
        movb    $0x04, %ah
        int     $0x1A
        jc      bad
        cmpw    $0x2031, %cx
        jne     bad
        cmpw    $0x0708, %dx
        jne     bad
        movb    $0x02, %ah
        int     $0x1A
        jc      bad
        cmpw    $0x1234, %cx
        jne     bad

        STEP    'P'                     /* alarm at 12:34:58 by INT 4Ah */
        movb    $0, FLAG
        movw    $alarm, 4 * 0x4A
        movw    $0, 4 * 0x4A + 2
        movb    $0x06, %ah
        movw    $0x1234, %cx
        movw    $0x5800, %dx
        int     $0x1A
        jc      bad
        movb    $0x06, %ah              /* a second alarm is refused */
        int     $0x1A
        jnc     bad
        movl    TICKS, %ebx
1:      hlt
        movl    TICKS, %eax
        subl    %ebx, %eax
        cmpl    $120, %eax
        ja      bad
        cmpb    $0x4A, FLAG
        jne     1b
        movb    $0x07, %ah
        int     $0x1A

        STEP    'K'                     /* a key put into the buffer */
        movb    $0x05, %ah
        movw    $0x1E61, %cx
        int     $0x16
        testb   %al, %al
        jnz     bad
        movb    $0x01, %ah
        int     $0x16
        jz      bad
        cmpw    $0x1E61, %ax
        jne     bad
        movb    $0x00, %ah
        int     $0x16
        cmpw    $0x1E61, %ax
        jne     bad
        movb    $0x01, %ah
        int     $0x16
        jnz     bad

        STEP    'I'                     /* sector 0 and an unknown function are errors */
        movw    $0x0201, %ax
        movw    $0x0000, %cx
        movb    $0, %dh
        movb    drive, %dl
        movw    $BACK, %bx
        int     $0x13
        jnc     bad
        testb   %ah, %ah
        jz      bad
        movb    $0xFF, %ah
        movb    drive, %dl
        int     $0x13
        jnc     bad
        cmpb    $0x01, %ah
        jne     bad
        movw    $0x0201, %ax            /* no such drive */
        movw    $0x0001, %cx
        movb    $0x8F, %dl
        int     $0x13
        jnc     bad

        STEP    'R'                     /* registers that a read must keep, all 32 bits */
        movl    $0x11112222, %esi
        movl    $0x33334444, %edi
        movl    $0x55556666, %ebp
        movl    $0x77770000 | BACK, %ebx
        movl    $0x88880001, %ecx
        movl    $0x99990000, %edx
        movb    drive, %dl
        movw    $0x0201, %ax
        int     $0x13
        jc      bad
        cmpl    $0x11112222, %esi
        jne     bad
        cmpl    $0x33334444, %edi
        jne     bad
        cmpl    $0x55556666, %ebp
        jne     bad
        cmpl    $0x77770000 | BACK, %ebx
        jne     bad
        cmpl    $0x88880001, %ecx
        jne     bad
        cmpw    $0xAA55, BACK + 510
        jne     bad
        cmpw    $0x7C00, %sp
        jne     bad
        jmp     good

alarm:  pushw   %ds
        pushw   $0
        popw    %ds
        movb    $0x4A, FLAG
        popw    %ds
        iretw

        .balign 8
table:  .quad   0, 0                    /* INT 15h AH=87: source, destination */
        .quad   0x0000930000000000 | FROM << 16 | 0xFFFF
        .quad   0x000093110000FFFF
        .quad   0, 0
        .org    65536 - 1
        .byte   0
