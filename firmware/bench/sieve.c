/* sieve: the primes below 8192 by Eratosthenes' sieve, once an iteration. */
#include "bench.h"

#define SIZE 8192

static u8 composite[SIZE];

static NOINLINE u32 sieve(void)
{
    u32 count = 0;

    for (u32 i = 0; i < SIZE; i++)
        composite[i] = 0;
    for (u32 i = 2; i < SIZE; i++) {
        if (composite[i])
            continue;
        count++;
        for (u32 multiple = i + i; multiple < SIZE; multiple += i)
            composite[multiple] = 1;
    }
    return count;
}

u32 bench(u32 n)
{
    u32 sum = 0;

    for (; n; n--) {
        sum = rol(sum, 1) + sieve();
        BARRIER();
    }
    return sum;
}
