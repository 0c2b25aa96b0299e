/* Self-tests of RAM, the A20 gate and protected mode. */
#include "a20.h"
#include "memory.h"
#include "pm.h"
#include "regs.h"
#include "selftest.h"

#define TEST_WORDS 0x80

/* "step N", for the tests that are one piece of 32-bit code. */
static const char *step(u32 number)
{
    static char text[] = "step 00";
    if (number & PM_FAULT)
        return "unexpected fault";
    text[5] = '0' + number / 10;
    text[6] = '0' + number % 10;
    return text;
}

static u32 exchange(u32 address, u32 value)
{
    struct pm_word word = {address, value};
    pm_call(pm_exchange, &word);
    return word.value;
}

/* All places get their own value before any is read back: no two may be one. */
const char *test_ram_places(void)
{
    u32 places[] = {0x8000, 0x50000, 0x9F000, 0x9FFFC, 0x100000, 0x100004, 0x123450,
                    (ram_below_4g / 2) & ~0xFFF, ram_below_4g - 4};
    u32 saved[COUNT(places)];
    const char *result = NULL;
    if (ram_below_4g < 0x200000)
        return "less than 2 MiB of RAM";
    for (u32 pass = 0; pass < 2; pass++) {
        u32 pattern = pass ? 0xA5A55A5A : 0x5A5AA5A5;
        for (u32 i = 0; i < COUNT(places); i++)
            saved[i] = exchange(places[i], places[i] ^ pattern);
        for (u32 i = COUNT(places); i-- > 0;)
            if (exchange(places[i], saved[i]) != (places[i] ^ pattern))
                result = "does not keep what was written";
    }
    return result;
}

const char *test_a20_fast(void)
{
    int off, on, again;
    a20_slow(0);
    a20_fast(0);
    off = a20_works();
    a20_fast(1);
    on = a20_works();
    a20_fast(0);
    again = a20_works();
    a20_fast(1);
    if (off || again)
        return "1 MiB does not wrap when off";
    return on ? NULL : "1 MiB wraps when on";
}

const char *test_a20_slow(void)
{
    int off, on;
    irq_disable();
    a20_fast(0);
    a20_slow(0);
    off = a20_works();
    a20_slow(1);
    on = a20_works();
    a20_fast(1);
    if (off)
        return "1 MiB does not wrap when off";
    return on ? NULL : "1 MiB wraps when on";
}

const char *test_pm_segments(void)
{
    u32 result = pm_call(pm_test_segments, NULL);
    u32 cr0;
    if (result)
        return step(result);
    asm volatile("movl %%cr0, %0" : "=r"(cr0));
    return cr0 & 1 ? "not back in real mode" : NULL;
}

/* QEMU's TCG does not check limits of data segments; a machine that does not is told apart
 * from one that checks them wrongly. */
const char *test_pm_limit(void)
{
    u32 result = pm_call(pm_test_limit, NULL);
    if (result == PM_NO_LIMITS)
        return test_absent;
    return result ? step(result) : NULL;
}

const char *test_pm_paging(void)
{
    u32 result = pm_call(pm_test_paging, NULL);
    return result ? step(result) : NULL;
}

/* A page to 1 MiB, and back to another place, through the service. */
static u8 block_move(u32 from, u32 to)
{
    u16 table[24];
    struct regs r = {.eax = 0x8700, .ecx = TEST_WORDS, .esi = (u32)table, .es = BIOS_SEG};
    memset(table, 0, sizeof table);
    table[8] = table[12] = 0xFFFF;
    table[9] = from;
    table[10] = 0x9300 | (from >> 16 & 0xFF);
    table[13] = to;
    table[14] = 0x9300 | (to >> 16 & 0xFF);
    call_int(0x15, &r);
    return r.flags & FLAG_CF ? r.ah | 0x80 : r.ah;
}

const char *test_pm_copy(void)
{
    u16 seg = SCRATCH_LINEAR >> 4;
    for (u32 i = 0; i < TEST_WORDS; i++) {
        far_write16(seg, 2 * i, 0x4000 + i * 0x101);
        far_write16(seg, 0x1000 + 2 * i, 0);
    }
    if (block_move(SCRATCH_LINEAR, 0x101000) || block_move(0x101000, SCRATCH_LINEAR + 0x1000))
        return "service failed";
    for (u32 i = 0; i < TEST_WORDS; i++)
        if (far_read16(seg, 0x1000 + 2 * i) != 0x4000 + i * 0x101)
            return "data differ";
    return NULL;
}
