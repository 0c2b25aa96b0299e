/* CMOS RAM behind ports 70 and 71. */
#include "cmos.h"
#include "board.h"

u8 cmos_read(u8 index)
{
    outb(PORT_CMOS_INDEX, index);
    return inb(PORT_CMOS_DATA);
}

void cmos_write(u8 index, u8 value)
{
    outb(PORT_CMOS_INDEX, index);
    outb(PORT_CMOS_DATA, value);
}

/* The AT's checksum: the sum of bytes 10 to 2D. */
u16 cmos_checksum(void)
{
    u16 sum = 0;
    for (u8 index = CMOS_CHECKSUM_FIRST; index <= CMOS_CHECKSUM_LAST; index++)
        sum += cmos_read(index);
    return sum;
}
