/* INT 13h: disks 80h and up by cylinder, head and sector or by block number (Phoenix Enhanced
 * Disk Drive Specification 1.1). There are no floppy drives. */
#include "ata.h"
#include "bda.h"
#include "regs.h"

#define FIRST_DISK 0x80
#define EDD_VERSION_1_1 0x01
#define EDD_PACKETS 0x01
#define EDD_SIGNATURE_CALL 0x55AA
#define EDD_SIGNATURE 0xAA55
#define EDD_PARAMETERS_SIZE 0x1A
#define EDD_GEOMETRY_VALID 0x02

struct packet {
    u8 size, reserved;
    u16 count, off, seg;
    u64 lba;
} PACKED;

static void finish(struct regs *r, u8 status)
{
    r->ah = status;
    set_flag(r, FLAG_CF, status != DISK_OK);
    bda_write8(BDA_DISK_STATUS, status);
}

static u8 chs_transfer(struct regs *r, const struct disk *d, u8 direction)
{
    u16 cylinder = r->ch | (r->cl & 0xC0) << 2;
    u8 sector = r->cl & 0x3F;
    u16 done = 0;
    u8 status;
    if (!r->al || r->al > 128 || !sector || sector > d->sectors || r->dh >= d->heads
        || cylinder >= d->cylinders) {
        r->al = 0;
        return DISK_BAD_COMMAND;
    }
    status = ata_transfer(d, direction, ((u32)cylinder * d->heads + r->dh) * d->sectors + sector - 1,
                          r->al, r->es, r->bx, &done);
    r->al = done;
    return status;
}

static u8 packet_transfer(struct regs *r, const struct disk *d, u8 direction)
{
    struct packet p;
    u16 done = 0;
    u8 status;
    far_copy(BIOS_SEG, (u32)&p, r->ds, r->si, sizeof p);
    if (p.size < sizeof p || p.count > 127)
        return DISK_BAD_COMMAND;
    status = ata_transfer(d, direction, p.lba, p.count, p.seg, p.off, &done);
    far_write16(r->ds, (u16)(r->si + 2), done);
    return status;
}

static u8 parameters(struct regs *r, const struct disk *d)
{
    u16 last = d->cylinders - 1;
    r->al = 0;
    r->bl = 0;
    r->ch = last;
    r->cl = d->sectors | (last >> 2 & 0xC0);
    r->dh = d->heads - 1;
    r->dl = disk_count;
    return DISK_OK;
}

static u8 edd_parameters(struct regs *r, const struct disk *d)
{
    struct {
        u16 size, flags;
        u32 cylinders, heads, sectors;
        u64 total;
        u16 sector_size;
    } PACKED answer = {
        EDD_PARAMETERS_SIZE, EDD_GEOMETRY_VALID, d->cylinders, d->heads, d->sectors, d->size, SECTOR_SIZE,
    };
    if (far_read16(r->ds, r->si) < EDD_PARAMETERS_SIZE)
        return DISK_BAD_COMMAND;
    far_copy(r->ds, r->si, BIOS_SEG, (u32)&answer, sizeof answer);
    return DISK_OK;
}

static u8 disk_service(struct regs *r, const struct disk *d)
{
    u32 sectors;
    switch (r->ah) {
    case 0x00:
    case 0x0D:
        return ata_reset(d);
    case 0x02:
        return chs_transfer(r, d, ATA_READ);
    case 0x03:
        return chs_transfer(r, d, ATA_WRITE);
    case 0x04:
        return chs_transfer(r, d, ATA_VERIFY);
    case 0x08:
        return parameters(r, d);
    case 0x09:  /* set drive parameters, recalibrate, seeks: nothing to do for LBA disks */
    case 0x0C:
    case 0x11:
    case 0x47:
    case 0x10:
        return DISK_OK;
    case 0x41:
        if (r->bx != EDD_SIGNATURE_CALL)
            return DISK_BAD_COMMAND;
        r->bx = EDD_SIGNATURE;
        r->cx = EDD_PACKETS;
        return DISK_OK;
    case 0x42:
        return packet_transfer(r, d, ATA_READ);
    case 0x43:
        return r->al > 2 ? DISK_BAD_COMMAND : packet_transfer(r, d, ATA_WRITE);
    case 0x44:
        return packet_transfer(r, d, ATA_VERIFY);
    case 0x48:
        return edd_parameters(r, d);
    case 0x15:
        sectors = (u32)d->cylinders * d->heads * d->sectors;
        r->cx = sectors >> 16;
        r->dx = sectors;
        return DISK_OK;
    default:
        return DISK_BAD_COMMAND;
    }
}

void int13(struct regs *r)
{
    u8 function = r->ah, status;
    irq_enable();
    if (function == 0x01) {
        finish(r, bda_read8(BDA_DISK_STATUS));
        return;
    }
    if (r->dl < FIRST_DISK || r->dl >= FIRST_DISK + disk_count) {
        if (function == 0x15) {  /* no such drive, which is an answer */
            r->ah = 0;
            set_flag(r, FLAG_CF, 0);
            return;
        }
        finish(r, function == 0x08 ? DISK_BAD_PARAMETERS : DISK_BAD_COMMAND);
        return;
    }
    status = disk_service(r, &disks[r->dl - FIRST_DISK]);
    finish(r, status);
    /* Two answers are in AH itself. */
    if (status == DISK_OK && function == 0x41)
        r->ah = EDD_VERSION_1_1;
    if (status == DISK_OK && function == 0x15)
        r->ah = 3;
}
