/* matrix: the product of two 16 x 16 matrices of 32-bit integers. */
#include "bench.h"

#define SIZE 16

static u32 left[SIZE][SIZE], right[SIZE][SIZE], product[SIZE][SIZE];

void prepare(u32 n)
{
    u32 seed = 99;

    (void)n;
    for (u32 i = 0; i < SIZE; i++)
        for (u32 j = 0; j < SIZE; j++) {
            left[i][j] = lcg(&seed) >> 16;
            right[i][j] = lcg(&seed) >> 16;
        }
}

static NOINLINE void multiply(void)
{
    for (u32 i = 0; i < SIZE; i++)
        for (u32 j = 0; j < SIZE; j++) {
            u32 sum = 0;

            for (u32 k = 0; k < SIZE; k++)
                sum += left[i][k] * right[k][j];
            product[i][j] = sum;
        }
}

u32 bench(u32 n)
{
    u32 sum = 0;

    for (; n; n--) {
        multiply();
        BARRIER();
        sum = rol(sum, 1) + product[n % SIZE][(n / SIZE) % SIZE];
    }
    return sum;
}
