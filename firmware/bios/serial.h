/* The serial ports (serial.c). */
#ifndef SERIAL_H
#define SERIAL_H

#include "types.h"

/* 16550 registers, as offsets. */
#define UART_DATA 0
#define UART_IER 1
#define UART_IIR 2
#define UART_FCR 2
#define UART_LCR 3
#define UART_MCR 4
#define UART_LSR 5
#define UART_MSR 6
#define UART_SCRATCH 7

#define IER_THRE 0x02
#define IIR_NONE 0x01
#define IIR_THRE 0x02
#define IIR_FIFO 0xC0
#define FCR_ENABLE_CLEAR 0x07
#define LCR_8N1 0x03
#define LCR_DLAB 0x80
#define MCR_DTR_RTS 0x03
#define MCR_OUT1 0x04
#define MCR_OUT2 0x08
#define MCR_LOOP 0x10
#define LSR_DR 0x01
#define LSR_THRE 0x20
#define LSR_TEMT 0x40

/* Is there a UART at this port? */
int uart_present(u16 port);
void uart_setup(u16 port, u16 divisor, u8 line);

/* Wait for bits of the line status; 0 when they do not come. */
int uart_wait(u16 port, u8 status);

/* Find the ports, fill the BIOS data area and set COM1 to 115200 8N1. Returns their number. */
u8 serial_init(void);
void serial_send(u8 byte);

#endif
