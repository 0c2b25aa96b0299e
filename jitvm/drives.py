"""The drives of a config: image files opened, and the ATA and ATAPI devices and floppies that show them to the guest."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field

from jitvm.backends.blockdev import BlockDevice, open_disk
from jitvm.config import MIB, PLACES, DriveConfig
from jitvm.devices.ata import AtaDevice
from jitvm.devices.ata_disk import AtaDisk
from jitvm.devices.atapi import AtapiCdrom
from jitvm.devices.floppy_media import FloppyDrive
from jitvm.devices.pflash import BLOCK
from jitvm.errors import BackendError
from jitvm.trace import Trace

FLASH_ROOM = 8 * MIB
"""What flashes may take together below 4 GiB, as on QEMU's "pc"."""


@dataclass
class Drives:
    """What is at each place of an interface, and the disks behind all of them."""

    ide: list[AtaDevice | None] = field(default_factory=lambda: [None] * PLACES["ide"])
    floppies: list[FloppyDrive | None] = field(default_factory=lambda: [None] * PLACES["floppy"])
    flashes: list[BlockDevice] = field(default_factory=list)
    disks: list[BlockDevice] = field(default_factory=list)


def open_drives(drives: Sequence[DriveConfig], resources: contextlib.ExitStack, trace: Trace) -> Drives:
    """Open all images, which `resources` closes."""
    found = Drives()
    for drive in sorted(drives, key=lambda drive: drive.index):
        name, serial = f"ide{drive.index >> 1}-{drive.index & 1}", f"JV{drive.index + 1:05}"
        cdrom = drive.media == "cdrom"
        disk = open_disk(drive.file, read_only=drive.readonly or cdrom, snapshot=drive.snapshot)
        resources.callback(disk.close)
        found.disks.append(disk)
        if drive.interface == "floppy":
            found.floppies[drive.index] = FloppyDrive(disk)
        elif drive.interface == "pflash":
            found.flashes.append(disk)
        else:
            kind = AtapiCdrom if cdrom else AtaDisk
            found.ide[drive.index] = kind(name, disk, serial=serial, trace=trace)
    _check_flashes(found.flashes)
    return found


def _check_flashes(flashes: Sequence[BlockDevice]) -> None:
    for disk in flashes:
        if disk.size % BLOCK:
            raise BackendError(
                f"flash image '{disk.name}' has {disk.size} bytes, not a multiple of {BLOCK}; "
                f"round it up with: truncate -s %{BLOCK} '{disk.name}'"
            )
    if sum(disk.size for disk in flashes) > FLASH_ROOM:
        names = ", ".join(f"'{disk.name}'" for disk in flashes)
        raise BackendError(f"flash images {names} are larger than 8 MiB; a disk image goes to --drive file=FILE")
