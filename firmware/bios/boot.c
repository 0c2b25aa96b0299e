/* INT 18h and 19h: the boot sector of the first disk that has one, or the end. */
#include "boot.h"
#include "ata.h"
#include "console.h"
#include "power.h"
#include "regs.h"
#include "vectors.h"

#define BOOT_OFFSET 0x7C00
#define BOOT_SIGNATURE 0xAA55

void boot_jump(u32 drive) __attribute__((noreturn));

static int load_boot_sector(u8 disk)
{
    u16 done;
    irq_enable();
    return ata_transfer(&disks[disk], ATA_READ, 0, 1, 0, BOOT_OFFSET, &done) == DISK_OK
        && far_read16(0, BOOT_OFFSET + 510) == BOOT_SIGNATURE;
}

void boot(void)
{
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
