/* Loads the kernel, an ELF file from the second sector on, by programmed transfers from the first IDE disk, and enters it.
 * ATA-4, 8.27 (READ SECTORS); System V ABI, chapter 5 (program headers). */
#include "elf.h"
#include "flat.h"

#define SCRATCH ((u8 *)0x10000)
#define SECTOR 512

static void wait_for_disk(void)
{
    while ((in8(0x1F7) & 0xC0) != 0x40)
        ;
}
static void read_sector(u8 *to, u32 lba)
{
    u32 n = SECTOR / 4;
    wait_for_disk();
    out8(0x1F2, 1);
    out8(0x1F3, lba);
    out8(0x1F4, lba >> 8);
    out8(0x1F5, lba >> 16);
    out8(0x1F6, lba >> 24 | 0xE0);
    out8(0x1F7, 0x20);
    wait_for_disk();
    __asm__ volatile("cld; rep insl" : "+D"(to), "+c"(n) : "d"(0x1F0) : "memory", "cc");
}
/* `n` bytes from `offset` of the file; up to a sector more before and behind. */
static void read(u8 *to, u32 n, u32 offset)
{
    u8 *end = to + n;
    u32 lba = offset / SECTOR + 1;
    for (to -= offset % SECTOR; to < end; to += SECTOR)
        read_sector(to, lba++);
}
void load_kernel(void)
{
    struct elf_header *elf = (struct elf_header *)SCRATCH;
    read(SCRATCH, 4096, 0);
    if (elf->magic != ELF_MAGIC)
        for (;;)
            ;
    struct elf_segment *s = (struct elf_segment *)(SCRATCH + elf->segments);
    for (u32 k = 0; k < elf->n_segments; k++, s++) {
        u8 *at = (u8 *)s->physical;
        u32 n = s->memory_size - s->file_size;
        read(at, s->file_size, s->offset);
        at += s->file_size;
        __asm__ volatile("cld; rep stosb" : "+D"(at), "+c"(n) : "a"(0) : "memory", "cc");
    }
    ((void (*)(void))elf->entry)();
}
