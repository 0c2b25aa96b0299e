"""The checks of a configuration."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest

from jitvm import config
from jitvm.config import GIB, KIB, MIB, DriveConfig, MachineConfig
from jitvm.engine import accel
from jitvm.errors import BackendError, ConfigError, ImageError, JitvmError


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"memory": 0}, "-m"),
        ({"memory": 4 * GIB}, "-m"),
        ({"memory": MIB + 1}, "whole 4 KiB pages"),
        ({"smp": 0}, "--smp"),
        ({"smp": 17}, "--smp: 17 CPUs; give 1 to 16"),
        ({"drives": (DriveConfig("a", interface="floppy"),)}, "--fda: the embedded firmware reads no floppies"),
        ({"initrd": Path("i")}, "--initrd: there is no kernel"),
        ({"append": ""}, "--append: there is no kernel"),
        ({"gdb": ":1234", "gdb_arch": "z80"}, "--gdb-arch.*x86-64"),
        ({"gdb": ":1234", "gdb_on_disconnect": "sulk"}, "--gdb-on-disconnect.*stop"),
        ({"gdb": "-", "serials": ("stdio",)}, "--gdb -"),
        ({"max_insns": -1}, "--max-insns"),
        ({"timeout_s": 0.0}, "--timeout"),
        ({"timeout_s": float("nan")}, "--timeout"),
        ({"clock": "sundial"}, "--clock"),
        ({"display": "sdl"}, "--display"),
        ({"serials": ("stdio", "stdio")}, "one serial port"),
        ({"serials": ("null",) * 5}, "up to 4"),
        ({"serials": ("carrier-pigeon",)}, "unknown character device"),
        ({"serials": ("file:",)}, "no path"),
        ({"debugcons": ((0xE9, "null"), (0xE9, "null"))}, "twice"),
        ({"debugcons": ((0x10000, "null"),)}, "16-bit"),
        ({"boot": "cx"}, "--boot"),
        ({"boot": "cc"}, "--boot"),
        ({"code_cache": 0xFFFFF}, "--code-cache"),
        ({"code_cache": 1 << 41}, "--code-cache"),
        ({"engine": (("warp", True),)}, "--opt: unknown option 'warp'"),
        ({"trace": "nonsense"}, "no event matches"),
    ],
)
def test_a_configuration_checks_its_values(change: dict[str, object], word: str) -> None:
    with pytest.raises(ConfigError, match=word) as error:
        dataclasses.replace(MachineConfig(), **change)  # type: ignore[arg-type]  # wrong values are the point
    assert "\n" not in str(error.value)


def test_engine_options_are_those_of_the_engine() -> None:
    switches = {field.name for field in dataclasses.fields(accel.Options) if isinstance(field.default, bool)}
    assert switches == {*config.ENGINE_OPTIONS, *config.JITS["sync"]}


def test_the_embedded_firmware_is_found_and_is_a_bios() -> None:
    path = config.firmware_image()
    assert path.name == "jitvm-bios.bin"
    assert config.read_bios(None) == path.read_bytes()
    with pytest.raises(ImageError, match=r"firmware/build\.py"):
        config.firmware_image("missing.bin")


@pytest.mark.parametrize(
    ("size", "word"),
    [(0, "is empty"), (1, "multiple of 64 KiB"), (64 * KIB + 512, "131072"), (16 * MIB + 64 * KIB, "larger than 16")],
)
def test_images_of_a_wrong_size_are_refused(tmp_path: Path, size: int, word: str) -> None:
    image = tmp_path / "bios.bin"
    image.touch()
    os.truncate(image, size)
    with pytest.raises(ImageError, match=word):
        config.read_bios(image)


@pytest.mark.parametrize("size", [64 * KIB, 192 * KIB, 16 * MIB])
def test_images_of_a_right_size_are_read(tmp_path: Path, size: int) -> None:
    image = tmp_path / "bios.bin"
    image.touch()
    os.truncate(image, size)
    assert len(config.read_bios(image)) == size


@pytest.mark.parametrize("name", ["missing.bin", ".", "a\0b"])
def test_images_that_are_no_files_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ImageError, match="BIOS image"):
        config.read_bios(tmp_path / name)


def test_disks_are_looked_at_before_the_machine_is_made(tmp_path: Path) -> None:
    empty = tmp_path / "empty.img"
    empty.touch()
    for name, word in (("missing.img", "does not exist"), (".", "is a folder"), ("empty.img", "is empty")):
        with pytest.raises(BackendError, match=word):
            config.check_files(MachineConfig(drives=(DriveConfig(str(tmp_path / name)),)))
    good = tmp_path / "good.img"
    good.write_bytes(bytes(512))
    config.check_files(MachineConfig(drives=(DriveConfig(str(good)),)))


def test_an_unreadable_disk_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def access(path: str, mode: int) -> bool:  # as for a user who is not root
        return mode & os.stat(path).st_mode >> 6 == mode

    monkeypatch.setattr(os, "access", access)
    disk = tmp_path / "disk.img"
    disk.write_bytes(bytes(512))
    disk.chmod(0o400)
    config.check_files(MachineConfig(drives=(DriveConfig(str(disk), readonly=True),)))
    with pytest.raises(BackendError, match="readonly=on"):
        config.check_files(MachineConfig(drives=(DriveConfig(str(disk)),)))
    disk.chmod(0)
    with pytest.raises(BackendError, match="Permission denied"):
        config.check_files(MachineConfig(drives=(DriveConfig(str(disk), readonly=True),)))


def test_paths_may_be_strings() -> None:
    found = MachineConfig(bios="a.bin", symbols="a.elf", trace_file="log")  # type: ignore[arg-type]  # a caller's way
    assert (found.bios, found.symbols, found.trace_file) == (Path("a.bin"), Path("a.elf"), Path("log"))


def test_config_errors_are_for_users() -> None:
    assert issubclass(ConfigError, JitvmError) and issubclass(ImageError, JitvmError)
