/* QEMU's firmware configuration device (fwcfg.c). */
#ifndef FWCFG_H
#define FWCFG_H

#include "types.h"

#define FWCFG_SIGNATURE 0x00
#define FWCFG_ID 0x01
#define FWCFG_RAM_SIZE 0x03
#define FWCFG_DIRECTORY 0x19

#define FWCFG_ID_DMA 2

struct fwcfg_file {
    u32 size;
    u16 key;
};

int fwcfg_present(void);
void fwcfg_select(u16 key);
void fwcfg_read(void *to, u32 size);
int fwcfg_find(const char *name, struct fwcfg_file *file);

/* Read an item through the DMA interface to a physical address; 0 on success. */
int fwcfg_dma_read(u16 key, u32 address, u32 size);

#endif
