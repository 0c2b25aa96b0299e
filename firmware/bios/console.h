/* What the BIOS says: on COM1 always, on the VGA screen once it is there (console.c). */
#ifndef CONSOLE_H
#define CONSOLE_H

#include "types.h"

#define CONSOLE_SERIAL 1
#define CONSOLE_VGA 2

/* Which of the two get the output. */
extern u8 console_targets;

/* Formats: %s %c %u %x, with a width for numbers and %-Ns for strings. */
void print(const char *format, ...) __attribute__((format(printf, 1, 2)));
void print_char(char c);

#endif
