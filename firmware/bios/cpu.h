/* What the CPU says of itself (cpu.c). */
#ifndef CPU_H
#define CPU_H

#include "types.h"

void cpu_print(void);

/* The feature word EDX of CPUID leaf 1; 0 without CPUID. */
u32 cpu_features(void);

#endif
