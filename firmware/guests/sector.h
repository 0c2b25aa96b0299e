/* How every boot sector guest begins, and the codes with which it leaves. INT 19h loads it at
 * 0000:7C00 with the drive in DL. */
#ifndef SECTOR_H
#define SECTOR_H

#include "guest.h"

#define EXIT_GOOD 0x31
#define EXIT_BAD 0x32

        .code16

        /* CS = DS = ES = SS = 0, the stack below the sector, interrupts on; DL stays. */
        .macro  BOOT_SECTOR
        .text
        .globl  boot
boot:
        ljmp    $0, $1f
1:      cli
        xorw    %ax, %ax
        movw    %ax, %ds
        movw    %ax, %es
        movw    %ax, %ss
        movw    $0x7C00, %sp
        sti
        cld
        .endm

#endif
