/* mandel_sse2: a row of the Mandelbrot set in double precision, scalar SSE2 as a compiler makes it. */
#include "bench.h"

#define WIDTH 64
#define LIMIT 100
#define CR4_OSFXSR (1u << 9)
#define CR4_OSXMMEXCPT (1u << 10)

void prepare(u32 n)
{
    u32 cr4;

    (void)n;
    __asm__ volatile("mov %%cr4, %0" : "=r"(cr4));
    __asm__ volatile("mov %0, %%cr4" : : "r"(cr4 | CR4_OSFXSR | CR4_OSXMMEXCPT));
}

#define SSE2 __attribute__((noinline, target("sse2,fpmath=sse")))

static volatile s32 where = 12;

static SSE2 u32 row(s32 line)
{
    double ci = line * (2.0 / WIDTH);
    u32 sum = 0;

    for (s32 x = 0; x < WIDTH; x++) {
        double cr = x * (3.0 / WIDTH) - 2.25, zr = 0, zi = 0;
        u32 n = 0;

        while (n < LIMIT) {
            double rr = zr * zr, ii = zi * zi;

            if (rr + ii > 4.0)
                break;
            zi = (zr + zr) * zi + ci;
            zr = rr - ii + cr;
            n++;
        }
        sum += n;
    }
    return sum;
}

u32 bench(u32 n)
{
    u32 sum = 0;

    for (; n; n--) {
        sum = rol(sum, 1) + row(where);
        BARRIER();
    }
    return sum;
}
