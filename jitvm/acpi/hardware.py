"""What ACPI tables are made from: the facts of a board, without where they come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class IsaDevice:
    """A device with fixed resources: `ports` are (first, how many); `uid` tells devices of one kind apart."""

    name: str
    hid: str
    ports: Sequence[tuple[int, int]] = ()
    irqs: Sequence[int] = ()
    dma: Sequence[int] = ()
    uid: int | None = None
    floppies: tuple[bool, bool] | None = None
    """Of a floppy controller: which drives there are."""


@dataclass(frozen=True)
class Apics:
    """Addresses, the processors' IDs, and ISA interrupts that have another pin or are level-triggered."""

    local: int
    io: int
    ids: Sequence[int]
    pins: Mapping[int, int]
    level: Sequence[int]


@dataclass(frozen=True)
class Power:
    """The fixed hardware: ports of PM1's events and control, of the PM timer, of GPE0, of SMI commands."""

    event: int
    control: int
    timer: int
    gpe: int
    gpe_length: int
    sci: int
    smi_command: int
    acpi_enable: int
    acpi_disable: int
    soft_off: int


@dataclass(frozen=True)
class Hardware:
    """A board with one PCI bus.

    `routes`: (slot, pin from 0, link); `wired`: (slot, pin, interrupt) of pins that lead to no link.  `isa_bridge` is the
    _ADR of the function that has the links' registers, at `link_registers`, one byte each.
    """

    ram_size: int
    pci_config: tuple[int, int]
    vga_window: tuple[int, int]
    pci_memory_end: int
    routes: Sequence[tuple[int, int, int]]
    wired: Sequence[tuple[int, int, int]]
    link_irqs: Sequence[int]
    isa_bridge: int
    link_registers: int
    devices: Sequence[IsaDevice]
    fw_cfg: tuple[int, int]
    century: int
    power: Power
    apics: Apics | None
    n_cpus: int
