"""The drives of a config: image files opened, and the ATA and ATAPI devices that show them to the guest."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from jitvm.backends.blockdev import BlockDevice, open_disk
from jitvm.config import N_IDE, DriveConfig
from jitvm.devices.ata import AtaDevice
from jitvm.devices.ata_disk import AtaDisk
from jitvm.devices.atapi import AtapiCdrom
from jitvm.trace import Trace


def open_drives(
    drives: Sequence[DriveConfig], resources: contextlib.ExitStack, trace: Trace
) -> tuple[list[AtaDevice | None], list[BlockDevice]]:
    """Devices by their IDE places, and the disks behind them, which `resources` closes."""
    devices: list[AtaDevice | None] = [None] * N_IDE
    disks: list[BlockDevice] = []
    for drive in drives:
        name, serial = f"ide{drive.index >> 1}-{drive.index & 1}", f"JV{drive.index + 1:05}"
        cdrom = drive.media == "cdrom"
        disk = open_disk(drive.file, read_only=drive.readonly or cdrom, snapshot=drive.snapshot)
        resources.callback(disk.close)
        disks.append(disk)
        kind = AtapiCdrom if cdrom else AtaDisk
        devices[drive.index] = kind(name, disk, serial=serial, trace=trace)
    return devices, disks
