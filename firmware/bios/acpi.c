/* ACPI tables: the commands of fw_cfg's "etc/table-loader" say which files become memory, and what in them is an address or
 * a checksum. The files are put together in scratch memory and then copied to the end of RAM, or, what is looked for in
 * segment F000 (the RSDP), into this segment. Sources: QEMU 7.2, hw/acpi/bios-linker-loader.c; ACPI Specification 1.0b, 5.2.4.
 * WRITE_POINTER, by which a device learns where a file lies, is passed over: no file of this board asks for it. */
#include "acpi.h"
#include "fwcfg.h"
#include "memory.h"
#include "pm.h"

#define ALLOCATE 1
#define ADD_POINTER 2
#define ADD_CHECKSUM 3
#define ZONE_F_SEGMENT 2

#define NAME_SIZE 56
#define MAX_FILES 8
#define ROOM 64  /* of what is found in this segment: an RSDP has 20 bytes, or 36 */
#define SCRATCH_END 0x90000
#define PARAGRAPH 16

struct command {
    u32 kind;
    char file[NAME_SIZE];
    union {
        struct { u32 align; u8 zone; } PACKED allocate;
        struct { char to[NAME_SIZE]; u32 offset; u8 size; } PACKED pointer;
        struct { u32 offset, start, length; } PACKED checksum;
        u8 fill[68];
    };
} PACKED;

struct file {
    char name[NAME_SIZE];
    u32 size, scratch, address;
};

static struct file files[MAX_FILES];
static u32 n_files, next_scratch, used_here;
static u8 here[ROOM] __attribute__((aligned(PARAGRAPH)));

static u8 scratch_read(u32 at)
{
    return far_read8(at >> 4, at & 15);
}

static void scratch_write(u32 at, u8 value)
{
    far_write8(at >> 4, at & 15, value);
}

/* A file of fw_cfg in scratch memory; 0 when there is no room. */
static u32 load(const struct fwcfg_file *source)
{
    u32 at = next_scratch;
    if (source->size > SCRATCH_END - at || fwcfg_dma_read(source->key, at, source->size))
        return 0;
    next_scratch += (source->size + PARAGRAPH - 1) & -PARAGRAPH;
    return at;
}

static struct file *find(const char *name)
{
    for (u32 i = 0; i < n_files; i++)
        if (memcmp(files[i].name, name, NAME_SIZE) == 0)
            return &files[i];
    return NULL;
}

static int allocate(const struct command *command)
{
    struct fwcfg_file source;
    struct file *file = &files[n_files];
    u32 aligned = command->allocate.zone == ZONE_F_SEGMENT ? PARAGRAPH : PAGE_SIZE;
    if (n_files == MAX_FILES || command->allocate.align > aligned || !fwcfg_find(command->file, &source))
        return 0;
    memcpy(file->name, command->file, NAME_SIZE);
    file->size = source.size;
    file->scratch = load(&source);
    if (command->allocate.zone == ZONE_F_SEGMENT) {
        if (file->size > ROOM - used_here)
            return 0;
        file->address = BIOS_LINEAR + (u32)here + used_here;
        used_here += (file->size + PARAGRAPH - 1) & -PARAGRAPH;
    } else {
        file->address = memory_take(file->size);
    }
    n_files++;
    return file->scratch && file->address;
}

/* Add the address of one file to a number in another. */
static int add_pointer(const struct command *command)
{
    const struct file *file = find(command->file), *to = find(command->pointer.to);
    u32 offset = command->pointer.offset, size = command->pointer.size, value, carry = 0;
    if (!file || !to || size > file->size || offset > file->size - size)
        return 0;
    value = to->address;
    for (u32 i = 0; i < size; i++, value >>= 8) {
        u32 at = file->scratch + offset + i, sum = scratch_read(at) + (value & 0xFF) + carry;
        scratch_write(at, sum);
        carry = sum >> 8;
    }
    return 1;
}

static int add_checksum(const struct command *command)
{
    const struct file *file = find(command->file);
    u32 offset = command->checksum.offset, start = command->checksum.start, length = command->checksum.length;
    u8 sum = 0;
    if (!file || offset >= file->size || length > file->size || start > file->size - length)
        return 0;
    for (u32 i = 0; i < length; i++)
        sum += scratch_read(file->scratch + start + i);
    scratch_write(file->scratch + offset, scratch_read(file->scratch + offset) - sum);
    return 1;
}

static int run(const struct command *command)
{
    switch (command->kind) {
    case ALLOCATE:
        return allocate(command);
    case ADD_POINTER:
        return add_pointer(command);
    case ADD_CHECKSUM:
        return add_checksum(command);
    default:
        return 1;
    }
}

static int put_in_place(const struct file *file)
{
    struct pm_copy copy = {file->scratch, file->address, file->size};
    return pm_call(pm_copy, &copy) == 0;
}

void acpi_init(void)
{
    static struct command command;
    struct fwcfg_file script;
    u32 at, end;
    n_files = used_here = 0;
    next_scratch = SCRATCH_LINEAR;
    if (!fwcfg_find("etc/table-loader", &script))
        return;
    at = load(&script);
    for (end = at + script.size; at && at + sizeof command <= end; at += sizeof command) {
        far_copy(BIOS_SEG, (u32)&command, at >> 4, at & 15, sizeof command);
        if (!run(&command))
            return;
    }
    for (u32 i = 0; i < n_files; i++)
        if (!put_in_place(&files[i]))
            return;
}
