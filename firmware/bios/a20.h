/* The A20 gate (a20.c). */
#ifndef A20_H
#define A20_H

#include "types.h"

/* By the fast gate, port 92. */
void a20_fast(int on);
int a20_fast_state(void);
/* By the keyboard controller's output port. */
void a20_slow(int on);
/* Does FFFF:0510 differ from 0000:0500? */
int a20_works(void);

#endif
