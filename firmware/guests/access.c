/* Proves: what paging allows, in 32-bit and in PAE paging. For all rights of both levels, of large pages and of reserved bits,
 * with and without CR0.WP, CR4.SMEP, CR4.SMAP, EFLAGS.AC and EFER.NXE, nine accesses are made: read, write, read and write,
 * fetch, at level 0 and at level 3, and a descriptor's read for level 3. Whether each faults, with which error code and address,
 * and which accessed and dirty bits are set, is compared with the rules of Intel SDM volume 3, 4.3, 4.4, 4.6 to 4.8. Accessed
 * bits of upper levels behind a fault are nobody's business. It prints how many were made and how many of each kind were
 * wrong, the first ones in full, and leaves with 0 or 1. */
#include "access.h"

#define TARGET 0x40000000u /* of its own in both pagings: entry 0 of its page directory (PAE) or 256 (32-bit) */

u32 saved_esp, access_flags;
volatile u32 faulted, fault_error, fault_address;
extern u8 user_page[];
u8 user_stack[4096] __attribute__((aligned(4096)));
void try_access(u32 kind, u32 address);
void on_access_fault(void);
void on_user_done(void);

static struct gate idt[0x31];
static u64 gdt[8];
static struct {
    u32 link, esp0, ss0, rest[23];
} tss;
static u32 directory[1024] __attribute__((aligned(4096))), low[1024] __attribute__((aligned(4096)));
static u64 pdpt[4] __attribute__((aligned(4096))), wide_low[512] __attribute__((aligned(4096)));
static u64 wide_directory[512] __attribute__((aligned(4096))), wide_target[512] __attribute__((aligned(4096)));
static u64 table[512] __attribute__((aligned(4096)));
static u8 *const page = (u8 *)0x400000; /* 4 MiB: also a large page */
static u32 is_pae, n_made, n_wrong, wrong_by_kind[N_KINDS], nxe, features7;

static u64 get(volatile void *entry) { return is_pae ? *(volatile u64 *)entry : *(volatile u32 *)entry; }
static void set(volatile void *entry, u64 value)
{
    if (is_pae)
        *(volatile u64 *)entry = value;
    else
        *(volatile u32 *)entry = value;
}
static void write_efer_nxe(u32 on)
{
    __asm__ volatile("rdmsr; andl $~0x800, %%eax; orl %0, %%eax; wrmsr" : : "r"(on ? 0x800 : 0), "c"(0xC0000080) : "eax", "edx");
    nxe = on;
}

/* -1, or the error code that the manual has for an access by these entries (`pte` is not looked at below a large page). */
static int expected(u32 kind, u64 pde, u64 pte, u32 cr0, u32 cr4, u32 flags)
{
    int read = is_tcg && is_change(kind) ? expected(read_of(kind), pde, pte, cr0, cr4, flags) : -1;
    if (read >= 0)
        return read;
    int error = (is_write(kind) ? 2 : 0) | (is_user(kind) ? 4 : 0);
    if (is_fetch(kind) && (cr4 & SMEP || (is_pae && nxe)))
        error |= 16;
    if (!(pde & P))
        return error;
    u64 reserved = is_pae ? 0x7FF0000000000000ull | (nxe ? 0 : NX) : 0, rights = pde;
    u64 large = is_pae ? 0x1FE000 : 0x200000;
    if (pde & (reserved | (pde & PS ? large : 0)))
        return reserved_bit(error);
    u64 nx = pde;
    if (!(pde & PS)) {
        if (!(pte & P))
            return error;
        if (pte & reserved)
            return reserved_bit(error);
        rights &= pte;
        nx |= pte;
    }
    error |= 1;
    if (is_refused(kind, rights, cr0, cr4, flags))
        return error;
    return is_fetch(kind) && is_pae && nx & NX ? error : -1;
}
static void wrong(const char *what, u32 kind, u64 pde, u64 pte, u32 cr0, u32 cr4, u32 flags, int wanted)
{
    wrong_by_kind[kind]++;
    if (++n_wrong > 12)
        return;
    puts(what);
    put_hex(kind, 2);
    put(' ');
    put_hex(pde >> 32, 8);
    put_hex(pde, 8);
    put(' ');
    put_hex(pte >> 32, 8);
    put_hex(pte, 8);
    put(' ');
    put_hex(cr0 & WP, 5);
    put(' ');
    put_hex(cr4, 6);
    put(' ');
    put_hex(flags, 5);
    put(' ');
    put_hex(wanted, 4);
    put(' ');
    put_hex(faulted ? fault_error : 0xFFFF, 4);
    put('\n');
}
static void try(u32 kind, u64 pde, u64 pte, u32 cr0, u32 cr4, u32 flags)
{
    void *pde_at = is_pae ? (void *)&wide_target[0] : (void *)&directory[TARGET >> 22];
    u32 wanted_address = TARGET + (kind == FETCH0 ? 0 : kind == FETCH3 ? 16 : kind == LOAD3 ? 32 : 64);
    int wanted = expected(kind, pde, pte, cr0, cr4, flags);
    set(pde_at, pde);
    set(&table[0], pte);
    invlpg(TARGET);
    faulted = 0;
    access_flags = flags | 2;
    try_access(kind, TARGET);
    n_made++;
    u64 pde_now = get(pde_at), pte_now = get(&table[0]);
    if ((wanted >= 0) != (faulted != 0) || (wanted >= 0 && (fault_error != (u32)wanted || fault_address != wanted_address)))
        wrong("fault ", kind, pde, pte, cr0, cr4, flags, wanted);
    else if (wanted >= 0 ? ((pte_now & ~set_behind_a_fault(kind)) != pte || (pde_now & ~(u64)A) != (pde & ~(u64)A))
                         : pde & PS ? pde_now != (pde | A | (is_write(kind) ? D : 0)) || pte_now != pte
                                    : pde_now != (pde | A) || pte_now != (pte | A | (is_write(kind) ? D : 0)))
        wrong("bits ", kind, pde_now, pte_now, cr0, cr4, flags, wanted);
}
static void all(void)
{
    static const u64 extra_pde[] = {0, PS, PS | 0x200000, PS | 0x2000, NX, NX | PS, 1ull << 52};
    static const u64 extra_pte[] = {0, D, NX, 1ull << 52};
    u32 cr4 = READ_CR(4) & ~(SMEP | SMAP), cr0 = READ_CR(0) & ~WP;
    for (u32 c = 0; c < 32; c++) {
        u32 cr4_now = cr4 | (c & 1 ? SMEP : 0) | (c & 2 ? SMAP : 0), cr0_now = cr0 | (c & 4 ? WP : 0), flags = c & 8 ? AC : 0;
        if ((c & 1 && !(features7 & 0x80)) || (c & 2 && !(features7 & 0x100000)) || (c & 16 && !is_pae))
            continue;
        if (flags && !(c & 2))
            continue; /* AC with alignment checks off says nothing without SMAP */
        WRITE_CR(0, cr0_now);
        WRITE_CR(4, cr4_now);
        write_efer_nxe(c >> 4);
        for (u32 k = 0; k < (is_pae ? 7 : 3); k++)
            for (u32 rights = 0; rights < 8; rights++)
                for (u32 j = 0; j < (is_pae ? 4 : 2); j++)
                    for (u32 low_rights = 0; low_rights < 8; low_rights++) {
                        u64 pde = extra_pde[k] | rights, pte = extra_pte[j] | low_rights | (u32)page;
                        if (pde & PS && (j || low_rights != 7))
                            continue; /* not looked at */
                        if (is_pae && extra_pde[k] == (PS | 0x200000))
                            continue; /* an address bit */
                        pde |= pde & PS ? (u32)page : (u32)table;
                        for (u32 kind = 0; kind < N_KINDS; kind++)
                            try(kind, pde, pte, cr0_now, cr4_now, flags);
                    }
    }
    write_efer_nxe(0);
    WRITE_CR(4, cr4);
    WRITE_CR(0, cr0);
}
INTERRUPT static void on_fault(struct frame *frame)
{
    puts("fault at ");
    put_hex(frame->eip, 8);
    leave(1);
}
static void report(const char *what)
{
    puts(what);
    put_hex(n_made, 8);
    puts(" made, wrong:");
    for (u32 kind = 0; kind < N_KINDS; kind++) {
        put(' ');
        put_hex(wrong_by_kind[kind], 1 + 4 * !!wrong_by_kind[kind]);
        wrong_by_kind[kind] = 0;
    }
    put('\n');
    n_made = 0;
}
void main(void)
{
    know_translator();
    features7 = cpuid(0).eax >= 7 ? cpuid(7).ebx : 0;
    gdt[1] = 0x00CF9B000000FFFFull;
    gdt[2] = 0x00CF93000000FFFFull;
    gdt[3] = 0x00CFFB000000FFFFull;
    gdt[4] = 0x00CFF3000000FFFFull;
    gdt[5] = 0x0000890000000067ull | (u64)((u32)&tss & 0xFFFFFF) << 16;
    gdt[6] = 0x400082000000003Full; /* an LDT at TARGET */
    struct pointer pointer = {sizeof gdt - 1, (u32)gdt};
    tss.ss0 = 0x10;
    tss.esp0 = 0xE000;
    for (u32 k = 0; k < 0x31; k++)
        set_gate(&idt[k], (u32)on_fault);
    set_gate(&idt[14], (u32)on_access_fault);
    set_gate(&idt[0x30], (u32)on_user_done);
    idt[0x30].type = 0xEE00;
    load_idt(idt, 0x31);
    page[0] = 0xC3;     /* RET */
    page[16] = 0xCD;    /* INT 30h */
    page[17] = 0x30;
    *(u64 *)(page + 32) = 0x00CFF3000000FFFFull;
    for (u32 k = 0; k < 1024; k++) {
        u32 user = k == (u32)user_stack >> 12 || k == (u32)user_page >> 12;
        low[k] = k << 12 | P | W | A | D | (user ? U : 0);
        if (k < 512)
            wide_low[k] = low[k];
    }
    __asm__ volatile("lgdt %0; ltr %w1; lldt %w2" : : "m"(pointer), "r"(0x28), "r"(0x30));
    directory[0] = (u32)low | P | W | U;
    WRITE_CR(3, directory);
    WRITE_CR(4, READ_CR(4) | 0x10);
    WRITE_CR(0, READ_CR(0) | 0x80000000);
    all();
    report("32-bit: ");
    WRITE_CR(0, READ_CR(0) & ~0x80000000);
    wide_directory[0] = (u32)wide_low | P | W | U;
    pdpt[0] = (u32)wide_directory | P;
    pdpt[1] = (u32)wide_target | P;
    WRITE_CR(4, READ_CR(4) | 0x20);
    WRITE_CR(3, pdpt);
    is_pae = 1;
    WRITE_CR(0, READ_CR(0) | 0x80000000);
    all();
    report("PAE: ");
    leave(n_wrong != 0);
}
