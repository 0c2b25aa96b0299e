/* The frame of a bench guest: name, 'S', the work, 'E', checksum, the end.
 *
 * Everything goes to the debug port 0xE9: "bench NAME\n", then "S" and "E"
 * around the measured part, then eight hex digits and a newline.
 */
#include "bench.h"

#define DEBUG_PORT 0xE9
#define QEMU_EXIT_PORT 0xF4       /* isa-debug-exit, iobase=0xf4 */
#define BOCHS_SHUTDOWN_PORT 0x8900

extern const volatile u32 iterations;
extern const char bench_name[];

__attribute__((weak)) void prepare(u32 n)
{
    (void)n;
}

static void print(const char *text)
{
    for (; *text; text++)
        outb(DEBUG_PORT, (u8)*text);
}

static void print_hex(u32 value)
{
    for (s32 shift = 28; shift >= 0; shift -= 4)
        outb(DEBUG_PORT, (u8)"0123456789abcdef"[(value >> shift) & 15]);
}

void main(void)
{
    u32 n = iterations;

    print("bench ");
    print(bench_name);
    print("\n");
    prepare(n);
    outb(DEBUG_PORT, 'S');
    u32 sum = bench(n);
    outb(DEBUG_PORT, 'E');
    print_hex(sum);
    print("\n");
    outb(QEMU_EXIT_PORT, 0);
    for (const char *text = "Shutdown"; *text; text++)
        outb(BOCHS_SHUTDOWN_PORT, (u8)*text);
}
