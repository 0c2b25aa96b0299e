/* INT 11h, 12h and 15h: equipment, memory sizes, A20, waits, block moves. */
#include "a20.h"
#include "bda.h"
#include "board.h"
#include "clock.h"
#include "memory.h"
#include "pit.h"
#include "pm.h"
#include "regs.h"

#define SMAP 0x534D4150
#define UNSUPPORTED 0x86

void event_wait(struct regs *r);

/* INT 15h AH=C0: 8 bytes follow; AT, no submodel; second 8259 and RTC are there and the
 * keyboard intercept is called. */
static const u8 configuration[] = {8, 0, 0xFC, 0, 0, 0x70, 0, 0, 0, 0};

void int11(struct regs *r)
{
    r->ax = bda_read16(BDA_EQUIPMENT);
}

void int12(struct regs *r)
{
    r->ax = bda_read16(BDA_MEMORY_KB);
}

static void fail(struct regs *r, u8 code)
{
    r->ah = code;
    set_flag(r, FLAG_CF, 1);
}

static void a20_service(struct regs *r)
{
    switch (r->al) {
    case 0x00:
    case 0x01:
        a20_fast(r->al);
        break;
    case 0x02:
        r->al = a20_fast_state();
        break;
    case 0x03:
        r->bx = 2;  /* port 92 */
        break;
    default:
        fail(r, UNSUPPORTED);
        return;
    }
    r->ah = 0;
}

static void wait_service(struct regs *r)
{
    u32 us = (u32)r->cx << 16 | r->dx;
    irq_enable();
    for (; us > 1000000; us -= 1000000)
        delay(1000000);
    delay(us);
    r->ah = 0;
}

/* ES:SI points at a GDT of six descriptors: 2 is the source, 3 the destination; CX words. */
static void block_move(struct regs *r)
{
    u32 base[2];
    struct pm_copy copy;
    int a20 = a20_fast_state();
    for (u32 i = 0; i < 2; i++) {
        u16 descriptor = r->si + 0x10 + 8 * i;
        base[i] = (far_read32(r->es, (u16)(descriptor + 2)) & 0xFFFFFF)
            | (u32)far_read8(r->es, (u16)(descriptor + 7)) << 24;
    }
    copy.from = base[0];
    copy.to = base[1];
    copy.size = (u32)r->cx * 2;
    a20_fast(1);
    if (r->cx > 0x8000)
        fail(r, 2);
    else if (pm_call(pm_copy, &copy))
        fail(r, 2);
    else
        r->ah = 0;
    a20_fast(a20);
    set_flag(r, FLAG_ZF, r->ah == 0);
}

static void memory_map_service(struct regs *r)
{
    u64 address, length;
    u32 type = r->edx == SMAP && r->ecx >= 20 ? memory_map(r->ebx, &address, &length) : 0;
    u64 next_address, next_length;
    if (!type) {
        fail(r, UNSUPPORTED);
        return;
    }
    far_write32(r->es, r->di, address);
    far_write32(r->es, (u16)(r->di + 4), address >> 32);
    far_write32(r->es, (u16)(r->di + 8), length);
    far_write32(r->es, (u16)(r->di + 12), length >> 32);
    far_write32(r->es, (u16)(r->di + 16), type);
    r->ebx = memory_map(r->ebx + 1, &next_address, &next_length) ? r->ebx + 1 : 0;
    r->ecx = 20;
    r->eax = SMAP;
}

static void sizes_e801(struct regs *r)
{
    u32 high = ram_below_4g > 0x1000000 ? (ram_below_4g - 0x1000000) >> 16 : 0;
    u32 low = high ? 0x3C00 : (ram_below_4g - 0x100000) >> 10;
    r->ax = r->cx = low;
    r->bx = r->dx = high;
}

void int15(struct regs *r)
{
    u32 kb;
    set_flag(r, FLAG_CF, 0);
    switch (r->ah) {
    case 0x24:
        a20_service(r);
        break;
    case 0x4F:
        set_flag(r, FLAG_CF, 1);  /* the key goes on as it is */
        break;
    case 0x83:
        event_wait(r);
        break;
    case 0x86:
        wait_service(r);
        break;
    case 0x87:
        block_move(r);
        break;
    case 0x88:
        kb = (ram_below_4g - 0x100000) >> 10;
        r->ax = kb < 0xFC00 ? kb : 0xFC00;
        break;
    case 0x90:
    case 0x91:
        r->ah = 0;  /* device busy, device ready: nothing else to do meanwhile */
        break;
    case 0xC0:
        r->es = BIOS_SEG;
        r->bx = (u16)(u32)configuration;
        r->ah = 0;
        break;
    case 0xE8:
        if (r->al == 0x01)
            sizes_e801(r);
        else if (r->al == 0x20)
            memory_map_service(r);
        else
            fail(r, UNSUPPORTED);
        break;
    default:
        fail(r, UNSUPPORTED);
    }
}
