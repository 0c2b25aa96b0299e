/* Interrupt vectors: services, hardware lines, and the last word on an exception. */
#include "vectors.h"
#include "console.h"

extern const u8 iret_entry[], int00_entry[], int06_entry[], int10_entry[], int11_entry[],
    int12_entry[], int13_entry[], int14_entry[], int15_entry[], int16_entry[], int18_entry[],
    int19_entry[], int1a_entry[];
extern const u16 irq_entries[16];

static void set_vector(u8 vector, u16 offset)
{
    far_write32(0, vector * 4, (u32)BIOS_SEG << 16 | offset);
}

void vectors_init(void)
{
    static const struct { u8 vector; const u8 *entry; } services[] = {
        {0x00, int00_entry}, {0x06, int06_entry}, {0x10, int10_entry}, {0x11, int11_entry},
        {0x12, int12_entry}, {0x13, int13_entry}, {0x14, int14_entry}, {0x15, int15_entry},
        {0x16, int16_entry}, {0x18, int18_entry}, {0x19, int19_entry}, {0x1A, int1a_entry},
    };
    for (u32 vector = 0; vector < 0x78; vector++)
        set_vector(vector, (u16)(u32)iret_entry);
    for (u32 vector = 0x78; vector < 0x100; vector++)
        far_write32(0, vector * 4, 0);
    for (u32 i = 0; i < COUNT(services); i++)
        set_vector(services[i].vector, (u16)(u32)services[i].entry);
    for (u32 line = 0; line < 8; line++) {
        set_vector(0x08 + line, irq_entries[line]);
        set_vector(0x70 + line, irq_entries[8 + line]);
    }
    /* Tables that do not exist: video parameters, floppy, fixed disks. */
    far_write32(0, 0x1D * 4, 0);
    far_write32(0, 0x1E * 4, 0);
    far_write32(0, 0x1F * 4, 0);
    far_write32(0, 0x41 * 4, 0);
    far_write32(0, 0x43 * 4, 0);
    far_write32(0, 0x46 * 4, 0);
}

void halt(void)
{
    for (;;)
        asm volatile("cli; hlt");
}

void exception(u8 vector, struct regs *r)
{
    print("\njitvm BIOS: exception %02x at %04x:%04x  eax %08x ebx %08x ecx %08x edx %08x\n", vector,
          far_read16(r->caller_ss, (u16)r->caller_esp + 2), far_read16(r->caller_ss, (u16)r->caller_esp),
          r->eax, r->ebx, r->ecx, r->edx);
    halt();
}

void exception_00(struct regs *r)
{
    exception(0x00, r);
}

void exception_06(struct regs *r)
{
    exception(0x06, r);
}
