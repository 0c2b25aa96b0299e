/* The two interrupt controllers (pic.c). */
#ifndef PIC_H
#define PIC_H

#include "types.h"

/* Interrupts seen per line since start, and those without a request behind them. */
extern u16 irq_count[16];
extern u16 irq_spurious;

void pic_init(void);
void irq_mask(u8 line);
void irq_unmask(u8 line);
void irq_end(u8 line);
u8 pic_in_service(u16 port);

#endif
