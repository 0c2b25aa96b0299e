/* The local APIC (lapic.c). */
#ifndef LAPIC_H
#define LAPIC_H

/* Let the 8259A's interrupts through ("virtual wire"), where the CPU has a local APIC. */
void lapic_init(void);

#endif
