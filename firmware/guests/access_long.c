/* Proves: what 4-level paging allows. For all rights of each of the four levels, of pairs of a level and the last one, of
 * pages of 2 MiB and 1 GiB and of reserved bits, with and without CR0.WP, CR4.SMEP, CR4.SMAP, EFLAGS.AC and EFER.NXE, nine
 * accesses are made by 64-bit code at an address above 4 GiB: read, write, read and write, fetch, at level 0 and at level 3,
 * and a descriptor's read for level 3. Whether each faults, with which error code and address, and which accessed and dirty
 * bits are set, is compared with the rules of Intel SDM volume 3, 4.5 to 4.8. Accessed bits of upper levels behind a fault are
 * nobody's business. This program runs in compatibility mode. It prints how many accesses were made and how many of each kind
 * were wrong, the first ones in full, and leaves with 0 or 1; with 2 when the processor has no long mode. */
#include "access.h"

#define FULL (P | W | U)
#define BIT51 (1ull << 51) /* of an address wider than the processor's */
#define TARGET 0x8000000000ull /* entry 1 of the PML4, 0 of all below */
enum { PML4, PDPT, DIRECTORY, TABLE, N_LEVELS };

u32 saved_esp;
u64 access_flags;
volatile u32 faulted;
volatile u64 fault_error, fault_address;
extern u8 user_page[];
u8 user_stack[4096] __attribute__((aligned(4096)));
void load_tables(void);
void try_access(u32 kind);
void on_access_fault(void);
void on_user_done(void);
void on_other(void);

static struct {
    struct gate gate;
    u32 upper, zero;
} idt[0x31];
static u64 gdt[10];
static struct {
    u32 reserved, rsp0, rest[24];
} tss;
static u64 pml4[512] __attribute__((aligned(4096))), low_pdpt[512] __attribute__((aligned(4096)));
static u64 low_directory[512] __attribute__((aligned(4096))), low[512] __attribute__((aligned(4096)));
static u64 pdpt[512] __attribute__((aligned(4096))), directory[512] __attribute__((aligned(4096)));
static u64 table[512] __attribute__((aligned(4096)));
static u8 *const page = (u8 *)0x400000; /* 2 MiB: also a large page */
static volatile u64 *const entry_of[N_LEVELS] = {&pml4[1], &pdpt[0], &directory[0], &table[0]};
static u32 n_made, n_wrong, wrong_by_kind[N_KINDS], nxe, features7, has_giga;

static void write_efer(u32 clear, u32 set)
{
    __asm__ volatile("rdmsr; andl %0, %%eax; orl %1, %%eax; wrmsr" : : "r"(~clear), "r"(set), "c"(0xC0000080) : "eax", "edx");
}
static u64 reserved_bits(u32 level, u64 entry)
{
    u64 bits = BIT51 | (nxe ? 0 : NX);
    if (level == PML4 || (level == PDPT && !has_giga))
        return bits | PS;
    if (entry & PS && level == PDPT)
        return bits | 0x3FFFE000;
    return entry & PS && level == DIRECTORY ? bits | 0x1FE000 : bits;
}

/* -1, or the error code that the manual has for an access by these entries; *leaf: the level of the page. */
static int expected(u32 kind, const u64 *entries, u32 cr0, u32 cr4, u32 flags, u32 *leaf)
{
    int read = is_tcg && is_change(kind) ? expected(read_of(kind), entries, cr0, cr4, flags, leaf) : -1;
    if (read >= 0)
        return read;
    int error = (is_write(kind) ? 2 : 0) | (is_user(kind) ? 4 : 0);
    u64 rights = FULL, nx = 0;
    if (is_fetch(kind) && (cr4 & SMEP || nxe))
        error |= 16;
    for (u32 level = PML4;; level++) {
        u64 entry = entries[level];
        *leaf = level;
        if (!(entry & P))
            return error;
        if (entry & reserved_bits(level, entry))
            return reserved_bit(error);
        rights &= entry;
        nx |= entry;
        if (level == TABLE || entry & PS)
            break;
    }
    error |= 1;
    if (is_refused(kind, rights, cr0, cr4, flags))
        return error;
    return is_fetch(kind) && nx & NX ? error : -1;
}
static void wrong(const char *what, u32 kind, const u64 *entries, u32 cr0, u32 cr4, u32 flags, int wanted)
{
    wrong_by_kind[kind]++;
    if (++n_wrong > 12)
        return;
    puts(what);
    put_hex(kind, 2);
    for (u32 level = PML4; level < N_LEVELS; level++) {
        put(' ');
        put_hex(entries[level] >> 32, 8);
        put_hex(entries[level], 8);
    }
    u32 words[] = {cr0 & WP, cr4, flags, nxe, wanted, faulted ? (u32)fault_error : 0xFFFF, fault_address >> 32, fault_address};
    for (u32 k = 0; k < sizeof words / sizeof *words; k++) {
        put(' ');
        put_hex(words[k], 8);
    }
    put('\n');
}
static int bits_are_right(u32 kind, const u64 *entries, u32 leaf, int faults)
{
    for (u32 level = PML4; level < N_LEVELS; level++) {
        u64 was = entries[level], now = *entry_of[level];
        if (faults ? level < TABLE ? (now & ~A) != (was & ~A) : (now & ~set_behind_a_fault(kind)) != was
                   : now != (level > leaf ? was : was | A | (level == leaf && is_write(kind) ? D : 0)))
            return 0;
    }
    return 1;
}
static void try(const u64 *entries, u32 cr0, u32 cr4, u32 flags)
{
    for (u32 kind = 0; kind < N_KINDS; kind++) {
        u64 wanted_address = TARGET + (kind == FETCH0 ? 0 : kind == FETCH3 ? 16 : kind == LOAD3 ? 32 : 64);
        u32 leaf;
        int wanted = expected(kind, entries, cr0, cr4, flags, &leaf);
        for (u32 level = PML4; level < N_LEVELS; level++)
            *entry_of[level] = entries[level];
        faulted = 0;
        access_flags = flags | 2;
        try_access(kind);
        n_made++;
        if ((wanted >= 0) != (faulted != 0) || (wanted >= 0 && (fault_error != (u32)wanted || fault_address != wanted_address)))
            wrong("fault ", kind, entries, cr0, cr4, flags, wanted);
        else if (!bits_are_right(kind, entries, leaf, wanted >= 0))
            wrong("bits ", kind, entries, cr0, cr4, flags, wanted);
    }
}
static void all_entries(u32 cr0, u32 cr4, u32 flags)
{
    static const u64 extra[N_LEVELS][6] = {
        {0, NX, PS, BIT51}, {0, NX, PS, PS | NX, PS | 0x2000, BIT51}, {0, NX, PS, PS | NX, PS | 0x2000, BIT51}, {0, NX, D, BIT51},
    };
    const u64 full[N_LEVELS] = {(u32)pdpt | FULL, (u32)directory | FULL, (u32)table | FULL, (u32)page | FULL};
    u64 entries[N_LEVELS];
    for (u32 level = PML4; level < N_LEVELS; level++)
        for (u32 k = 0; k < 6; k++)
            for (u32 rights = 0; rights < 8; rights++)
                for (u32 last = level == TABLE || extra[level][k] & PS ? 7 : 0; last < 8; last++) {
                    if (k && !extra[level][k])
                        continue;
                    for (u32 j = PML4; j < N_LEVELS; j++)
                        entries[j] = full[j];
                    entries[TABLE] = (entries[TABLE] & ~FULL) | last;
                    u64 address = entries[level] & ~FULL;
                    if (extra[level][k] & PS)
                        address = level == DIRECTORY ? (u32)page : level == PDPT ? 0 : address;
                    entries[level] = address | extra[level][k] | rights;
                    try(entries, cr0, cr4, flags);
                }
}
static void all(void)
{
    u32 cr4 = READ_CR(4) & ~(SMEP | SMAP), cr0 = READ_CR(0) & ~WP;
    for (u32 c = 0; c < 32; c++) {
        u32 cr4_now = cr4 | (c & 1 ? SMEP : 0) | (c & 2 ? SMAP : 0), cr0_now = cr0 | (c & 4 ? WP : 0), flags = c & 8 ? AC : 0;
        if ((c & 1 && !(features7 & 0x80)) || (c & 2 && !(features7 & 0x100000)))
            continue;
        if (flags && !(c & 2))
            continue; /* AC with alignment checks off says nothing without SMAP */
        WRITE_CR(0, cr0_now);
        WRITE_CR(4, cr4_now);
        nxe = c >> 4;
        write_efer(0x800, nxe ? 0x800 : 0);
        all_entries(cr0_now, cr4_now, flags);
    }
    WRITE_CR(4, cr4);
    WRITE_CR(0, cr0);
}
void unexpected(void)
{
    puts("unexpected\n");
    leave(1);
}
static void set_long_gate(u32 n, void (*handler)(void))
{
    set_gate(&idt[n].gate, (u32)handler);
    idt[n].gate.selector = 0x18;
}
static void fill(u8 *at)
{
    at[0] = 0xC3;     /* RET */
    at[16] = 0xCD;    /* INT 30h */
    at[17] = 0x30;
    *(u64 *)(at + 32) = 0x00CFF3000000FFFFull;
}
void main(void)
{
    if (cpuid(0x80000000).eax < 0x80000008 || !(cpuid(0x80000001).edx & 1 << 29)) {
        puts("this CPU has no long mode\n");
        leave(2);
    }
    know_translator();
    features7 = cpuid(0).eax >= 7 ? cpuid(7).ebx : 0;
    has_giga = cpuid(0x80000001).edx >> 26 & 1;
    gdt[1] = 0x00CF9B000000FFFFull;
    gdt[2] = 0x00CF93000000FFFFull;
    gdt[3] = 0x00AF9B000000FFFFull;
    gdt[4] = 0x00AFFB000000FFFFull;
    gdt[5] = 0x00CFF3000000FFFFull;
    gdt[6] = 0x0000890000000067ull | (u64)((u32)&tss & 0xFFFFFF) << 16;
    gdt[8] = 0x000082000000003Full; /* an LDT at TARGET */
    gdt[9] = TARGET >> 32;
    struct pointer pointer = {sizeof gdt - 1, (u32)gdt};
    tss.rsp0 = 0xE000;
    for (u32 n = 0; n < 0x31; n++)
        set_long_gate(n, on_other);
    set_long_gate(14, on_access_fault);
    set_long_gate(0x30, on_user_done);
    idt[0x30].gate.type = 0xEE00;
    u8 *giga; /* a page of 1 GiB, at 0, which is no null pointer here */
    __asm__("xorl %0, %0" : "=r"(giga));
    fill(page);
    fill(giga);
    for (u32 k = 0; k < 512; k++) {
        u32 user = k == (u32)user_stack >> 12 || k == (u32)user_page >> 12;
        low[k] = k << 12 | P | W | A | D | (user ? U : 0);
    }
    low_directory[0] = (u32)low | FULL;
    low_pdpt[0] = (u32)low_directory | FULL;
    pml4[0] = (u32)low_pdpt | FULL;
    __asm__ volatile("lgdt %0" : : "m"(pointer));
    struct pointer table_of_gates = {sizeof idt - 1, (u32)idt};
    __asm__ volatile("lidt %0" : : "m"(table_of_gates));
    WRITE_CR(4, READ_CR(4) | 0x20);
    WRITE_CR(3, pml4);
    write_efer(0, 0x100);
    WRITE_CR(0, READ_CR(0) | 0x80000000);
    load_tables();
    all();
    puts("4-level: ");
    put_hex(n_made, 8);
    puts(" made, wrong:");
    for (u32 kind = 0; kind < N_KINDS; kind++) {
        put(' ');
        put_hex(wrong_by_kind[kind], 1 + 4 * !!wrong_by_kind[kind]);
    }
    put('\n');
    leave(n_wrong != 0);
}
