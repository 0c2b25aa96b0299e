/* Functions that run in 32-bit protected mode (pm.S). */
#ifndef PM_H
#define PM_H

#define PM_FAULT 0x80000000
#define PM_NO_LIMITS 99

#ifndef __ASSEMBLER__
#include "types.h"

struct pm_copy {
    u32 from, to, size;
};

struct pm_word {
    u32 address, value;
};

/* Symbols of 32-bit code; only their addresses mean something here. */
extern const u8 pm_copy[], pm_exchange[], pm_write[];
extern const u8 pm_test_segments[], pm_test_limit[], pm_test_paging[];
extern u32 pm_fault_vector, pm_fault_error;

/* Run a 32-bit function; 0 is success, PM_FAULT | vector a fault nobody expected. */
u32 pm_call(const u8 *function, void *argument);

#endif
#endif
