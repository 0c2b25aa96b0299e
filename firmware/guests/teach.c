/* Proves: the recipe of small teaching kernels works. A boot sector loads an ELF kernel from the IDE disk; it runs high with
 * 4 MiB pages, finds processors and APICs in the BIOS's MP tables, masks the 8259As, routes IRQs by the I/O APIC, starts the
 * other processors with INIT, SIPI, SIPI and the warm reset vector, takes local APIC timers on all of them, interrupts of COM1, of
 * the disk (on the last processor) and of the keyboard controller, and runs a program at level 3 that makes system calls.
 * It prints what it found and leaves with 31h (QEMU's status 63h), or with 32h. Runs on SeaBIOS.
 * Intel MultiProcessor Specification 1.4; SDM volume 3, 8.4 and 10; 82093AA; ATA-4. */
#include "flat.h"

#define KERNEL 0x80000000u
#define HIGH(physical) ((u32)(physical) + KERNEL)
#define LOW(address) ((u32)(address) - KERNEL)
#define MAX_CPUS 8
#define TIMER 0x20 /* vectors: IRQs from 20h on, as the I/O APIC is told */
#define KEYBOARD 0x21
#define COM1 0x24
#define DISK 0x2E
#define WRONG 0x33
#define SPURIOUS 0x3F
#define SYSCALL 0x40

struct trap {
    u32 edi, esi, ebp, oesp, ebx, edx, ecx, eax, gs, fs, es, ds, vector, error, eip, cs, eflags, esp, ss;
};
extern const u8 other_start[], other_end[], stubs[], user_start[], user_end[];
void return_from_trap(void);

/* 4 MiB pages: the first one at 0 and at KERNEL, the second one too, and the APICs'. */
u32 boot_directory[1024] __attribute__((aligned(4096))) = {
    [0] = 0x83, [0x200] = 0x83, [0x201] = 0x400083, [0x3FB] = 0xFEC00083 | 0x18,
};
u8 first_stack[4096] __attribute__((aligned(4096)));
static u8 other_stacks[MAX_CPUS][4096] __attribute__((aligned(4096)));
static u32 user_table[1024] __attribute__((aligned(4096))), user_page[1024] __attribute__((aligned(4096)));
static struct gate idt[256];
static u64 gdts[MAX_CPUS][6];
static struct {
    u32 link, esp0, ss0, rest[23];
} tss;
static u32 n_cpus, io_apic_id, n_io_apics;
static u8 apic_ids[MAX_CPUS];
static volatile u32 *lapic, *io_apic;
static volatile u32 started, ticks[MAX_CPUS], disk_on, disk_done, com_done, key, doubled, shots, user_esp, stop;

static void fail(const char *what)
{
    puts("BAD ");
    puts(what);
    put('\n');
    leave(0x32);
}
static u32 me(void)
{
    u32 id = lapic[0x20 / 4] >> 24;
    for (u32 k = 0; k < n_cpus; k++)
        if (apic_ids[k] == id)
            return k;
    fail("unknown APIC id");
    return 0;
}

/* ---- MP tables -------------------------------------------------------------------------------------------------------- */
static int sums_to_0(const u8 *at, u32 n)
{
    u8 sum = 0;
    while (n--)
        sum += *at++;
    return sum == 0;
}
static const u8 *search(u32 physical, u32 n)
{
    for (u32 at = HIGH(physical); n >= 16; at += 16, n -= 16)
        if (*(u32 *)at == 0x5F504D5F && sums_to_0((u8 *)at, 16)) /* _MP_ */
            return (u8 *)at;
    return 0;
}
static void read_mp_tables(void)
{
    u32 ebda = *(u16 *)HIGH(0x40E) << 4, base = *(u16 *)HIGH(0x413) * 1024;
    const u8 *pointer = ebda ? search(ebda, 1024) : search(base - 1024, 1024);
    if (!pointer)
        pointer = search(0xF0000, 0x10000);
    if (!pointer || !*(u32 *)(pointer + 4))
        fail("no MP tables");
    const u8 *table = (u8 *)HIGH(*(u32 *)(pointer + 4));
    u32 n = *(u16 *)(table + 4);
    if (*(u32 *)table != 0x504D4350 || (table[6] != 1 && table[6] != 4) || !sums_to_0(table, n)) /* PCMP */
        fail("MP configuration table");
    lapic = (volatile u32 *)*(u32 *)(table + 36);
    for (const u8 *at = table + 44; at < table + n;)
        switch (*at) {
        case 0:
            if (at[3] & 1 && n_cpus < MAX_CPUS) /* enabled */
                apic_ids[n_cpus++] = at[1];
            at += 20;
            break;
        case 2:
            if (at[3] & 1) {
                io_apic_id = at[1];
                io_apic = (volatile u32 *)*(u32 *)(at + 4);
                n_io_apics++;
            }
            at += 8;
            break;
        case 1:
        case 3:
        case 4: at += 8; break;
        default: fail("an MP entry");
        }
    if (pointer[12] & 0x80) { /* IMCR: interrupts by the APICs */
        out8(0x22, 0x70);
        out8(0x23, in8(0x23) | 1);
    }
}

/* ---- interrupt controllers ---------------------------------------------------------------------------------------------- */
static void write_lapic(u32 reg, u32 value)
{
    lapic[reg / 4] = value;
    (void)lapic[0x20 / 4];
}
static void start_lapic(void)
{
    write_lapic(0xF0, 0x100 | SPURIOUS);
    write_lapic(0x3E0, 0xB);
    write_lapic(0x320, 0x20000 | TIMER); /* periodic */
    write_lapic(0x380, 1000000);
    write_lapic(0x350, 0x10000); /* LINT0, LINT1 masked */
    write_lapic(0x360, 0x10000);
    if ((lapic[0x30 / 4] >> 16 & 0xFF) >= 4)
        write_lapic(0x340, 0x10000);
    write_lapic(0x370, WRONG);
    write_lapic(0x280, 0);
    write_lapic(0x280, 0);
    write_lapic(0xB0, 0);
    write_lapic(0x310, 0);
    write_lapic(0x300, 0x88500); /* INIT level de-assert to all: arbitration ids */
    while (lapic[0x300 / 4] & 0x1000)
        ;
    write_lapic(0x80, 0);
}
static u32 read_io_apic(u32 reg)
{
    io_apic[0] = reg;
    return io_apic[4];
}
static void write_io_apic(u32 reg, u32 value)
{
    io_apic[0] = reg;
    io_apic[4] = value;
}
static void start_io_apic(void)
{
    u32 last = read_io_apic(1) >> 16 & 0xFF;
    if (read_io_apic(0) >> 24 != io_apic_id)
        fail("I/O APIC's id");
    puts("I/O APIC with ");
    put_hex(last + 1, 2);
    puts(" pins\n");
    for (u32 k = 0; k <= last; k++) {
        write_io_apic(0x10 + 2 * k, 0x10000 | (0x20 + k));
        write_io_apic(0x11 + 2 * k, 0);
    }
}
static void route(u32 irq, u32 cpu)
{
    write_io_apic(0x10 + 2 * irq, 0x20 + irq);
    write_io_apic(0x11 + 2 * irq, (u32)apic_ids[cpu] << 24);
}
/* About so many microseconds: reads of the POST port take one each. */
static void delay(u32 us)
{
    while (us--)
        (void)in8(0x84);
}
static void start_other(u32 id)
{
    out8(0x70, 0xF); /* CMOS shut-down code: by the warm reset vector */
    out8(0x71, 0x0A);
    *(volatile u16 *)HIGH(0x467) = 0;
    *(volatile u16 *)HIGH(0x469) = 0x7000 >> 4;
    write_lapic(0x310, id << 24);
    write_lapic(0x300, 0xC500); /* INIT, level, assert; de-assert */
    delay(200);
    write_lapic(0x300, 0x8500);
    delay(10000);
    for (u32 k = 0; k < 2; k++) {
        write_lapic(0x310, id << 24);
        write_lapic(0x300, 0x600 | 0x7000 >> 12);
        delay(200);
    }
}

/* ---- traps -------------------------------------------------------------------------------------------------------------- */
static void load_segments(u32 cpu)
{
    u64 *gdt = gdts[cpu];
    gdt[1] = 0x00CF9A000000FFFFull;
    gdt[2] = 0x00CF92000000FFFFull;
    gdt[3] = 0x00CFFA000000FFFFull;
    gdt[4] = 0x00CFF2000000FFFFull;
    struct pointer pointer = {6 * 8 - 1, (u32)gdt};
    __asm__ volatile("lgdt %0; ljmp $8, $1f; 1: movw %w1, %%ds; movw %w1, %%es; movw %w1, %%ss"
                     : : "m"(pointer), "r"(0x10) : "memory");
    load_idt(idt, 256);
}
void on_trap(struct trap *t)
{
    switch (t->vector) {
    case TIMER: ticks[me()]++; break;
    case KEYBOARD:
        while (in8(0x64) & 1)
            key = in8(0x60);
        break;
    case COM1:
        if ((in8(0x3FA) & 7) == 2) /* the transmitter is empty */
            com_done++;
        break;
    case DISK:
        if (in8(0x1F7) & 0x21)
            fail("the disk's status");
        disk_on = me();
        disk_done = 1;
        break;
    case SPURIOUS: return;
    case SYSCALL:
        if (t->cs != 0x1B || t->ss != 0x23)
            fail("where the system call came from");
        if (t->eax == 1)
            t->eax = t->ebx * 2;
        else
            doubled = t->ebx;
        return;
    case 13:
        if (t->cs == 0x1B && t->error == 0 && doubled) { /* the program's CLI: its end */
            shots = t->eip;
            t->cs = 8;
            t->eip = stop;
            __asm__ volatile("movl %0, %%esp; jmp *%1" : : "r"(user_esp), "r"(stop)); /* back to run_program */
        }
        fail("#GP");
        break;
    default:
        put_hex(t->vector, 2);
        put(' ');
        put_hex(t->eip, 8);
        put(' ');
        fail("a trap");
    }
    write_lapic(0xB0, 0);
}
static void other_main(void)
{
    load_segments(me());
    start_lapic();
    __asm__ volatile("lock incl %0" : "+m"(started) : : "cc");
    for (;;)
        __asm__ volatile("sti; hlt");
}
static void start_others(void)
{
    for (u32 k = 0; k < (u32)(other_end - other_start); k++)
        ((volatile u8 *)HIGH(0x7000))[k] = other_start[k];
    for (u32 k = 0; k < n_cpus; k++)
        if (k != me()) {
            u32 before = started;
            *(volatile u32 *)HIGH(0x6FFC) = (u32)other_stacks[k] + 4096;
            *(volatile u32 *)HIGH(0x6FF8) = (u32)other_main;
            *(volatile u32 *)HIGH(0x6FF4) = LOW(boot_directory);
            start_other(apic_ids[k]);
            while (started == before)
                pause();
        }
}

/* ---- devices, and a program ------------------------------------------------------------------------------------------------ */
static void wait_for(volatile u32 *what, const char *name)
{
    u32 end = ticks[0] + 3000;
    while (!*what)
        if (ticks[0] > end)
            fail(name);
}
static void test_disk(void)
{
    static u32 data[128];
    u32 n = 128, *to = data;
    route(14, n_cpus - 1);
    out8(0x3F6, 0);
    while ((in8(0x1F7) & 0xC0) != 0x40)
        ;
    out8(0x1F2, 1);
    out8(0x1F3, 1);
    out8(0x1F4, 0);
    out8(0x1F5, 0);
    out8(0x1F6, 0xE0);
    out8(0x1F7, 0x20);
    wait_for(&disk_done, "no interrupt of the disk");
    __asm__ volatile("cld; rep insl" : "+D"(to), "+c"(n) : "d"(0x1F0) : "memory", "cc");
    if (data[0] != 0x464C457F || disk_on != n_cpus - 1)
        fail("the disk's sector");
    puts("disk\n");
}
static void test_com(void)
{
    out8(0x3FA, 0);
    out8(0x3FB, 0x80);
    out8(0x3F8, 12);
    out8(0x3F9, 0);
    out8(0x3FB, 3);
    out8(0x3FC, 8);
    route(4, 0);
    out8(0x3F9, 2);
    wait_for(&com_done, "no interrupt of COM1");
    com_done = 0;
    out8(0x3F8, '!');
    wait_for(&com_done, "no second interrupt of COM1");
    out8(0x3F9, 0);
    puts("COM1\n");
}
static void test_keyboard(void)
{
    while (in8(0x64) & 1)
        (void)in8(0x60);
    route(1, 0);
    while (in8(0x64) & 2)
        ;
    out8(0x64, 0xD2); /* the next byte as if the keyboard had sent it */
    while (in8(0x64) & 2)
        ;
    out8(0x60, 0x1E);
    wait_for(&key, "no interrupt of the keyboard");
    if (key != 0x1E)
        fail("the key");
    puts("keyboard\n");
}
static void run_program(void)
{
    for (u32 k = 0; k < (u32)(user_end - user_start); k++)
        ((u8 *)user_page)[k] = user_start[k];
    user_table[0] = LOW(user_page) | 7;
    boot_directory[1] = LOW(user_table) | 7; /* at 4 MiB */
    WRITE_CR(3, LOW(boot_directory));
    tss.ss0 = 0x10;
    tss.esp0 = (u32)first_stack + 2048;
    u32 base = (u32)&tss;
    gdts[0][5] = 0x0000890000000067ull | (u64)(base & 0xFFFFFF) << 16 | (u64)(base >> 24) << 56;
    __asm__ volatile("ltr %w0" : : "r"(0x28));
    __asm__ volatile("movl $1f, %1; pushl %%ebp; movl %%esp, %0;"
                     "movw $0x23, %%ax; movw %%ax, %%ds; movw %%ax, %%es;"
                     "pushl $0x23; pushl $0x401000; pushl $0x202; pushl $0x1B; pushl $0x400000; iret;"
                     "1: popl %%ebp"
                     : "=m"(user_esp), "=m"(stop)
                     :
                     : "eax", "ebx", "ecx", "edx", "esi", "edi", "memory", "cc");
    if (doubled != 42 || shots != 0x400000 + (u32)(user_end - user_start) - 1)
        fail("the program");
    puts("program\n");
}
void main(void)
{
    out8(0x21, 0xFF);
    out8(0xA1, 0xFF);
    read_mp_tables();
    puts("processors ");
    put_hex(n_cpus, 2);
    put('\n');
    for (u32 k = 0; k < 256; k++)
        set_gate(&idt[k], (u32)stubs + 16 * k);
    idt[SYSCALL].type = 0xEF00; /* level 3 may; a trap gate */
    start_lapic();
    if (me() != 0)
        fail("the first one is not the one that boots");
    load_segments(0);
    start_io_apic();
    start_others();
    puts("all started\n");
    __asm__ volatile("sti");
    test_disk();
    test_com();
    test_keyboard();
    for (u32 k = 0; k < n_cpus; k++)
        wait_for(&ticks[k], "no ticks");
    puts("ticks\n");
    run_program();
    leave(0x31);
}
