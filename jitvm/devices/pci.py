"""A PCI bus: configuration mechanism 1, functions with their 256 bytes of configuration space, BARs, INTx wires.

PCI Local Bus Specification 2.1: 3.2.2.3.2 (mechanism 1), 6.1 and 6.2 (configuration space), 6.2.5 (base addresses).

The function knows where its windows lie; the board puts them on a bus.  Whenever the command register or a base address
changes, `on_bar(bar, address)` is called: `address` is where the window starts now, or None when it is not decoded.  A
window at 0, or one that runs over the end of its space, is not decoded (what a BAR holds while it is being sized).

Not modelled: other buses than 0 (type 1 cycles read all ones), special cycles, parity and system errors, MSI, latency
timer and cache line size (stored without effect), built-in self test, the I/O and memory windows of bridges.
"""

from __future__ import annotations

from collections.abc import Callable

from jitvm.devices.base import Registers, Snapshot
from jitvm.irq import IrqLine, unconnected
from jitvm.trace import SILENT, Trace

VENDOR_ID, DEVICE_ID, COMMAND, STATUS, REVISION, CLASS, HEADER_TYPE = 0x00, 0x02, 0x04, 0x06, 0x08, 0x09, 0x0E
BAR0, SUBSYSTEM_VENDOR, SUBSYSTEM, ROM_ADDRESS, CAPABILITIES = 0x10, 0x2C, 0x2E, 0x30, 0x34
INTERRUPT_LINE, INTERRUPT_PIN = 0x3C, 0x3D

COMMAND_IO, COMMAND_MEMORY, COMMAND_MASTER, COMMAND_INTX_DISABLE = 1, 2, 4, 0x400
COMMAND_WRITABLE = 0x0547
"""I/O, memory, master, parity response, SERR# enable, INTx disable."""
STATUS_INTX, STATUS_CAPABILITIES, STATUS_DEVSEL_MEDIUM = 0x08, 0x10, 0x0200
STATUS_WRITE_1_CLEAR = 0xF900
MULTIFUNCTION = 0x80
ROM_BAR = 6
"""Index of the expansion ROM's base address among a function's BARs."""
ADDRESS_ENABLE = 0x8000_0000
CF8_LENGTH = 8
"""The two registers of mechanism 1 are one region of eight ports."""


class Bar:
    """A window of a function: an I/O or memory base address, the ROM, or a chip's own base register.

    `kind` is "io", "mem" or "rom".  `region` answers inside the window, up to `max_size` bytes at once.
    `memory_offset` is the board's: where guest memory holds the bytes of a window that is plain memory.
    """

    __slots__ = ("address", "index", "kind", "max_size", "memory_offset", "name", "region", "size", "wide")

    def __init__(
        self, name: str, index: int, kind: str, size: int, region: Registers, max_size: int, wide: bool = False
    ) -> None:
        self.name, self.index, self.kind, self.size = name, index, kind, size
        self.region, self.max_size, self.wide = region, max_size, wide
        self.address: int | None = None
        self.memory_offset: int | None = None

    @property
    def register(self) -> int:
        """Offset of the base address in configuration space."""
        return ROM_ADDRESS if self.index == ROM_BAR else BAR0 + 4 * self.index


def ignore_bar(_bar: Bar, _address: int | None) -> None:
    """The `on_bar` of a function that is on no bus."""


class PciFunction:
    """One function: configuration space with write masks, BARs and an INTx pin.

    A chip derives from it, sets its reset values with `define` and overrides `config_written` for registers of its own.
    """

    def __init__(
        self,
        name: str,
        *,
        vendor: int,
        device: int,
        class_code: int,
        revision: int = 0,
        status: int = 0,
        header_type: int = 0,
        subsystem: tuple[int, int] = (0x1AF4, 0x1100),
        interrupt_pin: int = 0,
        trace: Trace = SILENT,
    ) -> None:
        self.name, self.trace = name, trace
        self.config = bytearray(256)
        self.bars: list[Bar] = []
        self.on_bar: Callable[[Bar, int | None], None] = ignore_bar
        self.intx = unconnected()
        self._intx_level = False
        self._defaults = bytearray(256)
        self._writable = bytearray(256)
        self._write_1_clear = bytearray(256)
        self._capability_end = 0x40
        self.define(VENDOR_ID, 2, vendor)
        self.define(DEVICE_ID, 2, device)
        self.define(COMMAND, 2, 0, COMMAND_WRITABLE)
        self.define(STATUS, 2, status, write_1_clear=STATUS_WRITE_1_CLEAR)
        self.define(REVISION, 1, revision)
        self.define(CLASS, 3, class_code)
        self.define(0x0C, 2, 0, 0xFFFF)
        self.define(HEADER_TYPE, 1, header_type)
        self.define(SUBSYSTEM_VENDOR, 2, subsystem[0])
        self.define(SUBSYSTEM, 2, subsystem[1])
        self.define(INTERRUPT_LINE, 1, 0, 0xFF)
        self.define(INTERRUPT_PIN, 1, interrupt_pin)

    def define(self, offset: int, size: int, value: int, writable: int = 0, *, write_1_clear: int = 0) -> None:
        """Reset value of a register, the bits that software can write, and the bits that writing 1 clears."""
        end = offset + size
        self._defaults[offset:end] = value.to_bytes(size, "little")
        self._writable[offset:end] = writable.to_bytes(size, "little")
        self._write_1_clear[offset:end] = write_1_clear.to_bytes(size, "little")
        self.config[offset:end] = self._defaults[offset:end]

    def add_bar(
        self,
        name: str,
        index: int,
        kind: str,
        size: int,
        region: Registers,
        *,
        max_size: int = 4,
        prefetchable: bool = False,
        wide: bool = False,
    ) -> Bar:
        """A base address register: `size` is a power of two; `wide` takes two registers (64-bit memory)."""
        bar = Bar(name, index, kind, size, region, max_size, wide)
        low = 1 if kind == "io" else 0 if kind == "rom" else 8 * prefetchable | 4 * wide
        mask = -size & (0xFFFF_FFFF_FFFF_FFFF if wide else 0xFFFF_FFFF)
        self.define(bar.register, 8 if wide else 4, low, mask | (1 if kind == "rom" else 0))
        self.bars.append(bar)
        return bar

    def add_capability(self, ident: int, body: bytes, writable: bytes = b"") -> int:
        """A capability with `body` behind its two header bytes; its offset.  The newest is the first in the list."""
        offset = self._capability_end
        self._capability_end = (offset + 2 + len(body) + 3) & ~3
        self.define(offset, 1, ident)
        self.define(offset + 1, 1, self._defaults[CAPABILITIES])
        mask = int.from_bytes(writable, "little")
        self.define(offset + 2, len(body), int.from_bytes(body, "little"), mask)
        self.define(CAPABILITIES, 1, offset)
        status = int.from_bytes(self._defaults[STATUS : STATUS + 2], "little")
        self.define(STATUS, 2, status | STATUS_CAPABILITIES, write_1_clear=STATUS_WRITE_1_CLEAR)
        return offset

    def register(self, offset: int, size: int) -> int:
        """A register's value."""
        return int.from_bytes(self.config[offset : offset + size], "little")

    def config_read(self, offset: int, size: int) -> int:
        """A configuration read of 1, 2 or 4 bytes; what lies behind the 256 bytes reads as zeros."""
        return int.from_bytes(self.config[offset : offset + size], "little")

    def config_write(self, offset: int, size: int, value: int) -> None:
        """A configuration write of 1, 2 or 4 bytes, through the write masks."""
        size = min(size, 256 - offset)
        config, writable, clear = self.config, self._writable, self._write_1_clear
        for at in range(offset, offset + size):
            byte, value = value & 0xFF, value >> 8
            config[at] = ((config[at] & ~writable[at]) | (byte & writable[at])) & ~(byte & clear[at])
        if offset < COMMAND + 2 and offset + size > COMMAND:
            self._drive_intx()
            self.place_windows()
        elif offset < ROM_ADDRESS + 4 and offset + size > BAR0:
            self.place_windows()
        self.config_written(offset, size)

    def config_written(self, offset: int, size: int) -> None:
        """Called after every configuration write; a chip's own registers act here."""

    def wrote(self, register: int, offset: int, size: int, length: int = 1) -> bool:
        """Whether a write of `size` bytes at `offset` touched the register."""
        return offset < register + length and register < offset + size

    def unmodelled_register(self, offset: int, size: int) -> None:
        """Trace a write to a register that is stored without effect."""
        self.trace("unmodelled", device=self.name, what=f"register {offset:02x}h", value=self.register(offset, size))

    def set_intx(self, level: bool) -> None:
        """Drive the interrupt pin; the command register's disable bit gates it."""
        if level != self._intx_level:
            self._intx_level = level
            self._drive_intx()

    def _drive_intx(self) -> None:
        status = self.config[STATUS]
        self.config[STATUS] = status | STATUS_INTX if self._intx_level else status & ~STATUS_INTX
        self.intx.set(self._intx_level and not self.config[COMMAND + 1] & COMMAND_INTX_DISABLE >> 8)

    def _decoded(self, bar: Bar) -> int | None:
        """Where a BAR's window lies by its register and the command register, None: nowhere."""
        command = self.config[COMMAND]
        value = self.register(bar.register, 8 if bar.wide else 4)
        if bar.kind == "io":
            base = value & ~3
            return base if command & COMMAND_IO and base and base + bar.size <= 0x1_0000 else None
        if not command & COMMAND_MEMORY or (bar.kind == "rom" and not value & 1):
            return None
        base = value & ~0xF if bar.kind == "mem" else value & ~0x7FF
        last = base + bar.size - 1
        return base if base and (last < 0xFFFF_FFFF or (bar.wide and last < 0xFFFF_FFFF_FFFF_FFFF)) else None

    def place_windows(self) -> None:
        """Tell the board about every BAR that moved: first those that leave, then those that come."""
        moved = [(bar, address) for bar in self.bars if (address := self._decoded(bar)) != bar.address]
        for bar, _ in moved:
            self.place(bar, None)
        for bar, address in moved:
            self.place(bar, address)

    def place(self, bar: Bar, address: int | None) -> None:
        """Move one window and tell the board, which hears of its leaving first."""
        if address == bar.address:
            return
        if bar.address is not None:
            bar.address = None
            self.on_bar(bar, None)
        if address is not None:
            bar.address = address
            self.on_bar(bar, address)

    def reset(self) -> None:
        self.config[:] = self._defaults
        self._intx_level = False
        self._drive_intx()
        self.place_windows()

    def snapshot(self) -> Snapshot:
        return {"config": bytes(self.config), "intx": self._intx_level}

    def restore(self, state: Snapshot) -> None:
        self.config[:] = state["config"]
        self._intx_level = state["intx"]
        self._drive_intx()
        self.place_windows()


class PciBus:
    """Bus 0 with its host bridge's two configuration ports.

    `on_bar` goes to every function that is attached; `wire(slot, pin)` gives the interrupt wire of a pin (1 is INTA#).
    """

    name = "pci"

    def __init__(
        self, on_bar: Callable[[Bar, int | None], None], wire: Callable[[int, int], IrqLine], trace: Trace = SILENT
    ) -> None:
        self._on_bar, self._wire, self._trace = on_bar, wire, trace
        self.functions: dict[int, PciFunction] = {}
        self._address = 0

    def attach(self, slot: int, number: int, function: PciFunction) -> None:
        """Put a function at device `slot`, function `number`."""
        devfn = slot << 3 | number
        if devfn in self.functions:
            raise ValueError(f"PCI {slot:02x}.{number} holds {self.functions[devfn].name} already")
        self.functions[devfn] = function
        function.on_bar = self._on_bar
        if pin := function.config[INTERRUPT_PIN]:
            function.intx = self._wire(slot, pin)
        function.place_windows()

    def _selected(self) -> PciFunction | None:
        """The function that the address register names."""
        if not self._address & ADDRESS_ENABLE or self._address & 0x00FF_0000:
            return None
        return self.functions.get(self._address >> 8 & 0xFF)

    def ports(self, reset_control: Registers | None = None) -> Registers:
        """The region for CF8h-CFFh (`max_size` 4).

        Only a dword at CF8h is the address register; smaller accesses there are ordinary I/O, of which a PIIX3 answers
        CF9h: `reset_control`, a region of one byte.
        """

        def read(offset: int, size: int) -> int:
            if offset >= 4:
                function = self._selected()
                if function is None:
                    return (1 << 8 * size) - 1
                return function.config_read((self._address & 0xFC) + offset - 4, size)
            if offset == 0 and size == 4:
                return self._address
            if size == 1:
                return reset_control.read(0, 1) if offset == 1 and reset_control else 0xFF
            return read(offset, 1) | read(offset + 1, size - 1) << 8

        def write(offset: int, size: int, value: int) -> None:
            if offset >= 4:
                function = self._selected()
                if function is not None:
                    function.config_write((self._address & 0xFC) + offset - 4, size, value)
            elif offset == 0 and size == 4:
                self._address = value & 0x80FF_FFFC
            elif size == 1:
                if offset == 1 and reset_control:
                    reset_control.write(0, 1, value)
            else:
                write(offset, 1, value & 0xFF)
                write(offset + 1, size - 1, value >> 8)

        return Registers(read, write)

    def reset(self) -> None:
        """The address register only; the functions are devices of their own."""
        self._address = 0

    def snapshot(self) -> Snapshot:
        return {"address": self._address}

    def restore(self, state: Snapshot) -> None:
        self._address = state["address"]
