/* The keyboard buffer (keyboard.c). */
#ifndef KEYBOARD_H
#define KEYBOARD_H

#include "types.h"

void keyboard_init(void);

/* Append a keystroke; 0 when the buffer is full. */
int keyboard_put(u16 key);

#endif
