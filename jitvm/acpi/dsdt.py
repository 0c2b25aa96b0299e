"""The DSDT: the PCI bus with its windows and interrupts, ISA devices, processors, and how the machine is switched off.

What QEMU's "pc" has for what is here, in the same names where guests or their users see them.

Source: ACPI Specification 6.5, 6.1 (_HID, _UID), 6.2 (_CRS, _PRS, _SRS, _PRT), 7.4.2 (_S5), 9.9 (_FDE); 82371SB datasheet
(290550), PIRQ route control.

Not modelled: hotplug of PCI devices, processors and memory; sleeping states other than S5; a bridge to other buses.
"""

from __future__ import annotations

import struct

from jitvm.acpi import aml, resources
from jitvm.acpi.hardware import Hardware, IsaDevice

LINKS = ("LNKA", "LNKB", "LNKC", "LNKD")
REGISTERS = ("PRQ0", "PRQ1", "PRQ2", "PRQ3")
ROUTE_DISABLED, ROUTE_IRQ = 0x80, 0x0F
PRESENT_DISABLED, PRESENT_ENABLED, HIDDEN = 0x09, 0x0B, 0x0B
"""_STA: there, decodes, works; shown to users or not."""
ANY_FUNCTION = 0xFFFF
NO_TAPE = 2
BRIDGE = "\\_SB.PCI0.ISA"


def dsdt(hardware: Hardware) -> bytes:
    """The definition block's code, without the table's header."""
    return b"".join((
        aml.scope("\\_SB", *_processors(hardware.n_cpus), _pci(hardware), *_links(hardware)),
        aml.name("\\_S5", aml.package([aml.integer(hardware.power.soft_off)] * 2 + [aml.integer(0)] * 2)),
    ))  # fmt: skip


def _processors(n: int) -> list[bytes]:
    """By _UID, which the MADT has too."""
    return [
        aml.device(f"C{k:03X}", aml.name("_HID", aml.string("ACPI0007")), aml.name("_UID", aml.integer(k)))
        for k in range(n)
    ]


# ---- PCI -------------------------------------------------------------------------------------------------------------
def _pci(hardware: Hardware) -> bytes:
    config, length = hardware.pci_config
    first, last = hardware.vga_window
    windows = resources.template(
        resources.bus_numbers(0, 0xFF),
        resources.io(config, length),
        resources.io_window(0, config - 1),
        resources.io_window(config + length, 0xFFFF),
        resources.memory_window(first, last, cacheable=True),
        resources.memory_window(hardware.ram_size, hardware.pci_memory_end),
    )
    routes = [
        aml.package([aml.integer(slot << 16 | ANY_FUNCTION), aml.integer(pin), aml.path(LINKS[link]), aml.integer(0)])
        for slot, pin, link in hardware.routes
    ] + [
        aml.package([aml.integer(slot << 16 | ANY_FUNCTION), aml.integer(pin), aml.integer(0), aml.integer(irq)])
        for slot, pin, irq in hardware.wired
    ]
    fw_cfg = aml.device(
        "FWCF",
        aml.name("_HID", aml.string("QEMU0002")),
        aml.name("_STA", aml.integer(HIDDEN)),
        aml.name("_CRS", resources.template(resources.io(*hardware.fw_cfg))),
    )
    return aml.device(
        "PCI0",
        aml.name("_HID", aml.eisa_id("PNP0A03")),
        aml.name("_UID", aml.integer(0)),
        aml.name("_CRS", windows),
        aml.name("_PRT", aml.package(routes)),
        _isa(hardware),
        fw_cfg,
    )


def _links(hardware: Hardware) -> list[bytes]:
    """The four PIRQ inputs, and what they share: IQST tells a register's status, IQCR its interrupt."""
    is_off = aml.bit_and(aml.arg(0), aml.integer(ROUTE_DISABLED))
    status = aml.method(
        "IQST", 1,
        aml.if_else(
            is_off, [aml.give(aml.integer(PRESENT_DISABLED))], [aml.give(aml.integer(PRESENT_ENABLED))]
        ),
    )  # fmt: skip
    found = aml.local(0)
    current = aml.method(
        "IQCR", 1,
        aml.store(resources.template(resources.interrupts([0])), found),
        aml.create_dword_field(found, resources.INTERRUPT_AT, "PRRI"),
        aml.if_else(
            is_off,
            [aml.store(aml.integer(0), aml.path("PRRI"))],
            [aml.bit_and(aml.arg(0), aml.integer(ROUTE_IRQ), aml.path("PRRI"))],
        ),
        aml.give(found),
        serialized=True,
    )  # fmt: skip
    possible = resources.template(resources.interrupts(hardware.link_irqs))
    return [status, current, *(_link(k, possible) for k in range(len(LINKS)))]


def _link(number: int, possible: bytes) -> bytes:
    register = aml.path(f"{BRIDGE}.{REGISTERS[number]}")
    return aml.device(
        LINKS[number],
        aml.name("_HID", aml.eisa_id("PNP0C0F")),
        aml.name("_UID", aml.integer(number)),
        aml.name("_PRS", possible),
        aml.method("_STA", 0, aml.give(aml.call("IQST", register))),
        aml.method("_DIS", 0, aml.bit_or(register, aml.integer(ROUTE_DISABLED), register)),
        aml.method("_CRS", 0, aml.give(aml.call("IQCR", register))),
        aml.method(
            "_SRS",
            1,
            aml.create_dword_field(aml.arg(0), resources.INTERRUPT_AT, "PRRI"),
            aml.store(aml.path("PRRI"), register),
            serialized=True,
        ),
    )


# ---- ISA -------------------------------------------------------------------------------------------------------------
def _isa(hardware: Hardware) -> bytes:
    """The bridge with the links' registers, and what is behind it."""
    return aml.device(
        "ISA",
        aml.name("_ADR", aml.integer(hardware.isa_bridge)),
        aml.region("P40C", aml.PCI_CONFIG, hardware.link_registers, len(REGISTERS)),
        aml.byte_fields("P40C", REGISTERS),
        *map(_isa_device, hardware.devices),
    )


def _isa_device(device: IsaDevice) -> bytes:
    used = [resources.io(*ports) for ports in device.ports]
    used += [resources.irq(number) for number in device.irqs]
    used += [resources.dma(channel) for channel in device.dma]
    found = [aml.name("_HID", aml.eisa_id(device.hid))]
    if device.uid is not None:
        found.append(aml.name("_UID", aml.integer(device.uid)))
    found.append(aml.name("_CRS", resources.template(*used)))
    if device.floppies is not None:
        drives = struct.pack("<5I", *device.floppies, 0, 0, NO_TAPE)
        found.append(aml.name("_FDE", aml.buffer(drives)))
    return aml.device(device.name, *found)
