/* smp_torture: TLB shoot-downs; accessed and dirty bits. */
#include "smp.h"

#define POISON 0xDEADDEAD

volatile u32 window_table[1024] __attribute__((aligned(4096)));

/* ---- TLB shoot-downs --------------------------------------------------------------------------------------------------------- */
#define FRAMES 3
static volatile u32 frames[FRAMES][1024] __attribute__((aligned(4096)));
static volatile u32 move_round, acknowledged, flush_kind, n_faults;
static u32 stored[MAX_CPUS], frame_now, sum_when_mapped, is_global;

static void flush_window(u32 kind)
{
    if (kind == 1)
        WRITE_CR(3, READ_CR(3));
    else if (kind == 2 && has_pge) {
        WRITE_CR(4, READ_CR(4) & ~0x80);
        WRITE_CR(4, READ_CR(4) | 0x80);
    } else
        invlpg(WINDOW);
}
INTERRUPT void on_shoot(struct frame *frame)
{
    (void)frame;
    flush_window(flush_kind);
    *lapic(0xB0) = 0;
    xadd(&acknowledged, 1);
}
INTERRUPT void on_page_fault(struct frame *frame, u32 error)
{
    (void)frame;
    if (READ_CR(2) >> 12 != WINDOW >> 12 || error & ~3) {
        fail(0x800 + error);
        puts("page fault at ");
        put_hex(READ_CR(2), 8);
        leave(1);
    }
    xadd(&n_faults, 1);
    pause();
}
static void shoot_down(void)
{
    acknowledged = 0;
    flush_window(flush_kind);
    if (n_cpus > 1)
        send(0, 0xC4000 | SHOOT); /* all but self */
    while (acknowledged != n_cpus - 1)
        pause();
}
static u32 sum_of(volatile u32 *frame)
{
    u32 sum = 0;
    for (u32 k = 0; k < n_cpus; k++)
        sum += frame[k * 16];
    return sum;
}
/* Take the page away (or make it read-only first), copy it elsewhere, spoil what it was. */
static void move_page(u32 kind)
{
    u32 next = (frame_now + 1) % FRAMES, old;
    volatile u32 *from = frames[frame_now], *to = frames[next];
    flush_kind = is_global && kind % 3 == 1 ? 0 : kind % 3; /* a load of CR3 keeps what is global */
    if (kind & 4) {
        do
            old = window_table[0];
        while (cmpxchg(&window_table[0], old, old & ~2) != old);
    } else
        old = xchg(&window_table[0], 0);
    shoot_down();
    u32 sum = sum_of(from);
    if (sum != sum_when_mapped && !(old & 0x40))
        fail(0x810); /* stored, but not dirty */
    for (u32 k = 0; k < 1024; k++)
        to[k] = from[k];
    if (sum_of(from) != sum)
        fail(0x811); /* stored behind the acknowledgement */
    sum_when_mapped = sum;
    frame_now = next;
    window_table[0] = (u32)to | 3 | (has_pge && kind & 8 ? 0x100 : 0);
    shoot_down();
    is_global = kind & 8;
    for (u32 k = 0; k < 1024; k++)
        from[k] = POISON;
}
void test_shoot_down(u32 me)
{
    volatile u32 *page = (volatile u32 *)WINDOW;
    if (me == 0) {
        frames[0][1000] = 0x600D600D;
        window_table[0] = (u32)frames[0] | 3;
    }
    barrier();
    while (move_round < rounds * 2)
        if (move_round % n_cpus == me) {
            move_page(move_round);
            move_round++;
        } else
            for (int k = 0; k < 50; k++) {
                if (page[1000] != 0x600D600D)
                    fail(0x820);
                page[me * 16]++;
                stored[me]++;
            }
}
void check_shoot_down(void)
{
    volatile u32 *page = (volatile u32 *)WINDOW;
    for (u32 k = 0; k < n_cpus; k++)
        if (page[k * 16] != stored[k])
            fail(0x830 + k);
}

/* ---- accessed and dirty bits ---------------------------------------------------------------------------------------------------
 * Page walks of all processors set bits of entries in which others count, in the three bits that are software's. */
#define MARKED 16
#define FIRST_MARKED 8
#define ACCESSED 0x20u
#define DIRTY 0x40u
#define COUNT 0x200u
static volatile u32 added[MARKED];

static volatile u32 *marked_page(u32 k) { return (volatile u32 *)(WINDOW + (FIRST_MARKED + k) * 4096); }
static u32 count_in(volatile u32 *entry)
{
    u32 old = *entry, seen;
    while ((seen = cmpxchg(entry, old, (old & ~(7 * COUNT)) | ((old + COUNT) & 7 * COUNT))) != old)
        old = seen;
    return old;
}
void test_marks(u32 me)
{
    volatile u32 *entries = window_table + FIRST_MARKED;
    u32 random = me * 2654435761u + 12345;
    if (me == 0)
        for (u32 k = 0; k < MARKED; k++)
            entries[k] = (u32)frames[k % FRAMES] | 3;
    barrier();
    for (u32 n = 0; n < rounds * 64; n++) {
        random = random * 1664525 + 1013904223;
        u32 k = random >> 16 & (MARKED - 1), what = random >> 24 & 7;
        if (what == 0)
            __asm__ volatile("lock andl %1, %0" : "+m"(entries[k]) : "ir"(~(ACCESSED | DIRTY)) : "memory", "cc");
        if (what < 3) {
            count_in(&entries[k]);
            xadd(&added[k], 1);
        }
        invlpg((u32)marked_page(k));
        if (what & 1)
            marked_page(k)[me] = n;
        else
            (void)marked_page(k)[me];
    }
    barrier(); /* now what each has touched must be seen in the entries */
    for (u32 k = me; k < MARKED; k += n_cpus)
        __asm__ volatile("lock andl %1, %0" : "+m"(entries[k]) : "ir"(~(ACCESSED | DIRTY)) : "memory", "cc");
    barrier();
    for (u32 k = 0; k < MARKED; k++) {
        invlpg((u32)marked_page(k));
        if (k % n_cpus == me)
            marked_page(k)[me] = k;
        else if (k & 1)
            (void)marked_page(k)[me];
    }
}
void check_marks(void)
{
    for (u32 k = 0; k < MARKED; k++) {
        u32 entry = window_table[FIRST_MARKED + k];
        if ((entry & (ACCESSED | DIRTY)) != (ACCESSED | DIRTY))
            fail(0x840 + k);
        if ((entry / COUNT & 7) != (added[k] & 7))
            fail(0x860 + k);
    }
}
