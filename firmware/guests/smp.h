/* What the parts of smp_torture share: primitives, the barrier, and each test with its check. */
#ifndef SMP_H
#define SMP_H
#include "flat.h"

#define MAX_CPUS 16
#define LAPIC 0xFEE00000u
#define SHOOT 0x40 /* vectors */
#define WAKE 0x41

extern volatile const u32 rounds;
extern u32 n_cpus, has_mfence, has_pge;

/* A test found something wrong: `what` says which of its questions. */
void fail(u32 what);
/* Wait until all processors are here. */
void barrier(void);
/* An interrupt command. */
void send(u32 destination, u32 command);
void wait(u32 n);

static inline u32 xchg(volatile u32 *at, u32 value)
{
    __asm__ volatile("xchgl %0, %1" : "+r"(value), "+m"(*at) : : "memory");
    return value;
}
static inline u32 xadd(volatile u32 *at, u32 value)
{
    __asm__ volatile("lock xaddl %0, %1" : "+r"(value), "+m"(*at) : : "memory", "cc");
    return value;
}
static inline u32 cmpxchg(volatile u32 *at, u32 old, u32 value)
{
    __asm__ volatile("lock cmpxchgl %2, %1" : "+a"(old), "+m"(*at) : "r"(value) : "memory", "cc");
    return old;
}
static inline int cmpxchg8b(volatile u64 *at, u64 *old, u64 value)
{
    u8 same;
    __asm__ volatile("lock cmpxchg8b %1; setz %0"
                     : "=q"(same), "+m"(*at), "+A"(*old)
                     : "b"((u32)value), "c"((u32)(value >> 32))
                     : "memory", "cc");
    return same;
}
static inline int lock_bts(volatile u32 *at, u32 bit)
{
    u8 was;
    __asm__ volatile("lock btsl %2, %1; setc %0" : "=q"(was), "+m"(*at) : "r"(bit) : "memory", "cc");
    return was;
}
static inline void fence(void)
{
    if (has_mfence)
        __asm__ volatile("mfence" : : : "memory");
    else
        __asm__ volatile("lock orl $0, (%%esp)" : : : "memory", "cc");
}
static inline volatile u32 *lapic(u32 reg) { return (volatile u32 *)(LAPIC + reg); }

void test_locks(u32 me);
void check_locks(void);
void test_operations(u32 me);
void check_operations(void);
void test_peterson(u32 me);
void check_peterson(void);
void test_order(u32 me);
void test_queue(u32 me);
void check_queue(void);
void test_stack(u32 me);
void check_stack(void);
void test_code(u32 me);
void test_loop(u32 me);
void test_shoot_down(u32 me);
void check_shoot_down(void);
void test_marks(u32 me);
void check_marks(void);

/* The page that moves, its table, and who comes where. */
#define WINDOW 0x400000u
extern volatile u32 window_table[1024];
INTERRUPT void on_shoot(struct frame *frame);
INTERRUPT void on_page_fault(struct frame *frame, u32 error);

#endif
