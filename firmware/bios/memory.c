/* Memory: copies inside and between segments, and how much RAM there is.
 *
 * Sizes come from fw_cfg's "etc/e820" file, then from its RAM size item, then from CMOS
 * (0x30: KiB above 1 MiB, 0x34: 64 KiB units above 16 MiB, 0x5B: 64 KiB units above 4 GiB). */
#include "memory.h"
#include "cmos.h"
#include "fwcfg.h"

u32 ram_below_4g;
static u32 ram_end;
u64 ram_above_4g;
const char *ram_source;

void *memcpy(void *to, const void *from, u32 size)
{
    void *start = to;
    asm volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(size) : : "memory");
    return start;
}

void *memset(void *to, int value, u32 size)
{
    void *start = to;
    asm volatile("rep stosb" : "+D"(to), "+c"(size) : "a"(value) : "memory");
    return start;
}

int memcmp(const void *a, const void *b, u32 size)
{
    const u8 *left = a, *right = b;
    for (; size; size--, left++, right++)
        if (*left != *right)
            return *left - *right;
    return 0;
}

void far_copy(u16 to_seg, u32 to, u16 from_seg, u32 from, u16 size)
{
    asm volatile("pushw %%ds; pushw %%es; movw %w3, %%es; movw %w4, %%ds; rep movsb; popw %%es; popw %%ds"
                 : "+D"(to), "+S"(from), "+c"((u32){size})
                 : "r"((u32)to_seg), "r"((u32)from_seg) : "memory");
}

struct e820_entry {
    u64 address, length;
    u32 type;
} PACKED;

static int sizes_from_e820_file(void)
{
    struct e820_entry entry;
    struct fwcfg_file file;
    if (!fwcfg_find("etc/e820", &file))
        return 0;
    fwcfg_select(file.key);
    for (u32 left = file.size; left >= sizeof entry; left -= sizeof entry) {
        fwcfg_read(&entry, sizeof entry);
        if (entry.type != E820_RAM)
            continue;
        if (entry.address == 0)
            ram_below_4g = entry.length;
        else if (entry.address == 1ULL << 32)
            ram_above_4g = entry.length;
    }
    return ram_below_4g != 0;
}

static int sizes_from_ram_item(void)
{
    u64 size = 0;
    if (!fwcfg_present())
        return 0;
    fwcfg_select(FWCFG_RAM_SIZE);
    fwcfg_read(&size, sizeof size);
    if (size < 0x100000)
        return 0;
    ram_below_4g = size < RAM_BELOW_4G_MAX ? size : RAM_BELOW_4G_MAX;
    ram_above_4g = size - ram_below_4g;
    return 1;
}

void memory_find(void)
{
    ram_below_4g = 0;
    ram_above_4g = 0;
    if (sizes_from_e820_file()) {
        ram_source = "fw_cfg e820";
    } else if (sizes_from_ram_item()) {
        ram_source = "fw_cfg size";
    } else {
        u32 above_16m = cmos_read(0x34) | cmos_read(0x35) << 8;
        if (above_16m)
            ram_below_4g = 0x1000000 + (above_16m << 16);
        else
            ram_below_4g = 0x100000 + ((cmos_read(0x30) | cmos_read(0x31) << 8) << 10);
        ram_above_4g = (u64)(cmos_read(0x5B) | cmos_read(0x5C) << 8 | cmos_read(0x5D) << 16) << 16;
        ram_source = "CMOS";
    }
    ram_end = ram_below_4g;
}

u32 memory_take(u32 size)
{
    if (ram_below_4g < RAM_TO_LEAVE || size > ram_below_4g - RAM_TO_LEAVE)
        return 0;
    ram_below_4g = (ram_below_4g - size) & -PAGE_SIZE;
    return ram_below_4g;
}

/* The memory map of INT 15h AX=E820. */
int memory_map(u32 index, u64 *address, u64 *length)
{
    struct { u64 address, length; int type; } map[] = {
        {0, LOW_MEMORY_KB << 10, E820_RAM},
        {0xF0000, 0x10000, E820_RESERVED},
        {0x100000, ram_below_4g - 0x100000, E820_RAM},
        {ram_below_4g, ram_end - ram_below_4g, E820_RESERVED},
        {0xFFFC0000, 0x40000, E820_RESERVED},
        {1ULL << 32, ram_above_4g, E820_RAM},
    };
    for (u32 i = 0; i < COUNT(map) && i <= index; i++)
        if (!map[i].length)
            index++;
    if (index >= COUNT(map))
        return 0;
    *address = map[index].address;
    *length = map[index].length;
    return map[index].type;
}
