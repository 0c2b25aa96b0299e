"""Disks of the host: raw image files, an overlay in memory for `snapshot=on`, and disks in memory for tests.

Sectors have 512 bytes; offsets and sizes are bytes and whole sectors.  Nothing is read ahead or held back: a write is
the host's page cache's when it returns, and on stable storage when `flush` returns.
"""

from __future__ import annotations

import fcntl
import os
from typing import Protocol

from jitvm.errors import BackendError

SECTOR = 512
CLUSTER = 64 * 1024


class BlockDevice(Protocol):
    """What a disk controller needs of a disk, and a flash of its image."""

    size: int
    """Bytes, a multiple of 512."""
    read_only: bool
    name: str

    def read(self, offset: int, size: int) -> bytes:
        """Exactly `size` bytes; `BackendError` when the host can't."""
        ...

    def write(self, offset: int, data: bytes) -> None:
        """Store `data`; `BackendError` when the host can't or the disk is read-only."""
        ...

    def flush(self) -> None:
        """Return when everything written is on stable storage."""
        ...

    def close(self) -> None:
        """Give the disk back; a second call does nothing."""
        ...


def check_size(name: str, size: int) -> None:
    """A disk has at least one sector and no half ones."""
    if size == 0:
        raise BackendError(f"disk image '{name}' is empty; make one with: truncate -s 64M '{name}'")
    if size % SECTOR:
        raise BackendError(
            f"disk image '{name}' has {size} bytes, not a multiple of {SECTOR}; "
            f"round it up with: truncate -s %{SECTOR} '{name}'"
        )


class RawDisk:
    """A raw image file or block device of the host.

    Writers take an exclusive advisory lock, readers a shared one, so that two machines can't write one image.
    """

    def __init__(self, path: str, *, read_only: bool = False) -> None:
        self.name, self.read_only = path, read_only
        try:
            self._fd = os.open(path, (os.O_RDONLY if read_only else os.O_RDWR) | os.O_CLOEXEC)
        except OSError as e:
            denied = isinstance(e, PermissionError) and not read_only
            hint = "; open it with readonly=on or snapshot=on" if denied else ""
            raise BackendError(f"disk image '{path}' can't be opened: {e.strerror}{hint}") from None
        try:
            fcntl.flock(self._fd, (fcntl.LOCK_SH if read_only else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            self.size = os.lseek(self._fd, 0, os.SEEK_END)
            check_size(path, self.size)
        except BlockingIOError:
            self.close()
            raise BackendError(
                f"disk image '{path}' is in use by another process; stop it, or open the image in both with readonly=on"
            ) from None
        except OSError as e:
            self.close()
            raise BackendError(f"disk image '{path}' can't be used: {e.strerror}") from None
        except BackendError:
            self.close()
            raise

    def read(self, offset: int, size: int) -> bytes:
        try:
            data = os.pread(self._fd, size, offset)
            while len(data) < size:
                more = os.pread(self._fd, size - len(data), offset + len(data))
                if not more:
                    raise BackendError(f"disk image '{self.name}' shrank while in use, to {offset + len(data)} bytes")
                data += more
        except OSError as e:
            raise BackendError(f"disk image '{self.name}' can't be read at {offset:#x}: {e.strerror}") from None
        return data

    def write(self, offset: int, data: bytes) -> None:
        if self.read_only:
            raise BackendError(f"disk image '{self.name}' is read-only")
        view = memoryview(data)
        try:
            while view:
                n = os.pwrite(self._fd, view, offset)
                offset, view = offset + n, view[n:]
        except OSError as e:
            raise BackendError(f"disk image '{self.name}' can't be written at {offset:#x}: {e.strerror}") from None

    def flush(self) -> None:
        try:
            os.fsync(self._fd)
        except OSError as e:
            raise BackendError(f"disk image '{self.name}' can't be flushed: {e.strerror}") from None

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class MemoryDisk:
    """A disk in memory; `flushes` counts the flushes, `fail` makes every access an error of the host."""

    def __init__(self, data: bytes, *, read_only: bool = False, name: str = "memory") -> None:
        check_size(name, len(data))
        self.name, self.read_only, self.size = name, read_only, len(data)
        self.data = bytearray(data)
        self.flushes = 0
        self.fail = False

    def _check(self) -> None:
        if self.fail:
            raise BackendError(f"disk '{self.name}' fails")

    def read(self, offset: int, size: int) -> bytes:
        self._check()
        return bytes(self.data[offset : offset + size])

    def write(self, offset: int, data: bytes) -> None:
        self._check()
        if self.read_only:
            raise BackendError(f"disk '{self.name}' is read-only")
        self.data[offset : offset + len(data)] = data

    def flush(self) -> None:
        self._check()
        self.flushes += 1

    def close(self) -> None:
        """Nothing to give back."""


class Overlay:
    """`snapshot=on`: reads come from another disk, writes stay in memory and are forgotten with the machine."""

    def __init__(self, base: BlockDevice) -> None:
        self._base = base
        self.name, self.size, self.read_only = base.name, base.size, False
        self._clusters: dict[int, bytearray] = {}

    def _pieces(self, offset: int, size: int) -> list[tuple[int, int, int]]:
        """(cluster, offset inside, bytes) of the clusters that a range touches."""
        pieces = []
        while size > 0:
            inside = offset % CLUSTER
            n = min(size, CLUSTER - inside)
            pieces.append((offset // CLUSTER, inside, n))
            offset, size = offset + n, size - n
        return pieces

    def read(self, offset: int, size: int) -> bytes:
        if not self._clusters:
            return self._base.read(offset, size)
        out = bytearray()
        for number, inside, n in self._pieces(offset, size):
            cluster = self._clusters.get(number)
            out += cluster[inside : inside + n] if cluster else self._base.read(number * CLUSTER + inside, n)
        return bytes(out)

    def write(self, offset: int, data: bytes) -> None:
        at = 0
        for number, inside, n in self._pieces(offset, len(data)):
            cluster = self._clusters.get(number)
            if cluster is None:
                start = number * CLUSTER
                cluster = bytearray(self._base.read(start, min(CLUSTER, self.size - start)))
                self._clusters[number] = cluster
            cluster[inside : inside + n] = data[at : at + n]
            at += n

    def written(self) -> dict[int, bytes]:
        """What was written so far, whole clusters by their numbers."""
        return {number: bytes(cluster) for number, cluster in self._clusters.items()}

    def set_written(self, clusters: dict[int, bytes]) -> None:
        """Back to an earlier `written`."""
        self._clusters = {number: bytearray(cluster) for number, cluster in clusters.items()}

    def flush(self) -> None:
        """Nothing to keep."""

    def close(self) -> None:
        self._clusters.clear()
        self._base.close()


def open_disk(path: str, *, read_only: bool = False, snapshot: bool = False) -> BlockDevice:
    """A raw image by the options of `--drive`."""
    if snapshot:
        return Overlay(RawDisk(path, read_only=True))
    return RawDisk(path, read_only=read_only)
