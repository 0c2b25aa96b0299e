"""Disk images of the host."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from jitvm.backends import blockdev
from jitvm.backends.blockdev import CLUSTER, MemoryDisk, Overlay, RawDisk, open_disk
from jitvm.errors import BackendError


def image(folder: Path, size: int = 1 << 20) -> Path:
    path = folder / "disk.img"
    with path.open("wb") as f:
        f.truncate(size)
    return path


def test_reads_and_writes_in_place(tmp_path: Path) -> None:
    path = image(tmp_path)
    disk = RawDisk(str(path))
    assert disk.size == 1 << 20 and disk.read(0, 1024) == bytes(1024)
    disk.write(512, b"x" * 512)
    disk.flush()
    assert path.read_bytes()[510:516] == b"\0\0xxxx"
    disk.close()
    disk.close()


def test_a_sparse_image_stays_sparse(tmp_path: Path) -> None:
    path = image(tmp_path, 1 << 30)
    disk = RawDisk(str(path))
    disk.write(1 << 29, b"y" * 512)
    assert disk.read((1 << 29) - 512, 1024) == bytes(512) + b"y" * 512
    disk.close()
    assert os.stat(path).st_blocks * 512 < 1 << 20 and os.stat(path).st_size == 1 << 30


def test_flush_is_fsync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    disk = RawDisk(str(image(tmp_path)))
    disk.flush()
    assert len(synced) == 1
    disk.close()


@pytest.mark.parametrize(("size", "message"), [(0, "is empty"), (513, r"not a multiple of 512.*truncate -s %512")])
def test_odd_sizes_say_what_to_do(tmp_path: Path, size: int, message: str) -> None:
    with pytest.raises(BackendError, match=message) as caught:
        RawDisk(str(image(tmp_path, size)))
    assert "\n" not in str(caught.value)


def test_missing_and_folder(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="No such file"):
        RawDisk(str(tmp_path / "none"))
    with pytest.raises(BackendError, match="directory"):
        RawDisk(str(tmp_path))


def test_two_writers_are_refused(tmp_path: Path) -> None:
    path = str(image(tmp_path))
    first = RawDisk(path)
    with pytest.raises(BackendError, match="in use"):
        RawDisk(path)
    with pytest.raises(BackendError, match="in use"):
        RawDisk(path, read_only=True)
    first.close()
    readers = [RawDisk(path, read_only=True) for _ in range(2)]
    with pytest.raises(BackendError, match="in use"):
        RawDisk(path)
    for disk in readers:
        disk.close()


def test_read_only_refuses_writes(tmp_path: Path) -> None:
    disk = open_disk(str(image(tmp_path)), read_only=True)
    with pytest.raises(BackendError, match="read-only"):
        disk.write(0, bytes(512))
    disk.close()


def test_an_image_that_shrinks(tmp_path: Path) -> None:
    path = image(tmp_path)
    disk = RawDisk(str(path))
    os.truncate(path, 512)
    with pytest.raises(BackendError, match="shrank"):
        disk.read(0, 1024)
    disk.close()


def test_snapshot_leaves_the_image_alone(tmp_path: Path) -> None:
    path = image(tmp_path, 3 * CLUSTER - 512)
    disk = open_disk(str(path), snapshot=True)
    disk.write(CLUSTER - 512, b"z" * 1024)
    disk.write(disk.size - 512, b"e" * 512)
    disk.flush()
    assert disk.read(CLUSTER - 1024, 2048) == bytes(512) + b"z" * 1024 + bytes(512)
    assert disk.read(disk.size - 1024, 1024) == bytes(512) + b"e" * 512
    assert not any(path.read_bytes())
    disk.close()


def test_memory_disk_is_a_double() -> None:
    disk = MemoryDisk(bytes(1024))
    disk.write(512, b"m" * 512)
    disk.flush()
    assert disk.read(0, 1024) == bytes(512) + b"m" * 512 and disk.flushes == 1
    disk.fail = True
    with pytest.raises(BackendError):
        disk.read(0, 512)
    with pytest.raises(BackendError, match="multiple"):
        MemoryDisk(bytes(100))


def test_overlay_of_a_read_only_disk_is_writable() -> None:
    overlay = Overlay(MemoryDisk(bytes(2048), read_only=True))
    overlay.write(512, b"a" * 512)
    assert overlay.read(0, 2048)[512:1024] == b"a" * 512 and blockdev.SECTOR == 512
    overlay.close()
