/* fw_cfg by its ports: selector 0x510, data 0x511, DMA address 0x514 (big endian, the low
 * half starts the transfer). Source: QEMU docs/specs/fw_cfg. */
#include "fwcfg.h"
#include "board.h"

#define DMA_ERROR 1
#define DMA_READ 2
#define DMA_SELECT 8
#define DMA_POLLS 10000

struct directory_entry {
    u32 size;
    u16 key, reserved;
    char name[56];
} PACKED;

static u32 swap32(u32 value)
{
    asm("bswap %0" : "+r"(value));
    return value;
}

void fwcfg_select(u16 key)
{
    outw(PORT_FWCFG_SELECTOR, key);
}

void fwcfg_read(void *to, u32 size)
{
    asm volatile("rep insb" : "+D"(to), "+c"(size) : "d"(PORT_FWCFG_DATA) : "memory");
}

int fwcfg_present(void)
{
    char signature[4];
    fwcfg_select(FWCFG_SIGNATURE);
    fwcfg_read(signature, 4);
    return memcmp(signature, "QEMU", 4) == 0;
}

int fwcfg_find(const char *name, struct fwcfg_file *file)
{
    struct directory_entry entry;
    u32 count, length = 0;
    if (!fwcfg_present())
        return 0;
    while (name[length++])
        ;
    fwcfg_select(FWCFG_DIRECTORY);
    fwcfg_read(&count, 4);
    for (count = swap32(count); count && count < 0x1000; count--) {
        fwcfg_read(&entry, sizeof entry);
        if (memcmp(entry.name, name, length) == 0) {
            file->size = swap32(entry.size);
            file->key = entry.key >> 8 | entry.key << 8;
            return 1;
        }
    }
    return 0;
}

int fwcfg_dma_read(u16 key, u32 address, u32 size)
{
    volatile struct { u32 control, length, address_high, address_low; } request;
    request.control = swap32((u32)key << 16 | DMA_SELECT | DMA_READ);
    request.length = swap32(size);
    request.address_high = 0;
    request.address_low = swap32(address);
    outl(PORT_FWCFG_DMA, 0);
    outl(PORT_FWCFG_DMA + 4, swap32(BIOS_LINEAR + (u32)&request));
    for (u32 polls = DMA_POLLS; polls; polls--) {
        u32 control = swap32(request.control);
        if (control & DMA_ERROR)
            return -1;
        if (!control)
            return 0;
    }
    return -1;
}
