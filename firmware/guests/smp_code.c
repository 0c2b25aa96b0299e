/* smp_torture: code that another processor writes. */
#include "smp.h"

/* ---- code that another one writes ------------------------------------------------------------------------------------------- */
static u8 code[2 * 4096] __attribute__((aligned(4096)));
static const u16 entries[] = {0, 64, 4096 - 3, 4096 + 64};
static volatile u32 code_version;

static inline u32 call(u8 *at)
{
    u32 value;
    __asm__ volatile("call *%1" : "=a"(value) : "r"(at) : "memory", "cc");
    return value;
}
static void write32(volatile u8 *at, u32 value)
{
    for (int k = 0; k < 4; k++)
        at[k] = value >> 8 * k;
}
/* A routine that gives `value`: four kinds. */
static void write_code(volatile u8 *at, u32 kind, u32 value)
{
    switch (kind & 3) {
    case 0: at[0] = 0xB8; write32(at + 1, value); at[5] = 0xC3; break;                                      /* MOV; RET */
    case 1: at[0] = 0x31; at[1] = 0xC0; at[2] = 0x05; write32(at + 3, value); at[7] = 0xC3; break;          /* XOR, ADD */
    case 2: at[0] = 0x68; write32(at + 1, value); at[5] = 0x58; at[6] = 0xC3; break;                        /* PUSH, POP */
    default: at[0] = 0xB8; write32(at + 1, ~value); at[5] = 0xF7; at[6] = 0xD0; at[7] = 0xC3; break;        /* MOV, NOT */
    }
}
/* 8.1.3: one writes while the others wait, who then execute a serializing instruction. */
void test_code(u32 me)
{
    for (u32 round = 0; round < rounds; round++) {
        u8 *at = code + entries[round & 3];
        u32 value = 0x01010101 * (round + 1);
        if (round % n_cpus == me) {
            write_code(at, round >> 2, value);
            code_version = round + 1;
        } else {
            while (code_version != round + 1)
                pause();
            cpuid(0);
        }
        for (u32 i = round < 8 ? 2500 : 40; i--;)
            if (call(at) != value)
                fail(0x600 + (round & 3));
        barrier();
    }
}
/* A loop that nothing ends but one byte which another processor writes: it is seen without any instruction of the loop. */
static volatile u32 in_loop, out_of_loop;
void test_loop(u32 me)
{
    u8 *at = code + 4096 + 512;
    for (u32 round = 0; round < rounds / 4; round++) {
        if (round % n_cpus == me) {
            write32(at, 0xC3FDEB90); /* NOP, JMP to it; RET */
            in_loop = out_of_loop = 0;
            barrier();
            while (in_loop != n_cpus - 1)
                pause();
            wait(2000);
            if (out_of_loop)
                fail(0x700);
            *(volatile u8 *)at = 0xC3;
        } else {
            barrier();
            cpuid(0);
            xadd(&in_loop, 1);
            call(at);
            xadd(&out_of_loop, 1);
        }
        barrier();
    }
}
