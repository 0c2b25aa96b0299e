/* Two 8259A in cascade, vectors 08..0F and 70..77, edge triggered, normal end of interrupt;
 * and the handlers of the lines that have no service of their own. */
#include "pic.h"
#include "bda.h"
#include "board.h"
#include "regs.h"
#include "vectors.h"

#define ICW1_INIT_IC4 0x11
#define ICW4_8086 0x01
#define OCW2_EOI 0x20
#define OCW3_READ_IRR 0x0A
#define OCW3_READ_ISR 0x0B

u16 irq_count[16];
u16 irq_spurious;

void pic_init(void)
{
    outb(PORT_PIC1, ICW1_INIT_IC4);
    outb(PORT_PIC1 + 1, 0x08);
    outb(PORT_PIC1 + 1, 1 << IRQ_CASCADE);
    outb(PORT_PIC1 + 1, ICW4_8086);
    outb(PORT_PIC2, ICW1_INIT_IC4);
    outb(PORT_PIC2 + 1, 0x70);
    outb(PORT_PIC2 + 1, IRQ_CASCADE);
    outb(PORT_PIC2 + 1, ICW4_8086);
    outb(PORT_PIC1 + 1, 0xFF & ~(1 << IRQ_CASCADE));
    outb(PORT_PIC2 + 1, 0xFF);
}

void irq_mask(u8 line)
{
    u16 port = line < 8 ? PORT_PIC1 + 1 : PORT_PIC2 + 1;
    outb(port, inb(port) | 1 << (line & 7));
}

void irq_unmask(u8 line)
{
    u16 port = line < 8 ? PORT_PIC1 + 1 : PORT_PIC2 + 1;
    outb(port, inb(port) & ~(1 << (line & 7)));
}

void irq_end(u8 line)
{
    if (line >= 8)
        outb(PORT_PIC2, OCW2_EOI);
    outb(PORT_PIC1, OCW2_EOI);
}

u8 pic_in_service(u16 port)
{
    u8 lines;
    outb(port, OCW3_READ_ISR);
    lines = inb(port);
    outb(port, OCW3_READ_IRR);
    return lines;
}

/* A line whose in-service bit is clear had no request: on 7 and 15 a spurious interrupt, which
 * gets no end of interrupt (15: the cascade does), on others an exception or an INT. */
static int is_real(u8 line, struct regs *r)
{
    if (pic_in_service(line < 8 ? PORT_PIC1 : PORT_PIC2) & 1 << (line & 7)) {
        irq_count[line]++;
        return 1;
    }
    if (line == IRQ_SPURIOUS1 || line == IRQ_SPURIOUS2) {
        irq_spurious++;
        if (line == IRQ_SPURIOUS2 && pic_in_service(PORT_PIC1) & 1 << IRQ_CASCADE)
            outb(PORT_PIC1, OCW2_EOI);
    } else if (line < 8) {
        exception(8 + line, r);
    }
    return 0;
}

/* Nobody's interrupt: mask the line, as an AT does, and remember it. */
static void unexpected(u8 line, struct regs *r)
{
    if (!is_real(line, r))
        return;
    irq_mask(line);
    bda_write8(BDA_LAST_IRQ, line < 8 ? 1 << line : 0);
    irq_end(line);
}

#define UNEXPECTED(line) void irq##line##_c(struct regs *r) { unexpected(line, r); }
UNEXPECTED(2)
UNEXPECTED(3)
UNEXPECTED(4)
UNEXPECTED(5)
UNEXPECTED(6)
UNEXPECTED(7)
UNEXPECTED(10)
UNEXPECTED(11)
UNEXPECTED(12)
UNEXPECTED(15)

/* IRQ 9 stands for IRQ 2 of the XT. */
void irq9_c(struct regs *r)
{
    struct regs none = {.es = 0};
    if (!is_real(9, r))
        return;
    outb(PORT_PIC2, OCW2_EOI);
    call_int(0x0A, &none);
}

/* The FPU's error line is the NMI of an XT. */
void irq13_c(struct regs *r)
{
    struct regs none = {.es = 0};
    if (!is_real(13, r))
        return;
    outb(PORT_FPU_CLEAR, 0);
    irq_end(13);
    call_int(0x02, &none);
}

/* A disk is ready. */
void irq14_c(struct regs *r)
{
    if (!is_real(14, r))
        return;
    bda_write8(BDA_DISK_IRQ, 0xFF);
    irq_end(14);
}
