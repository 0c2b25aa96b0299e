/* The timer chip, and waiting with a bound (pit.c). */
#ifndef PIT_H
#define PIT_H

#include "types.h"

struct timeout {
    u32 elapsed, limit;  /* counts of 1/1193182 s */
    u16 last, stuck;
};

void pit_init(void);
void pit_program(u16 reload);
u16 pit_read(void);

/* Begin a wait of at most us microseconds (up to 3 s); timeout_over says when it is up. */
void timeout_start(struct timeout *t, u32 us);
int timeout_over(struct timeout *t);
void delay(u32 us);

#endif
