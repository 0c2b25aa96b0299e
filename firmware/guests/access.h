/* What the proofs of access rights share: bits of paging entries and control registers, the kinds of access, and what the
 * rights of a page refuse (Intel SDM volume 3, 4.6). */
#include "flat.h"

#define P 1ull
#define W 2ull
#define U 4ull
#define A 0x20ull
#define D 0x40ull
#define PS 0x80ull
#define NX (1ull << 63)
#define WP 0x10000u
#define SMEP 0x100000u
#define SMAP 0x200000u
#define AC 0x40000u
enum kind { READ0, WRITE0, CHANGE0, FETCH0, READ3, WRITE3, CHANGE3, FETCH3, LOAD3, N_KINDS };

static int is_user(u32 kind) { return kind >= READ3 && kind < LOAD3; }
static int is_write(u32 kind) { return (kind & 3) == 1 || (kind & 3) == 2; }
static int is_fetch(u32 kind) { return kind == FETCH0 || kind == FETCH3; }

/* QEMU's translator has two ways of its own, which are expected of it so that all else is compared: the error code of a
 * reserved bit lacks P, which 4.7 wants set, and an instruction that reads and writes back faults as the read that it is at
 * first, where 4.7 has the access as a whole, a write; where only the write is refused, the read has set the accessed bit. */
static u32 is_tcg;
static int is_change(u32 kind) { return kind == CHANGE0 || kind == CHANGE3; }
static u64 set_behind_a_fault(u32 kind) { return is_tcg && is_change(kind) ? A : 0; }
static u32 read_of(u32 kind) { return kind - CHANGE0 + READ0; }
static int reserved_bit(int error) { return error | (is_tcg ? 8 : 9); }
static void know_translator(void) { is_tcg = cpuid(0x40000000).ebx == 0x54474354; /* "TCGT" */ }

/* `rights`: U and W where all levels have them. */
static int is_refused(u32 kind, u64 rights, u32 cr0, u32 cr4, u32 flags)
{
    if (is_user(kind))
        return !(rights & U) || (is_write(kind) && !(rights & W));
    if (is_write(kind) && cr0 & WP && !(rights & W))
        return 1;
    if (rights & U && is_fetch(kind) && cr4 & SMEP)
        return 1;
    /* EFLAGS.AC permits what a program of level 0 does itself, not what is done for one of level 3 */
    return rights & U && !is_fetch(kind) && cr4 & SMAP && !(flags & AC && kind != LOAD3);
}
