"""Floppy drives with a disk in them: what of a raw image lies where.

The formats of IBM's and Microsoft's PC operating systems, by the number of sectors; their data rates and the drive that
takes each are those of the IBM PS/2 and AT technical references (CMOS byte 10h) and of Intel 82077AA's data sheet (290166).

An image that is none of them is the beginning of a larger disk, whose other sectors read as zeros and can't be written.
"""

from __future__ import annotations

from typing import NamedTuple

from jitvm.backends.blockdev import BlockDevice
from jitvm.errors import BackendError

SECTOR = 512
RATE_500K, RATE_300K, RATE_250K, RATE_1M = range(4)
"""Data rates as DSR and CCR name them."""
DRIVE_1200K, DRIVE_720K, DRIVE_1440K, DRIVE_2880K = 2, 3, 4, 5
"""Drives as CMOS byte 10h names them."""


class Format(NamedTuple):
    """Cylinders, heads, sectors of a track; at which rate they were written; the drive that does so."""

    cylinders: int
    heads: int
    track: int
    rate: int
    drive: int

    @property
    def size(self) -> int:
        return self.cylinders * self.heads * self.track * SECTOR


FORMATS = (
    Format(80, 2, 18, RATE_500K, DRIVE_1440K),
    Format(80, 2, 36, RATE_1M, DRIVE_2880K),
    Format(80, 2, 15, RATE_500K, DRIVE_1200K),
    Format(80, 2, 9, RATE_250K, DRIVE_1440K),
    Format(40, 2, 9, RATE_300K, DRIVE_1200K),
    Format(40, 2, 8, RATE_300K, DRIVE_1200K),
    Format(40, 1, 9, RATE_300K, DRIVE_1200K),
    Format(40, 1, 8, RATE_300K, DRIVE_1200K),
    Format(80, 2, 21, RATE_500K, DRIVE_1440K),
    Format(82, 2, 21, RATE_500K, DRIVE_1440K),
)
LARGEST = max(form.size for form in FORMATS)


def find_format(size: int) -> Format | None:
    """The format of an image: that of its size, else the first one with room for it; None where none has."""
    exact = [form for form in FORMATS if form.size == size]
    return next(iter(exact or [form for form in FORMATS if form.size >= size]), None)


class FloppyDrive:
    """A drive whose disk stays in it.  `cylinder` is where its heads are."""

    def __init__(self, disk: BlockDevice) -> None:
        found = find_format(disk.size)
        if found is None:
            raise BackendError(
                f"floppy image '{disk.name}' has {disk.size} bytes, the largest floppy {LARGEST}; "
                f"give a disk image to --drive file={disk.name}"
            )
        self.form, self._disk = found, disk
        self.cylinder = 0

    @property
    def write_protected(self) -> bool:
        return self._disk.read_only

    def step_to(self, cylinder: int) -> None:
        """Heads stop at the last cylinder but a few, as the drive's mechanics end there."""
        self.cylinder = max(0, min(cylinder, self.form.cylinders + 2))

    def has(self, cylinder: int, head: int, sector: int) -> bool:
        """Whether there is such a sector; sectors count from 1."""
        form = self.form
        return cylinder < form.cylinders and head < form.heads and 1 <= sector <= form.track

    def _offset(self, cylinder: int, head: int, sector: int) -> int:
        form = self.form
        return ((cylinder * form.heads + head) * form.track + sector - 1) * SECTOR

    def read(self, cylinder: int, head: int, sector: int) -> bytes:
        """A sector that there is; zeros behind the image's end."""
        at = self._offset(cylinder, head, sector)
        return self._disk.read(at, SECTOR) if at < self._disk.size else bytes(SECTOR)

    def write(self, cylinder: int, head: int, sector: int, data: bytes) -> None:
        """Store a sector that there is; `BackendError` behind the image's end."""
        at = self._offset(cylinder, head, sector)
        if at >= self._disk.size:
            raise BackendError(f"floppy image '{self._disk.name}' ends before sector {at // SECTOR}")
        self._disk.write(at, data)
