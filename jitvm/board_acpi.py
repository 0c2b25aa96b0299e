"""The ACPI tables of a board: what they say is read off its buses, its wires and its chips.

Firmware may put the power management's ports where it likes: the tables are made again when it takes them from fw_cfg.
"""

from __future__ import annotations

import functools
from dataclasses import replace

from jitvm.acpi import tables
from jitvm.acpi.hardware import Apics, Hardware, IsaDevice, Power
from jitvm.board import (
    IOAPIC,
    IRQ_PIT,
    IRQ_SCI,
    IRQS_PCI,
    LAPIC,
    PIIX_ISA,
    PIN_PIT,
    PM_BASE,
    SLOT_PIIX,
    VGA_WINDOW,
    VGA_WINDOW_SIZE,
    Board,
    pirq,
)
from jitvm.devices import piix4_pm, rtc146818
from jitvm.devices.floppy import DMA_CHANNEL
from jitvm.devices.piix3 import PIRQRCA

SLOTS, PINS = 32, 4


def install(board: Board) -> None:
    """Put the files into the board's fw_cfg."""

    @functools.cache
    def files(pm_base: int) -> dict[str, bytes]:
        return tables.files(describe(board, pm_base))

    def current(name: str) -> bytes:
        return files(board.pm.register(piix4_pm.PMBASE, 4) & piix4_pm.PMBASE_BITS or PM_BASE)[name]

    for name, data in files(PM_BASE).items():
        board.fw_cfg.add_file(name, data, on_select=functools.partial(current, name))


def describe(board: Board, pm_base: int) -> Hardware:
    """The board with the power management's ports at `pm_base`."""
    parts = board.parts
    ports = {mapping.name: (mapping.base, mapping.end - mapping.base) for mapping in board.ports.mappings()}
    irqs = [wire.irq for wire in board.wires if wire.owner == "i8042"]

    def isa(name: str, hid: str, owner: str, uid: int | None = None) -> IsaDevice:
        """A chip with all ranges of ports that are its own, and all its wires."""
        its = [where for range_name, where in ports.items() if board.owners.get(range_name) == owner]
        return IsaDevice(name, hid, its, [wire.irq for wire in board.wires if wire.owner == owner], uid=uid)

    keyboard = [ports["i8042 data"], ports["i8042 command"]]
    devices = [
        isa("RTC", "PNP0B00", "rtc"),
        IsaDevice("KBD", "PNP0303", keyboard, irqs[:1]),
        IsaDevice("MOU", "PNP0F13", irqs=irqs[1:]),
        *(isa(f"COM{k}", "PNP0501", uart.name, k) for k, uart in enumerate(board.uarts, 1)),
    ]
    if board.floppy is not None:
        first, second = (drive is not None for drive in parts.floppies)
        found = isa("FDC0", "PNP0700", "floppy")
        devices.append(replace(found, dma=(DMA_CHANNEL,), floppies=(first, second)))
    fw_cfg, dma = ports["fw_cfg"], ports["fw_cfg dma"]
    gpe, gpe_length = ports["gpe"]
    power = Power(
        event=pm_base + piix4_pm.PM1_STS,
        control=pm_base + piix4_pm.PM1_CNT,
        timer=pm_base + piix4_pm.PM_TMR,
        gpe=gpe,
        gpe_length=gpe_length,
        sci=IRQ_SCI,
        smi_command=ports["apm"][0],
        acpi_enable=piix4_pm.ACPI_ENABLE,
        acpi_disable=piix4_pm.ACPI_DISABLE,
        soft_off=piix4_pm.SUS_SOFT_OFF,
    )
    apics = Apics(LAPIC, IOAPIC, parts.apic_ids, {IRQ_PIT: PIN_PIT}, sorted((*IRQS_PCI, IRQ_SCI)))
    return Hardware(
        ram_size=parts.ram_size,
        pci_config=ports["pci configuration"],
        vga_window=(VGA_WINDOW, VGA_WINDOW + VGA_WINDOW_SIZE - 1),
        pci_memory_end=IOAPIC - 1,
        routes=[
            (slot, pin, pirq(slot, pin))
            for slot in range(1, SLOTS)
            for pin in range(PINS)
            if (slot, pin) != (SLOT_PIIX, 0)
        ],
        wired=[(SLOT_PIIX, 0, IRQ_SCI)],
        link_irqs=IRQS_PCI,
        isa_bridge=SLOT_PIIX << 16 | PIIX_ISA,
        link_registers=PIRQRCA,
        devices=devices,
        fw_cfg=(fw_cfg[0], dma[0] + dma[1] - fw_cfg[0]),
        century=rtc146818.CENTURY,
        power=power,
        apics=apics if parts.apic else None,
        n_cpus=len(parts.apic_ids),
    )
