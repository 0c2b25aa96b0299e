/* paging_chase: 32-bit paging on, a pointer chase over 8192 pages of 4 KiB.
 *
 * Each page holds one node; the order is a full-period permutation, so that
 * every step needs another page: more pages than a CPU's or an emulator's
 * usual TLB (QEMU starts with 256 entries and resizes only at a flush).
 * The nodes lie at different offsets of their pages, so that the host's data
 * cache is not what is measured.
 */
#include "bench.h"

#define N_PAGES 8192u
#define PAGE 4096u
#define PRESENT_WRITABLE 3u

static u32 *const directory = (u32 *)TABLES_BASE;

static u32 node_address(u32 page)
{
    return HIGH_BASE + page * PAGE + ((page * 64) & (PAGE - 64));
}

void prepare(u32 n)
{
    u32 *tables = directory + 1024;
    u32 page = 0;

    (void)n;
    for (u32 i = 0; i < 1024; i++)
        directory[i] = 0;
    for (u32 i = 0; i < (HIGH_BASE / PAGE + N_PAGES) / 1024; i++) {
        directory[i] = (u32)(tables + i * 1024) | PRESENT_WRITABLE;
        for (u32 j = 0; j < 1024; j++)
            tables[i * 1024 + j] = ((i * 1024 + j) * PAGE) | PRESENT_WRITABLE;
    }
    for (u32 i = 0; i < N_PAGES; i++) {
        u32 next = (page * 1597 + 51749) % N_PAGES;

        *(u32 *)node_address(page) = node_address(next);
        page = next;
    }
}

u32 bench(u32 n)
{
    u32 node = node_address(0), sum = 0, cr0;

    __asm__ volatile("mov %1, %%cr3\n\t"
                     "mov %%cr0, %0\n\t"
                     "or $0x80000000, %0\n\t"
                     "mov %0, %%cr0\n\t"
                     "jmp 1f\n1:"
                     : "=&r"(cr0) : "r"(directory) : "memory");
    __asm__ volatile("1:\tmov (%0), %0\n\t"
                     "add %0, %1\n\t"
                     "dec %2\n\t"
                     "jnz 1b"
                     : "+r"(node), "+r"(sum), "+r"(n) : : "memory", "cc");
    __asm__ volatile("mov %0, %%cr0" : : "r"(cr0 & 0x7FFFFFFFu) : "memory");
    return sum;
}
