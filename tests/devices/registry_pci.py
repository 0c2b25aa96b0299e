"""The PCI board's chips for the conformance suite.

`devices()` gives (name, factory); factory() gives the device and its regions as (region, length, max_size).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from jitvm.backends.blockdev import MemoryDisk
from jitvm.clock import Clock
from jitvm.devices.ata_disk import AtaDisk
from jitvm.devices.atapi import AtapiCdrom
from jitvm.devices.base import Registers
from jitvm.devices.fwcfg import FwCfg
from jitvm.devices.i440fx import I440fx
from jitvm.devices.ide import BM_SIZE, Piix3Ide
from jitvm.devices.pci import PciBus, PciFunction
from jitvm.devices.piix3 import Piix3Isa
from jitvm.devices.piix4_pm import APM_LENGTH, GPE_LENGTH, PM_LENGTH, SMBUS_LENGTH, Piix4Pm
from jitvm.devices.vga import LEGACY_WINDOW, MMIO_SIZE, Vga
from jitvm.devices.vga_dispi import PORTS as DISPI_PORTS
from jitvm.irq import unconnected
from jitvm.memory import GuestMemory

Made = tuple[Any, list[tuple[Any, int, int]]]


def config_space(function: PciFunction) -> tuple[Registers, int, int]:
    """A function's configuration space as a region."""
    return Registers(function.config_read, function.config_write), 256, 4


def make_pci() -> Made:
    bus = PciBus(lambda _bar, _address: None, lambda _slot, _pin: unconnected())
    return bus, [(bus.ports(), 8, 4)]


def make_i440fx() -> Made:
    chip = I440fx(64 << 20, lambda _gpa, _size, _read, _write: None, lambda _everyone, _smm: None)
    return chip, [config_space(chip)]


def make_piix3() -> Made:
    chip = Piix3Isa([unconnected() for _ in range(16)], lambda _hard: None)
    return chip, [config_space(chip), (chip.reset_control, 1, 1)]


def small_memory() -> GuestMemory:
    memory = GuestMemory(1 << 20)
    memory.map(0, 1 << 20, 0)
    return memory


def make_fw_cfg() -> Made:
    chip = FwCfg(small_memory(), ram_size=1 << 20)
    chip.add_file("etc/e820", bytes(20))
    chip.add_file("opt/scratch", bytes(16), lambda _data: None)
    return chip, [(chip.ports, 2, 2), (chip.dma_ports, 8, 8)]


def make_piix4_pm() -> Made:
    chip = Piix4Pm(Clock(), unconnected(), lambda: None)
    windows = [(chip.pm.region, PM_LENGTH, 4), (chip.smbus.region, SMBUS_LENGTH, 1)]
    return chip, [config_space(chip), *windows, (chip.gpe, GPE_LENGTH, 4), (chip.apm, APM_LENGTH, 2)]


def make_vga() -> Made:
    chip = Vga(Clock(), bytes(5000), vram=np.zeros(1 << 18, np.uint8))
    ports = [(chip.crtc_mono, 2, 2), (chip.status_mono, 1, 2), (chip.crtc_color, 2, 2), (chip.status_color, 1, 2)]
    bars = [(chip.bars[0].region, 1 << 18, 8), (chip.bars[1].region, MMIO_SIZE, 4), (chip.bars[2].region, 8192, 8)]
    window = (chip.memory, LEGACY_WINDOW, 8)
    return chip, [config_space(chip), (chip.core, 16, 2), *ports, (chip.dispi.ports, DISPI_PORTS, 2), *bars, window]


def make_ide() -> Made:
    disks = [
        AtaDisk("hda", MemoryDisk(bytes(1 << 16))),
        None,
        AtapiCdrom("hdc", MemoryDisk(bytes(1 << 16))),
        AtaDisk("hdd", MemoryDisk(bytes(1 << 16))),
    ]
    chip = Piix3Ide(small_memory(), [unconnected(), unconnected()], disks)
    commands = [(channel, 8, 4) for channel in chip.channels]
    controls = [(channel.control, 1, 1) for channel in chip.channels]
    return chip, [*commands, *controls, (chip.bars[0].region, BM_SIZE, 4), config_space(chip)]


def devices() -> list[tuple[str, Callable[[], Made]]]:
    return [
        ("pci", make_pci),
        ("i440fx", make_i440fx),
        ("piix3", make_piix3),
        ("fw_cfg", make_fw_cfg),
        ("piix4_pm", make_piix4_pm),
        ("vga", make_vga),
        ("ide", make_ide),
    ]
