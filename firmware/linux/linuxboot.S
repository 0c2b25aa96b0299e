/* Option ROM that starts the Linux kernel of --kernel: fw_cfg has the kernel's parts and where each is to lie.
 *
 * It is a boot entry vector of a Plug and Play expansion header, which firmware calls in INT 19h.  fw_cfg's DMA puts
 * each part into its place, also above 1 MiB.  It runs wherever it was copied to: all it needs of itself is CS.
 * Sources: Plug and Play BIOS Specification 1.0A, 3.2 (expansion header); BIOS Boot Specification 1.01, 3.3;
 * QEMU docs/specs/fw_cfg; Linux Documentation/x86/boot.rst (registers at the setup code's entry). */
        .code16
        .text

#define FWCFG 0x510
#define FWCFG_DMA_LOW 0x518
#define DMA_SELECT_READ 0x0A
#define DMA_ERROR_SWAPPED 0x01000000
#define ACCESS 0x7010           /* the DMA's access structure, above the stack */
#define STACK 0x7000
#define SETUP_SEG 0x1000
#define SETUP_STACK 0xE000

        .globl  _start
_start: .word   0xAA55
        .byte   1               /* times 512 bytes */
        lret                    /* nothing to set up */
        .org    0x18
        .word   0, header
        .align  16
header: .ascii  "$PnP"
        .byte   1, 2            /* revision, length in 16 bytes */
        .word   0
        .byte   0, 0            /* checksum: build_linux.py */
        .long   0
        .word   0, name
        .byte   0, 0x80, 2      /* class: memory and others; not its own boot device */
        .byte   0
        .word   0, 0, boot, 0, 0

name:   .asciz  "Linux loader"
/* Keys of where a part lies, of its size, of its bytes. */
parts:  .word   0x16, 0x17, 0x18        /* setup */
        .word   0x13, 0x14, 0x15        /* command line */
        .word   0x07, 0x08, 0x11        /* kernel */
        .word   0x0A, 0x0B, 0x12        /* initial RAM disk */
end_of_parts:

boot:   cli
        cld
        xorw    %ax, %ax
        movw    %ax, %ss
        movw    $STACK, %sp
        movw    $parts, %si
1:      call    load
        cmpw    $end_of_parts, %si
        jb      1b
        movw    $SETUP_SEG, %ax
        movw    %ax, %ds
        movw    %ax, %es
        movw    %ax, %fs
        movw    %ax, %gs
        movw    %ax, %ss
        movw    $SETUP_STACK, %sp
        ljmp    $SETUP_SEG + 0x20, $0

/* The part whose keys are at CS:SI; SI goes on. */
load:   call    number
        movl    %eax, %edi
        call    number
        movl    %eax, %ebp
        lodsw   %cs:(%si)
        testl   %ebp, %ebp
        jz      2f
        shll    $16, %eax
        movb    $DMA_SELECT_READ, %al
        bswapl  %eax
        movl    %eax, %ss:ACCESS
        bswapl  %ebp
        movl    %ebp, %ss:ACCESS + 4
        movl    $0, %ss:ACCESS + 8
        bswapl  %edi
        movl    %edi, %ss:ACCESS + 12
        movw    $FWCFG_DMA_LOW, %dx
        movl    $ACCESS, %eax
        bswapl  %eax
        outl    %eax, %dx
1:      movl    %ss:ACCESS, %eax
        testl   $DMA_ERROR_SWAPPED, %eax
        jnz     3f
        testl   %eax, %eax
        jnz     1b
2:      ret
3:      int     $0x18           /* what there is instead */

/* The item whose key is at CS:SI, 4 bytes, to EAX; SI goes on. */
number: lodsw   %cs:(%si)
        movw    $FWCFG, %dx
        outw    %ax, %dx
        incw    %dx
        movw    $4, %cx
1:      inb     %dx, %al
        rorl    $8, %eax
        loop    1b
        ret

        .org    512
