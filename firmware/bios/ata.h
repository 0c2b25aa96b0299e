/* ATA disks (ata.c). */
#ifndef ATA_H
#define ATA_H

#include "types.h"

#define SECTOR_SIZE 512
#define MAX_DISKS 4

struct disk {
    u16 port, control;
    u8 irq, slave, lba48;
    u16 cylinders, heads, sectors;  /* what INT 13h shows */
    u64 size;                       /* in sectors */
    char model[41];
};

extern struct disk disks[MAX_DISKS];
extern u8 disk_count;
extern u8 atapi_count;

/* Find the disks on both channels. */
void ata_init(void);

/* Read IDENTIFY data (512 bytes, in a buffer of ata.c); NULL on error. */
const u16 *ata_identify(const struct disk *disk);

#define ATA_READ 0
#define ATA_WRITE 1
#define ATA_VERIFY 2

/* Transfer count sectors from lba on to or from seg:off, whatever it crosses. Returns an
 * INT 13h status; *done is the number of sectors transferred. */
u8 ata_transfer(const struct disk *disk, u8 direction, u64 lba, u16 count, u16 seg, u16 off, u16 *done);
u8 ata_reset(const struct disk *disk);

#define DISK_OK 0x00
#define DISK_BAD_COMMAND 0x01
#define DISK_NOT_FOUND 0x04
#define DISK_WRITE_PROTECTED 0x03
#define DISK_RESET_FAILED 0x05
#define DISK_BAD_PARAMETERS 0x07
#define DISK_DATA_ERROR 0x10
#define DISK_CONTROLLER 0x20
#define DISK_TIMEOUT 0x80
#define DISK_WRITE_FAULT 0xCC

#endif
