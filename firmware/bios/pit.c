/* 8254: channel 0 gives the 18.2 Hz tick (mode 2, full count, so that the count can be read as
 * a clock), channel 2 the speaker. Every wait of the BIOS is measured on channel 0. */
#include "pit.h"
#include "board.h"

#define CONTROL_CHANNEL0_MODE2 0x34
#define CONTROL_CHANNEL0_LATCH 0x00
#define COUNTS_PER_MS 1193

/* So many equal readings mean that the counter does not count: a wait then ends at once. */
#define STUCK_READS 20000

void pit_program(u16 reload)
{
    outb(PORT_PIT_CONTROL, CONTROL_CHANNEL0_MODE2);
    outb(PORT_PIT0, reload);
    outb(PORT_PIT0, reload >> 8);
}

void pit_init(void)
{
    pit_program(0);
}

u16 pit_read(void)
{
    u8 low;
    outb(PORT_PIT_CONTROL, CONTROL_CHANNEL0_LATCH);
    low = inb(PORT_PIT0);
    return low | inb(PORT_PIT0) << 8;
}

void timeout_start(struct timeout *t, u32 us)
{
    t->limit = us < 1000000 ? us * COUNTS_PER_MS / 1000 + 1 : us / 1000 * COUNTS_PER_MS;
    t->elapsed = 0;
    t->stuck = 0;
    t->last = pit_read();
}

/* The counter counts down. When it has begun anew only what was left before is counted,
 * because a guest may have given it another reload value: waits get longer, never shorter. */
int timeout_over(struct timeout *t)
{
    u16 now = pit_read();
    if (now == t->last) {
        t->stuck++;
        return t->stuck > STUCK_READS;
    }
    t->stuck = 0;
    t->elapsed += now < t->last ? t->last - now : t->last;
    t->last = now;
    return t->elapsed >= t->limit;
}

void delay(u32 us)
{
    struct timeout t;
    timeout_start(&t, us);
    while (!timeout_over(&t))
        ;
}
