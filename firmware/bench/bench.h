/* What every bench guest shares: types, port access, and its two functions. */
#ifndef BENCH_H
#define BENCH_H

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef signed int s32;
typedef unsigned long word;     /* as wide as the guest's registers */

/* Set up what the measured part needs; runs before the 'S' mark. */
void prepare(u32 n);
/* The measured part: n iterations, a checksum of the work as the answer. */
u32 bench(u32 n);

#define NOINLINE __attribute__((noinline))
/* The compiler forgets what it knows of memory, so no iteration is hoisted. */
#define BARRIER() __asm__ volatile("" ::: "memory")
/* RAM above the first megabyte that no section of the image occupies. */
#define TABLES_BASE 0x00400000u
#define HIGH_BASE 0x01000000u

static inline void outb(u16 port, u8 value)
{
    __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port));
}

static inline u8 inb(u16 port)
{
    u8 value;
    __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}

static inline u32 rol(u32 value, u32 count)
{
    return (value << count) | (value >> (32 - count));
}

/* Knuth's linear congruential generator (Numerical Recipes' constants). */
static inline u32 lcg(u32 *seed)
{
    *seed = *seed * 1664525u + 1013904223u;
    return *seed;
}

/* As many of its numbers as fill a word. */
static inline word lcg_word(u32 *seed)
{
    word value = lcg(seed);

#ifdef __x86_64__
    value = value << 32 | lcg(seed);
#endif
    return value;
}

#endif
