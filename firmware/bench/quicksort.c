/* quicksort: 512 pseudo-random words sorted in place, recursively. */
#include "bench.h"

#define SIZE 512

static word words[SIZE];

static NOINLINE void quicksort(word *low, word *high)
{
    while (low < high) {
        word pivot = low[(high - low) / 2];
        word *left = low, *right = high;

        while (left <= right) {
            while (*left < pivot)
                left++;
            while (*right > pivot)
                right--;
            if (left <= right) {
                word swapped = *left;
                *left++ = *right;
                *right-- = swapped;
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
            words[i] = lcg_word(&seed);
        quicksort(words, words + SIZE - 1);
        for (u32 i = 0; i < SIZE; i += 16)
            sum = rol(sum, 3) + (u32)words[i];
    }
    return sum;
}
