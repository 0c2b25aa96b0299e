"""Linux kernels: what of the file goes where.

The header is filled in as a boot loader does; the option ROM (`firmware/linux/linuxboot.S`) copies the parts to their places
and jumps to the kernel's setup code.

Source: Linux, Documentation/arch/x86/boot.rst (the real-mode kernel header and the loader's duties); QEMU's key numbers.

Not modelled: kernels without a setup header of protocol 2.02, zImage, ELF images, device trees and other setup data.
"""

from __future__ import annotations

import struct

from jitvm.config import KIB, MIB, show_size
from jitvm.devices import fwcfg
from jitvm.errors import ConfigError, ImageError

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


def is_linux(kernel: bytes) -> bool:
    """Whether a file has the header of a Linux kernel."""
    return len(kernel) >= HEADER_END and kernel[MAGIC : MAGIC + 4] == b"HdrS"


def items(where: str, kernel: bytes, initrd: bytes, line: bytes, memory: int) -> dict[int, bytes]:
    """fw_cfg's items of a kernel with a Linux header; `where` names it in errors.

    Raises:
        ImageError: it can't be started so.
        ConfigError: the command line or the RAM disk is too large.
    """
    (version,) = struct.unpack_from("<H", kernel, VERSION)
    if version < OLDEST or not kernel[LOAD_FLAGS] & LOADED_HIGH:
        raise ImageError(f"{where} has boot protocol {version >> 8}.{version & 0xFF:02}, or is a zImage; 2.02 is the oldest")
    setup_size = ((kernel[SETUP_SECTORS] or 4) + 1) * 512
    if len(kernel) <= setup_size or setup_size > HEAP_END - LOADER_STACK_ROOM:
        raise ImageError(f"{where} is cut off: {len(kernel)} bytes, of which {setup_size} are setup code")
    longest = _field(kernel, "<I", COMMAND_LINE_SIZE) if version >= HAS_COMMAND_LINE_SIZE else OLD_COMMAND_LINE_SIZE
    if len(line) > longest:
        raise ConfigError(f"--append: {len(line)} bytes; {where} takes {longest}")
    setup, rest = bytearray(kernel[:setup_size]), kernel[setup_size:]
    initrd_at = _place(where, kernel, version, len(rest), len(initrd), memory)
    setup[LOADER_TYPE] = UNKNOWN_LOADER
    setup[LOAD_FLAGS] |= CAN_USE_HEAP
    struct.pack_into("<H", setup, HEAP_END_PTR, HEAP_END - LOADER_STACK_ROOM)
    struct.pack_into("<I", setup, COMMAND_LINE_PTR, COMMAND_LINE_AT)
    struct.pack_into("<II", setup, RAMDISK, initrd_at if initrd else 0, len(initrd))
    return {
        **fwcfg.part(fwcfg.SETUP_PART, SETUP_AT, bytes(setup)),
        **fwcfg.part(fwcfg.CMDLINE_PART, COMMAND_LINE_AT, line + b"\0"),
        **fwcfg.part(fwcfg.KERNEL_PART, KERNEL_AT, rest),
        **fwcfg.part(fwcfg.INITRD_PART, initrd_at, initrd),
    }


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
