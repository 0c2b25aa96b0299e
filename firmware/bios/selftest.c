/* The list of self-tests, and the runner. */
#include "selftest.h"
#include "console.h"
#include "pic.h"
#include "pit.h"

const char test_absent[] = "absent";
u8 tick_works;

static const struct {
    const char *name;
    selftest run;
} tests[] = {
    {"RAM: places, independent", test_ram_places},
    {"A20: fast gate", test_a20_fast},
    {"A20: keyboard controller", test_a20_slow},
    {"protected mode: segments", test_pm_segments},
    {"protected mode: segment limit", test_pm_limit},
    {"protected mode: paging, #PF", test_pm_paging},
    {"protected mode: INT 15h move", test_pm_copy},
    {"PIC: masks", test_pic_masks},
    {"PIC: spurious interrupts", test_pic_spurious},
    {"PIC: poll, end of interrupt", test_pic_poll},
    {"PIT: channel 0 counts", test_pit_counts},
    {"PIT: channel 2, gate, output", test_pit_channel2},
    {"PIT: tick interrupt", test_pit_tick},
    {"CMOS: scratch byte", test_cmos_scratch},
    {"CMOS: checksum", test_cmos_checksum},
    {"RTC: periodic interrupt", test_rtc_periodic},
    {"RTC: update in progress, runs", test_rtc_runs},
    {"RTC: alarm interrupt", test_rtc_alarm},
    {"RTC: update interrupt", test_rtc_update},
    {"KBC: self-test, interface", test_kbc_self},
    {"KBC: mode, output port", test_kbc_mode},
    {"keyboard: reset, identify, LED", test_keyboard},
    {"keyboard: interrupt", test_keyboard_irq},
    {"UART: loopback data", test_uart_loopback},
    {"UART: modem lines", test_uart_modem},
    {"UART: FIFO", test_uart_fifo},
    {"UART: THRE interrupt", test_uart_irq},
    {"DMA: address and count", test_dma_registers},
    {"DMA: page registers", test_dma_pages},
    {"VGA: text memory", test_vga_memory},
    {"VGA: CRT controller", test_vga_crtc},
    {"fw_cfg: signature, files", test_fwcfg},
    {"fw_cfg: DMA", test_fwcfg_dma},
    {"IDE: identify", test_ide_identify},
    {"IDE: interrupt", test_ide_irq},
    {"IDE: read", test_ide_read},
};

int sleep_until_changed(volatile u16 *count, u16 before, u32 us)
{
    struct timeout t;
    u16 ticks = irq_count[0];
    u16 limit = us / 54925 + 2;
    int changed;
    if (!tick_works) {
        irq_enable();
        timeout_start(&t, us);
        while (*count == before && !timeout_over(&t))
            ;
        return *count != before;
    }
    irq_disable();
    while (*count == before && (u16)(*(volatile u16 *)&irq_count[0] - ticks) < limit)
        irq_sleep();
    changed = *count != before;
    irq_enable();
    return changed;
}

u32 selftest_run(void)
{
    u32 passed = 0, failed = 0;
    for (u32 i = 0; i < COUNT(tests); i++) {
        const char *result = tests[i].run();
        irq_enable();
        if (!result) {
            passed++;
            print("test %-31s PASS\n", tests[i].name);
        } else if (result == test_absent) {
            print("test %-31s absent\n", tests[i].name);
        } else {
            failed++;
            print("test %-31s FAIL: %s\n", tests[i].name, result);
        }
    }
    print("self-test: %u passed, %u failed\n", passed, failed);
    return failed;
}
