/* Ports and registers of the board: a PC with Intel 440FX and PIIX3/PIIX4.
 * Sources: Intel 82441FX (290549), 82371FB/SB PIIX3 (290550), 82371AB PIIX4 (290562),
 * 8259A, 8254, 8237A, 8042 and 16550 data sheets, Motorola MC146818; isa-debug-exit
 * and fw_cfg: QEMU's documentation (docs/specs/fw_cfg). */
#ifndef BOARD_H
#define BOARD_H

#define PORT_DMA1 0x00
#define PORT_DMA1_FLIPFLOP 0x0C
#define PORT_DMA1_CLEAR 0x0D
#define PORT_PIC1 0x20
#define PORT_PIC2 0xA0
#define PORT_PIT0 0x40
#define PORT_PIT2 0x42
#define PORT_PIT_CONTROL 0x43
#define PORT_KBC_DATA 0x60
#define PORT_SYSTEM_B 0x61
#define PORT_KBC 0x64
#define PORT_CMOS_INDEX 0x70
#define PORT_CMOS_DATA 0x71
#define PORT_POST 0x80
#define PORT_SYSTEM_A 0x92
#define PORT_DMA2 0xC0
#define PORT_DMA2_MASK 0xD4
#define PORT_DMA2_MODE 0xD6
#define PORT_DMA2_FLIPFLOP 0xD8
#define PORT_DMA2_CLEAR 0xDA
#define PORT_FPU_CLEAR 0xF0
#define PORT_DEBUG_EXIT 0xF4
#define PORT_IDE1 0x1F0
#define PORT_IDE1_CONTROL 0x3F6
#define PORT_IDE2 0x170
#define PORT_IDE2_CONTROL 0x376
#define PORT_VGA_CRTC 0x3D4
#define PORT_COM1 0x3F8
#define PORT_ELCR 0x4D0
#define PORT_FWCFG_SELECTOR 0x510
#define PORT_FWCFG_DATA 0x511
#define PORT_FWCFG_DMA 0x514
#define PORT_PCI_ADDRESS 0xCF8
#define PORT_PCI_DATA 0xCFC
#define PORT_RESET_CONTROL 0xCF9

#define PIT_HZ 1193182

/* Interrupt lines. */
#define IRQ_TIMER 0
#define IRQ_KEYBOARD 1
#define IRQ_CASCADE 2
#define IRQ_COM1 4
#define IRQ_SPURIOUS1 7
#define IRQ_RTC 8
#define IRQ_IDE1 14
#define IRQ_SPURIOUS2 15

/* PCI functions, as device << 3 | function on bus 0. */
#define PCI_HOST 0x00
#define PCI_ISA 0x08
#define PCI_IDE 0x09
#define PCI_PM 0x0B
#define PCI_ID_I440FX 0x12378086
#define PCI_ID_PIIX3 0x70008086
#define PCI_ID_PIIX3_IDE 0x70108086
#define PCI_ID_PIIX4_PM 0x71138086

/* 440FX: PAM registers; each holds two fields, bit 0 read enable, bit 1 write enable. */
#define PAM0 0x59
#define PAM_READ_WRITE 3
#define PAM_READ 1

/* PIIX3 IDE: timing and control of each channel. */
#define IDETIM 0x40
#define IDETIM_DECODE 0x8000

/* PIIX4 power management. */
#define PM_BASE_REGISTER 0x40
#define PM_MISC_REGISTER 0x80
#define PM_BASE 0x600
#define PM1_CONTROL 4
#define PM1_SLEEP_ENABLE 0x2000

#endif
