/* void rom_call(u32 seg_off, u32 eax): call an option ROM's entry point.
 *
 * ROMs are called in big real mode, with DS = ES = SS = 0, 4 GiB limits and a low stack: some
 * (SeaVGABIOS, reading a monitor's data from the card's memory) take a segment register with
 * base 0 for the whole address space. Interrupts are on. The next pm_call puts the limits back;
 * until then they are only wider than a ROM or the BIOS needs. */

#include "layout.h"

        .code16
        .text
        .globl  rom_call
rom_call:
        pushfl
        cli
        pushl   %ebx
        pushl   %esi
        pushl   %edi
        pushl   %ebp
        movl    %esp, rom_esp
        movl    %eax, %esi
        lgdtl   gdt_pointer
        movl    %cr0, %ebx
        orb     $1, %bl
        movl    %ebx, %cr0
        jmp     1f
1:      movw    $SEL_BIG16, %cx
        movw    %cx, %ds
        movw    %cx, %es
        movw    %cx, %fs
        movw    %cx, %gs
        movw    %cx, %ss
        andb    $0xFE, %bl
        movl    %ebx, %cr0
        ljmp    $BIOS_SEG, $1f
1:      xorl    %ecx, %ecx
        movw    %cx, %ds
        movw    %cx, %es
        movw    %cx, %fs
        movw    %cx, %gs
        movw    %cx, %ss
        movl    $ROM_STACK, %esp
        pushw   %cs
        pushw   $rom_return
        pushl   %esi                    /* seg:off for LRET */
        movl    %edx, %eax
        xorl    %ebx, %ebx
        xorl    %edx, %edx
        xorl    %esi, %esi
        xorl    %edi, %edi
        xorl    %ebp, %ebp
        sti
        lretw
rom_return:
        cli
        cld
        movw    $BIOS_SEG, %ax
        movw    %ax, %ds
        movw    %ax, %es
        movw    %ax, %ss
        movl    rom_esp, %esp
        popl    %ebp
        popl    %edi
        popl    %esi
        popl    %ebx
        popfl
        retl

        .bss
        .balign 4
rom_esp: .skip  4
