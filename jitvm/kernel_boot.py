"""`--kernel`, `--initrd`, `--append`: a kernel that firmware starts without a disk, as with QEMU's -kernel.

The kernel's file is taken apart here; fw_cfg holds the parts and where each is to lie, under QEMU's keys.  Firmware finds an
option ROM in fw_cfg (`firmware/linux`, first in the boot order), which copies them there and enters the kernel.  A file
with Linux's header is a Linux kernel (`jitvm.linux_boot`), another one with a multiboot header is that (`jitvm.multiboot`).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from jitvm import linux_boot, multiboot
from jitvm.config import MachineConfig, firmware_image
from jitvm.errors import ImageError

ROMS = "genroms/"
"""The folder in fw_cfg where SeaBIOS looks for such ROMs."""


@dataclass(frozen=True)
class KernelBoot:
    """What fw_cfg gets: items by key, and the option ROM with its name."""

    items: dict[int, bytes]
    rom_name: str
    rom: bytes


def load(config: MachineConfig) -> KernelBoot | None:
    """The parts of the kernel that the config names; None without one.

    Raises:
        ImageError: a file can't be read, or is no kernel that can be started so.
        ConfigError: the command line, the RAM disk or the modules are too large.
    """
    if config.kernel is None:
        return None
    kernel = _read(config.kernel, "kernel")
    where, initrd = f"kernel '{config.kernel}'", "" if config.initrd is None else str(config.initrd)
    if not kernel:
        raise ImageError(f"{where} is empty")
    line = os.fsencode(config.append or "")
    if linux_boot.is_linux(kernel):
        disk = _read(Path(initrd), "initrd") if initrd else b""
        if initrd and not disk:
            raise ImageError(f"initrd '{initrd}' is empty")
        items, rom = linux_boot.items(where, kernel, disk, line, config.memory), "linuxboot.bin"
    elif (header := multiboot.find_header(where, kernel)) is not None:
        modules = [
            multiboot.Module(os.fsencode(text), _read(Path(name), "module"))
            for text, name in multiboot.module_names(initrd)
        ]
        line = os.fsencode(f"{config.kernel} ") + line
        items, rom = multiboot.items(where, kernel, header, modules, line, config.memory), "multiboot.bin"
    else:
        raise ImageError(
            f"{where} is no Linux kernel of the kind bzImage, and has no multiboot header in its first 8 KiB; "
            "other images boot from a disk: --drive file=FILE"
        )
    return KernelBoot(items, ROMS + rom, firmware_image(rom).read_bytes())


def _read(path: Path, what: str) -> bytes:
    try:
        return path.read_bytes()
    except (OSError, ValueError) as error:
        raise ImageError(f"{what} '{path}' can't be read: {getattr(error, 'strerror', None) or error}") from None
