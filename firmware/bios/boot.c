/* INT 18h and 19h: a kernel that fw_cfg has, the boot sector of the first disk that has one, or the end. */
#include "boot.h"
#include "ata.h"
#include "console.h"
#include "fwcfg.h"
#include "optrom.h"
#include "power.h"
#include "regs.h"
#include "vectors.h"

#define BOOT_OFFSET 0x7C00
#define BOOT_SIGNATURE 0xAA55
#define LOADER_SEG (BOOT_OFFSET >> 4)
#define ROM_HEADER 0x1A  /* where an option ROM says where its Plug and Play header lies, */
#define BOOT_ENTRY 0x1A  /* and where in that the boot entry vector stands */

void boot_jump(u32 drive) __attribute__((noreturn));

static int load_boot_sector(u8 disk)
{
    u16 done;
    irq_enable();
    return ata_transfer(&disks[disk], ATA_READ, 0, 1, 0, BOOT_OFFSET, &done) == DISK_OK
        && far_read16(0, BOOT_OFFSET + 510) == BOOT_SIGNATURE;
}

/* --kernel: an option ROM in fw_cfg loads the kernel (firmware/linux); it may lie anywhere. */
static void boot_kernel(const char *loader, const char *what)
{
    struct fwcfg_file rom;
    if (!fwcfg_find(loader, &rom) || fwcfg_dma_read(rom.key, BOOT_OFFSET, rom.size))
        return;
    print("Booting %s.\n", what);
    rom_call(LOADER_SEG << 16 | far_read16(LOADER_SEG, far_read16(LOADER_SEG, ROM_HEADER) + BOOT_ENTRY), 0);
}

void boot(void)
{
    boot_kernel("genroms/linuxboot.bin", "Linux");
    boot_kernel("genroms/multiboot.bin", "a multiboot kernel");
    for (u8 disk = 0; disk < disk_count; disk++) {
        if (!load_boot_sector(disk))
            continue;
        print("Booting from disk %02x.\n", 0x80 + disk);
        boot_jump(0x80 + disk);
    }
    no_boot();
}

void no_boot(void)
{
    irq_disable();
    if (power_present()) {
        print("No bootable device, powering off.\n");
        power_off();
    } else {
        print("No bootable device.\n");
    }
    halt();
}

void int18(struct regs *r)
{
    (void)r;
    no_boot();
}

void int19(struct regs *r)
{
    (void)r;
    boot();
}
