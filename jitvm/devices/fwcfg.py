"""QEMU's firmware configuration device, fw_cfg, on I/O ports.

QEMU documentation, docs/specs/fw_cfg: selector and data register (510h, 511h), DMA address register (514h-51Bh), item
keys, the file directory; the keys are those of QEMU's standard header (standard-headers/linux/qemu_fw_cfg.h).

Items are little endian as the guest CPU reads them, the file directory and DMA structures are big endian.  Files get
their keys in the order of their names, as QEMU gives them.

A file may be made anew when it is selected, from what the guest has set up by then, as QEMU does with ACPI tables.

Not modelled: writes through the data register (gone from QEMU since 2.4: dropped).
"""

from __future__ import annotations

import bisect
import struct
from collections.abc import Callable
from typing import NamedTuple

from jitvm.devices.base import Registers, Snapshot
from jitvm.memory import GuestMemory
from jitvm.trace import SILENT, Trace

SIGNATURE, ID, UUID, RAM_SIZE, NOGRAPHIC, NB_CPUS = 0x00, 0x01, 0x02, 0x03, 0x04, 0x05
KERNEL_ADDR, KERNEL_SIZE, INITRD_ADDR, INITRD_SIZE, NUMA, BOOT_MENU, MAX_CPUS = 0x07, 0x08, 0x0A, 0x0B, 0x0D, 0x0E, 0x0F
KERNEL_ENTRY, KERNEL_DATA, INITRD_DATA, CMDLINE_ADDR, CMDLINE_SIZE, CMDLINE_DATA = 0x10, 0x11, 0x12, 0x13, 0x14, 0x15
SETUP_ADDR, SETUP_SIZE, SETUP_DATA, FILE_DIR, FILE_FIRST = 0x16, 0x17, 0x18, 0x19, 0x20
KERNEL_PART, INITRD_PART = (KERNEL_ADDR, KERNEL_SIZE, KERNEL_DATA), (INITRD_ADDR, INITRD_SIZE, INITRD_DATA)
CMDLINE_PART, SETUP_PART = (CMDLINE_ADDR, CMDLINE_SIZE, CMDLINE_DATA), (SETUP_ADDR, SETUP_SIZE, SETUP_DATA)
"""Keys of where a part of a kernel is to lie, of its size, of its bytes."""
IRQ0_OVERRIDE = 0x8002
ID_TRADITIONAL, ID_DMA = 1, 2
DMA_ERROR, DMA_READ, DMA_SKIP, DMA_SELECT, DMA_WRITE = 1, 2, 4, 8, 16
DMA_SIGNATURE = b"QEMU CFG"
ACCESS = struct.Struct(">IIQ")
DIRECTORY_ENTRY = struct.Struct(">IHH56s")
NAME_SIZE = 56
CHUNK = 1 << 20
E820_RAM, E820_RESERVED = 1, 2


def e820(entries: list[tuple[int, int, int]]) -> bytes:
    """The file "etc/e820": (address, length, type) of each range."""
    return b"".join(struct.pack("<QQI", *entry) for entry in entries)


def part(keys: tuple[int, int, int], address: int, data: bytes) -> dict[int, bytes]:
    """The items of a part of a kernel that a loader copies to guest-physical `address`."""
    return dict(zip(keys, (struct.pack("<I", address), struct.pack("<I", len(data)), data), strict=True))


class File(NamedTuple):
    """A file of the directory; its key is its place there."""

    name: str
    data: bytearray
    on_write: Callable[[bytes], None] | None
    on_select: Callable[[], bytes] | None


class FwCfg:
    """The device: `ports` (510h, two ports, `max_size` 2) and `dma_ports` (514h, eight ports, `max_size` 8).

    Both answer big endian where the specification says so.  `ports` offers `read_block` for string input.
    """

    name = "fw_cfg"

    def __init__(
        self, memory: GuestMemory, *, ram_size: int, n_cpus: int = 1, max_cpus: int = 1, trace: Trace = SILENT
    ) -> None:
        self._memory, self._trace = memory, trace
        self._items: dict[int, bytearray] = {}
        self._files: list[File] = []
        self._key = 0
        self._data = bytearray()
        self._at = 0
        self._dma_address = 0
        self.ports = SelectorAndData(self)
        self.dma_ports = Registers(self._read_dma, self._write_dma)
        self.add_item(SIGNATURE, b"QEMU")
        self.add_item(ID, struct.pack("<I", ID_TRADITIONAL | ID_DMA))
        self.add_item(UUID, bytes(16))
        self.add_item(RAM_SIZE, struct.pack("<Q", ram_size))
        self.add_item(NOGRAPHIC, struct.pack("<H", 0))
        self.add_item(NB_CPUS, struct.pack("<H", n_cpus))
        self.add_item(MAX_CPUS, struct.pack("<H", max_cpus))
        self.add_item(BOOT_MENU, struct.pack("<H", 0))
        self.add_item(NUMA, bytes(8 + 8 * max_cpus))
        self._build_directory()
        self.select(SIGNATURE)

    def add_item(self, key: int, data: bytes) -> None:
        """Give an item its bytes, in place of what it had."""
        self._items[key] = bytearray(data)

    def add_file(
        self,
        name: str,
        data: bytes,
        on_write: Callable[[bytes], None] | None = None,
        on_select: Callable[[], bytes] | None = None,
    ) -> None:
        """Add or replace a file.  With `on_write` the guest may write it by DMA; it is called with the new contents.

        `on_select` gives the contents of a file that is selected, as many bytes as `data`.
        """
        if not 0 < len(name.encode()) < NAME_SIZE:
            raise ValueError(f"fw_cfg: file name '{name}' is not 1 to {NAME_SIZE - 1} bytes long")
        self._files = [file for file in self._files if file.name != name]
        bisect.insort(self._files, File(name, bytearray(data), on_write, on_select), key=lambda file: file.name)
        self._build_directory()

    def files(self) -> dict[str, int]:
        """Keys of the files by name."""
        return {file.name: FILE_FIRST + k for k, file in enumerate(self._files)}

    def _file(self, key: int) -> File | None:
        """The file that has this key."""
        return self._files[key - FILE_FIRST] if 0 <= key - FILE_FIRST < len(self._files) else None

    def _build_directory(self) -> None:
        directory = bytearray(struct.pack(">I", len(self._files)))
        for key, file in enumerate(self._files, FILE_FIRST):
            directory += DIRECTORY_ENTRY.pack(len(file.data), key, 0, file.name.encode())
            self._items[key] = file.data
        self._items[FILE_DIR] = directory

    def select(self, key: int) -> None:
        """Choose an item and go to its beginning; an unknown one is empty."""
        self._key, self._at = key, 0
        self._data = self._items.get(key, bytearray())
        file = self._file(key)
        if file and file.on_select:
            self._data[:] = file.on_select()

    def take(self, n: int) -> bytes:
        """The next `n` bytes of the selected item; behind its end come zeros."""
        at = self._at
        self._at = at + n
        return bytes(self._data[at : at + n]).ljust(n, b"\0")

    def _read_dma(self, offset: int, size: int) -> int:
        return int.from_bytes(DMA_SIGNATURE[offset : offset + size], "little")

    def _write_dma(self, offset: int, size: int, value: int) -> None:
        """Two big-endian dwords, high and low; the low one starts the transfer."""
        raw = bytearray(self._dma_address.to_bytes(8, "big"))
        raw[offset : offset + size] = value.to_bytes(size, "little")
        self._dma_address = int.from_bytes(raw[:8], "big")
        if offset + size == 8:
            address, self._dma_address = self._dma_address, 0
            self._transfer(address)

    def _transfer(self, at: int) -> None:
        """Do what the access structure at guest-physical `at` asks, then clear its control word or set the error."""
        memory = self._memory
        control, length, address = ACCESS.unpack(memory.read(at, ACCESS.size))
        if control & DMA_SELECT:
            self.select(control >> 16)
        error = 0
        if control & DMA_READ:
            self._copy_out(address, length)
        elif control & DMA_WRITE:
            error = 0 if self._copy_in(address, length) else DMA_ERROR
        elif control & DMA_SKIP:
            self._at += length
        memory.write(at, struct.pack(">I", error))

    def _copy_out(self, address: int, length: int) -> None:
        """To guest memory, in pieces; the guest's length has no bound but the address space's end."""
        length = min(length, max(0, (len(self._memory.page_write) << 12) - address))
        while length > 0:
            n = min(length, CHUNK)
            self._memory.write(address, self.take(n))
            address, length = address + n, length - n

    def _copy_in(self, address: int, length: int) -> bool:
        """From guest memory into a writable file; anything else is refused."""
        file = self._file(self._key)
        if file is None or file.on_write is None or self._at + length > len(self._data):
            self._trace("guest_error", device=self.name, what=f"write of {length} bytes to item", value=self._key)
            return False
        self._data[self._at : self._at + length] = self._memory.read(address, length)
        self._at += length
        file.on_write(bytes(self._data))
        return True

    def reset(self) -> None:
        self._dma_address = 0
        self.select(SIGNATURE)

    def snapshot(self) -> Snapshot:
        kept = {file.name: bytes(file.data) for file in self._files if file.on_write or file.on_select}
        return {"key": self._key, "at": self._at, "dma_address": self._dma_address, "files": kept}

    def restore(self, state: Snapshot) -> None:
        for file in self._files:
            if file.name in state["files"]:
                file.data[:] = state["files"][file.name]
        self._key, self._at, self._dma_address = state["key"], state["at"], state["dma_address"]
        self._data = self._items.get(self._key, bytearray())


class SelectorAndData:
    """The two ports: a word at 0 selects, a byte at 1 is data."""

    __slots__ = ("_device",)

    def __init__(self, device: FwCfg) -> None:
        self._device = device

    def read(self, offset: int, size: int) -> int:
        device = self._device
        if offset != 1 or size != 1:
            return (1 << 8 * size) - 1
        at = device._at
        device._at = at + 1
        return device._data[at] if at < len(device._data) else 0

    def write(self, offset: int, size: int, value: int) -> None:
        if offset == 0 and size == 2:
            self._device.select(value)
        else:
            self._device._trace("unmodelled", device="fw_cfg", what="write to the data register", value=value)

    def read_block(self, offset: int, size: int, count: int) -> bytes:
        """`count` reads of `size` bytes at `offset`, one behind the other."""
        if offset == 1 and size == 1:
            return self._device.take(count)
        return b"\xff" * (size * count)
