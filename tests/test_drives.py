"""Images of a config where they belong, and those that fit nowhere."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from jitvm.config import DriveConfig, MachineConfig
from jitvm.drives import open_drives
from jitvm.errors import BackendError, ConfigError
from jitvm.machine import Machine
from jitvm.trace import SILENT


def image(folder: Path, name: str, size: int, first: bytes = b"") -> str:
    path = folder / name
    path.write_bytes(first.ljust(size, b"\0"))
    return str(path)


def test_each_interface_has_its_places(tmp_path: Path) -> None:
    drives = (
        DriveConfig(image(tmp_path, "b", 512), interface="floppy", index=1),
        DriveConfig(image(tmp_path, "vars", 4096), interface="pflash", index=1),
        DriveConfig(image(tmp_path, "code", 8192), interface="pflash"),
        DriveConfig(image(tmp_path, "disk", 512), index=2),
    )
    with contextlib.ExitStack() as resources:
        found = open_drives(drives, resources, SILENT)
    assert [bool(drive) for drive in found.ide] == [False, False, True, False]
    assert [bool(floppy) for floppy in found.floppies] == [False, True]
    assert [flash.size for flash in found.flashes] == [8192, 4096]
    assert len(found.disks) == 4


@pytest.mark.parametrize(
    ("size", "interface", "message"),
    [
        (512, "pflash", "has 512 bytes, not a multiple of 4096; round it up with: truncate"),
        (9 << 20, "pflash", "are larger than 8 MiB"),
        (3 << 20, "floppy", "has 3145728 bytes, the largest floppy 2949120"),
    ],
)
def test_images_that_fit_nowhere(tmp_path: Path, size: int, interface: str, message: str) -> None:
    drive = DriveConfig(image(tmp_path, "x", size), interface=interface)
    with contextlib.ExitStack() as resources, pytest.raises(BackendError, match=message):
        open_drives((drive,), resources, SILENT)


@pytest.mark.parametrize(
    ("drives", "message"),
    [
        ((DriveConfig("v", interface="pflash", index=1),), "'v': the second flash alone has no reset vector"),
        ((DriveConfig("c", interface="pflash"),), "--bios 'b' and the flash 'c' are in the same place"),
    ],
)
def test_flashes_that_do_not_go_together(drives: tuple[DriveConfig, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        MachineConfig(bios=Path("b"), drives=drives)


def test_flashes_lie_below_4_gib_and_keep_what_is_written(tmp_path: Path) -> None:
    code = image(tmp_path, "code", 0x10000, b"code")
    kept = image(tmp_path, "vars", 0x2000, b"vars")
    flashes = (DriveConfig(code, interface="pflash", readonly=True), DriveConfig(kept, interface="pflash", index=1))
    with Machine(MachineConfig(drives=flashes)) as machine:
        memory, board = machine.memory, machine.board
        assert memory.peek(0xFFFF0000, 4) == memory.peek(0xF0000, 4) == b"code"
        assert memory.peek(0xFFFEE000, 4) == b"vars"
        assert [(name, base) for _, base, _, name, _ in board.ranges() if name.startswith("pflash")] == [
            ("pflash1", 0xFFFEE000), ("pflash0", 0xFFFF0000),
        ]  # fmt: skip
        for value in (0x10, 0x77):
            board.mmio.write(0xFFFEF001, 1, value)
        assert memory.offset(0xFFFEF001) is None and memory.offset(0xFFFF0000) is not None, "status instead of bytes"
        board.mmio.write(0xFFFEF001, 1, 0xFF)
        assert memory.peek(0xFFFEF000, 3) == b"\0w\0"
    assert Path(kept).read_bytes()[0x1000:0x1003] == b"\0w\0"
