/* The keyboard controller (kbc.c). */
#ifndef KBC_H
#define KBC_H

#include "types.h"

#define KBC_STATUS_OUTPUT_FULL 0x01
#define KBC_STATUS_INPUT_FULL 0x02

#define KBC_READ_MODE 0x20
#define KBC_WRITE_MODE 0x60
#define KBC_DISABLE_MOUSE 0xA7
#define KBC_SELF_TEST 0xAA
#define KBC_TEST_KEYBOARD 0xAB
#define KBC_DISABLE_KEYBOARD 0xAD
#define KBC_ENABLE_KEYBOARD 0xAE
#define KBC_READ_OUTPUT_PORT 0xD0
#define KBC_WRITE_OUTPUT_PORT 0xD1

#define KBC_MODE_IRQ1 0x01
#define KBC_MODE_SYSTEM 0x04
#define KBC_MODE_NO_KEYBOARD 0x10
#define KBC_MODE_NO_MOUSE 0x20
#define KBC_MODE_TRANSLATE 0x40
#define KBC_MODE_NORMAL (KBC_MODE_IRQ1 | KBC_MODE_SYSTEM | KBC_MODE_NO_MOUSE | KBC_MODE_TRANSLATE)

#define KBC_OUTPUT_A20 0x02

#define KEYBOARD_LEDS 0xED
#define KEYBOARD_ECHO 0xEE
#define KEYBOARD_IDENTIFY 0xF2
#define KEYBOARD_ENABLE 0xF4
#define KEYBOARD_DISABLE 0xF5
#define KEYBOARD_RESET 0xFF
#define KEYBOARD_ACK 0xFA

/* A byte from the controller, or -1 when none comes. */
int kbc_receive(void);
/* Send to the controller (command) or the keyboard (data); 0 when it takes nothing. */
int kbc_command(u8 command);
int kbc_data(u8 data);
void kbc_flush(void);
void kbc_set_mode(u8 mode);

/* Send a byte to the keyboard and get its answer, -1 for none. */
int keyboard_command(u8 command);

/* Bring controller and keyboard to work; keys make IRQ 1 after this. */
void kbc_init(void);

#endif
