/* Proves: NMI is masked until IRET and remembered once; a trap comes before NMI and interrupts, which then find its handler;
 * an SMI by the APM port saves and restores the registers and holds an NMI off until RSM; a pending x87 exception is IRQ 13
 * when CR0.NE is 0. It prints letters in the order of events, a line a part.
 * Intel SDM volume 3, 6.7.1, 6.9 (table 6-2), 34.3, 34.8; volume 1, 8.7.2. */
#include "guest.h"
#define ICR 0xFEE00300
#define NMI 0x4400                      /* physical, to APIC 0 */
#define SELF 0x44040                    /* vector 40h to itself */
#define SENT 0x500                      /* variables in RAM */
#define CONTROL 0x502
#define SMI_HANDLER 0x38000
#define PM_BASE 0x600
        .code16
        .globl  guest_main
        .macro  SAY letter
        movb    $\letter, %al
        call    putc
        .endm
        .macro  SEND what
        movl    $ICR, %ebx
        movl    $\what, (%ebx)
        .endm
        .macro  TRAPS                   /* TF and IF: a trap behind the next instruction but one */
        pushfw
        movw    %sp, %bp
        orw     $0x300, (%bp)
        popfw
        .endm
guest_main:
        call    irq_setup
        movl    $ICR, %ebx
        movl    $0, 0x10(%ebx)          /* to APIC 0 */
        movw    $on_nmi, 4 * 2
        movw    $ROM_SEG, 4 * 2 + 2
        movw    $on_trap, 4 * 1
        movw    $ROM_SEG, 4 * 1 + 2
        movw    $on_interrupt, 4 * 0x40
        movw    $ROM_SEG, 4 * 0x40 + 2
        movw    $on_irq13, 4 * 0x75
        movw    $ROM_SEG, 4 * 0x75 + 2

        movw    $0, SENT                /* two more in the handler: one comes behind its IRET */
        SAY     'a'
        SEND    NMI
        SAY     'b'
        PUTS    line

        movl    $ICR, %ebx              /* a trap and an interrupt at one boundary */
        TRAPS
        movl    $SELF, (%ebx)
        cli
        SAY     'c'
        PUTS    line
        movl    $ICR, %ebx              /* a trap and an NMI */
        TRAPS
        movl    $NMI, (%ebx)
        cli
        SAY     'd'
        PUTS    line

        movw    $SMI_HANDLER >> 4, %ax
        movw    %ax, %es
        movw    $on_smi, %si
        xorw    %di, %di
        movw    $on_smi_end - on_smi, %cx
        rep movsb %cs:(%si), %es:(%di)
        movl    $0x80000B40, %eax       /* PIIX4 power management: registers at 600h */
        movl    $PM_BASE | 1, %ecx
        call    configure
        movl    $0x80000B80, %eax       /* PMIOSE */
        movl    $1, %ecx
        call    configure
        movl    $0x80000B58, %eax       /* APMC_EN: SMI by the APM port */
        movl    $0x02000000, %ecx
        call    configure
        movw    $PM_BASE + 0x28, %dx    /* GLBCTL: SMI_EN */
        inl     %dx, %eax
        orb     $1, %al
        outl    %eax, %dx
        movl    $0x12345678, %ecx
        movl    $0x87654321, %esi
        outb    %al, $0xB2
        nop
        nop
        cmpl    $0x12345678, %ecx
        jne     bad
        cmpl    $0x87654321, %esi
        jne     bad
        SAY     'e'
        PUTS    line
        movl    %cr0, %eax              /* x87: division by zero, not masked */
        andb    $~0x2C, %al             /* NE, TS, EM */
        movl    %eax, %cr0
        movb    $0xFB, %al
        outb    %al, $PORT_PIC1 + 1
        movb    $0xDF, %al
        outb    %al, $PORT_PIC2 + 1
        fninit
        movw    $0x37B, CONTROL
        fldcw   CONTROL
        fld1
        fldz
        fdivrp
        sti
        SAY     'f'
        fwait
        cli
        SAY     'g'
        PUTS    line

        movw    $shutdown, %si          /* Bochs ends by its port 8900h */
        movw    $0x8900, %dx
        movw    $8, %cx
        rep outsb %cs:(%si), %dx
        LEAVE   0
bad:    LEAVE   1

configure:                              /* set the bits ECX of a register of PCI configuration */
        movw    $0xCF8, %dx
        outl    %eax, %dx
        movw    $0xCFC, %dx
        inl     %dx, %eax
        orl     %ecx, %eax
        outl    %eax, %dx
        ret

on_nmi: pushaw                          /* eight words below IP */
        movw    %sp, %bp
        cmpw    $on_trap, 16(%bp)
        je      3f
        SAY     'n'
        cmpw    $0, SENT
        jne     2f
        incw    SENT
        SEND    NMI
        SEND    NMI
        SAY     '1'
2:      popaw
        iretw
3:      SAY     'N'
        popaw
        iretw
on_trap:
        pushaw
        movw    %sp, %bp
        andw    $~0x100, 20(%bp)
        SAY     't'
        popaw
        iretw
on_interrupt:
        pushaw
        SAY     'i'
        movl    $0xFEE000B0, %ebx
        movl    $0, (%ebx)
        popaw
        iretw
on_irq13:
        pushaw
        SAY     '9'
        xorb    %al, %al
        outb    %al, $0xF0
        fnclex
        movb    $0x20, %al
        outb    %al, $PORT_PIC2
        outb    %al, $PORT_PIC1
        popaw
        iretw

on_smi: movb    $'s', %al               /* copied to SMBASE + 8000h */
        outb    %al, $PORT_DEBUG
        movl    $ICR, %ebx
        movl    $NMI, %ds:(%ebx)
        movb    $'2', %al
        outb    %al, $PORT_DEBUG
        xorl    %ecx, %ecx
        xorl    %esi, %esi
        rsm
on_smi_end:
        .section .rodata
line:   .asciz  "\r\n"
shutdown:
        .ascii  "Shutdown"
