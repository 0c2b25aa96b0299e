/* Power-on: chips in order, option ROMs, what was found, self-tests, boot. */
#include "acpi.h"
#include "ata.h"
#include "a20.h"
#include "bda.h"
#include "board.h"
#include "boot.h"
#include "clock.h"
#include "console.h"
#include "cpu.h"
#include "fwcfg.h"
#include "keyboard.h"
#include "lapic.h"
#include "memory.h"
#include "optrom.h"
#include "pci.h"
#include "pic.h"
#include "pit.h"
#include "power.h"
#include "regs.h"
#include "selftest.h"
#include "serial.h"
#include "vectors.h"

#define BDA_SIZE 0x100
#define WARM_RESET 0x1234

static const char banner[] = "jitvm BIOS 1.0\n";

/* Progress for whoever watches port 80. */
static void progress(u8 step)
{
    outb(PORT_POST, step);
}

static void clear_bda(void)
{
    u16 reset_flag = bda_read16(BDA_RESET_FLAG);
    for (u32 offset = 0; offset < BDA_SIZE; offset += 2)
        bda_write16(offset, 0);
    if (reset_flag == WARM_RESET)
        bda_write16(BDA_RESET_FLAG, reset_flag);
    bda_write16(BDA_MEMORY_KB, LOW_MEMORY_KB);
}

static int fpu_present(void)
{
    u16 status = 0x5A5A;
    asm volatile("fninit; fnstsw %0" : "+m"(status));
    return (status & 0xFF) == 0;
}

static void print_found(u8 n_serial)
{
    cpu_print();
    print("RAM: %u KiB below 4 GiB, %u MiB above (%s)\n", ram_below_4g >> 10, (u32)(ram_above_4g >> 20), ram_source);
    pci_print();
    print("Found: %u serial, %s video BIOS, %s fw_cfg, %s FPU\n", n_serial, vga_present ? "a" : "no",
          fwcfg_present() ? "a" : "no", bda_read16(BDA_EQUIPMENT) & EQUIPMENT_FPU ? "an" : "no");
    for (u8 i = 0; i < disk_count; i++)
        print("Disk %02x: %u MiB, CHS %u/%u/%u, %s\n", 0x80 + i, (u32)(disks[i].size >> 11), disks[i].cylinders,
              disks[i].heads, disks[i].sectors, disks[i].model);
}

void post(void)
{
    u8 n_serial;
    u32 failed;
    u16 equipment;
    progress(0x01);
    clear_bda();
    vectors_init();
    n_serial = serial_init();
    print(banner);
    progress(0x02);
    pic_init();
    pit_init();
    lapic_init();
    a20_fast(1);
    power_init();
    progress(0x03);
    memory_find();
    pci_assign();
    equipment = EQUIPMENT_VIDEO_80X25 | n_serial << EQUIPMENT_COM_SHIFT | (fpu_present() ? EQUIPMENT_FPU : 0);
    bda_write16(BDA_EQUIPMENT, equipment);
    irq_unmask(IRQ_TIMER);
    clock_init();
    progress(0x04);
    keyboard_init();
    progress(0x05);
    optrom_run();
    if (vga_present) {
        struct regs mode3 = {.eax = 0x0003};
        call_int(0x10, &mode3);
        console_targets = CONSOLE_VGA;
        print(banner);
        console_targets = CONSOLE_SERIAL | CONSOLE_VGA;
    }
    progress(0x06);
    irq_enable();
    ata_init();
    bda_write8(BDA_DISK_COUNT, disk_count);
    print_found(n_serial);
    progress(0x07);
    failed = selftest_run();
    progress(0x08);
    if (failed) {
        debug_exit(failed < 0x7F ? failed : 0x7F);
        print("Self-test failed, halted.\n");
        halt();
    }
    progress(0x09);
    acpi_init();
    boot();
}
