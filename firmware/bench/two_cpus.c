/* two_cpus: the sieve of `sieve.c` on two CPUs at the same time, each in memory of its own; one_cpu (CPUS=1): both on one.
 *
 * An iteration is one sieve in each memory. The second CPU is started by INIT and SIPI before the measured part, and waits in
 * between; the first one waits for it at the end. As a program of Linux (NATIVE) it is a thread. Intel SDM volume 3, sections
 * 8.4.4.1 (starting application processors) and 10.6.1 (interrupt command register).
 */
#include "bench.h"

#ifndef CPUS
#define CPUS 2
#endif
#define SIZE 8192
#define APIC 0xFEE00000u
#define SPURIOUS 0xF0
#define ICR_LOW 0x300
#define INIT_OTHERS 0xC4500
#define STARTUP_OTHERS 0xC4608    /* at 8000h */

static u8 composite[2][SIZE + 64];

static NOINLINE u32 sieve(u8 *crossed)
{
    u32 count = 0;

    for (u32 i = 0; i < SIZE; i++)
        crossed[i] = 0;
    for (u32 i = 2; i < SIZE; i++) {
        if (crossed[i])
            continue;
        count++;
        for (u32 multiple = i + i; multiple < SIZE; multiple += i)
            crossed[multiple] = 1;
    }
    return count;
}

static NOINLINE u32 work(u8 *crossed, u32 n)
{
    u32 sum = 0;

    for (; n; n--) {
        sum = rol(sum, 1) + sieve(crossed);
        BARRIER();
    }
    return sum;
}

#if CPUS == 2
static volatile u32 ready, rounds, done, other_sum;
__attribute__((used)) static u32 other_stack[1024];

#ifdef NATIVE
/* On a host: a thread of Linux, by clone(2) with everything in common. Numbers: Linux, arch/x86/entry/syscalls/ and
 * include/uapi/linux/sched.h.
 */
#define SYS_CLONE 120
#define IN_COMMON 0x50F00         /* memory, file system, files, signals, process, semaphores */
#define REST "pause"

static void start_other(void)
{
    word result = SYS_CLONE;

    __asm__ volatile("int $0x80\n"
                     "test %0, %0\n"
                     "jnz 1f\n"
                     "call other\n"
                     "1:"
                     : "+a"(result) : "b"(IN_COMMON), "c"(other_stack + 1024), "d"(0), "S"(0), "D"(0) : "memory");
}
#else
#define REST "hlt"

/* What the second CPU begins with, at 8000h: 32-bit flat segments, a stack, `other`. */
extern const u8 trampoline[], trampoline_end[];
__asm__(".intel_syntax noprefix\n"
        ".section .rodata\n"
        ".balign 8\n"
        ".code16\n"
        "trampoline:\n"
        "    cli\n"
        "    lgdt    cs:[5f - trampoline]\n"
        "    mov     eax, cr0\n"
        "    and     eax, 0x9FFFFFFF\n"
        "    or      al, 1\n"
        "    mov     cr0, eax\n"
        "    data32 ljmp 0x08, offset 0x8000 + (3f - trampoline)\n"
        ".code32\n"
        "3:  mov     eax, 0x10\n"
        "    mov     ds, eax\n"
        "    mov     es, eax\n"
        "    mov     ss, eax\n"
        "    mov     esp, offset other_stack + 4096\n"
        "    mov     eax, offset other\n"
        "    jmp     eax\n"
        ".balign 8\n"
        "4:  .quad   0, 0x00CF9B000000FFFF, 0x00CF93000000FFFF\n"
        "5:  .word   23\n"
        "    .long   0x8000 + (4b - trampoline)\n"
        "trampoline_end:\n"
        ".text\n"
        ".att_syntax\n");

static volatile u32 *apic(u32 offset)
{
    return (volatile u32 *)(APIC + offset);
}

static void start_other(void)
{
    for (u32 k = 0; &trampoline[k] != trampoline_end; k++)
        ((volatile u8 *)0x8000)[k] = trampoline[k];
    *apic(SPURIOUS) = 0x1FF;
    *apic(ICR_LOW) = INIT_OTHERS;
    for (volatile u32 k = 0; k < 1000000; k++)
        ;
    *apic(ICR_LOW) = STARTUP_OTHERS;
}
#endif

static void pause(void)
{
    __asm__ volatile("pause");
}

__attribute__((used)) static void other(void)
{
    ready = 1;
    while (!rounds)
        pause();
    other_sum = work(composite[1], rounds);
    done = 1;
    for (;;)
        __asm__ volatile(REST);
}

void prepare(u32 n)
{
    (void)n;
    start_other();
    while (!ready)
        pause();
}

u32 bench(u32 n)
{
    rounds = n;
    u32 sum = work(composite[0], n);
    while (!done)
        pause();
    return sum + other_sum;
}
#else
u32 bench(u32 n)
{
    u32 sum = work(composite[0], n);
    return sum + work(composite[1], n);
}
#endif
