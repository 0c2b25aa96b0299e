"""The board: which chips a PC has, at which ports and addresses, on which interrupt lines.

An Intel 440FX with PIIX3 and the PIIX4's power management, as QEMU's "pc" machine: the one place of jitvm that knows
port, physical address and IRQ numbers.  Sources: Intel 82441FX (290549), 82371SB (290550) and 82371AB (290562)
datasheets, IBM PC AT Technical Reference; the CMOS bytes that firmware reads are QEMU's (hw/i386/pc, "CMOS layout").

The host mapping of guest memory holds RAM, the BIOS image, the VGA option ROM, the VGA's text memory and its video
memory, in this order.  Where the legacy VGA window shows plain memory it is mapped like RAM, and so is the linear
framebuffer: stores to the screen cost no exit.  RAM has precedence over windows that a guest puts on top of it.

Every source of reset resets the whole board and the CPU, as on QEMU's "pc"; RAM and CMOS keep what they hold.

Not modelled: the CPU-only reset that port 92h, the keyboard controller and CF9h give on real boards; parallel ports;
memory above 4 GiB; a floppy controller without a floppy.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from jitvm.backends.blockdev import BlockDevice
from jitvm.backends.chardev import CharBackend
from jitvm.bus import Bus, Region
from jitvm.bus import Mapping as BusMapping
from jitvm.clock import Clock
from jitvm.devices.apic_bus import ApicBus, ApicOrders, ApicWindow
from jitvm.devices.ata import AtaDevice
from jitvm.devices.ata_disk import HEADS, SECTORS_PER_TRACK, AtaDisk
from jitvm.devices.base import Device
from jitvm.devices.debugcon import DebugCon, Sink
from jitvm.devices.dma8237 import DmaPair
from jitvm.devices.floppy import FloppyController
from jitvm.devices.floppy_media import FloppyDrive
from jitvm.devices.fwcfg import BOOT_MENU, E820_RAM, IRQ0_OVERRIDE, FwCfg, e820
from jitvm.devices.i440fx import SEGMENTS, I440fx
from jitvm.devices.i8042 import I8042
from jitvm.devices.ide import Piix3Ide
from jitvm.devices.ioapic import SIZE as IOAPIC_SIZE
from jitvm.devices.ioapic import IoApic
from jitvm.devices.isa_debug_exit import IsaDebugExit
from jitvm.devices.lapic import SIZE as LAPIC_SIZE
from jitvm.devices.lapic import LocalApic, Processor
from jitvm.devices.numeric_error import NumericError
from jitvm.devices.pci import Bar, PciBus
from jitvm.devices.pflash import Pflash
from jitvm.devices.pic8259 import PicPair
from jitvm.devices.piix3 import Piix3Isa
from jitvm.devices.piix4_pm import Piix4Pm
from jitvm.devices.pit8254 import Pit8254
from jitvm.devices.ps2keyboard import Ps2Keyboard
from jitvm.devices.rtc146818 import Rtc146818
from jitvm.devices.sysctl import SystemControl
from jitvm.devices.uart16550 import Uart16550
from jitvm.devices.vga import DEFAULT_VRAM, TEXT_SIZE, Vga
from jitvm.devices.vga_memory import LinearWindow
from jitvm.errors import ConfigError, ImageError
from jitvm.irq import IrqLine, OrLine
from jitvm.kernel_boot import KernelBoot
from jitvm.memory import PAGE, GuestMemory
from jitvm.trace import SILENT, Trace

# ---- physical addresses ---------------------------------------------------------------------------------------------
GPA_LIMIT, BUS_LIMIT = 1 << 32, 1 << 52
IOAPIC, LAPIC, APIC_ORDERS = 0xFEC0_0000, 0xFEE0_0000, BUS_LIMIT - 0x1000
VGA_WINDOW, VGA_WINDOW_SIZE = 0xA_0000, 0x2_0000
BIOS_TOP, LOW_BIOS_TOP, LOW_BIOS_SIZE = 1 << 32, 0x10_0000, 0x2_0000
"""The BIOS image ends at 4 GiB; its last 128 KiB are seen below 1 MiB, too."""

# ---- interrupts -----------------------------------------------------------------------------------------------------
IRQ_PIT, IRQ_KEYBOARD, IRQ_COM2, IRQ_COM1, IRQ_RTC, IRQ_SCI, IRQ_MOUSE, IRQ_IDE = 0, 1, 3, 4, 8, 9, 12, (14, 15)
IRQ_FLOPPY, IRQ_NUMERIC_ERROR = 6, 13

IRQS_PCI = (5, 10, 11)
"""Those to which firmware routes the PIRQ inputs: level-triggered."""
PIN_PIT = 2
"""The I/O APIC's pin of the timer; every other ISA interrupt has its own number there."""

# ---- ports ----------------------------------------------------------------------------------------------------------
PORTS = 0x1_0000
SERIALS = ((0x3F8, IRQ_COM1), (0x2F8, IRQ_COM2), (0x3E8, IRQ_COM1), (0x2E8, IRQ_COM2))
IDE_COMMAND, IDE_CONTROL = (0x1F0, 0x170), (0x3F6, 0x376)
PCI_CONFIG = 0xCF8
PM_BASE = 0x600
"""Where SeaBIOS puts the PIIX4's power management, which firmware may put elsewhere."""
DEBUG_MARKS_PORT = 0xE9
"""The debug port whose bytes are noted with their instruction counts."""

# ---- PCI slots ------------------------------------------------------------------------------------------------------
SLOT_HOST, SLOT_PIIX, SLOT_VGA = 0, 1, 2
PIIX_ISA, PIIX_IDE, PIIX_PM = 0, 1, 3

# ---- CMOS bytes that firmware reads ---------------------------------------------------------------------------------
CMOS_FLOPPIES, CMOS_DISK_TYPES, CMOS_EQUIPMENT = 0x10, 0x12, 0x14
CMOS_BASE_KB, CMOS_EXTENDED_KB, CMOS_TYPE_C = 0x15, 0x17, 0x19
CMOS_GEOMETRY = (0x1B, 0x24)
CMOS_EXTENDED_KB_FOUND, CMOS_ABOVE_16M, CMOS_BOOT_LOW, CMOS_TRANSLATION = 0x30, 0x34, 0x38, 0x39
CMOS_BOOT_HIGH, CMOS_ABOVE_4G, CMOS_CPUS = 0x3D, 0x5B, 0x5F
EQUIPMENT_FLOPPIES, EQUIPMENT_FPU, EQUIPMENT_MOUSE_PORT, EQUIPMENT_MORE_FLOPPIES = 0x01, 0x02, 0x04, 0x40
USER_DISK_TYPE, NO_PRECOMPENSATION = 47, 0xFFFF
BASE_MEMORY_KB = 640
BOOT_CODES = {"a": 1, "c": 2, "d": 3, "n": 4}
DEFAULT_BOOT = "cad"

VGA_ROM_PATHS = (Path("/usr/share/seabios/vgabios-stdvga.bin"), Path("/usr/share/qemu/vgabios-stdvga.bin"))
"""Where distributions install the option ROM of the standard VGA."""


@dataclass(frozen=True)
class Lines:
    """What the board tells its owner; all are called inside an access of the guest, with the machine lock held.

    `intr` is the processor's INTR.  `on_a20(level)`; `on_reset(cause)`, which must not reset at once; `on_power_off()`;
    `on_debug_exit(status)`; `on_smi()`; `on_smram(seen)`: A0000h is RAM in system management mode.
    `on_ignne()`: IGNNE# is asserted.
    """

    intr: IrqLine
    on_a20: Callable[[bool], None]
    on_reset: Callable[[str], None]
    on_power_off: Callable[[], None]
    on_debug_exit: Callable[[int], None]
    on_smi: Callable[[], None]
    on_smram: Callable[[bool], None]
    on_ignne: Callable[[], None]


@dataclass(frozen=True)
class Wire:
    """An input of the interrupt controllers and the chip that drives it."""

    irq: int
    owner: str
    line: IrqLine


@dataclass(frozen=True)
class Parts:
    """What is plugged in.

    `bios` is the image, or `flashes` are (the first one ends at 4 GiB, the second one below it); `vga_rom` an option ROM or
    b""; `drives` four IDE drives (primary and secondary, master and slave) or None; `floppies` drives A and B or None;
    `serials` the backends of COM1 to COM4; `debugcons` (port, sink) pairs; `debug_exit` (port, size) of an isa-debug-exit or
    None; `boot` letters as in --boot; `kernel` one that comes before them; `rtc_base` the time at virtual time 0; `fpu`:
    the processor has one; `apic`: it has a local APIC, and the board an I/O APIC; `apic_ids` of all processors.
    """

    ram_size: int
    bios: bytes
    rtc_base: datetime
    vga_rom: bytes = b""
    drives: Sequence[AtaDevice | None] = (None, None, None, None)
    floppies: Sequence[FloppyDrive | None] = (None, None)
    serials: Sequence[CharBackend] = ()
    flashes: Sequence[BlockDevice] = ()
    debugcons: Sequence[tuple[int, Sink]] = ()
    debug_exit: tuple[int, int] | None = None
    boot: str = ""
    boot_menu: bool = False
    kernel: KernelBoot | None = None
    apic_ids: Sequence[int] = (0,)
    apic: bool = False
    fpu: bool = False


def find_vga_rom() -> bytes:
    """The installed option ROM of the standard VGA, b"" when there is none: the VGA then has no BIOS."""
    for path in VGA_ROM_PATHS:
        if path.is_file():
            try:
                return path.read_bytes()
            except OSError as e:
                raise ImageError(f"VGA option ROM '{path}' can't be read: {e.strerror}") from None
    return b""


def cmos_bytes(parts: Parts) -> dict[int, int]:
    """The CMOS bytes that a PC's set-up program would have left."""
    words = {
        CMOS_BASE_KB: BASE_MEMORY_KB,
        CMOS_EXTENDED_KB: (extended := min(max(parts.ram_size - (1 << 20) >> 10, 0), 0xFFFF)),
        CMOS_EXTENDED_KB_FOUND: extended,
        CMOS_ABOVE_16M: min(max(parts.ram_size - (16 << 20) >> 16, 0), 0xFFFF),
    }
    first, second = (0 if floppy is None else floppy.form.drive for floppy in parts.floppies)
    equipment = EQUIPMENT_MOUSE_PORT | EQUIPMENT_FPU * parts.fpu | EQUIPMENT_FLOPPIES * bool(first or second)
    equipment |= EQUIPMENT_MORE_FLOPPIES * bool(first and second)
    found = {CMOS_EQUIPMENT: equipment, CMOS_CPUS: len(parts.apic_ids) - 1, CMOS_FLOPPIES: first << 4 | second}
    for index, value in words.items():
        found |= {index: value & 0xFF, index + 1: value >> 8}
    found |= dict.fromkeys(range(CMOS_ABOVE_4G, CMOS_ABOVE_4G + 3), 0)
    order = [BOOT_CODES[letter] for letter in parts.boot or DEFAULT_BOOT][:3]
    order += [0] * (3 - len(order))
    found |= {CMOS_BOOT_HIGH: order[1] << 4 | order[0], CMOS_BOOT_LOW: order[2] << 4}
    types = translation = 0
    for index, drive in enumerate(parts.drives):
        if not isinstance(drive, AtaDisk):
            continue
        cylinders = drive.cylinders
        translation |= _translation(cylinders) << 2 * index
        if index < len(CMOS_GEOMETRY):
            types |= 0xF0 >> 4 * index
            found[CMOS_TYPE_C + index] = USER_DISK_TYPE
            geometry = struct.pack("<HBHBHB", cylinders, HEADS, NO_PRECOMPENSATION, 0xC8, cylinders, SECTORS_PER_TRACK)
            found |= dict(enumerate(geometry, CMOS_GEOMETRY[index]))
    return found | {CMOS_DISK_TYPES: types, CMOS_TRANSLATION: translation}


def pirq(slot: int, pin: int) -> int:
    """The PIRQ input (0: A) to which an interrupt pin (0: INTA#) of a slot leads."""
    return (slot - 1 + pin) & 3


def _translation(cylinders: int) -> int:
    """How firmware shall make CHS addresses of 10-bit cylinders: 0 as they are, 1 LBA, 2 by doubling heads."""
    if cylinders <= 1024:
        return 0
    return 2 if cylinders * HEADS <= 0x2_0000 else 1


class Board:
    """All chips, wired.  `ports` and `mmio` are the buses, `memory` the guest's memory; chips are attributes."""

    def __init__(self, parts: Parts, clock: Clock, lines: Lines, trace: Trace = SILENT) -> None:
        self.parts, self.clock, self.trace, self._lines = parts, clock, trace, lines
        self.ports = Bus("port", PORTS, direct=True, trace=trace)
        self.mmio = Bus("mmio", BUS_LIMIT, trace=trace)
        self._make_memory()
        self.pic = PicPair(lines.intr, trace)
        self.wires: list[Wire] = []
        self.owners: dict[str, str] = {}
        """Names of chips by those of their ranges of ports and of physical addresses, but for PCI windows."""
        self._make_apics()
        self._shared = {irq: OrLine(self._isa_line(irq)) for irq in range(16)}
        self._windows: dict[str, BusMapping | tuple[int, int]] = {}
        self._make_isa()
        self._make_pci()
        self._make_serials()
        self._make_firmware_ports()
        self._make_flashes()
        self._devices: list[Device] = [
            self.pic, self.pit, self.rtc, self.keyboard, self.i8042, self.sysctl, self.dma, self.numeric_error,
            self.fw_cfg, *self.uarts,
            self.pci, *self.pci.functions.values(), *self.debug_ports, *([self.ioapic] if self.ioapic else []),
            *([self.floppy] if self.floppy else []), *self.flashes,
        ]  # fmt: skip
        self._map_memory()

    def irq(self, number: int, owner: str) -> IrqLine:
        """A new wire from a chip to an ISA interrupt; several may share one."""
        line = self._shared[number].input()
        self.wires.append(Wire(number, owner, line))
        return line

    # Interrupt controllers of processors with an APIC

    def _make_apics(self) -> None:
        """The I/O APIC and the page of the local ones; none for processors without."""
        self.apic_bus, self.apic_window = ApicBus(), ApicWindow()
        self.ioapic: IoApic | None = None
        if not self.parts.apic:
            return
        self.ioapic = IoApic(self.apic_bus, self.trace)
        self.apic_bus.on_eoi.append(self.ioapic.end_of_interrupt)
        self.mmio.map(IOAPIC, IOAPIC_SIZE, self.ioapic, name="ioapic", max_size=4)
        self.mmio.map(LAPIC, LAPIC_SIZE, self.apic_window, name="lapic", max_size=8)
        self.mmio.map(APIC_ORDERS, LAPIC_SIZE, ApicOrders(self.apic_window), name="lapic msrs", max_size=8)
        self.owners |= {"ioapic": "ioapic", "lapic": "lapic0", "lapic msrs": "lapic0"}

    def _isa_line(self, irq: int) -> IrqLine:
        """An ISA interrupt: it leads to the 8259A and, with its own number but for the timer, to the I/O APIC."""
        line, ioapic = self.pic.line(irq), self.ioapic
        if ioapic is None:
            return line
        pin = PIN_PIT if irq == IRQ_PIT else irq

        def sink(level: bool) -> None:
            line.set(level)
            ioapic.set_input(pin, level)

        return IrqLine(sink)

    def add_apic(self, apic_id: int, processor: Processor) -> LocalApic:
        """The local APIC of the next processor; the 8259A's INTR leads to it."""
        apic = LocalApic(
            apic_id, self.clock, processor, self.apic_bus, self.pic.acknowledge, bootstrap=apic_id == 0, trace=self.trace
        )
        self.apic_bus.locals.append(apic)
        self._devices.append(apic)
        return apic

    # Memory

    def _make_memory(self) -> None:
        """The host mapping: RAM, then ROMs, then the VGA's two memories."""
        parts = self.parts
        rom_size = 1 << max(len(parts.vga_rom) - 1, PAGE - 1).bit_length() if parts.vga_rom else 0
        firmware = parts.bios or b"".join(flash.read(0, flash.size) for flash in reversed(parts.flashes))
        self._bios_size = len(firmware)
        extra = self._bios_size + rom_size + TEXT_SIZE + DEFAULT_VRAM
        self.memory = GuestMemory(parts.ram_size, extra)
        self._bios = self.memory.add_rom(firmware)
        self._vga_rom = self.memory.add_rom(parts.vga_rom.ljust(rom_size, b"\0"))
        self._vram = self.memory.size - DEFAULT_VRAM
        self._text = self._vram - TEXT_SIZE
        self._smram_open = False
        self._window: LinearWindow | None = None

    def _map_memory(self) -> None:
        """RAM, the BIOS below 4 GiB, and what PAM and the VGA say of the first megabyte."""
        memory, size = self.memory, self._bios_size
        memory.map(0, self.parts.ram_size, 0)
        memory.map(BIOS_TOP - size, size, self._bios)
        memory.map(BIOS_TOP - size, size, None, read=False)
        self._map_vga_window()
        for _, _, gpa, length in SEGMENTS:
            self._map_segment(gpa, length, False, False)

    def _low_rom(self, gpa: int) -> int | None:
        """Offset of what PCI shows at an address below 1 MiB: the BIOS image's end, or nothing."""
        offset = self._bios + self._bios_size - (LOW_BIOS_TOP - gpa)
        return offset if gpa >= LOW_BIOS_TOP - min(LOW_BIOS_SIZE, self._bios_size) else None

    def _map_segment(self, gpa: int, size: int, read_ram: bool, write_ram: bool) -> None:
        """PAM: reads from RAM or the ROM, writes to RAM or nowhere."""
        self.memory.map(gpa, size, gpa if read_ram else self._low_rom(gpa), write=False)
        self.memory.map(gpa, size, gpa if write_ram else None, read=False)
        if self.trace.wants("memory_map"):
            what = f"read {'RAM' if read_ram else 'ROM'}, write {'RAM' if write_ram else 'nowhere'}"
            self.trace("memory_map", gpa=gpa, size=size, what=what)

    def _on_smram(self, everyone: bool, smm: bool) -> None:
        self._smram_open = everyone
        self._lines.on_smram(smm)
        self._map_vga_window()

    def _on_linear(self, window: LinearWindow | None) -> None:
        self._window = window
        self._map_vga_window()

    def _map_vga_window(self) -> None:
        """A0000h: RAM while SMRAM is open, else the VGA, as memory where its window is linear."""
        if self._smram_open:
            self.memory.map(VGA_WINDOW, VGA_WINDOW_SIZE, VGA_WINDOW)
            return
        self.memory.map(VGA_WINDOW, VGA_WINDOW_SIZE, None)
        if self._window is not None:
            base = self._text if self._window.array == "text" else self._vram
            self.memory.map(VGA_WINDOW + self._window.offset, self._window.size, base + self._window.start)

    # Chips

    def _put(self, owner: str, base: int, length: int, region: Region, name: str, max_size: int = 1) -> None:
        self.ports.map(base, length, region, name=name, max_size=max_size)
        self.owners[name] = owner

    def _make_isa(self) -> None:
        clock, trace, lines, put = self.clock, self.trace, self._lines, self._put
        self.pit = Pit8254(clock, self.irq(IRQ_PIT, "pit"), trace)
        self.rtc = Rtc146818(clock, self.irq(IRQ_RTC, "rtc"), self.parts.rtc_base, cmos_bytes(self.parts), trace)
        self.keyboard = Ps2Keyboard(clock, trace)
        keys, mouse = self.irq(IRQ_KEYBOARD, "i8042"), self.irq(IRQ_MOUSE, "i8042")
        self.i8042 = I8042(clock, self.keyboard, keys, mouse, lines.on_a20, lines.on_reset, trace)
        self.sysctl = SystemControl(clock, self.pit, lines.on_a20, lines.on_reset, trace)
        self.dma = DmaPair(self.memory, trace)
        self.floppy: FloppyController | None = None
        if any(self.parts.floppies):
            self.floppy = FloppyController(clock, self.irq(IRQ_FLOPPY, "floppy"), self.dma, self.parts.floppies, trace)
            put("floppy", 0x3F0, 6, self.floppy.ports, "floppy")
            put("floppy", 0x3F7, 1, self.floppy.dir_ccr, "floppy dir")
        self.numeric_error = NumericError(self.irq(IRQ_NUMERIC_ERROR, "numeric-error"), lines.on_ignne)
        put("dma", 0x000, 16, self.dma.low, "dma-1")
        put("pic", 0x020, 2, self.pic.master, "pic-master")
        put("pit", 0x040, 4, self.pit, "pit")
        put("i8042", 0x060, 1, self.i8042.data_port, "i8042 data")
        put("sysctl", 0x061, 1, self.sysctl.port61, "port 61h")
        put("i8042", 0x064, 1, self.i8042.command_port, "i8042 command")
        put("rtc", 0x070, 2, self.rtc, "rtc")
        put("sysctl", 0x080, 1, self.sysctl.port80, "POST code")
        put("dma", 0x081, 15, self.dma.pages, "dma pages")
        put("sysctl", 0x092, 1, self.sysctl.port92, "port 92h")
        put("pic", 0x0A0, 2, self.pic.slave, "pic-slave")
        put("dma", 0x0C0, 32, self.dma.high, "dma-2")
        put("numeric-error", 0x0F0, 2, self.numeric_error, "numeric error")
        put("pic", 0x4D0, 2, self.pic.elcr, "elcr")

    def _make_pci(self) -> None:
        """The 440FX and the functions of its bus 0."""
        clock, trace, put, lines = self.clock, self.trace, self._put, self._lines
        self.i440fx = I440fx(self.parts.ram_size, self._map_segment, self._on_smram, trace)
        pirqs = [self.irq(n, "piix3") for n in range(16)]
        self.piix3 = Piix3Isa(pirqs, lambda _hard: lines.on_reset("port CF9h"), trace)
        self.ide = Piix3Ide(self.memory, [self.irq(n, "ide") for n in IRQ_IDE], self.parts.drives, trace)
        sci, n_serials = self.irq(IRQ_SCI, "piix4_pm"), len(self.parts.serials)
        self.pm = Piix4Pm(clock, sci, lines.on_power_off, lines.on_smi, trace, n_serials)
        vram = self.memory.bytes[self._vram : self._vram + DEFAULT_VRAM]
        text = self.memory.bytes[self._text : self._text + TEXT_SIZE]
        self.vga = Vga(clock, self.parts.vga_rom, vram=vram, text=text, trace=trace)
        self.vga.memory.on_linear = self._on_linear
        for bar in self.vga.bars:
            bar.memory_offset = {"vga.vram": self._vram, "vga.rom": self._vga_rom}.get(bar.name)
        self.pci = PciBus(self._on_bar, lambda slot, pin: self.piix3.pirq(pirq(slot, pin - 1)), trace)
        self.pci.attach(SLOT_HOST, 0, self.i440fx)
        self.pci.attach(SLOT_PIIX, PIIX_ISA, self.piix3)
        self.pci.attach(SLOT_PIIX, PIIX_IDE, self.ide)
        self.pci.attach(SLOT_PIIX, PIIX_PM, self.pm)
        self.pci.attach(SLOT_VGA, 0, self.vga)
        put("pci", PCI_CONFIG, 8, self.pci.ports(self.piix3.reset_control), "pci configuration", 4)
        for channel, command, control in zip(self.ide.channels, IDE_COMMAND, IDE_CONTROL, strict=True):
            put("ide", command, 8, channel, channel.name, 4)
            put("ide", control, 1, channel.control, f"{channel.name} control")
        put("piix4_pm", 0x0B2, 2, self.pm.apm, "apm", 2)
        put("piix4_pm", 0xAFE0, 4, self.pm.gpe, "gpe", 4)
        put("vga", 0x1CE, 4, self.vga.dispi.ports, "vga dispi", 2)
        put("vga", 0x3B4, 2, self.vga.crtc_mono, "vga crtc mono", 2)
        put("vga", 0x3BA, 1, self.vga.status_mono, "vga status mono", 2)
        put("vga", 0x3C0, 16, self.vga.core, "vga", 2)
        put("vga", 0x3D4, 2, self.vga.crtc_color, "vga crtc", 2)
        put("vga", 0x3DA, 1, self.vga.status_color, "vga status", 2)
        self.mmio.map(VGA_WINDOW, VGA_WINDOW_SIZE, self.vga.memory, name="vga window", max_size=8)
        self.owners["vga window"] = "vga"

    def _make_serials(self) -> None:
        self.uarts: list[Uart16550] = []
        for number, (backend, (port, irq)) in enumerate(zip(self.parts.serials, SERIALS, strict=False), 1):
            name = f"com{number}"
            uart = Uart16550(name, self.irq(irq, name), self.clock, backend, self.trace)
            self._put(name, port, 8, uart, name)
            self.uarts.append(uart)

    def _make_firmware_ports(self) -> None:
        """fw_cfg, debug consoles, isa-debug-exit."""
        parts = self.parts
        self.fw_cfg = FwCfg(
            self.memory, ram_size=parts.ram_size, n_cpus=len(parts.apic_ids), max_cpus=parts.apic_ids[-1] + 1,
            trace=self.trace,
        )  # fmt: skip
        self.fw_cfg.add_item(BOOT_MENU, struct.pack("<H", parts.boot_menu))
        if parts.apic:
            self.fw_cfg.add_item(IRQ0_OVERRIDE, struct.pack("<I", 1))
        self.fw_cfg.add_file("etc/e820", e820([(0, parts.ram_size, E820_RAM)]))
        self.fw_cfg.add_file("bootorder", f"/rom@{parts.kernel.rom_name}\0".encode() if parts.kernel else b"")
        if parts.kernel is not None:
            self.fw_cfg.add_file(parts.kernel.rom_name, parts.kernel.rom)
            for key, data in parts.kernel.items.items():
                self.fw_cfg.add_item(key, data)
        self.fw_cfg.add_file("etc/boot-fail-wait", struct.pack("<i", -1))
        self.fw_cfg.add_file("etc/system-states", bytes((0x80, 0, 0, 1, 2, 0x80)))
        self._put("fw_cfg", 0x510, 2, self.fw_cfg.ports, "fw_cfg", 2)
        self._put("fw_cfg", 0x514, 8, self.fw_cfg.dma_ports, "fw_cfg dma", 8)
        self.debug_ports: list[Device] = []
        for port, sink in parts.debugcons:
            debugcon = DebugCon(sink, f"debugcon {port:x}h")
            self._put(debugcon.name, port, 1, debugcon, debugcon.name)
            self.debug_ports.append(debugcon)
        if parts.debug_exit is not None:
            port, size = parts.debug_exit
            debug_exit = IsaDebugExit(self._lines.on_debug_exit)
            self._put(debug_exit.name, port, size, debug_exit, debug_exit.name, size)
            self.debug_ports.append(debug_exit)

    def _make_flashes(self) -> None:
        """Flashes from 4 GiB downwards: what they hold is memory to readers, writes are theirs."""
        self.flashes: list[Pflash] = []
        base = BIOS_TOP
        for number, disk in enumerate(self.parts.flashes):
            base -= disk.size
            place = base, disk.size, self._bios + self._bios_size - (BIOS_TOP - base)
            flash = Pflash(f"pflash{number}", disk, *self._flash_memory(*place), self.trace)
            self.mmio.map(base, disk.size, flash, name=flash.name)
            self.owners[flash.name] = flash.name
            self.flashes.append(flash)

    def _flash_memory(self, gpa: int, size: int, offset: int) -> tuple[Callable[[int, bytes], None], Callable[[bool], None]]:
        """How a flash's bytes change, and how they are shown or hidden."""
        return (
            lambda at, data: self.memory.patch(offset + at, data),
            lambda seen: self.memory.map(gpa, size, offset if seen else None, write=False),
        )

    # PCI windows

    def _on_bar(self, bar: Bar, address: int | None) -> None:
        """A window of a PCI function moves; where it would lie on top of another one it is not seen."""
        before = self._windows.pop(bar.name, None)
        if isinstance(before, tuple):
            self.memory.map(*before, None)
        elif before is not None:
            (self.ports if bar.kind == "io" else self.mmio).unmap(before)
        if address is None:
            return
        try:
            if bar.memory_offset is not None:
                self._windows[bar.name] = self._map_window(bar, address, bar.memory_offset)
            else:
                bus = self.ports if bar.kind == "io" else self.mmio
                self._windows[bar.name] = bus.map(address, bar.size, bar.region, name=bar.name, max_size=bar.max_size)
        except ConfigError as e:
            self.trace("guest_error", device=bar.name, what=str(e), value=address)
        if self.trace.wants("memory_map") and bar.name in self._windows:
            self.trace("memory_map", gpa=address, size=bar.size, what=bar.name)

    def _map_window(self, bar: Bar, address: int, offset: int) -> tuple[int, int]:
        """Show a window's memory at `address`; `ConfigError` where other memory is."""
        if address % PAGE or address + bar.size > GPA_LIMIT:
            raise ConfigError(f"{bar.name} at {address:#x}+{bar.size:#x} is not made of whole pages below 4 GiB")
        pages = slice(address // PAGE, (address + bar.size) // PAGE)
        if self.memory.page_read[pages].any() or self.memory.page_write[pages].any():
            raise ConfigError(f"{bar.name} at {address:#x}+{bar.size:#x} overlaps other memory")
        self.memory.map(address, bar.size, offset, write=bar.kind == "mem")
        return address, bar.size

    # Whole board

    def memory_map(self) -> list[tuple[int, int, str]]:
        """(first address, first address behind, what) of the physical address space, neighbours joined."""
        names = sorted((*self._extents(), (self.memory.size, "")))
        found: list[tuple[int, int, str]] = []
        read, write = self.memory.page_read, self.memory.page_write
        for page in (read | write).nonzero()[0].tolist():
            way = "ro" if not write[page] else "rw" if read[page] == write[page] else "reads here, writes elsewhere"
            at = int(read[page] or write[page]) & -PAGE
            name = next(name for (start, name), (end, _) in itertools.pairwise(names) if start <= at < end)
            gpa, what = page * PAGE, f"{name} {way}"
            if found and found[-1][1] == gpa and found[-1][2] == what:
                found[-1] = (found[-1][0], gpa + PAGE, what)
            else:
                found.append((gpa, gpa + PAGE, what))
        windows = [(m.base, m.end, f"{m.name} (device)") for m in self.mmio.mappings()]
        return sorted([*found, *windows])

    def _extents(self) -> list[tuple[int, str]]:
        """Where in the host mapping what begins."""
        named = [(0, "RAM"), (self._bios, "BIOS"), (self._text, "VGA text"), (self._vram, "VGA framebuffer")]
        return [*named, (self._vga_rom, "VGA ROM")] if self.parts.vga_rom else named

    def ranges(self) -> list[tuple[str, int, int, str, str]]:
        """(port, mmio or memory; first; first behind; name; chip) of all that chips answer to, lowest first.

        A PCI window's name begins with its function's.
        """
        found = [(bus.space, m.base, m.end, m.name) for bus in (self.ports, self.mmio) for m in bus.mappings()]
        windows = [(name, place) for name, place in self._windows.items() if isinstance(place, tuple)]
        found += [("memory", base, base + size, name) for name, (base, size) in windows]
        return [(*place, self.owners.get(place[3]) or place[3].partition(".")[0]) for place in sorted(found)]

    def device(self, name: str) -> Device:
        """A chip by its name; `KeyError` for one that the board does not have."""
        return {device.name: device for device in self._devices}[name]

    def devices(self) -> list[Device]:
        """All chips, in the order in which they are reset."""
        return list(self._devices)

    def reset(self) -> None:
        """RESET#: every chip; PAM and the PCI windows are back where they were at power-on.  RAM keeps its contents."""
        for device in self._devices:
            device.reset()
