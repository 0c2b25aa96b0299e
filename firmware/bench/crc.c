/* crc: CRC-32 (IEEE 802.3, reflected) of 256 bytes, bit by bit. */
#include "bench.h"

#define SIZE 256

static u8 buffer[SIZE];

void prepare(u32 n)
{
    u32 seed = 1;

    (void)n;
    for (u32 i = 0; i < SIZE; i++)
        buffer[i] = (u8)(lcg(&seed) >> 24);
}

static NOINLINE u32 crc32(const u8 *data, u32 size)
{
    u32 crc = 0xFFFFFFFF;

    for (u32 i = 0; i < size; i++) {
        crc ^= data[i];
        for (u32 bit = 0; bit < 8; bit++) {
            if (crc & 1)
                crc = (crc >> 1) ^ 0xEDB88320;
            else
                crc >>= 1;
        }
    }
    return ~crc;
}

u32 bench(u32 n)
{
    u32 sum = 0;

    for (; n; n--) {
        sum = rol(sum, 1) ^ crc32(buffer, SIZE);
        BARRIER();
    }
    return sum;
}
