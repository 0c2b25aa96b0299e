/* Proves: processors that share memory. Locks of every kind, locked operations of all sizes over lines and pages, Peterson's
 * algorithm, the order of loads and stores, queues by CMPXCHG and CMPXCHG8B, code that another processor writes, TLB
 * shoot-downs under a storm of stores, accessed and dirty bits, interrupts that wake halted processors, NMIs, INIT in any state. Each test says "ok" or
 * what it counted; then it leaves with 0, or with 1 when one went wrong. It takes all processors that fw_cfg counts.
 *
 * How often each thing is done follows from `rounds`, 32 bits at offset 10h of the image.
 * Intel SDM volume 3: 8.1 (locked operations), 8.1.3 (cross-modifying code), 8.2.2 and 8.2.3 (memory ordering), 8.4 (INIT
 * and SIPI), 4.8 (accessed and dirty bits), 4.10.5 (propagation of paging-structure changes to other processors), 10.6 (IPIs), 6.7 (NMI). */
#include "smp.h"

#define TRAMPOLINE 0x8000

__attribute__((section(".parameters"), used)) volatile const u32 rounds = 60;

/* What smp_start.S takes and leaves. */
u8 index_of[256], apic_id_of[MAX_CPUS];
u32 n_numbered;
u8 stacks[MAX_CPUS][4096] __attribute__((aligned(4096)));
u64 gdt_copy[3];
extern const u8 trampoline[], trampoline_end[];

u32 n_cpus, has_mfence, has_pge;
static volatile u32 errors, what_failed;
static struct gate idt[256];
static u32 directory[1024] __attribute__((aligned(4096)));
static u32 low_table[1024] __attribute__((aligned(4096)));
static u32 apic_table[1024] __attribute__((aligned(4096)));

void fail(u32 what)
{
    what_failed = what;
    xadd(&errors, 1);
}
void send(u32 destination, u32 command)
{
    u32 flags;
    __asm__ volatile("pushfl; popl %0; cli" : "=r"(flags) : : "memory"); /* a handler must not come between the halves */
    while (*lapic(0x300) & 0x1000)
        pause();
    *lapic(0x310) = destination << 24;
    *lapic(0x300) = command;
    __asm__ volatile("pushl %0; popfl" : : "r"(flags) : "memory", "cc");
}
void wait(u32 n)
{
    while (n--) /* without PAUSE, at which some emulators let the others go on */
        __asm__ volatile("");
}

static volatile u32 barrier_count, barrier_generation;
void barrier(void)
{
    u32 generation = barrier_generation;
    if (xadd(&barrier_count, 1) == n_cpus - 1) {
        barrier_count = 0;
        barrier_generation = generation + 1;
    } else
        while (barrier_generation == generation)
            pause();
}

/* ---- a token that goes round by interrupts ------------------------------------------------------------------------------------ */
static volatile u32 token[MAX_CPUS], wakes[MAX_CPUS];
INTERRUPT static void on_wake(struct frame *frame)
{
    (void)frame;
    wakes[index_of[*lapic(0x20) >> 24]]++;
    *lapic(0xB0) = 0;
}
static void test_wake(u32 me)
{
    u32 next = (me + 1) % n_cpus;
    if (me == 0)
        token[0] = 1;
    for (u32 lap = 0; lap < rounds; lap++) {
        __asm__ volatile("cli");
        while (!token[me])
            __asm__ volatile("sti; hlt; cli" : : : "memory");
        __asm__ volatile("sti");
        while (wakes[me] != lap + (me != 0)) /* its interrupt may come behind the token */
            pause();
        token[me] = 0;
        token[next] = 1;
        send(apic_id_of[next], 0x4000 | WAKE);
    }
    while (wakes[me] != rounds)
        pause();
}

/* ---- NMIs ----------------------------------------------------------------------------------------------------------------------- */
#define NMI 0x4400
static volatile u32 nmis[MAX_CPUS], nmi_lap[MAX_CPUS], nmi_seen[MAX_CPUS];
INTERRUPT static void on_nmi(struct frame *frame)
{
    (void)frame;
    nmis[index_of[*lapic(0x20) >> 24]]++;
}
static void test_nmi(u32 me)
{
    u32 next = (me + 1) % n_cpus;
    for (u32 n = 1; n <= rounds * 4; n++) { /* all at once: none is lost, none comes twice */
        send(apic_id_of[next], NMI);
        while (nmis[next] != n)
            pause();
    }
    barrier();
    for (u32 lap = 1; lap <= rounds; lap++) /* halted with interrupts off; one may come just before HLT, so again and again */
        if (me) {
            __asm__ volatile("cli");
            while (nmi_lap[me] != lap)
                __asm__ volatile("hlt" : : : "memory");
            nmi_seen[me] = lap;
            __asm__ volatile("sti");
        } else
            for (u32 k = 1; k < n_cpus; k++) {
                nmi_lap[k] = lap;
                do {
                    send(apic_id_of[k], NMI);
                    wait(500);
                } while (nmi_seen[k] != lap);
            }
}

/* ---- INIT and SIPI -------------------------------------------------------------------------------------------------------------- */
#define RESTARTS 6
static volatile u32 restarting, state[MAX_CPUS], restarts[MAX_CPUS];

static void start(u32 id)
{
    send(id, 0x4500);
    wait(20000);
    send(id, 0x4600 | TRAMPOLINE >> 12);
}
/* Busy without interrupts, halted, in a string instruction without end, storing, or with interrupts open. */
static void be_restarted(u32 me)
{
    u32 n = restarts[me];
    if (n == RESTARTS)
        return;
    state[me] = n + 1;
    switch (n % 5) {
    case 0: __asm__ volatile("cli; 1: jmp 1b"); break;
    case 1: __asm__ volatile("cli; 1: hlt; jmp 1b"); break;
    case 2: __asm__ volatile("cli; 1: movl $0x100000, %%ecx; movl $0xF0000, %%esi; rep lodsb; jmp 1b" : : : "ecx", "esi", "eax"); break;
    case 3: __asm__ volatile("1: incl %0; jmp 1b" : "+m"(wakes[me])); break;
    default: __asm__ volatile("sti; 1: hlt; jmp 1b"); break;
    }
}
static void test_restart(u32 me)
{
    if (me) {
        be_restarted(me);
        return;
    }
    for (u32 n = 1; n <= RESTARTS; n++)
        for (u32 k = 1; k < n_cpus; k++) {
            while (state[k] != n)
                pause();
            wait(2000);
            restarts[k] = n;
            start(apic_id_of[k]);
        }
}

/* ---- all of it ------------------------------------------------------------------------------------------------------------------ */
static void nothing(void) {}
static const struct {
    const char *name;
    void (*test)(u32 me);
    void (*check)(void);
} tests[] = {
    {"locks", test_locks, check_locks},
    {"locked operations", test_operations, check_operations},
    {"peterson", test_peterson, check_peterson},
    {"order", test_order, nothing},
    {"queue", test_queue, check_queue},
    {"stack", test_stack, check_stack},
    {"code", test_code, nothing},
    {"loop", test_loop, nothing},
    {"shoot-downs", test_shoot_down, check_shoot_down},
    {"marks", test_marks, check_marks},
    {"wake", test_wake, nothing},
    {"nmi", test_nmi, nothing},
    {"restart", test_restart, nothing}, /* the last: a processor that was restarted ends there */
};
#define N_TESTS (sizeof tests / sizeof *tests)

INTERRUPT static void on_fault(struct frame *frame)
{
    puts("fault at ");
    put_hex(frame->eip, 8);
    put('\n');
    leave(1);
}
INTERRUPT static void on_fault_with_error(struct frame *frame, u32 error)
{
    puts("fault ");
    put_hex(error, 4);
    puts(" at ");
    put_hex(frame->eip, 8);
    put('\n');
    leave(1);
}
static void set_up(void)
{
    load_idt(idt, 256);
    WRITE_CR(3, directory);
    WRITE_CR(0, (READ_CR(0) & ~0x60000000) | 0x80010000);
    if (has_pge)
        WRITE_CR(4, READ_CR(4) | 0x80);
    *lapic(0xF0) = 0x1FF;
    *lapic(0x80) = 0;
    __asm__ volatile("sti");
}
void other_main(u32 me)
{
    set_up();
    if (restarting)
        be_restarted(me);
    else
        for (u32 t = 0; t < N_TESTS; t++) {
            barrier();
            tests[t].test(me);
            barrier();
        }
    barrier();
    for (;;)
        __asm__ volatile("cli; hlt");
}
static u32 count_cpus(void)
{
    out16(0x510, 0x0005);
    u32 n = in8(0x511);
    return n | in8(0x511) << 8;
}
void main(void)
{
    struct registers features = cpuid(1);
    has_mfence = features.edx >> 26 & 1;
    has_pge = features.edx >> 13 & 1;
    n_cpus = count_cpus();
    if (n_cpus == 0 || n_cpus > MAX_CPUS)
        leave(2);
    for (u32 k = 0; k < 256; k++)
        set_gate(&idt[k], (k >= 10 && k < 14) || k == 8 || k == 17 ? (u32)on_fault_with_error : (u32)on_fault);
    set_gate(&idt[2], (u32)on_nmi);
    set_gate(&idt[14], (u32)on_page_fault);
    set_gate(&idt[SHOOT], (u32)on_shoot);
    set_gate(&idt[WAKE], (u32)on_wake);
    for (u32 k = 0; k < 1024; k++)
        low_table[k] = k << 12 | 3;
    apic_table[LAPIC >> 12 & 0x3FF] = LAPIC | 0x1B;
    directory[0] = (u32)low_table | 3;
    directory[WINDOW >> 22] = (u32)window_table | 3;
    directory[LAPIC >> 22] = (u32)apic_table | 3;
    gdt_copy[1] = 0x00CF9B000000FFFFull;
    gdt_copy[2] = 0x00CF93000000FFFFull;
    for (u32 k = 0; k < (u32)(trampoline_end - trampoline); k++)
        ((volatile u8 *)TRAMPOLINE)[k] = trampoline[k];
    n_numbered = 1;
    apic_id_of[0] = *lapic(0x20) >> 24;
    set_up();
    send(0, 0xC4500);
    wait(100000);
    send(0, 0xC4600 | TRAMPOLINE >> 12);
    while (*(volatile u32 *)&n_numbered != n_cpus)
        pause();
    for (u32 t = 0; t < N_TESTS; t++) {
        restarting = t == N_TESTS - 1;
        u32 before = errors;
        barrier();
        tests[t].test(0);
        barrier();
        tests[t].check();
        puts(tests[t].name);
        if (errors != before) {
            puts(" BAD ");
            put_hex(errors - before, 8);
            put(' ');
            put_hex(what_failed, 4);
            put('\n');
        } else
            puts(" ok\n");
    }
    leave(errors != 0);
}
