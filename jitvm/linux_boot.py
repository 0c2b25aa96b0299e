"""`--kernel`, `--initrd`, `--append`: a Linux kernel that firmware starts without a disk, as with QEMU's -kernel.

The kernel's file is taken apart here and its header filled in as a boot loader does; fw_cfg holds the parts and where each
is to lie, under QEMU's keys.  Firmware finds an option ROM in fw_cfg (`firmware/linux/linuxboot.S`, first in the boot
order), which copies them there and jumps to the kernel's setup code.

Source: Linux, Documentation/arch/x86/boot.rst (the real-mode kernel header and the loader's duties); QEMU's key numbers.

Not modelled: kernels without a setup header of protocol 2.02, zImage, ELF and multiboot images, device trees and other
setup data.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

from jitvm.config import KIB, MIB, MachineConfig, firmware_image, show_size
from jitvm.devices import fwcfg
from jitvm.errors import ConfigError, ImageError

ROM = "genroms/linuxboot.bin"
"""The option ROM's name in fw_cfg, where SeaBIOS looks for such ROMs."""
SETUP_AT, COMMAND_LINE_AT, KERNEL_AT = 0x1_0000, 0x2_0000, 0x10_0000
HEAP_END, LOADER_STACK_ROOM = 0xE000, 0x200
FIRMWARE_ROOM = MIB
"""Firmware keeps tables at the end of RAM (SeaBIOS up to 256 KiB): the initial RAM disk lies below."""
PAGE = 4 * KIB

SETUP_SECTORS, MAGIC, VERSION, LOADER_TYPE, LOAD_FLAGS, RAMDISK = 0x1F1, 0x202, 0x206, 0x210, 0x211, 0x218
HEAP_END_PTR, COMMAND_LINE_PTR, INITRD_MAX, COMMAND_LINE_SIZE = 0x224, 0x228, 0x22C, 0x238
PREFERRED, INIT_SIZE, HEADER_END = 0x258, 0x260, 0x268
LOADED_HIGH, CAN_USE_HEAP, UNKNOWN_LOADER = 0x01, 0x80, 0xFF
OLDEST, HAS_INITRD_MAX, HAS_COMMAND_LINE_SIZE, HAS_INIT_SIZE = 0x202, 0x203, 0x206, 0x20A
OLD_INITRD_MAX, OLD_COMMAND_LINE_SIZE = 0x37FF_FFFF, 255


@dataclass(frozen=True)
class LinuxBoot:
    """What fw_cfg gets: items by key, and the option ROM."""

    items: dict[int, bytes]
    rom: bytes


def load(config: MachineConfig) -> LinuxBoot | None:
    """The parts of the kernel that the config names; None without one.

    Raises:
        ImageError: a file can't be read, or is no kernel that can be started so.
        ConfigError: the command line or the RAM disk is too large.
    """
    if config.kernel is None:
        return None
    kernel = _read(config.kernel, "kernel")
    initrd = b"" if config.initrd is None else _read(config.initrd, "initrd")
    return LinuxBoot(_items(str(config.kernel), kernel, initrd, config), firmware_image("linuxboot.bin").read_bytes())


def _read(path: Path, what: str) -> bytes:
    try:
        data = path.read_bytes()
    except (OSError, ValueError) as error:
        raise ImageError(f"{what} '{path}' can't be read: {getattr(error, 'strerror', None) or error}") from None
    if not data:
        raise ImageError(f"{what} '{path}' is empty")
    return data


def _items(name: str, kernel: bytes, initrd: bytes, config: MachineConfig) -> dict[int, bytes]:
    where = f"kernel '{name}'"
    if len(kernel) < HEADER_END or kernel[MAGIC : MAGIC + 4] != b"HdrS":
        raise ImageError(f"{where} is no Linux kernel of the kind bzImage; other images boot from a disk: --drive file=FILE")
    (version,) = struct.unpack_from("<H", kernel, VERSION)
    if version < OLDEST or not kernel[LOAD_FLAGS] & LOADED_HIGH:
        raise ImageError(f"{where} has boot protocol {version >> 8}.{version & 0xFF:02}, or is a zImage; 2.02 is the oldest")
    setup_size = ((kernel[SETUP_SECTORS] or 4) + 1) * 512
    if len(kernel) <= setup_size or setup_size > HEAP_END - LOADER_STACK_ROOM:
        raise ImageError(f"{where} is cut off: {len(kernel)} bytes, of which {setup_size} are setup code")
    line = (config.append or "").encode() + b"\0"
    longest = _field(kernel, "<I", COMMAND_LINE_SIZE) if version >= HAS_COMMAND_LINE_SIZE else OLD_COMMAND_LINE_SIZE
    if len(line) - 1 > longest:
        raise ConfigError(f"--append: {len(line) - 1} bytes; {where} takes {longest}")
    setup, rest = bytearray(kernel[:setup_size]), kernel[setup_size:]
    initrd_at = _place(where, kernel, version, len(rest), len(initrd), config.memory)
    setup[LOADER_TYPE] = UNKNOWN_LOADER
    setup[LOAD_FLAGS] |= CAN_USE_HEAP
    struct.pack_into("<H", setup, HEAP_END_PTR, HEAP_END - LOADER_STACK_ROOM)
    struct.pack_into("<I", setup, COMMAND_LINE_PTR, COMMAND_LINE_AT)
    struct.pack_into("<II", setup, RAMDISK, initrd_at if initrd else 0, len(initrd))
    parts = (
        (fwcfg.SETUP_ADDR, SETUP_AT, fwcfg.SETUP_SIZE, fwcfg.SETUP_DATA, bytes(setup)),
        (fwcfg.CMDLINE_ADDR, COMMAND_LINE_AT, fwcfg.CMDLINE_SIZE, fwcfg.CMDLINE_DATA, line),
        (fwcfg.KERNEL_ADDR, KERNEL_AT, fwcfg.KERNEL_SIZE, fwcfg.KERNEL_DATA, rest),
        (fwcfg.INITRD_ADDR, initrd_at, fwcfg.INITRD_SIZE, fwcfg.INITRD_DATA, initrd),
    )
    items: dict[int, bytes] = {}
    for address_key, address, size_key, data_key, data in parts:
        items |= {address_key: struct.pack("<I", address), size_key: struct.pack("<I", len(data)), data_key: data}
    return items


def _field(kernel: bytes, layout: str, offset: int) -> int:
    value: int = struct.unpack_from(layout, kernel, offset)[0]
    return value


def _place(where: str, kernel: bytes, version: int, size: int, initrd: int, memory: int) -> int:
    """Where the initial RAM disk goes: as high as the kernel takes it, behind what the kernel needs to start."""
    needed = KERNEL_AT + size
    if version >= HAS_INIT_SIZE:
        needed = max(needed, _field(kernel, "<Q", PREFERRED) + _field(kernel, "<I", INIT_SIZE))
    highest = _field(kernel, "<I", INITRD_MAX) if version >= HAS_INITRD_MAX else OLD_INITRD_MAX
    at = (min(memory - FIRMWARE_ROOM, highest + 1) - initrd) & -PAGE
    if at < needed:
        least = needed + initrd + FIRMWARE_ROOM + MIB
        raise ConfigError(f"-m: {show_size(memory)} are too few for {where}; give {least // MIB}M")
    return at
