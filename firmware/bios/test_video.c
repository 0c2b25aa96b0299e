/* Self-tests of VGA (in text mode 3, as its BIOS leaves it) and of fw_cfg. */
#include "board.h"
#include "fwcfg.h"
#include "optrom.h"
#include "selftest.h"

#define TEXT_SEG 0xB800
#define LAST_CELL 0x0F9E
#define CRTC_CURSOR_LOW 0x0F
#define MAX_FILES 0x200

const char *test_vga_memory(void)
{
    static const u16 patterns[] = {0x0741, 0x55AA, 0xAA55, 0x0000, 0xFFFF};
    u16 saved;
    const char *result = NULL;
    if (!vga_present)
        return test_absent;
    saved = far_read16(TEXT_SEG, LAST_CELL);
    for (u32 i = 0; i < COUNT(patterns); i++) {
        far_write16(TEXT_SEG, LAST_CELL, patterns[i]);
        if (far_read16(TEXT_SEG, LAST_CELL) != patterns[i]
            || far_read8(TEXT_SEG, LAST_CELL + 1) != patterns[i] >> 8)
            result = "cell not kept";
    }
    far_write16(TEXT_SEG, LAST_CELL, saved);
    return result;
}

const char *test_vga_crtc(void)
{
    u8 saved;
    const char *result = NULL;
    if (!vga_present)
        return test_absent;
    irq_disable();
    outb(PORT_VGA_CRTC, CRTC_CURSOR_LOW);
    saved = inb(PORT_VGA_CRTC + 1);
    for (u32 value = 0x55; value < 0x100; value += 0x55) {
        outb(PORT_VGA_CRTC + 1, value);
        if (inb(PORT_VGA_CRTC + 1) != value)
            result = "register not kept";
    }
    outb(PORT_VGA_CRTC + 1, saved);
    return result;
}

static u32 id_bits(void)
{
    u32 id;
    fwcfg_select(FWCFG_ID);
    fwcfg_read(&id, sizeof id);
    return id;
}

const char *test_fwcfg(void)
{
    u8 count[4];
    if (!fwcfg_present())
        return test_absent;
    if (!(id_bits() & 1))
        return "no port interface";
    fwcfg_select(FWCFG_DIRECTORY);
    fwcfg_read(count, 4);
    return count[0] || count[1] || (count[2] << 8 | count[3]) > MAX_FILES ? "file directory" : NULL;
}

const char *test_fwcfg_dma(void)
{
    char signature[4];
    u32 port;
    if (!fwcfg_present() || !(id_bits() & FWCFG_ID_DMA))
        return test_absent;
    port = inl(PORT_FWCFG_DMA);
    if (memcmp(&port, "QEMU", 4))
        return "register signature";
    memset(signature, 0, sizeof signature);
    if (fwcfg_dma_read(FWCFG_SIGNATURE, BIOS_LINEAR + (u32)signature, sizeof signature))
        return "transfer";
    return memcmp(signature, "QEMU", 4) ? "data differ" : NULL;
}
