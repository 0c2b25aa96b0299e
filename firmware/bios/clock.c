/* Time of day: the RTC, the tick count, INT 1Ah, and the RTC's interrupt with its two users,
 * the alarm (INT 4Ah) and the event wait of INT 15h AH=83. */
#include "clock.h"
#include "bda.h"
#include "board.h"
#include "cmos.h"
#include "pic.h"
#include "pit.h"
#include "regs.h"

/* An update takes 2 ms. QEMU's lasts until its timer has its turn, which a busy host may delay. */
#define UPDATE_WAIT_US 1000000
#define TICKS_PER_DAY 0x1800B0
#define PERIOD_US 976

u8 rtc_causes;

static u8 from_bcd(u8 value)
{
    return (value >> 4) * 10 + (value & 15);
}

/* Wait until no update is in progress: registers then hold still for 244 us. */
static int update_done(void)
{
    struct timeout t;
    if (!(cmos_read(RTC_A) & RTC_A_UIP))
        return 1;
    timeout_start(&t, UPDATE_WAIT_US);
    do {
        if (!(cmos_read(RTC_A) & RTC_A_UIP))
            return 1;
    } while (!timeout_over(&t));
    return !(cmos_read(RTC_A) & RTC_A_UIP);
}

int clock_read(struct date_time *now)
{
    if (!update_done())
        return 0;
    now->seconds = from_bcd(cmos_read(RTC_SECONDS));
    now->minutes = from_bcd(cmos_read(RTC_MINUTES));
    now->hours = from_bcd(cmos_read(RTC_HOURS));
    now->day = from_bcd(cmos_read(RTC_DAY));
    now->month = from_bcd(cmos_read(RTC_MONTH));
    now->year = from_bcd(cmos_read(CMOS_CENTURY)) * 100 + from_bcd(cmos_read(RTC_YEAR));
    return 1;
}

/* RTC to 24 hours, BCD, no interrupts; then the tick count from the time of day. */
void clock_init(void)
{
    struct date_time now;
    u32 seconds;
    cmos_write(RTC_A, RTC_A_NORMAL);
    cmos_write(RTC_B, RTC_B_24H);
    cmos_read(RTC_C);
    if (!clock_read(&now))
        return;
    seconds = (now.hours * 60 + now.minutes) * 60 + now.seconds;
    /* 1193182 / 65536 ticks a second: 18 + 13534 / 65536. */
    bda_write32(BDA_TICKS, seconds * 18 + (seconds * (13534 / 2) >> 15));
    bda_write8(BDA_MIDNIGHT, 0);
    irq_unmask(IRQ_CASCADE);
    irq_unmask(IRQ_RTC);
}

static void wait_step(void)
{
    u32 left = bda_read32(BDA_WAIT_COUNT);
    u32 flag;
    if (left > PERIOD_US) {
        bda_write32(BDA_WAIT_COUNT, left - PERIOD_US);
        return;
    }
    flag = bda_read32(BDA_WAIT_FLAG_PTR);
    bda_write8(BDA_WAIT_ACTIVE, 0);
    bda_write32(BDA_WAIT_COUNT, 0);
    cmos_write(RTC_B, cmos_read(RTC_B) & ~RTC_B_PIE);
    far_write8(flag >> 16, flag & 0xFFFF, far_read8(flag >> 16, flag & 0xFFFF) | 0x80);
}

void int70(struct regs *r)
{
    struct regs none = {.es = 0};
    u8 cause = cmos_read(RTC_C) & cmos_read(RTC_B);
    (void)r;
    irq_count[IRQ_RTC]++;
    rtc_causes |= cause;
    if (cause & RTC_C_PF && bda_read8(BDA_WAIT_ACTIVE) & 1)
        wait_step();
    irq_end(IRQ_RTC);
    if (cause & RTC_C_AF && far_read16(0, 0x4A * 4 + 2) != BIOS_SEG)
        call_int(0x4A, &none);
}

/* INT 15h AH=83: AL=0 sets bit 7 of ES:BX after CX:DX microseconds, AL=1 cancels. */
void event_wait(struct regs *r)
{
    set_flag(r, FLAG_CF, 0);
    if (r->al == 1) {
        bda_write8(BDA_WAIT_ACTIVE, 0);
        cmos_write(RTC_B, cmos_read(RTC_B) & ~RTC_B_PIE);
    } else if (bda_read8(BDA_WAIT_ACTIVE) & 1) {
        set_flag(r, FLAG_CF, 1);
    } else {
        bda_write32(BDA_WAIT_FLAG_PTR, (u32)r->es << 16 | r->bx);
        bda_write32(BDA_WAIT_COUNT, (u32)r->cx << 16 | r->dx);
        bda_write8(BDA_WAIT_ACTIVE, 1);
        cmos_write(RTC_B, cmos_read(RTC_B) | RTC_B_PIE);
    }
}

/* Registers may be set while the SET bit holds the update. */
static void rtc_set(u8 index1, u8 value1, u8 index2, u8 value2, u8 index3, u8 value3)
{
    u8 b = cmos_read(RTC_B);
    cmos_write(RTC_B, b | RTC_B_SET);
    cmos_write(index1, value1);
    cmos_write(index2, value2);
    cmos_write(index3, value3);
    cmos_write(RTC_B, b & ~RTC_B_SET);
}

void int1a(struct regs *r)
{
    set_flag(r, FLAG_CF, 0);
    switch (r->ah) {
    case 0x00:
        r->dx = bda_read16(BDA_TICKS);
        r->cx = bda_read16(BDA_TICKS + 2);
        r->al = bda_read8(BDA_MIDNIGHT);
        bda_write8(BDA_MIDNIGHT, 0);
        break;
    case 0x01:
        bda_write32(BDA_TICKS, ((u32)r->cx << 16 | r->dx) % TICKS_PER_DAY);
        bda_write8(BDA_MIDNIGHT, 0);
        break;
    case 0x02:
        if (!update_done())
            break;
        r->ch = cmos_read(RTC_HOURS);
        r->cl = cmos_read(RTC_MINUTES);
        r->dh = cmos_read(RTC_SECONDS);
        r->dl = cmos_read(RTC_B) & 1;
        return;
    case 0x03:
        rtc_set(RTC_HOURS, r->ch, RTC_MINUTES, r->cl, RTC_SECONDS, r->dh);
        return;
    case 0x04:
        if (!update_done())
            break;
        r->ch = cmos_read(CMOS_CENTURY);
        r->cl = cmos_read(RTC_YEAR);
        r->dh = cmos_read(RTC_MONTH);
        r->dl = cmos_read(RTC_DAY);
        return;
    case 0x05:
        cmos_write(CMOS_CENTURY, r->ch);
        rtc_set(RTC_YEAR, r->cl, RTC_MONTH, r->dh, RTC_DAY, r->dl);
        return;
    case 0x06:
        if (cmos_read(RTC_B) & RTC_B_AIE)
            break;
        rtc_set(RTC_HOURS_ALARM, r->ch, RTC_MINUTES_ALARM, r->cl, RTC_SECONDS_ALARM, r->dh);
        cmos_write(RTC_B, cmos_read(RTC_B) | RTC_B_AIE);
        return;
    case 0x07:
        cmos_write(RTC_B, cmos_read(RTC_B) & ~RTC_B_AIE);
        return;
    }
    set_flag(r, FLAG_CF, r->ah > 0x01);
}
