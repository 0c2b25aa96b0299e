/* 16550 UARTs: the console on COM1 at 115200 8N1, polled, and INT 14h. */
#include "serial.h"
#include "bda.h"
#include "board.h"
#include "regs.h"

/* A status read takes a microsecond of bus time, a character at 115200 baud takes 87. */
#define POLLS 20000

#define PORT_COM2 0x2F8

static u16 console_port;

int uart_present(u16 port)
{
    outb(port + UART_SCRATCH, 0x5A);
    if (inb(port + UART_SCRATCH) != 0x5A)
        return 0;
    outb(port + UART_SCRATCH, 0xA5);
    return inb(port + UART_SCRATCH) == 0xA5;
}

void uart_setup(u16 port, u16 divisor, u8 line)
{
    outb(port + UART_IER, 0);
    outb(port + UART_LCR, line | LCR_DLAB);
    outb(port + UART_DATA, divisor);
    outb(port + UART_IER, divisor >> 8);
    outb(port + UART_LCR, line);
    outb(port + UART_FCR, FCR_ENABLE_CLEAR);
    outb(port + UART_MCR, MCR_DTR_RTS);
}

int uart_wait(u16 port, u8 status)
{
    for (u32 polls = POLLS; polls; polls--)
        if ((inb(port + UART_LSR) & status) == status)
            return 1;
    return 0;
}

u8 serial_init(void)
{
    static const u16 ports[] = {PORT_COM1, PORT_COM2};
    u8 found = 0;
    for (u32 i = 0; i < COUNT(ports); i++) {
        if (!uart_present(ports[i]))
            continue;
        uart_setup(ports[i], 1, LCR_8N1);
        bda_write16(BDA_COM + 2 * found, ports[i]);
        bda_write8(BDA_COM_TIMEOUT + found, 10);
        found++;
        if (ports[i] == PORT_COM1)
            console_port = PORT_COM1;
    }
    return found;
}

/* A console that does not take its character any more is switched off. */
void serial_send(u8 byte)
{
    if (!console_port)
        return;
    if (uart_wait(console_port, LSR_THRE))
        outb(console_port + UART_DATA, byte);
    else
        console_port = 0;
}

#define STATUS_TIMEOUT 0x80

void int14(struct regs *r)
{
    /* Divisors of 110, 150, 300, 600, 1200, 2400, 4800 and 9600 baud. */
    static const u16 divisors[] = {1047, 768, 384, 192, 96, 48, 24, 12};
    u16 port = r->dx < 4 ? bda_read16(BDA_COM + 2 * r->dx) : 0;
    if (!port) {
        r->ah = STATUS_TIMEOUT;
        return;
    }
    switch (r->ah) {
    case 0x00:
        uart_setup(port, divisors[r->al >> 5], r->al & 0x1F);
        break;
    case 0x01:
        if (!uart_wait(port, LSR_THRE)) {
            r->ah = inb(port + UART_LSR) | STATUS_TIMEOUT;
            return;
        }
        outb(port + UART_DATA, r->al);
        r->ah = inb(port + UART_LSR);
        return;
    case 0x02:
        if (!uart_wait(port, LSR_DR)) {
            r->ah = inb(port + UART_LSR) | STATUS_TIMEOUT;
            return;
        }
        r->ah = inb(port + UART_LSR) & 0x1E;
        r->al = inb(port + UART_DATA);
        return;
    case 0x03:
        break;
    default:
        return;
    }
    r->ah = inb(port + UART_LSR);
    r->al = inb(port + UART_MSR);
}
