/* Self-tests of interrupt controllers and timer. */
#include "bda.h"
#include "board.h"
#include "pic.h"
#include "pit.h"
#include "selftest.h"

#define OCW3_POLL 0x0C
#define POLL_PENDING 0x80
#define GATE2 0x01
#define SPEAKER 0x02
#define OUT2 0x20
#define CONTROL_CHANNEL2_MODE0 0xB0
#define CHANNEL2_COUNT 20000
#define CHANNEL2_TRIES 5
#define RELOAD_1MS 1193
#define TICK_WAIT_US 1000000

const char *test_pic_masks(void)
{
    static const u8 patterns[] = {0x00, 0x55, 0xAA, 0xFF};
    u8 saved1, saved2;
    const char *result = NULL;
    irq_disable();
    saved1 = inb(PORT_PIC1 + 1);
    saved2 = inb(PORT_PIC2 + 1);
    for (u32 i = 0; i < COUNT(patterns); i++) {
        u8 inverse = ~patterns[i];
        outb(PORT_PIC1 + 1, patterns[i]);
        outb(PORT_PIC2 + 1, inverse);
        if (inb(PORT_PIC1 + 1) != patterns[i])
            result = "master mask";
        if (inb(PORT_PIC2 + 1) != inverse)
            result = "slave mask";
    }
    outb(PORT_PIC1 + 1, saved1);
    outb(PORT_PIC2 + 1, saved2);
    return result;
}

/* The vectors of lines 7 and 15 without a request: no in-service bit, so no end of interrupt
 * may be sent, and nothing may be left in service. */
const char *test_pic_spurious(void)
{
    u16 before = irq_spurious;
    irq_disable();
    asm volatile("int $0x0F");
    asm volatile("int $0x77");
    if (irq_spurious != (u16)(before + 2))
        return "not recognised";
    return pic_in_service(PORT_PIC1) | pic_in_service(PORT_PIC2) ? "left in service" : NULL;
}

/* Take the timer's request by the poll command instead of by an interrupt. */
const char *test_pic_poll(void)
{
    struct timeout t;
    const char *result = NULL;
    u8 saved;
    irq_disable();
    saved = inb(PORT_PIC1 + 1);
    outb(PORT_PIC1 + 1, 0xFF & ~(1 << IRQ_TIMER));
    pit_program(RELOAD_1MS);
    timeout_start(&t, 50000);
    while (!(inb(PORT_PIC1) & 1 << IRQ_TIMER) && !timeout_over(&t))
        ;
    if (!(inb(PORT_PIC1) & 1 << IRQ_TIMER))
        result = "no request";
    outb(PORT_PIC1, OCW3_POLL);
    if (inb(PORT_PIC1) != (POLL_PENDING | IRQ_TIMER))
        result = "poll gives another line";
    else if (pic_in_service(PORT_PIC1) != 1 << IRQ_TIMER)
        result = "not in service";
    irq_end(IRQ_TIMER);
    if (pic_in_service(PORT_PIC1))
        result = "in service after its end";
    pit_program(0);
    outb(PORT_PIC1 + 1, saved);
    return result;
}

const char *test_pit_counts(void)
{
    const char *result = NULL;
    u16 first, changes = 0;
    irq_disable();
    pit_program(RELOAD_1MS);
    first = pit_read();
    for (u32 i = 0; i < 500; i++) {
        u16 now = pit_read();
        changes += now != first;
        first = now;
        if (!now || now > RELOAD_1MS)
            result = "count beyond its reload value";
    }
    pit_program(0);
    return changes ? result : "stands still";
}

/* One shot of 17 ms: low while it counts, high at its end. */
static const char *one_shot(void)
{
    struct timeout t;
    const char *result = NULL;
    u8 saved = inb(PORT_SYSTEM_B) & (GATE2 | SPEAKER);
    irq_disable();
    outb(PORT_SYSTEM_B, 0);
    outb(PORT_PIT_CONTROL, CONTROL_CHANNEL2_MODE0);
    outb(PORT_PIT2, CHANNEL2_COUNT & 0xFF);
    outb(PORT_PIT2, CHANNEL2_COUNT >> 8);
    timeout_start(&t, 10000);
    outb(PORT_SYSTEM_B, GATE2);
    if (inb(PORT_SYSTEM_B) & OUT2)
        result = "output high before the end";
    timeout_start(&t, 100000);
    while (!(inb(PORT_SYSTEM_B) & OUT2))
        if (timeout_over(&t))
            break;
    if (!(inb(PORT_SYSTEM_B) & OUT2))
        result = "output never high";
    timeout_over(&t);
    if (t.elapsed < CHANNEL2_COUNT * 9 / 10)
        result = "too early";
    outb(PORT_SYSTEM_B, saved);
    return result;
}

/* Several tries, because a busy host may stop an emulated machine for longer than the shot. */
const char *test_pit_channel2(void)
{
    const char *result = one_shot();
    for (u32 try = 1; result && try < CHANNEL2_TRIES; try++)
        result = one_shot();
    return result;
}

const char *test_pit_tick(void)
{
    struct timeout t;
    volatile u16 *count = &irq_count[IRQ_TIMER];
    u16 before = *count;
    u32 ticks = bda_read32(BDA_TICKS);
    irq_enable();
    timeout_start(&t, TICK_WAIT_US);
    while (*count == before && !timeout_over(&t))
        ;
    if (*count == before)
        return "no interrupt";
    if (bda_read32(BDA_TICKS) == ticks)
        return "tick not counted";
    tick_works = 1;
    return NULL;
}
