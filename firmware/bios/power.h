/* The ways out (power.c, reset.S). */
#ifndef POWER_H
#define POWER_H

#include "types.h"

void reset_machine(void) __attribute__((noreturn));

/* Is the PIIX4's power management there? */
int power_present(void);
void power_init(void);

/* Switch the machine off; comes back when there is nothing to switch. */
void power_off(void);

/* Leave through isa-debug-exit if it is there; comes back otherwise. */
void debug_exit(u8 code);

#endif
