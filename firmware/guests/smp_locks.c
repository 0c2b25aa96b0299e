/* smp_torture: locks, locked operations, Peterson's algorithm, the order of loads and stores. */
#include "smp.h"

/* ---- locks ------------------------------------------------------------------------------------------------------------ */
struct guarded {
    volatile u32 owner, n, twice;
};
static volatile u32 lock_xchg, lock_bit, lock_cas, ticket_next, ticket_now;
static volatile u64 lock_wide;
static struct guarded guarded[6];

/* What only one at a time may do. */
static void critical(struct guarded *g, u32 me)
{
    u32 n = g->n;
    g->owner = me;
    if (g->twice != n * 2)
        fail(1);
    g->n = n + 1;
    g->twice = (n + 1) * 2;
    if (g->owner != me)
        fail(2);
}
void test_locks(u32 me)
{
    for (u32 i = 0; i < rounds * 16; i++) {
        u64 none = 0;
        while (xchg(&lock_xchg, 1))
            while (lock_xchg)
                pause();
        critical(&guarded[0], me);
        lock_xchg = 0;
        while (lock_bts(&lock_bit, 7))
            pause();
        critical(&guarded[1], me);
        __asm__ volatile("lock btrl $7, %0" : "+m"(lock_bit) : : "memory", "cc");
        while (cmpxchg(&lock_cas, 0, me + 1))
            pause();
        critical(&guarded[2], me);
        lock_cas = 0;
        u32 mine = xadd(&ticket_next, 1);
        while (ticket_now != mine)
            pause();
        critical(&guarded[3], me);
        ticket_now = mine + 1;
        while (!cmpxchg8b(&lock_wide, &none, 1ull << 63 | (me + 1))) {
            none = 0;
            pause();
        }
        critical(&guarded[4], me);
        u64 held = 1ull << 63 | (me + 1);
        if (!cmpxchg8b(&lock_wide, &held, 0))
            fail(3);
    }
}
void check_locks(void)
{
    for (int k = 0; k < 5; k++)
        if (guarded[k].n != n_cpus * rounds * 16)
            fail(0x10 + k);
}

/* ---- locked operations -------------------------------------------------------------------------------------------------- */
#define N_KINDS 9
static u8 areas[N_KINDS][2 * 4096 + 64] __attribute__((aligned(4096)));
static const u16 places[] = {64, 126, 190, 255, 4094, 4160 + 61, 8191};
#define N_PLACES (sizeof places / sizeof *places)

/* One is added in all. `places` are aligned, in a line, over lines and over pages. */
#define ADD(suffix, type, at)                                                                                                 \
    __asm__ volatile("lock inc" suffix " %0; lock add" suffix " $3, %0; lock sub" suffix " $2, %0; lock dec" suffix " %0;"    \
                     "stc; lock adc" suffix " $1, %0; stc; lock sbb" suffix " $1, %0;"                                        \
                     : "+m"(*(volatile type *)(at))                                                                           \
                     :                                                                                                        \
                     : "memory", "cc")
/* Done twice to no effect, whatever the others do between. */
#define TWICE(at, operation)                                                                                                  \
    __asm__ volatile("lock " operation "; lock " operation                                                                    \
                     : "+m"(*(volatile u32 *)(at))                                                                            \
                     : "r"(bit), "r"(number)                                                                                  \
                     : "memory", "cc")
void test_operations(u32 me)
{
    u32 number = me & 31, bit = 1u << number;
    for (u32 i = 0; i < rounds * 4; i++)
        for (u32 k = 0; k < N_PLACES; k++) {
            u32 at = places[k], old;
            ADD("b", u8, areas[0] + at);
            ADD("w", u16, areas[1] + at);
            ADD("l", u32, areas[2] + at);
            volatile u32 *word = (volatile u32 *)(areas[3] + at);
            do
                old = *word;
            while (cmpxchg(word, old, old + 0x10001) != old);
            volatile u64 *wide = (volatile u64 *)(areas[4] + at);
            u64 was = 0;
            while (!cmpxchg8b(wide, &was, was + 0x100000001ull))
                pause();
            xadd((volatile u32 *)(areas[5] + at), 5);
            TWICE(areas[6] + at, "btcl %2, %0");
            TWICE(areas[6] + at, "xorl %1, %0");
            TWICE(areas[7] + at, "notl %0");
            TWICE(areas[8] + at, "negl %0");
        }
}
void check_operations(void)
{
    u32 n = n_cpus * rounds * 4;
    for (u32 k = 0; k < N_PLACES; k++) {
        u32 at = places[k];
        if (areas[0][at] != (u8)n || *(u16 *)(areas[1] + at) != (u16)n || *(u32 *)(areas[2] + at) != n)
            fail(0x100 + k);
        if (*(u32 *)(areas[3] + at) != n * 0x10001 || *(u64 *)(areas[4] + at) != n * 0x100000001ull)
            fail(0x110 + k);
        if (*(u32 *)(areas[5] + at) != n * 5)
            fail(0x120 + k);
        if (*(u32 *)(areas[6] + at) || *(u32 *)(areas[7] + at) || *(u32 *)(areas[8] + at))
            fail(0x130 + k);
    }
}

/* ---- Peterson, and the order of loads and stores, in pairs ---------------------------------------------------------------- */
static struct pair {
    volatile u32 wants[2], turn, data, flag, x, y, seen[2], step[2];
    struct guarded guarded;
    u32 filler[48];
} pairs[MAX_CPUS / 2];

static int has_partner(u32 me) { return (me | 1) < n_cpus; }
void test_peterson(u32 me)
{
    struct pair *p = &pairs[me / 2];
    u32 side = me & 1;
    if (!has_partner(me))
        return;
    for (u32 i = 0; i < rounds * 32; i++) {
        p->wants[side] = 1;
        p->turn = !side;
        fence();
        while (p->wants[!side] && p->turn == !side)
            pause();
        critical(&p->guarded, me);
        compiler_fence();
        p->wants[side] = 0;
    }
}
void check_peterson(void)
{
    for (u32 k = 0; k < n_cpus / 2; k++)
        if (pairs[k].guarded.n != rounds * 64)
            fail(0x200 + k);
}
/* Stores are seen in their order (8.2.3.2); with fences one of two sees the other's store (8.2.3.4 says: only with them). */
void test_order(u32 me)
{
    struct pair *p = &pairs[me / 2];
    u32 side = me & 1;
    if (!has_partner(me))
        return;
    for (u32 i = 1; i <= rounds * 200; i++)
        if (side) {
            p->data = i;
            p->flag = i;
        } else {
            u32 flag = p->flag, data = p->data;
            if (data < flag)
                fail(0x300);
        }
    for (u32 i = 1; i <= rounds; i++) {
        p->step[side] = i * 2 - 1;
        while (p->step[!side] < i * 2 - 1)
            pause();
        (side ? &p->x : &p->y)[0] = i;
        fence();
        p->seen[side] = side ? p->y : p->x;
        p->step[side] = i * 2;
        while (p->step[!side] < i * 2)
            pause();
        if (p->seen[0] != i && p->seen[1] != i)
            fail(0x310);
    }
}
