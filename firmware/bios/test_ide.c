/* Self-tests of the first IDE disk. */
#include "ata.h"
#include "board.h"
#include "pic.h"
#include "pit.h"
#include "selftest.h"

#define CONTROL_IRQ_ON 0x00
#define CONTROL_IRQ_OFF 0x02
#define IRQ_WAIT_US 100000
#define SCRATCH_SEG (SCRATCH_LINEAR >> 4)

const char *test_ide_identify(void)
{
    if (!disk_count)
        return test_absent;
    for (u8 i = 0; i < disk_count; i++) {
        const u16 *id = ata_identify(&disks[i]);
        if (!id)
            return "no answer";
        if (id[0] & 0x8000 || !(id[49] & 0x0200))
            return "no disk with LBA";
    }
    return NULL;
}

const char *test_ide_irq(void)
{
    struct timeout t;
    const struct disk *d = &disks[0];
    volatile u16 *count;
    u16 before;
    if (!disk_count)
        return test_absent;
    count = &irq_count[d->irq];
    before = *count;
    outb(d->control, CONTROL_IRQ_ON);
    irq_unmask(d->irq);
    irq_enable();
    ata_identify(d);
    timeout_start(&t, IRQ_WAIT_US);
    while (*count == before && !timeout_over(&t))
        ;
    outb(d->control, CONTROL_IRQ_OFF);
    return *count == before ? "no interrupt" : NULL;
}

/* Sector 1 as the second of two and alone. */
const char *test_ide_read(void)
{
    u16 done;
    if (!disk_count || disks[0].size < 2)
        return test_absent;
    if (ata_transfer(&disks[0], ATA_READ, 0, 2, SCRATCH_SEG, 0, &done) != DISK_OK || done != 2)
        return "two sectors";
    if (ata_transfer(&disks[0], ATA_READ, 1, 1, SCRATCH_SEG, 0x1000, &done) != DISK_OK || done != 1)
        return "one sector";
    for (u32 offset = 0; offset < SECTOR_SIZE; offset += 2)
        if (far_read16(SCRATCH_SEG, 0x200 + offset) != far_read16(SCRATCH_SEG, 0x1000 + offset))
            return "data differ";
    if (ata_transfer(&disks[0], ATA_READ, disks[0].size - 1, 1, SCRATCH_SEG, 0, &done) != DISK_OK)
        return "last sector";
    if (ata_transfer(&disks[0], ATA_READ, disks[0].size, 1, SCRATCH_SEG, 0, &done) == DISK_OK)
        return "reads beyond the end";
    return NULL;
}
