/* Option ROMs (optrom.c). */
#ifndef OPTROM_H
#define OPTROM_H

#include "types.h"

/* Find option ROMs at C0000..DFFFF and on the PCI VGA card, shadow them and run them. After
 * this vga_present says whether a video BIOS serves INT 10h. */
void optrom_run(void);
extern u8 vga_present;

#endif
