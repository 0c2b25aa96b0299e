/* PCI bus 0: configuration space, resources, interrupt routing through the PIIX3. */
#include "pci.h"
#include "board.h"
#include "console.h"
#include "memory.h"

#define BAR_IO 1
#define BAR_TYPE_64 4
#define N_BARS 6

#define MEMORY_FIRST 0xE0000000
#define MEMORY_END 0xFEC00000
#define IO_FIRST 0xC000
#define PIIX3_PIRQ 0x60

static u32 next_memory;
static u32 next_io;

/* PIRQ A to D. */
static const u8 pirq_lines[4] = {10, 10, 11, 11};

static void select(u8 function, u8 offset)
{
    outl(PORT_PCI_ADDRESS, 0x80000000 | (u32)function << 8 | (offset & 0xFC));
}

u32 pci_read32(u8 function, u8 offset)
{
    select(function, offset);
    return inl(PORT_PCI_DATA);
}

u16 pci_read16(u8 function, u8 offset)
{
    select(function, offset);
    return inw(PORT_PCI_DATA + (offset & 2));
}

u8 pci_read8(u8 function, u8 offset)
{
    select(function, offset);
    return inb(PORT_PCI_DATA + (offset & 3));
}

void pci_write32(u8 function, u8 offset, u32 value)
{
    select(function, offset);
    outl(PORT_PCI_DATA, value);
}

void pci_write16(u8 function, u8 offset, u16 value)
{
    select(function, offset);
    outw(PORT_PCI_DATA + (offset & 2), value);
}

void pci_write8(u8 function, u8 offset, u8 value)
{
    select(function, offset);
    outb(PORT_PCI_DATA + (offset & 3), value);
}

int pci_next(int function)
{
    for (function++; function < PCI_FUNCTIONS; function++) {
        if (pci_read16(function, PCI_ID) != 0xFFFF)
            return function;
        if (!(function & 7))
            function |= 7;  /* no function 0: no device */
    }
    return -1;
}

u32 pci_allocate_memory(u32 size)
{
    u32 address = (next_memory + size - 1) & -size;
    if (size > MEMORY_END - MEMORY_FIRST || address < next_memory || address > MEMORY_END - size)
        return 0;
    next_memory = address + size;
    return address;
}

static void assign_bars(u8 function)
{
    u16 command = pci_read16(function, PCI_COMMAND) & ~(PCI_COMMAND_IO | PCI_COMMAND_MEMORY);
    pci_write16(function, PCI_COMMAND, command);
    for (u8 i = 0; i < N_BARS; i++) {
        u8 bar = PCI_BAR0 + 4 * i;
        u32 mask, size;
        pci_write32(function, bar, 0xFFFFFFFF);
        mask = pci_read32(function, bar);
        if (mask & BAR_IO) {
            size = -(mask & 0xFFFC) & 0xFFFF;
            next_io = (next_io + size - 1) & -size;
            if (next_io + size > 0x10000)
                continue;
            pci_write32(function, bar, next_io);
            next_io += size;
            command |= PCI_COMMAND_IO;
        } else if (mask & ~0xF) {
            u32 address;
            size = -(mask & ~0xF);
            address = pci_allocate_memory(size);
            pci_write32(function, bar, address);
            if (address)
                command |= PCI_COMMAND_MEMORY;
        }
        if ((mask & 7) == BAR_TYPE_64 && i + 1 < N_BARS)
            pci_write32(function, PCI_BAR0 + 4 * ++i, 0);
    }
    pci_write16(function, PCI_COMMAND, command);
}

void pci_assign(void)
{
    int function = -1;
    next_memory = MEMORY_FIRST;
    next_io = IO_FIRST;
    while ((function = pci_next(function)) >= 0) {
        u8 pin = pci_read8(function, PCI_INTERRUPT_PIN);
        if (!(pci_read8(function, PCI_HEADER_TYPE) & 0x7F))
            assign_bars(function);
        /* 440FX boards turn the pins by one per device: device 1's INTA is PIRQ A. */
        if (pin >= 1 && pin <= 4)
            pci_write8(function, PCI_INTERRUPT_LINE, pirq_lines[(pin - 1 + (function >> 3) - 1) & 3]);
    }
    if (pci_read32(PCI_ISA, PCI_ID) == PCI_ID_PIIX3) {
        u16 level = 0;
        for (u32 i = 0; i < 4; i++) {
            pci_write8(PCI_ISA, PIIX3_PIRQ + i, pirq_lines[i]);
            level |= 1 << pirq_lines[i];
        }
        outb(PORT_ELCR, level);
        outb(PORT_ELCR + 1, level >> 8);
    }
    /* Both channels decode their ports: Linux leaves out one that does not say so. */
    if (pci_read32(PCI_IDE, PCI_ID) == PCI_ID_PIIX3_IDE)
        for (u32 i = 0; i < 2; i++)
            pci_write16(PCI_IDE, IDETIM + 2 * i, IDETIM_DECODE);
}

static const char *class_name(u16 class)
{
    static const struct { u16 class; const char *name; } names[] = {
        {0x0101, "IDE controller"}, {0x0106, "SATA controller"}, {0x0200, "Ethernet"},
        {0x0300, "VGA"}, {0x0380, "display"}, {0x0600, "host bridge"}, {0x0601, "ISA bridge"},
        {0x0680, "power management"}, {0x0C03, "USB controller"}, {0x0100, "SCSI/virtio disk"},
    };
    for (u32 i = 0; i < COUNT(names); i++)
        if (names[i].class == class)
            return names[i].name;
    return "other";
}

void pci_print(void)
{
    int function = -1;
    while ((function = pci_next(function)) >= 0) {
        u32 id = pci_read32(function, PCI_ID);
        u16 class = pci_read32(function, PCI_CLASS) >> 16;
        print("PCI 00:%02x.%u %04x:%04x class %04x %s\n", function >> 3, function & 7,
              id & 0xFFFF, id >> 16, class, class_name(class));
    }
}
