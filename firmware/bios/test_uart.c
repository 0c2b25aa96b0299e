/* Self-tests of COM1; the console is quiet meanwhile. */
#include "board.h"
#include "pic.h"
#include "pit.h"
#include "selftest.h"
#include "serial.h"

#define FIFO_SIZE 16
#define IRQ_WAIT_US 50000

static int begin(void)
{
    if (!uart_present(PORT_COM1))
        return 0;
    uart_wait(PORT_COM1, LSR_TEMT);
    return 1;
}

static const char *end(const char *result)
{
    outb(PORT_COM1 + UART_IER, 0);
    uart_setup(PORT_COM1, 1, LCR_8N1);
    return result;
}

const char *test_uart_loopback(void)
{
    static const u8 bytes[] = {0x00, 0x55, 0xAA, 0xFF, 'j'};
    if (!begin())
        return test_absent;
    outb(PORT_COM1 + UART_MCR, MCR_LOOP);
    for (u32 i = 0; i < COUNT(bytes); i++) {
        outb(PORT_COM1 + UART_DATA, bytes[i]);
        if (!uart_wait(PORT_COM1, LSR_DR))
            return end("no data");
        if (inb(PORT_COM1 + UART_DATA) != bytes[i])
            return end("data differ");
        if (inb(PORT_COM1 + UART_LSR) & LSR_DR)
            return end("data twice");
    }
    return end(NULL);
}

/* In loopback DTR, RTS, OUT1 and OUT2 are DSR, CTS, RI and DCD. */
const char *test_uart_modem(void)
{
    static const struct { u8 mcr, msr; } lines[] = {
        {0, 0}, {0x01, 0x20}, {0x02, 0x10}, {MCR_OUT1, 0x40}, {MCR_OUT2, 0x80}, {0x0F, 0xF0},
    };
    if (!begin())
        return test_absent;
    for (u32 i = 0; i < COUNT(lines); i++) {
        outb(PORT_COM1 + UART_MCR, MCR_LOOP | lines[i].mcr);
        if ((inb(PORT_COM1 + UART_MSR) & 0xF0) != lines[i].msr)
            return end("lines differ");
    }
    return end(NULL);
}

const char *test_uart_fifo(void)
{
    if (!begin())
        return test_absent;
    outb(PORT_COM1 + UART_FCR, 0);
    if (inb(PORT_COM1 + UART_IIR) & IIR_FIFO)
        return end("on when off");
    outb(PORT_COM1 + UART_FCR, FCR_ENABLE_CLEAR);
    if ((inb(PORT_COM1 + UART_IIR) & IIR_FIFO) != IIR_FIFO)
        return end("no FIFO");
    outb(PORT_COM1 + UART_MCR, MCR_LOOP);
    for (u8 i = 0; i < FIFO_SIZE; i++)
        outb(PORT_COM1 + UART_DATA, 0x40 + i);
    if (!uart_wait(PORT_COM1, LSR_TEMT))
        return end("never empty");
    for (u8 i = 0; i < FIFO_SIZE; i++)
        if (!(inb(PORT_COM1 + UART_LSR) & LSR_DR) || inb(PORT_COM1 + UART_DATA) != 0x40 + i)
            return end("data differ");
    return end(inb(PORT_COM1 + UART_LSR) & LSR_DR ? "too many data" : NULL);
}

const char *test_uart_irq(void)
{
    struct timeout t;
    volatile u16 *count = &irq_count[IRQ_COM1];
    u16 before = *count;
    if (!begin())
        return test_absent;
    irq_disable();
    outb(PORT_COM1 + UART_MCR, MCR_DTR_RTS | MCR_OUT2);
    outb(PORT_COM1 + UART_IER, IER_THRE);
    if ((inb(PORT_COM1 + UART_IIR) & 0x0F) != IIR_THRE)
        return end("not identified");
    if (!(inb(PORT_COM1 + UART_IIR) & IIR_NONE))
        return end("reading does not clear it");
    outb(PORT_COM1 + UART_IER, 0);
    irq_unmask(IRQ_COM1);
    irq_enable();
    outb(PORT_COM1 + UART_IER, IER_THRE);
    timeout_start(&t, IRQ_WAIT_US);
    while (*count == before && !timeout_over(&t))
        ;
    irq_mask(IRQ_COM1);
    return end(*count == before ? "no interrupt" : NULL);
}
