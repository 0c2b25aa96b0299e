/* The interrupt vector table and what happens on an exception (vectors.c). */
#ifndef VECTORS_H
#define VECTORS_H

#include "regs.h"

void vectors_init(void);

/* An exception that nobody handles: say where, then halt for good. */
void exception(u8 vector, struct regs *r) __attribute__((noreturn));
void halt(void) __attribute__((noreturn));

#endif
