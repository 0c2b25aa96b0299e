/* fresh: n distinct blocks, generated at run time, each run four times.
 *
 * prepare() writes the blocks before the 'S' mark, so the generator is not
 * measured: nine instructions with operands from a pseudo-random sequence and
 * a jump to the next block, 64 bytes apart; the last one returns. bench()
 * runs the whole chain four times, which is code seen once and again, as in
 * a booting kernel. More than 1,000,000 blocks do not fit and are not made.
 */
#include "bench.h"

#define SLOT 64u
#define MAX_BLOCKS 1000000u
#define N_PASSES 4
#define N_INSTRUCTIONS 9
#define N_REGISTERS 4u              /* eax, ecx, edx, ebx */

static u32 scratch[32];

static u8 *byte(u8 *at, u32 value)
{
    *at = (u8)value;
    return at + 1;
}

static u8 *dword(u8 *at, u32 value)
{
    *(u32 *)at = value;
    return at + 4;
}

/* One random instruction at `at`; ESI points to the scratch words. */
static u8 *instruction(u8 *at, u32 random)
{
    u32 to = (random >> 8) % N_REGISTERS, from = (random >> 12) % N_REGISTERS;
    u32 registers = 0xC0 | from << 3 | to;
    u32 slot = (random >> 16) % 32 * 4;

    switch ((random >> 24) % 10) {
    case 0:                         /* add r, imm32 */
        return dword(byte(byte(at, 0x81), 0xC0 | to), random);
    case 1:                         /* xor r, imm32 */
        return dword(byte(byte(at, 0x81), 0xF0 | to), random);
    case 2:                         /* add r, r */
        return byte(byte(at, 0x01), registers);
    case 3:                         /* sub r, r */
        return byte(byte(at, 0x29), registers);
    case 4:                         /* mov r, imm32 */
        return dword(byte(at, 0xB8 | to), random);
    case 5:                         /* rol r, 1 */
        return byte(byte(at, 0xD1), 0xC0 | to);
    case 6:                         /* mov [esi + disp8], r */
        return byte(byte(byte(at, 0x89), 0x46 | to << 3), slot);
    case 7:                         /* mov r, [esi + disp8] */
        return byte(byte(byte(at, 0x8B), 0x46 | to << 3), slot);
    case 8:                         /* add [esi + disp8], r */
        return byte(byte(byte(at, 0x01), 0x46 | to << 3), slot);
    default:                        /* lea r, [esi + disp32] */
        return dword(byte(byte(at, 0x8D), 0x86 | to << 3), random);
    }
}

static u32 limited(u32 n)
{
    return n < MAX_BLOCKS ? n : MAX_BLOCKS;
}

void prepare(u32 n)
{
    u32 seed = 2024;

    n = limited(n);
    for (u32 block = 0; block < n; block++) {
        u8 *at = (u8 *)(HIGH_BASE + block * SLOT);
        u32 next = HIGH_BASE + (block + 1) * SLOT;

        for (u32 i = 0; i < N_INSTRUCTIONS; i++)
            at = instruction(at, lcg(&seed));
        if (block == n - 1)
            byte(at, 0xC3);         /* ret */
        else                        /* jmp rel32 */
            dword(byte(at, 0xE9), next - ((u32)at + 5));
    }
}

u32 bench(u32 n)
{
    u32 a = 1, b = 2, c = 3, d = 4, entry = HIGH_BASE;

    if (n == 0)
        return 0;
    for (u32 pass = 0; pass < N_PASSES; pass++)
        __asm__ volatile("call *%4"
                         : "+a"(a), "+b"(b), "+c"(c), "+d"(d)
                         : "D"(entry), "S"(scratch) : "memory", "cc");
    for (u32 i = 0; i < 32; i++)
        a = rol(a, 1) ^ scratch[i];
    return a ^ b ^ c ^ d;
}
