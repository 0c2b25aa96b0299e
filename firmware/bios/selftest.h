/* Self-tests: each returns NULL when it passed, what went wrong when not, or one of the
 * reasons below for not being done. */
#ifndef SELFTEST_H
#define SELFTEST_H

#include "types.h"

typedef const char *(*selftest)(void);

extern const char test_absent[];   /* this machine has no such thing */

/* Run all tests, print a line each and the sum; returns the number of failures. */
u32 selftest_run(void);

const char *test_ram_places(void);
const char *test_a20_fast(void);
const char *test_a20_slow(void);
const char *test_pm_segments(void);
const char *test_pm_limit(void);
const char *test_pm_paging(void);
const char *test_pm_copy(void);
const char *test_pic_masks(void);
const char *test_pic_spurious(void);
const char *test_pic_poll(void);
const char *test_pit_counts(void);
const char *test_pit_channel2(void);
const char *test_pit_tick(void);
const char *test_cmos_scratch(void);
const char *test_cmos_checksum(void);
const char *test_rtc_periodic(void);
const char *test_rtc_runs(void);
const char *test_rtc_alarm(void);
const char *test_rtc_update(void);
const char *test_kbc_self(void);
const char *test_kbc_mode(void);
const char *test_keyboard(void);
const char *test_keyboard_irq(void);
const char *test_uart_loopback(void);
const char *test_uart_modem(void);
const char *test_uart_fifo(void);
const char *test_uart_irq(void);
const char *test_dma_registers(void);
const char *test_dma_pages(void);
const char *test_vga_memory(void);
const char *test_vga_crtc(void);
const char *test_fwcfg(void);
const char *test_fwcfg_dma(void);
const char *test_ide_identify(void);
const char *test_ide_irq(void);
const char *test_ide_read(void);

/* Did the tick arrive? Only then may a test sleep. */
extern u8 tick_works;

/* Sleep until *count differs from `before` or us are over; 1 when it differs. */
int sleep_until_changed(volatile u16 *count, u16 before, u32 us);

#endif
