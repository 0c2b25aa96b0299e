/* ATA disks by PIO on the two legacy IDE channels: finding, IDENTIFY, reading, writing with a
 * cache flush, verifying; LBA28, and LBA48 for what lies beyond. Source: ATA/ATAPI-6. */
#include "ata.h"
#include "board.h"
#include "pit.h"

#define REG_DATA 0
#define REG_ERROR 1
#define REG_COUNT 2
#define REG_LBA_LOW 3
#define REG_LBA_MID 4
#define REG_LBA_HIGH 5
#define REG_DEVICE 6
#define REG_STATUS 7
#define REG_COMMAND 7

#define STATUS_ERR 0x01
#define STATUS_DRQ 0x08
#define STATUS_DF 0x20
#define STATUS_DRDY 0x40
#define STATUS_BSY 0x80
#define ERROR_ABORT 0x04
#define ERROR_IDNF 0x10

#define DEVICE_FIXED 0xA0
#define DEVICE_LBA 0x40
#define DEVICE_SLAVE 0x10
#define CONTROL_NO_IRQ 0x02
#define CONTROL_RESET 0x04

#define CMD_READ 0x20
#define CMD_READ_EXT 0x24
#define CMD_WRITE 0x30
#define CMD_WRITE_EXT 0x34
#define CMD_VERIFY 0x40
#define CMD_VERIFY_EXT 0x42
#define CMD_FLUSH 0xE7
#define CMD_FLUSH_EXT 0xEA
#define CMD_IDENTIFY 0xEC

#define WAIT_US 3000000
#define LBA28_END (1ULL << 28)
#define MAX_SECTORS 128
#define TRANSLATED_SECTORS 63

struct disk disks[MAX_DISKS];
u8 disk_count;
u8 atapi_count;

static u16 identify_data[SECTOR_SIZE / 2];

/* Wait until the device is not busy and has the bits `wanted`; 400 ns pass in the first read
 * of the alternate status. */
static u8 wait_ready(const struct disk *d, u8 wanted)
{
    struct timeout t;
    u8 status;
    inb(d->control);
    status = inb(d->port + REG_STATUS);
    if (!(status & STATUS_BSY) && ((status & wanted) == wanted || status & (STATUS_ERR | STATUS_DF)))
        goto ready;
    timeout_start(&t, WAIT_US);
    do {
        status = inb(d->port + REG_STATUS);
        if (!(status & STATUS_BSY) && ((status & wanted) == wanted || status & (STATUS_ERR | STATUS_DF)))
            goto ready;
    } while (!timeout_over(&t));
    return DISK_TIMEOUT;
ready:
    if (status & STATUS_DF)
        return DISK_WRITE_FAULT;
    if (!(status & STATUS_ERR))
        return DISK_OK;
    status = inb(d->port + REG_ERROR);
    return status & ERROR_IDNF ? DISK_NOT_FOUND : status & ERROR_ABORT ? DISK_CONTROLLER : DISK_DATA_ERROR;
}

static void select(const struct disk *d, u8 bits)
{
    outb(d->port + REG_DEVICE, DEVICE_FIXED | (d->slave ? DEVICE_SLAVE : 0) | bits);
    inb(d->control);
}

static void read_sector(u16 port, u16 seg, u16 off)
{
    u32 to = off, count = SECTOR_SIZE / 2;
    asm volatile("pushw %%es; movw %w3, %%es; rep insw; popw %%es"
                 : "+D"(to), "+c"(count) : "d"(port), "r"((u32)seg) : "memory");
}

static void write_sector(u16 port, u16 seg, u16 off)
{
    u32 from = off, count = SECTOR_SIZE / 2;
    asm volatile("pushw %%ds; movw %w3, %%ds; rep outsw; popw %%ds"
                 : "+S"(from), "+c"(count) : "d"(port), "r"((u32)seg) : "memory");
}

const u16 *ata_identify(const struct disk *d)
{
    select(d, 0);
    if (wait_ready(d, STATUS_DRDY) != DISK_OK)
        return NULL;
    outb(d->port + REG_COMMAND, CMD_IDENTIFY);
    if (wait_ready(d, STATUS_DRQ) != DISK_OK)
        return NULL;
    read_sector(d->port, BIOS_SEG, (u16)(u32)identify_data);
    return identify_data;
}

/* Reset both devices of a channel. Not being busy is the end of it: an ATAPI device does not
 * become ready before its first packet. */
static u8 reset_channel(const struct disk *d)
{
    outb(d->control, CONTROL_RESET | CONTROL_NO_IRQ);
    delay(10);
    outb(d->control, CONTROL_NO_IRQ);
    delay(2000);
    return wait_ready(d, 0) == DISK_OK ? DISK_OK : DISK_RESET_FAILED;
}

u8 ata_reset(const struct disk *d)
{
    u8 status = reset_channel(d);
    if (status != DISK_OK)
        return status;
    select(d, 0);
    return wait_ready(d, STATUS_DRDY) == DISK_OK ? DISK_OK : DISK_RESET_FAILED;
}

/* Sectors start and command of one transfer; the EXT registers are two bytes deep. */
static void start(const struct disk *d, u8 command, u64 lba, u16 count, int ext)
{
    if (ext) {
        select(d, DEVICE_LBA);
        outb(d->port + REG_COUNT, count >> 8);
        outb(d->port + REG_LBA_LOW, lba >> 24);
        outb(d->port + REG_LBA_MID, lba >> 32);
        outb(d->port + REG_LBA_HIGH, lba >> 40);
    } else {
        select(d, DEVICE_LBA | ((lba >> 24) & 15));
    }
    outb(d->port + REG_COUNT, count);
    outb(d->port + REG_LBA_LOW, lba);
    outb(d->port + REG_LBA_MID, lba >> 8);
    outb(d->port + REG_LBA_HIGH, lba >> 16);
    outb(d->port + REG_COMMAND, command);
}

static u8 one_command(const struct disk *d, u8 direction, u64 lba, u16 count, u32 *linear, u16 *done)
{
    static const u8 commands[2][3] = {
        {CMD_READ, CMD_WRITE, CMD_VERIFY}, {CMD_READ_EXT, CMD_WRITE_EXT, CMD_VERIFY_EXT},
    };
    int ext = lba + count > LBA28_END;
    u8 status;
    select(d, 0);
    status = wait_ready(d, STATUS_DRDY);
    if (status != DISK_OK)
        return status;
    start(d, commands[ext][direction], lba, count, ext);
    if (direction == ATA_VERIFY) {
        status = wait_ready(d, 0);
        if (status == DISK_OK)
            *done += count;
        return status;
    }
    for (; count; count--) {
        status = wait_ready(d, STATUS_DRQ);
        if (status != DISK_OK)
            return status;
        if (direction == ATA_READ)
            read_sector(d->port, *linear >> 4, *linear & 15);
        else
            write_sector(d->port, *linear >> 4, *linear & 15);
        *linear += SECTOR_SIZE;
        ++*done;
    }
    if (direction == ATA_READ)
        return DISK_OK;
    status = wait_ready(d, 0);
    if (status != DISK_OK)
        return status;
    outb(d->port + REG_COMMAND, d->lba48 ? CMD_FLUSH_EXT : CMD_FLUSH);
    return wait_ready(d, 0);
}

u8 ata_transfer(const struct disk *d, u8 direction, u64 lba, u16 count, u16 seg, u16 off, u16 *done)
{
    u32 linear = ((u32)seg << 4) + off;
    u8 status = DISK_OK;
    *done = 0;
    if (lba >= d->size || count > d->size - lba)
        return DISK_NOT_FOUND;
    outb(d->control, CONTROL_NO_IRQ);
    while (count && status == DISK_OK) {
        u16 part = count < MAX_SECTORS ? count : MAX_SECTORS;
        status = one_command(d, direction, lba, part, &linear, done);
        lba += part;
        count -= part;
    }
    return status;
}

/* A channel without devices floats, or answers for nobody: registers do not keep values. */
static int something_there(const struct disk *d)
{
    select(d, 0);
    outb(d->port + REG_COUNT, 0x55);
    outb(d->port + REG_LBA_LOW, 0xAA);
    if (inb(d->port + REG_COUNT) != 0x55 || inb(d->port + REG_LBA_LOW) != 0xAA)
        return 0;
    return inb(d->port + REG_STATUS) != 0;
}

/* Geometry: the disk's own while it has up to 1024 cylinders, else "LBA assist". */
static void set_geometry(struct disk *d, const u16 *id)
{
    static const u16 heads[] = {16, 32, 64, 128};
    u32 size = d->size < 0xFFFFFFFF ? d->size : 0xFFFFFFFF;
    u32 cylinders;
    if (id[1] && id[1] <= 1024 && id[3] && id[3] <= 16 && id[6] && id[6] <= 63) {
        d->cylinders = id[1];
        d->heads = id[3];
        d->sectors = id[6];
        return;
    }
    d->sectors = TRANSLATED_SECTORS;
    d->heads = 255;
    for (u32 i = 0; i < COUNT(heads); i++) {
        if (size <= 1024 * TRANSLATED_SECTORS * (u32)heads[i]) {
            d->heads = heads[i];
            break;
        }
    }
    cylinders = size / (d->heads * TRANSLATED_SECTORS);
    d->cylinders = cylinders > 1024 ? 1024 : cylinders ? cylinders : 1;
}

static void add_disk(struct disk *d)
{
    const u16 *id;
    u32 end = 40;
    /* After a reset an ATA disk shows the signature 0000, an ATAPI device EB14. */
    select(d, 0);
    if (inb(d->port + REG_LBA_MID) == 0x14 && inb(d->port + REG_LBA_HIGH) == 0xEB) {
        atapi_count++;
        return;
    }
    id = ata_identify(d);
    if (!id || !(id[49] & 0x0200))
        return;
    d->size = id[60] | (u32)id[61] << 16;
    d->lba48 = id[83] >> 10 & 1;
    if (d->lba48) {
        u64 size = id[100] | (u64)id[101] << 16 | (u64)id[102] << 32 | (u64)id[103] << 48;
        if (size > d->size)
            d->size = size;
    }
    if (!d->size)
        return;
    for (u32 i = 0; i < 40; i++)
        d->model[i] = i & 1 ? id[27 + i / 2] : id[27 + i / 2] >> 8;
    while (end && (d->model[end - 1] == ' ' || !d->model[end - 1]))
        end--;
    d->model[end] = 0;
    set_geometry(d, id);
    disks[disk_count++] = *d;
}

void ata_init(void)
{
    static const struct { u16 port, control; u8 irq; } channels[] = {
        {PORT_IDE1, PORT_IDE1_CONTROL, IRQ_IDE1}, {PORT_IDE2, PORT_IDE2_CONTROL, IRQ_IDE1 + 1},
    };
    disk_count = 0;
    atapi_count = 0;
    for (u32 i = 0; i < COUNT(channels); i++) {
        u8 there[2];
        struct disk probe[2];
        memset(probe, 0, sizeof probe);
        for (u32 slave = 0; slave < 2; slave++) {
            probe[slave].port = channels[i].port;
            probe[slave].control = channels[i].control;
            probe[slave].irq = channels[i].irq;
            probe[slave].slave = slave;
            there[slave] = something_there(&probe[slave]);
        }
        if (!there[0] && !there[1])
            continue;
        reset_channel(&probe[!there[0]]);
        for (u32 slave = 0; slave < 2; slave++)
            if (there[slave])
                add_disk(&probe[slave]);
    }
}
