/* Address line 20: port 92 bit 1, the keyboard controller's output port bit 1. */
#include "a20.h"
#include "board.h"
#include "kbc.h"

#define FAST_A20 0x02
#define FAST_RESET 0x01
#define OUTPUT_NO_RESET 0x01
#define OUTPUT_OTHER 0xCC

#define PROBE 0x500

void a20_fast(int on)
{
    u8 value = inb(PORT_SYSTEM_A) & ~(FAST_A20 | FAST_RESET);
    outb(PORT_SYSTEM_A, on ? value | FAST_A20 : value);
}

int a20_fast_state(void)
{
    return (inb(PORT_SYSTEM_A) & FAST_A20) != 0;
}

void a20_slow(int on)
{
    kbc_command(KBC_WRITE_OUTPUT_PORT);
    kbc_data(OUTPUT_OTHER | OUTPUT_NO_RESET | (on ? KBC_OUTPUT_A20 : 0));
}

int a20_works(void)
{
    u32 low = far_read32(0, PROBE), high = far_read32(0xFFFF, PROBE + 0x10);
    int differ;
    far_write32(0, PROBE, 0x11223344);
    far_write32(0xFFFF, PROBE + 0x10, 0x55667788);
    differ = far_read32(0, PROBE) == 0x11223344;
    far_write32(0xFFFF, PROBE + 0x10, high);
    far_write32(0, PROBE, low);
    return differ;
}
