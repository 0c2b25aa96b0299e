/* How much RAM there is and where (memory.c). */
#ifndef MEMORY_H
#define MEMORY_H

#include "types.h"

#define LOW_MEMORY_KB 640
#define RAM_BELOW_4G_MAX 0xC0000000
#define RAM_TO_LEAVE 0x200000
#define PAGE_SIZE 0x1000

#define E820_RAM 1
#define E820_RESERVED 2

extern u32 ram_below_4g;
extern u64 ram_above_4g;
extern const char *ram_source;

void memory_find(void);

/* Pages at the end of RAM, which the memory map says are reserved; 0 when too little would be left. */
u32 memory_take(u32 size);

/* Entry number index of the memory map; returns its type, 0 past the end. */
int memory_map(u32 index, u64 *address, u64 *length);

#endif
