/* The time of day (clock.c). */
#ifndef CLOCK_H
#define CLOCK_H

#include "types.h"

struct date_time {
    u16 year;
    u8 month, day, hours, minutes, seconds;
};

void clock_init(void);

/* Read the RTC between two updates; 0 when it is always updating. */
int clock_read(struct date_time *now);

/* All causes of the RTC's interrupts (register C) since the self-test cleared this. */
extern u8 rtc_causes;

#endif
