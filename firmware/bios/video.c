/* INT 10h when there is no video BIOS: text output goes to the serial console. */
#include "console.h"
#include "regs.h"
#include "serial.h"

static void send_string(struct regs *r)
{
    u8 step = r->al & 2 ? 2 : 1;  /* characters alone, or with attributes */
    for (u16 i = 0; i < r->cx; i++)
        serial_send(far_read8(r->es, (u16)(r->ebp + i * step)));
}

void int10(struct regs *r)
{
    switch (r->ah) {
    case 0x03:
        r->cx = 0x0607;
        r->dx = 0;
        break;
    case 0x09:
    case 0x0A:
        for (u16 i = 0; i < r->cx; i++)
            serial_send(r->al);
        break;
    case 0x0E:
        serial_send(r->al);
        break;
    case 0x0F:
        r->ax = 80 << 8 | 3;
        r->bh = 0;
        break;
    case 0x13:
        send_string(r);
        break;
    }
}
