/* Self-tests of the two 8237 DMA controllers and their page registers. */
#include "board.h"
#include "selftest.h"

#define MODE_CASCADE 0xC0

static int keeps(u16 port, u16 flipflop, u16 value)
{
    u8 low;
    outb(flipflop, 0);
    outb(port, value);
    outb(port, value >> 8);
    outb(flipflop, 0);
    low = inb(port);
    return (low | inb(port) << 8) == value;
}

const char *test_dma_registers(void)
{
    const char *result = NULL;
    outb(PORT_DMA1_CLEAR, 0);
    outb(PORT_DMA2_CLEAR, 0);
    for (u16 i = 0; i < 8; i++) {
        if (!keeps(PORT_DMA1 + i, PORT_DMA1_FLIPFLOP, 0x5AA5 + i)
            || !keeps(PORT_DMA1 + i, PORT_DMA1_FLIPFLOP, 0xA55A - i))
            result = "controller 1";
        if (i >= 2 && (!keeps(PORT_DMA2 + 2 * i, PORT_DMA2_FLIPFLOP, 0x5AA5 + i)
                       || !keeps(PORT_DMA2 + 2 * i, PORT_DMA2_FLIPFLOP, 0xA55A - i)))
            result = "controller 2";
    }
    outb(PORT_DMA1_CLEAR, 0);
    outb(PORT_DMA2_CLEAR, 0);
    outb(PORT_DMA2_MODE, MODE_CASCADE);  /* channel 4 joins the two */
    outb(PORT_DMA2_MASK, 0);
    return result;
}

/* Channels 2, 3, 1, 0, 6, 7, 5 and refresh. */
const char *test_dma_pages(void)
{
    static const u8 ports[] = {0x81, 0x82, 0x83, 0x87, 0x89, 0x8A, 0x8B, 0x8F};
    const char *result = NULL;
    for (u8 flip = 0; flip < 2; flip++) {
        for (u32 i = 0; i < COUNT(ports); i++)
            outb(ports[i], (0x30 + i) ^ -flip);
        for (u32 i = 0; i < COUNT(ports); i++)
            if (inb(ports[i]) != (u8)((0x30 + i) ^ -flip))
                result = "not kept";
    }
    for (u32 i = 0; i < COUNT(ports); i++)
        outb(ports[i], 0);
    return result;
}
