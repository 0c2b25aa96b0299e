/* Proves: what a boot sector needs of a PC BIOS. Loaded by INT 19h at 0000:7C00 with the drive
 * in DL, it reads the sector behind it by INT 13h AH=02 and two more by AH=42, checks them, and
 * from there uses INT 10h AH=0E, 11h, 12h, 13h AH=08/15/41/48, 15h E820/E801/88, 16h AH=01 and
 * 1Ah; it prints on the screen, COM1 and the debug port and leaves through isa-debug-exit with
 * 31h (QEMU's status 63h). Every failed step prints its letter and leaves with 32h. */
#include "sector.h"
#define SMAP 0x534D4150
#define MAP 0x600
#define SECTOR(n) (0x7C00 + 512 * (n))
        BOOT_SECTOR
        movb    %dl, drive
        movw    $text_boot, %si
        call    puts
        movb    $'D', %al
        testb   $0x80, drive
        jz      bad

        movw    $0x0201, %ax            /* cylinder 0, head 0, sector 2 */
        movw    $0x0002, %cx
        movb    $0, %dh
        movb    drive, %dl
        movw    $SECTOR(1), %bx
        int     $0x13
        movb    $'C', %al
        jc      bad
        cmpl    $0x31544353, SECTOR(1)
        jne     bad

        movb    $0x42, %ah              /* blocks 2 and 3 */
        movb    drive, %dl
        movw    $packet, %si
        int     $0x13
        movb    $'L', %al
        jc      bad
        cmpl    $0x32544353, SECTOR(2)
        jne     bad
        cmpl    $0x33544353, SECTOR(3)
        jne     bad
        cmpw    $2, packet + 2
        jne     bad
        jmp     stage2

bad:    movb    %al, text_bad + 5
        movw    $text_bad, %si
        call    puts
        movb    $EXIT_BAD, %al
        jmp     leave

puts:   lodsb
        testb   %al, %al
        jz      1f
        call    putc
        jmp     puts
1:      ret

/* Print AL on the screen, COM1 and the debug port; keeps all registers. */
putc:   pushal
        outb    %al, $PORT_DEBUG
        movb    $0x0E, %ah
        movw    $7, %bx
        pushw   %ax
        int     $0x10
        popw    %ax
        movb    %al, %ah
        movw    $COM1_LSR, %dx
        movw    $0xFFFF, %cx
1:      inb     %dx, %al
        testb   $0x20, %al
        loopz   1b
        movb    %ah, %al
        movw    $PORT_COM1, %dx
        outb    %al, %dx
        popal
        ret

leave:  outb    %al, $PORT_DEBUG_EXIT
1:      cli
        hlt
        jmp     1b

drive:  .byte   0
        .balign 4
packet: .byte   16, 0
        .word   2, SECTOR(2), 0
        .quad   2
text_boot:
        .asciz  "boot sector runs\r\n"
text_bad:
        .asciz  "step X failed\r\n"
        .org    510
        .word   0xAA55

        .ascii  "SCT1"                  /* sector 1 */
stage2:
        movw    $text_read, %si
        call    puts

        movb    $0x41, %ah              /* INT 13h: extensions, sizes, two geometries */
        movb    drive, %dl
        movw    $0x55AA, %bx
        int     $0x13
        movb    $'X', %al
        jc      bad
        cmpw    $0xAA55, %bx
        jne     bad
        movb    $0x48, %ah
        movb    drive, %dl
        movw    $0x700, %si
        movw    $0x1A, (%si)
        int     $0x13
        movb    $'P', %al
        jc      bad
        cmpw    $512, 0x718
        jne     bad
        movw    $text_sectors, %si
        call    puts
        movl    0x710, %eax
        call    hex
        movb    $0x08, %ah
        movb    drive, %dl
        int     $0x13
        pushw   %ds
        popw    %es
        movb    $'G', %al
        jc      bad
        movw    $text_chs, %si
        call    puts
        movzwl  %cx, %eax
        shll    $16, %eax
        movw    %dx, %ax
        call    hex
        movb    $0x15, %ah
        movb    drive, %dl
        int     $0x13
        cmpb    $3, %ah
        movb    $'T', %al
        jne     bad

        movb    $0x01, %ah              /* INT 16h: no key waits */
        int     $0x16
        movb    $'K', %al
        jnz     bad

        int     $0x11                   /* equipment, memory below 640 KiB */
        movw    $text_equipment, %si
        call    word
        int     $0x12
        movw    $text_low, %si
        call    word
        jmp     memory
        .org    1024

        .ascii  "SCT2"                  /* sector 2 */
memory:
        movb    $0x88, %ah
        int     $0x15
        movw    $text_88, %si
        call    word
        movw    $0xE801, %ax
        int     $0x15
        movb    $'E', %al
        jc      bad
        movw    $text_e801, %si
        call    puts
        movzwl  %cx, %eax
        shll    $16, %eax
        movw    %dx, %ax
        call    hex
        movw    $text_newline, %si
        call    puts

        xorl    %ebx, %ebx              /* INT 15h E820: the memory map */
1:      movl    $0xE820, %eax
        movl    $SMAP, %edx
        movl    $20, %ecx
        movw    $MAP, %di
        int     $0x15
        pushfw
        cmpl    $SMAP, %eax
        movb    $'M', %al
        jne     bad
        popfw
        jc      2f
        movw    $text_e820, %si
        call    puts
        movl    MAP + 4, %eax
        call    hex
        movl    MAP, %eax
        call    hex
        movb    $' ', %al
        call    putc
        movl    MAP + 12, %eax
        call    hex
        movl    MAP + 8, %eax
        call    hex
        movb    $' ', %al
        call    putc
        movb    MAP + 16, %al
        addb    $'0', %al
        call    putc
        movw    $text_newline, %si
        call    puts
        testl   %ebx, %ebx
        jnz     1b
2:      jmp     time
        .org    1536

        .ascii  "SCT3"                  /* sector 3 */
time:
        movb    $0x00, %ah              /* INT 1Ah: the tick counts on */
        int     $0x1A
        movw    %dx, %di
        movw    $40, %cx
1:      hlt
        pushw   %cx
        movb    $0x00, %ah
        int     $0x1A
        popw    %cx
        cmpw    %di, %dx
        loope   1b
        movb    $'I', %al
        je      bad
        movb    $0x02, %ah
        int     $0x1A
        movb    $'R', %al
        jc      bad
        cmpb    $0x23, %ch
        ja      bad
        cmpb    $0x59, %cl
        ja      bad
        movw    $text_done, %si
        call    puts
        movb    $EXIT_GOOD, %al
        jmp     leave

/* Print the text at SI, then AX in hex. */
word:   pushw   %ax
        call    puts
        popw    %ax
        movzwl  %ax, %eax

/* Print EAX in hex; keeps all registers. */
hex:    pushal
        movl    %eax, %edx
        movw    $8, %cx
1:      roll    $4, %edx
        movb    %dl, %al
        andb    $15, %al
        addb    $'0', %al
        cmpb    $'9', %al
        jbe     2f
        addb    $'a' - '9' - 1, %al
2:      call    putc
        loop    1b
        popal
        ret

text_read:      .asciz  "sectors read by AH=02 and AH=42\r\n"
text_sectors:   .asciz  "sectors "
text_chs:       .asciz  " chs "
text_equipment: .asciz  " equipment "
text_low:       .asciz  " low "
text_88:        .asciz  "\r\n88 "
text_e801:      .asciz  " e801 "
text_e820:      .asciz  "e820 "
text_newline:   .asciz  "\r\n"
text_done:      .asciz  "boot sector done\r\n"
        .org    65536 - 1
        .byte   0
