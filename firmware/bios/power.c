/* Power-off by the PIIX4's PM1 control register (sleep type 0 is S5, "soft off", on the
 * i440FX board of QEMU) and the debug exit port of test machines. */
#include "power.h"
#include "board.h"
#include "pci.h"

int power_present(void)
{
    return pci_read32(PCI_PM, PCI_ID) == PCI_ID_PIIX4_PM;
}

void power_init(void)
{
    if (!power_present())
        return;
    pci_write32(PCI_PM, PM_BASE_REGISTER, PM_BASE | 1);
    pci_write8(PCI_PM, PM_MISC_REGISTER, 1);
}

void power_off(void)
{
    if (!power_present())
        return;
    power_init();
    outw(PM_BASE + PM1_CONTROL, PM1_SLEEP_ENABLE);
}

void debug_exit(u8 code)
{
    outb(PORT_DEBUG_EXIT, code);
}
