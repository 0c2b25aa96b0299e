/* Option ROMs: those of the ISA bus at C0000..DFFFF and the PCI VGA card's expansion ROM. All
 * are copied to shadow RAM opened by the 440FX's PAM registers, run there while it can be
 * written, and write-protected afterwards. ROMs of other PCI cards (network boot) are left alone.
 * Source: PCI Firmware Specification 3.0, 5.1 and 5.2; the ISA rules are the PC/AT's. */
#include "optrom.h"
#include "board.h"
#include "console.h"
#include "pci.h"
#include "pm.h"
#include "regs.h"

#define AREA_FIRST_SEG 0xC000
#define AREA_END_SEG 0xE000
#define ROM_STEP_SEG 0x80  /* ROMs begin on 2 KiB */
#define ROM_SIGNATURE 0xAA55
#define ROM_ENABLE 1
#define MAX_ROMS 8
#define BLOCK 0x4000u      /* what one PAM field controls */
#define N_BLOCKS 8
#define SCRATCH_SEG (SCRATCH_LINEAR >> 4)

u8 vga_present;

static u16 roms[MAX_ROMS];
static u32 n_roms;
static u8 used_blocks;

static void set_block(u32 block, u8 mode)
{
    u8 offset = PAM0 + 1 + block / 2;
    u8 shift = block & 1 ? 4 : 0;
    u8 value = pci_read8(PCI_HOST, offset) & ~(3 << shift);
    pci_write8(PCI_HOST, offset, value | mode << shift);
}

static u32 rom_size(u16 seg)
{
    return far_read16(seg, 0) == ROM_SIGNATURE ? far_read8(seg, 2) * 512u : 0;
}

static int rom_sum_is_zero(u16 seg, u32 size)
{
    u8 sum = 0;
    for (u32 offset = 0; offset < size; offset++)
        sum += far_read8(seg + (offset >> 4), offset & 15);
    return sum == 0;
}

static void add_rom(u16 seg, u32 size)
{
    u32 first = ((u32)seg << 4) - (AREA_FIRST_SEG << 4);
    roms[n_roms++] = seg;
    for (u32 block = first / BLOCK; block <= (first + size - 1) / BLOCK; block++)
        used_blocks |= 1 << block;
}

static void find_isa_roms(void)
{
    for (u32 seg = AREA_FIRST_SEG; seg < AREA_END_SEG && n_roms < MAX_ROMS; seg += ROM_STEP_SEG) {
        u32 size = rom_size(seg);
        if (!size || seg + (size >> 4) > AREA_END_SEG || !rom_sum_is_zero(seg, size))
            continue;
        add_rom(seg, size);
        seg += ((size + 0x7FF) >> 11) * ROM_STEP_SEG - ROM_STEP_SEG;
    }
}

/* ROM and shadow RAM have one address, so each block goes through scratch memory. */
static void shadow_isa_roms(void)
{
    for (u32 block = 0; block < N_BLOCKS; block++) {
        u16 seg = AREA_FIRST_SEG + block * (BLOCK >> 4);
        if (!(used_blocks & 1 << block))
            continue;
        far_copy(SCRATCH_SEG, 0, seg, 0, BLOCK);
        set_block(block, PAM_READ_WRITE);
        far_copy(seg, 0, SCRATCH_SEG, 0, BLOCK);
    }
}

/* Map the card's ROM high up, copy its first image to C0000, unmap it. */
static void shadow_vga_rom(u8 function)
{
    struct pm_copy copy;
    u32 size, address, blocks, rom;
    u16 command = pci_read16(function, PCI_COMMAND);
    pci_write32(function, PCI_ROM, 0xFFFFF800);
    size = -(pci_read32(function, PCI_ROM) & 0xFFFFF800);
    if (!size)
        return;
    address = pci_allocate_memory(size);
    if (!address)
        return;
    pci_write32(function, PCI_ROM, address | ROM_ENABLE);
    pci_write16(function, PCI_COMMAND, command | PCI_COMMAND_MEMORY);
    copy.from = address;
    copy.to = SCRATCH_LINEAR;
    copy.size = 4;
    rom = 0;
    if (pm_call(pm_copy, &copy) == 0)
        rom = rom_size(SCRATCH_SEG);
    if (rom && rom <= size && rom <= N_BLOCKS * BLOCK) {
        blocks = (rom + BLOCK - 1) / BLOCK;
        for (u32 block = 0; block < blocks; block++)
            set_block(block, PAM_READ_WRITE);
        copy.from = address;
        copy.to = AREA_FIRST_SEG << 4;
        copy.size = rom;
        if (pm_call(pm_copy, &copy) == 0 && rom_sum_is_zero(AREA_FIRST_SEG, rom))
            add_rom(AREA_FIRST_SEG, rom);
    }
    pci_write32(function, PCI_ROM, 0);
    pci_write16(function, PCI_COMMAND, command);
}

static int find_vga(void)
{
    int function = -1;
    while ((function = pci_next(function)) >= 0)
        if (pci_read32(function, PCI_CLASS) >> 16 == PCI_CLASS_VGA)
            return function;
    return -1;
}

void optrom_run(void)
{
    int vga = find_vga();
    n_roms = 0;
    used_blocks = 0;
    find_isa_roms();
    shadow_isa_roms();
    if (vga >= 0 && !(used_blocks & 1))
        shadow_vga_rom(vga);
    for (u32 i = 0; i < n_roms; i++)
        rom_call((u32)roms[i] << 16 | 3, roms[i] == AREA_FIRST_SEG && vga >= 0 ? vga : 0);
    for (u32 block = 0; block < N_BLOCKS; block++)
        if (used_blocks & 1 << block)
            set_block(block, PAM_READ);
    vga_present = far_read16(0, 0x10 * 4 + 2) != BIOS_SEG;
}
