/* Self-tests of CMOS RAM and the clock in it. */
#include "board.h"
#include "clock.h"
#include "cmos.h"
#include "pic.h"
#include "pit.h"
#include "selftest.h"

#define PERIODIC_COUNT 4
#define PERIODIC_WAIT_US 500000
#define ALARM_ANY 0xFF
#define UPDATE_TRIES 12

const char *test_cmos_scratch(void)
{
    static const u8 patterns[] = {0x55, 0xAA, 0x00};
    u8 saved = cmos_read(CMOS_SCRATCH);
    const char *result = NULL;
    for (u32 i = 0; i < COUNT(patterns); i++) {
        cmos_write(CMOS_SCRATCH, patterns[i]);
        cmos_read(RTC_D);
        if (cmos_read(CMOS_SCRATCH) != patterns[i])
            result = "byte not kept";
    }
    cmos_write(CMOS_SCRATCH, saved);
    return cmos_read(RTC_D) & RTC_D_VALID ? result : "battery flag clear";
}

/* Write the checksum (no setup program of ours keeps it up to date) and find it again. */
const char *test_cmos_checksum(void)
{
    u16 sum = cmos_checksum();
    cmos_write(CMOS_CHECKSUM, sum >> 8);
    cmos_write(CMOS_CHECKSUM + 1, sum);
    sum = cmos_read(CMOS_CHECKSUM) << 8 | cmos_read(CMOS_CHECKSUM + 1);
    return sum == cmos_checksum() ? NULL : "checksum not kept";
}

const char *test_rtc_periodic(void)
{
    struct timeout t;
    volatile u16 *count = &irq_count[IRQ_RTC];
    u16 before = *count;
    cmos_write(RTC_B, RTC_B_24H | RTC_B_PIE);
    irq_enable();
    timeout_start(&t, PERIODIC_WAIT_US);
    while ((u16)(*count - before) < PERIODIC_COUNT && !timeout_over(&t))
        ;
    cmos_write(RTC_B, RTC_B_24H);
    return (u16)(*count - before) < PERIODIC_COUNT ? "no interrupt" : NULL;
}

/* Poll for the 244 us of "update in progress" that come before a new second. */
static int see_update(u32 us)
{
    struct timeout t;
    timeout_start(&t, us);
    while (!(cmos_read(RTC_A) & RTC_A_UIP))
        if (timeout_over(&t))
            return 0;
    return 1;
}

/* Resetting the divider puts the next update half a second later, most of which is slept
 * through. (This is also how a clock is set to the second, so the clock may be late by up to
 * a second after it.) Alarm and update interrupts are on meanwhile, for the next two tests.
 * A busy host may hide the short update flag from an emulated machine, hence several tries. */
const char *test_rtc_runs(void)
{
    struct date_time before, after;
    volatile u16 *count = &irq_count[IRQ_RTC];
    u16 never = 0;
    int seen = 0;
    if (!clock_read(&before))
        return "update never ends";
    cmos_write(RTC_SECONDS_ALARM, ALARM_ANY);
    cmos_write(RTC_MINUTES_ALARM, ALARM_ANY);
    cmos_write(RTC_HOURS_ALARM, ALARM_ANY);
    rtc_causes = 0;
    cmos_write(RTC_B, RTC_B_24H | RTC_B_AIE | RTC_B_UIE);
    cmos_write(RTC_A, RTC_A_DIVIDER_RESET);
    cmos_write(RTC_A, RTC_A_NORMAL);
    for (u32 try = 0; try < UPDATE_TRIES && !seen; try++) {
        u16 irqs;
        sleep_until_changed(&never, 0, try ? 550000 : 330000);
        irqs = *count;
        seen = see_update(try ? 500000 : 1200000);
        sleep_until_changed(count, irqs, 1200000);
    }
    cmos_write(RTC_B, RTC_B_24H);
    cmos_read(RTC_C);
    if (!seen)
        return "update in progress never seen";
    if (!clock_read(&after))
        return "update never ends";
    return before.seconds == after.seconds ? "seconds stand still" : NULL;
}

const char *test_rtc_alarm(void)
{
    return rtc_causes & RTC_C_AF ? NULL : "no interrupt";
}

const char *test_rtc_update(void)
{
    return rtc_causes & RTC_C_UF ? NULL : "no interrupt";
}
