/* What the option ROMs behind --kernel share: their header, and how they fetch from fw_cfg.
 *
 * Such a ROM is a boot entry vector of a Plug and Play expansion header, which firmware calls in INT 19h.  It runs wherever
 * it was copied to: all it needs of itself is CS.  SS is 0 when it fetches; at ACCESS, which
 * is defined before this is included, lies then the DMA's access structure.
 * Sources: Plug and Play BIOS Specification 1.0A, 3.2 (expansion header); BIOS Boot Specification 1.01, 3.3;
 * QEMU docs/specs/fw_cfg. */
#define FWCFG 0x510
#define FWCFG_DMA_LOW 0x518
#define DMA_SELECT_READ 0x0A
#define DMA_ERROR_SWAPPED 0x01000000

/* The begin of a ROM whose code is at `boot` and whose name is at `name`. */
        .macro  ROM_HEADER sectors
        .globl  _start
_start: .word   0xAA55
        .byte   \sectors        /* of 512 bytes */
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
        .endm

        .macro  FETCHING
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
        .endm
