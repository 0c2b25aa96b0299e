/* PCI configuration by mechanism 1, bus 0 only (pci.c). Functions are device << 3 | function. */
#ifndef PCI_H
#define PCI_H

#include "types.h"

#define PCI_ID 0x00
#define PCI_COMMAND 0x04
#define PCI_CLASS 0x08
#define PCI_HEADER_TYPE 0x0E
#define PCI_BAR0 0x10
#define PCI_ROM 0x30
#define PCI_INTERRUPT_LINE 0x3C
#define PCI_INTERRUPT_PIN 0x3D

#define PCI_COMMAND_IO 1
#define PCI_COMMAND_MEMORY 2
#define PCI_CLASS_VGA 0x0300
#define PCI_FUNCTIONS 256

u32 pci_read32(u8 function, u8 offset);
u16 pci_read16(u8 function, u8 offset);
u8 pci_read8(u8 function, u8 offset);
void pci_write32(u8 function, u8 offset, u32 value);
void pci_write16(u8 function, u8 offset, u16 value);
void pci_write8(u8 function, u8 offset, u8 value);

/* The next function after `function` (start with -1) that exists, or -1. */
int pci_next(int function);

/* Give every BAR its address and every function its interrupt line. */
void pci_assign(void);

/* An address for size bytes of memory, aligned to it; 0 when there is no room. */
u32 pci_allocate_memory(u32 size);
void pci_print(void);

#endif
