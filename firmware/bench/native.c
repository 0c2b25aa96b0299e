/* The frame of a bench guest that runs as a program of Linux on the host's own CPU, without a machine around it: what main.c
 * is on a bare machine. It prints the same to standard output; its argument is the number of iterations.
 *
 * No library: it enters at _start and calls Linux itself (write, exit_group), so that a compiler without a C library for 32 bits
 * will do. Numbers and registers of the calls: Linux, arch/x86/entry/syscalls/.
 */
#include "bench.h"

#ifdef __x86_64__
#define SYS_WRITE 1
#define SYS_EXIT_GROUP 231
__asm__(".globl _start\n_start: mov %rsp, %rdi\n and $-16, %rsp\n call start\n");
#else
#define SYS_WRITE 4
#define SYS_EXIT_GROUP 252
__asm__(".globl _start\n_start: mov %esp, %eax\n and $-16, %esp\n sub $12, %esp\n push %eax\n call start\n");
#endif

static void call(word number, word a, word b, word c)
{
#ifdef __x86_64__
    __asm__ volatile("syscall" : "+a"(number) : "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
#else
    __asm__ volatile("int $0x80" : "+a"(number) : "b"(a), "c"(b), "d"(c) : "memory");
#endif
}

__attribute__((weak)) void prepare(u32 n)
{
    (void)n;
}

static void print(const char *text)
{
    word length = 0;

    while (text[length])
        length++;
    call(SYS_WRITE, 1, (word)text, length);
}

static void print_hex(u32 value)
{
    char text[9];

    for (u32 k = 0; k < 8; k++)
        text[k] = "0123456789abcdef"[(value >> (28 - 4 * k)) & 15];
    text[8] = 0;
    print(text);
}

/* `stack`: as Linux leaves it, the number of arguments, then pointers to them. */
__attribute__((used, noreturn)) void start(const word *stack)
{
    u32 n = 0;

    for (const char *digit = (const char *)stack[2]; *digit; digit++)
        n = n * 10 + (u32)(*digit - '0');
    print("bench " BENCH_NAME "\n");
    prepare(n);
    print("S");
    u32 sum = bench(n);
    print("E");
    print_hex(sum);
    print("\n");
    call(SYS_EXIT_GROUP, 0, 0, 0);
    __builtin_unreachable();
}
