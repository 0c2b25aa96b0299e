/* quicksort: 512 pseudo-random words sorted in place, recursively. */
#include "bench.h"

#define SIZE 512

static u32 words[SIZE];

static NOINLINE void quicksort(u32 *low, u32 *high)
{
    while (low < high) {
        u32 pivot = low[(high - low) / 2];
        u32 *left = low, *right = high;

        while (left <= right) {
            while (*left < pivot)
                left++;
            while (*right > pivot)
                right--;
            if (left <= right) {
                u32 word = *left;
                *left++ = *right;
                *right-- = word;
            }
        }
        quicksort(low, right);
        low = left;
    }
}

u32 bench(u32 n)
{
    u32 sum = 0;

    for (; n; n--) {
        u32 seed = 12345;

        for (u32 i = 0; i < SIZE; i++)
            words[i] = lcg(&seed);
        quicksort(words, words + SIZE - 1);
        for (u32 i = 0; i < SIZE; i += 16)
            sum = rol(sum, 3) + words[i];
    }
    return sum;
}
