"""The parsers of QEMU's syntax and the checks of a configuration."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest

from jitvm import config
from jitvm.config import GIB, KIB, MIB, DeviceConfig, DriveConfig, MachineConfig
from jitvm.engine import accel
from jitvm.errors import BackendError, ConfigError, ImageError, JitvmError


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("128", 128 * MIB),
        ("128M", 128 * MIB),
        ("128m", 128 * MIB),
        ("1G", GIB),
        ("1.5G", 1536 * MIB),
        ("0.25g", 256 * MIB),
        (".5G", 512 * MIB),
        ("4096k", 4 * MIB),
        ("0x40", 64 * MIB),
        ("0x1b", 0x1B * MIB),
        ("1048576b", MIB),
        ("size=64M", 64 * MIB),
    ],
)
def test_sizes_are_read_as_qemu_does(text: str, size: int) -> None:
    assert config.parse_memory(text) == size


@pytest.mark.parametrize("text", ["", "M", "12Q", "1.M", "1.5.2G", "-5", "size=", "12 34", "0xG", "m=4,m=5", "x=1"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ConfigError) as error:
        MachineConfig(memory=config.parse_memory(text))
    assert str(error.value).startswith("-m: ")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a,b", ["a", "b"]),
        ("a,,b", ["a,b"]),
        ("a,,,b", ["a,", "b"]),
        ("a,,,,b", ["a,,b"]),
        ("", [""]),
        ("a,", ["a", ""]),
    ],
)
def test_two_commas_are_one(text: str, parts: list[str]) -> None:
    assert config.split_list(text) == parts


def test_keys_without_a_value_are_switched_on() -> None:
    assert config.parse_keys("-x", "file=a=b,,c,readonly") == {"file": "a=b,c", "readonly": "on"}
    assert config.parse_keys("-x", "a.img,index=1", "file") == {"file": "a.img", "index": "1"}


@pytest.mark.parametrize("text", ["a=1,a=2", "=1", "a=1,"])
def test_broken_lists_are_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        config.parse_keys("-x", text)


@pytest.mark.parametrize(("text", "number"), [("12", 12), ("0x10", 16), ("010", 8), ("0", 0)])
def test_numbers(text: str, number: int) -> None:
    assert config.parse_number("-x", text) == number


def test_a_drive_takes_the_first_free_place() -> None:
    drive = config.parse_drive("file=my,,disk.img,format=raw,if=ide,readonly=on", taken=[0, 2])
    assert drive == DriveConfig("my,disk.img", index=1, readonly=True)
    assert config.parse_drive("file=a,bus=1,unit=1").index == 3
    assert config.parse_drive("a.iso,media=cdrom,index=2,snapshot=on") == DriveConfig(
        "a.iso", index=2, media="cdrom", snapshot=True
    )


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("format=raw", "no file"),
        ("file=a,format=qcow2", "not yet"),
        ("file=a,if=virtio", "not yet"),
        ("file=a,index=4", "index 4"),
        ("file=a,index=x", "not a number"),
        ("file=a,readonly=maybe", "neither on nor off"),
        ("file=a,media=tape", "tape"),
        ("file=a,colour=red", "unknown key 'colour'"),
        ("file=a,bus=0,index=1", "not both"),
        ("file=a,bus=2", "bus 0 and 1"),
    ],
)
def test_bad_drives_are_refused(text: str, word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        config.parse_drive(text)


def test_a_fifth_drive_and_a_taken_place_are_refused() -> None:
    with pytest.raises(ConfigError, match="all 4 places are taken"):
        config.parse_drive("file=e", taken=range(4))
    with pytest.raises(ConfigError, match="index 1 is taken by 'a'"):
        MachineConfig(drives=(DriveConfig("a", index=1), DriveConfig("b", index=1)))


def test_devices_have_defaults_and_check_their_properties() -> None:
    assert config.parse_device("isa-debug-exit,iobase=0xf4").option("iobase") == 0xF4
    assert config.parse_device("isa-debug-exit").option("iobase") == 0x501
    assert config.parse_device("driver=isa-debug-exit,iosize=4") == DeviceConfig("isa-debug-exit", (("iosize", 4),))
    for text, word in (
        ("e1000", "unknown device 'e1000'; known: isa-debug-exit"),
        ("isa-debug-exit,port=1", "unknown property 'port'"),
        ("isa-debug-exit,iobase=0x10000", "16-bit"),
        ("isa-debug-exit,iobase=f4", "not a number"),
        ("", "unknown device ''"),
    ):
        with pytest.raises(ConfigError, match=word):
            config.parse_device(text)
    with pytest.raises(ConfigError, match="twice"):
        MachineConfig(devices=(DeviceConfig("isa-debug-exit"), DeviceConfig("isa-debug-exit")))


@pytest.mark.parametrize(
    ("text", "port", "target"),
    [
        ("stdio", 0xE9, "stdio"),
        ("log.txt", 0xE9, "file:log.txt"),
        ("0x402=stdio", 0x402, "stdio"),
        ("1026=log.txt", 0x402, "file:log.txt"),
        ("file:a=b", 0xE9, "file:a=b"),
        ("dir/1=b", 0xE9, "file:dir/1=b"),
        ("0x402=file:a=b", 0x402, "file:a=b"),
        ("null", 0xE9, "null"),
    ],
)
def test_debugcon_targets(text: str, port: int, target: str) -> None:
    assert config.parse_debugcon(text) == (port, target)


@pytest.mark.parametrize("text", ["", "0x402=", "0xzz=a"])
def test_bad_debugcons_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--debugcon"):
        config.parse_debugcon(text)


def test_cpu_and_boot_and_trace_and_opt() -> None:
    assert config.parse_cpu("pentium,+tsc,-cmov,pse=off") == (
        "pentium",
        (("tsc", True), ("cmov", False), ("pse", False)),
    )
    assert config.parse_boot("cd") == ("cd", False)
    assert config.parse_boot("order=dc,menu=on") == ("dc", True)
    assert config.parse_trace("exit,irq_*:out.txt") == ("exit,irq_*", Path("out.txt"))
    assert config.parse_trace("exit") == ("exit", None)
    assert config.parse_opt("fuse=off,chain") == (("fuse", False), ("chain", True))
    for bad in ("", ",+a", "p,cmov"):
        with pytest.raises(ConfigError, match="--cpu"):
            config.parse_cpu(bad)
    for bad in (":x", "exit:"):
        with pytest.raises(ConfigError, match="--trace"):
            config.parse_trace(bad)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"memory": 0}, "-m"),
        ({"memory": 4 * GIB}, "-m"),
        ({"memory": MIB + 1}, "whole 4 KiB pages"),
        ({"smp": 0}, "--smp"),
        ({"smp": 17}, "--smp: 17 CPUs; give 1 to 16"),
        ({"floppies": ("a",)}, "--fda.*not yet"),
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
