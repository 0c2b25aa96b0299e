/* Local APIC: after reset its LINT0 pin is masked, and with it the 8259A. The BIOS makes LINT0
 * pass external interrupts and LINT1 NMIs. Intel SDM volume 3, 11.5.1 and MultiProcessor
 * Specification 1.4, 3.6.2.2 (virtual wire mode). */
#include "lapic.h"
#include "cpu.h"
#include "pm.h"

#define LAPIC_BASE 0xFEE00000
#define LAPIC_SVR 0xF0
#define LAPIC_LVT_LINT0 0x350
#define LAPIC_LVT_LINT1 0x360

#define SVR_ENABLE 0x100
#define SVR_VECTOR 0xFF
#define LVT_EXTINT 0x700
#define LVT_NMI 0x400

#define CPUID_APIC 0x200

static void write(u32 offset, u32 value)
{
    struct pm_word word = {LAPIC_BASE + offset, value};
    pm_call(pm_write, &word);
}

void lapic_init(void)
{
    if (!(cpu_features() & CPUID_APIC))
        return;
    write(LAPIC_SVR, SVR_ENABLE | SVR_VECTOR);
    write(LAPIC_LVT_LINT0, LVT_EXTINT);
    write(LAPIC_LVT_LINT1, LVT_NMI);
}
