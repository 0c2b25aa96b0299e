/* The end of the BIOS's own work (boot.c). */
#ifndef BOOT_H
#define BOOT_H

void boot(void) __attribute__((noreturn));
void no_boot(void) __attribute__((noreturn));

#endif
