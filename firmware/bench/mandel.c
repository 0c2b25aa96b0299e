/* mandel: a piece of the Mandelbrot set in double precision, on the x87. */
#include "bench.h"

#define WIDTH 24
#define HEIGHT 16
#define MOST 64

void prepare(u32 n)
{
    (void)n;
    __asm__ volatile("fninit");
}

static NOINLINE u32 escape(double cr, double ci)
{
    double zr = 0, zi = 0, rr = 0, ii = 0;
    u32 k = 0;

    while (k < MOST && rr + ii <= 4.0) {
        zi = 2 * zr * zi + ci;
        zr = rr - ii + cr;
        rr = zr * zr;
        ii = zi * zi;
        k++;
    }
    return k;
}

u32 bench(u32 n)
{
    u32 sum = 0;

    for (; n; n--)
        for (s32 y = 0; y < HEIGHT; y++)
            for (s32 x = 0; x < WIDTH; x++)
                sum = rol(sum, 1) + escape(x * (3.0 / WIDTH) - 2.25, y * (2.4 / HEIGHT) - 1.2);
    return sum;
}
