"""The values of options in QEMU's syntax."""

from __future__ import annotations

from pathlib import Path

import pytest

from jitvm import option_values as values
from jitvm.config import GIB, MIB, DeviceConfig, DriveConfig, MachineConfig
from jitvm.errors import ConfigError


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
    assert values.parse_memory(text) == size


@pytest.mark.parametrize("text", ["", "M", "12Q", "1.M", "1.5.2G", "-5", "size=", "12 34", "0xG", "m=4,m=5", "x=1"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ConfigError) as error:
        MachineConfig(memory=values.parse_memory(text))
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
    assert values.split_list(text) == parts


def test_keys_without_a_value_are_switched_on() -> None:
    assert values.parse_keys("-x", "file=a=b,,c,readonly") == {"file": "a=b,c", "readonly": "on"}
    assert values.parse_keys("-x", "a.img,index=1", "file") == {"file": "a.img", "index": "1"}


@pytest.mark.parametrize("text", ["a=1,a=2", "=1", "a=1,"])
def test_broken_lists_are_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        values.parse_keys("-x", text)


@pytest.mark.parametrize(
    ("text", "cpus", "cores", "threads"),
    [
        ("2", 2, 2, 1),
        ("cpus=3", 3, 3, 1),
        ("sockets=2,cores=2", 4, 2, 1),
        ("maxcpus=4", 4, 4, 1),
        ("1,maxcpus=4", 1, 4, 1),
        ("2,maxcpus=4,sockets=2,cores=2,threads=1", 2, 2, 1),
        ("4,cores=2", 4, 2, 1),
        ("4,threads=2", 4, 2, 2),
        ("8,sockets=2", 8, 4, 1),
        ("8,sockets=2,threads=2", 8, 2, 2),
        ("8,sockets=2,cores=2", 8, 2, 2),
        ("cores=3,dies=1", 3, 3, 1),
    ],
)
def test_cpus_are_counted_as_qemu_does(text: str, cpus: int, cores: int, threads: int) -> None:
    """`info cpus` and `info hotpluggable-cpus` of QEMU 7.2 with the same -smp."""
    assert values.parse_smp(text) == (cpus, cores, threads)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("4,cores=3", "3 cores are not 4 CPUs"),
        ("4,sockets=3", "3 sockets are not 4 CPUs"),
        ("4,cores=8", "8 cores are not 4 CPUs"),
        ("4,sockets=1,cores=2,threads=1", "1 sockets x 2 cores x 1 threads are not 4 CPUs"),
        ("4,maxcpus=2", "maxcpus 2 is less than 4 CPUs"),
        ("4,cores=0", "cores is 0"),
        ("4,dies=2", "dies is 2"),
        ("2,clusters=2", "unknown key 'clusters'"),
    ],
)
def test_topologies_that_do_not_fit_are_refused(text: str, word: str) -> None:
    """QEMU 7.2 refuses them too, but for a 0, of which it warns, and dies."""
    with pytest.raises(ConfigError, match=word):
        values.parse_smp(text)


@pytest.mark.parametrize(("text", "number"), [("12", 12), ("0x10", 16), ("010", 8), ("0", 0)])
def test_numbers(text: str, number: int) -> None:
    assert values.parse_number("-x", text) == number


def disk(index: int) -> DriveConfig:
    return DriveConfig("other", index=index)


def test_a_drive_takes_the_first_free_place() -> None:
    drive = values.parse_drive("file=my,,disk.img,format=raw,if=ide,readonly=on", map(disk, (0, 2)))
    assert drive == DriveConfig("my,disk.img", index=1, readonly=True)
    assert values.parse_drive("file=a,bus=1,unit=1").index == 3
    floppy = values.parse_drive("a.img,if=floppy", [DriveConfig("b", interface="floppy"), disk(1)])
    assert floppy == DriveConfig("a.img", interface="floppy", index=1)
    assert values.parse_drive("a.iso,media=cdrom,index=2,snapshot=on") == DriveConfig(
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
        values.parse_drive(text)


def test_a_fifth_drive_and_a_taken_place_are_refused() -> None:
    with pytest.raises(ConfigError, match="all 4 places are taken"):
        values.parse_drive("file=e", map(disk, range(4)))
    with pytest.raises(ConfigError, match="index 1 is taken by 'a'"):
        MachineConfig(drives=(DriveConfig("a", index=1), DriveConfig("b", index=1)))


def test_devices_have_defaults_and_check_their_properties() -> None:
    assert values.parse_device("isa-debug-exit,iobase=0xf4").option("iobase") == 0xF4
    assert values.parse_device("isa-debug-exit").option("iobase") == 0x501
    assert values.parse_device("driver=isa-debug-exit,iosize=4") == DeviceConfig("isa-debug-exit", (("iosize", 4),))
    for text, word in (
        ("e1000", "unknown device 'e1000'; known: isa-debug-exit"),
        ("isa-debug-exit,port=1", "unknown property 'port'"),
        ("isa-debug-exit,iobase=0x10000", "16-bit"),
        ("isa-debug-exit,iobase=f4", "not a number"),
        ("", "unknown device ''"),
    ):
        with pytest.raises(ConfigError, match=word):
            values.parse_device(text)
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
    assert values.parse_debugcon(text) == (port, target)


@pytest.mark.parametrize("text", ["", "0x402=", "0xzz=a"])
def test_bad_debugcons_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--debugcon"):
        values.parse_debugcon(text)


def test_cpu_and_boot_and_trace_and_opt() -> None:
    assert values.parse_cpu("pentium,+tsc,-cmov,pse=off") == (
        "pentium",
        (("tsc", True), ("cmov", False), ("pse", False)),
    )
    assert values.parse_boot("cd") == ("cd", False)
    assert values.parse_boot("order=dc,menu=on") == ("dc", True)
    assert values.parse_trace("exit,irq_*:out.txt") == ("exit,irq_*", Path("out.txt"))
    assert values.parse_trace("exit") == ("exit", None)
    assert values.parse_opt("fuse=off,chain") == (("fuse", False), ("chain", True))
    for bad in ("", ",+a", "p,cmov"):
        with pytest.raises(ConfigError, match="--cpu"):
            values.parse_cpu(bad)
    for bad in (":x", "exit:"):
        with pytest.raises(ConfigError, match="--trace"):
            values.parse_trace(bad)
