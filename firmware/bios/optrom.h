/* Option ROMs (optrom.c). */
#ifndef OPTROM_H
#define OPTROM_H

#include "types.h"

/* Find option ROMs at C0000..DFFFF and on the PCI VGA card, shadow them and run them. After
 * this vga_present says whether a video BIOS serves INT 10h. */
void optrom_run(void);
extern u8 vga_present;

/* Call the code at seg:off in big real mode with EAX (rom_call.S). */
void rom_call(u32 seg_off, u32 eax);

#endif
