"""--kernel with multiboot kernels: one that says what it was given, on our firmware, on SeaBIOS and in QEMU; bad ones."""

from __future__ import annotations

import itertools
import re
import struct
import subprocess
from pathlib import Path
from typing import Any

import pytest

from jitvm import symbols
from jitvm.config import MachineConfig
from jitvm.devices.fwcfg import INITRD_ADDR, INITRD_DATA, KERNEL_ADDR, KERNEL_DATA, KERNEL_ENTRY
from jitvm.errors import ConfigError, ImageError
from jitvm.kernel_boot import load
from jitvm.machine import Machine
from jitvm.multiboot import module_names
from tests.boot.guests import BIOS, GOOD, config, serial
from tests.firmware.qemu import DEBUG_EXIT, QEMU, run_qemu
from tests.needs import QBOOT, SEABIOS, VGABIOS, need

GUEST = Path(__file__).with_name("multiboot_guest.c")
FLAGS = (
    "-m32 -O1 -ffreestanding -fno-pic -fno-pie -no-pie -fno-stack-protector -fcf-protection=none -nostdlib -static "
    "-fno-asynchronous-unwind-tables -Wall -Werror -Wl,--build-id=none,--no-warn-rwx-segments"
).split()
LINE, ARGUMENTS = "a  b=c,d", " x =y"
MEMORY = 128 << 20


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The guest as ELF and as plain bytes; files for modules."""
    need("gcc", "objcopy")
    folder = tmp_path_factory.mktemp("multiboot")
    elf, flat, flat_elf, low = folder / "guest.elf", folder / "guest.bin", folder / "flat.elf", folder / "low.elf"
    for out, flags in ((elf, ()), (flat_elf, ("-DFLAT",)), (low, ("-Wl,--defsym=at=0x4000",))):
        link = f"-Wl,-T,{GUEST.with_suffix('.lds')}"
        subprocess.run(["gcc", *FLAGS, *flags, link, "-o", str(out), str(GUEST)], check=True, timeout=60)
    subprocess.run(["objcopy", "-O", "binary", str(flat_elf), str(flat)], check=True, timeout=60)
    (folder / "first").write_text("one")
    (folder / "second").write_text("two" * 2000)
    return {"ELF": elf, "flat": flat, "low": low, "first": folder / "first", "second": folder / "second"}


def modules(kernels: dict[str, Path]) -> str:
    return f"{kernels['first']}{ARGUMENTS},{kernels['second']}"


def said(kernel: Path, **more: Any) -> str:
    """What the kernel wrote to COM1, from its first word on."""
    with Machine(config(kernel=kernel, **{"memory": MEMORY, **more})) as machine:
        result = machine.run()
        assert (result.reason, result.code) == ("debug-exit", GOOD), result
        return serial(machine).partition("magic ")[2]


def of_memory(text: str) -> tuple[list[str], list[list[int]]]:
    """What is the firmware's to say, apart: the other lines, and the numbers of those."""
    lines = text.splitlines()
    ours = [line for line in lines if re.match("memory|map", line)]
    return [line for line in lines if line not in ours], [[int(n, 16) for n in line.split()[1:]] for line in ours]


TABLES = 0x2_0000
MAPS = {
    BIOS: [
        [0x280, (127 << 10) - 128], [0, 0xA0000, 1], [0xF0000, 0x10000, 2],
        [1 << 20, (127 << 20) - TABLES, 1], [MEMORY - TABLES, TABLES, 2], [0xFFFC0000, 0x40000, 2],
    ],
    SEABIOS: [
        [0x27F, (127 << 10) - 128], [0, 0x9FC00, 1], [0x9FC00, 0x400, 2], [0xF0000, 0x10000, 2],
        [1 << 20, (127 << 20) - TABLES, 1], [MEMORY - TABLES, TABLES, 2], [0xFFFC0000, 0x40000, 2],
    ],
}  # fmt: skip
"""Memory below and from 1 MiB on in KiB; begin, length and kind of each range.  ACPI's tables are at the end."""


@pytest.mark.parametrize("kind", ["ELF", "flat"])
@pytest.mark.parametrize("bios", [BIOS, SEABIOS], ids=["our firmware", "SeaBIOS"])
def test_it_is_told_what_qemu_tells(bios: Path, kind: str, kernels: dict[str, Path], tmp_path: Path) -> None:
    """All of it on SeaBIOS; our firmware says other things of the first megabyte."""
    need(QEMU, SEABIOS, VGABIOS)
    options = ("-kernel", str(kernels[kind]), "-initrd", modules(kernels), "-append", LINE)
    there = run_qemu(tmp_path, SEABIOS, *options, *DEBUG_EXIT)
    assert there.status == GOOD
    wanted, told = of_memory(there.serial.partition("magic ")[2])
    here, memory = of_memory(said(kernels[kind], bios=bios, append=LINE, initrd=modules(kernels)))
    assert here == [line.replace("loader qemu", "loader jitvm") for line in wanted]
    assert f"command line '{kernels[kind]} {LINE}'" in here
    assert any(line.endswith(f"first{ARGUMENTS}': one") for line in here)
    assert memory == MAPS[bios] and told == MAPS[SEABIOS]


@pytest.mark.parametrize("bios", [BIOS, SEABIOS], ids=["our firmware", "SeaBIOS"])
def test_it_may_lie_where_boot_sectors_do(bios: Path, kernels: dict[str, Path]) -> None:
    """And over 7000h and 9000h: all that loads it keeps below 16 KiB."""
    if bios == SEABIOS:
        need(SEABIOS, VGABIOS)
    here, memory = of_memory(said(kernels["low"], bios=bios, append=LINE, initrd=modules(kernels)))
    assert here[3] == "data 12345678 00000000" and f"command line '{kernels['low']} {LINE}'" in here
    assert any(line.endswith(f"first{ARGUMENTS}': one") for line in here)
    assert memory == MAPS[bios]


def test_without_modules_and_command_line(kernels: dict[str, Path]) -> None:
    text = said(kernels["ELF"], bios=BIOS)
    assert f"command line '{kernels['ELF']} '" in text and "module" not in text


def test_another_firmware_starts_it_from_the_same_items(kernels: dict[str, Path]) -> None:
    need(QBOOT)
    text = said(kernels["ELF"], bios=QBOOT, append=LINE, initrd=modules(kernels))
    assert text.startswith("2badb002\n") and f"{kernels['ELF']} {LINE}'" in text and "': one\n" in text


def test_its_symbols_are_the_guests(kernels: dict[str, Path]) -> None:
    made = config(kernel=kernels["ELF"], bios=SEABIOS)
    found = symbols.load(made)
    assert found is not None and found.at(0x10000D) == "entry+0x1"
    other = symbols.load(config(kernel=kernels["flat"], bios=BIOS))
    assert other is not None and other.address("say_all") is None, "no ELF: the firmware's"


# ---- headers and segments made by hand -----------------------------------------------------------------------------
def header(flags: int = 3, *addresses: int, checksum: int | None = None) -> bytes:
    right = -(0x1BADB002 + flags) & 0xFFFF_FFFF
    return struct.pack(f"<{3 + len(addresses)}I", 0x1BADB002, flags, right if checksum is None else checksum, *addresses)


def elf(
    *segments: tuple[int, int, bytes, int], entry: int = 0x100000, kind: int = 1, machine: int = 3, head: bytes | None = None
) -> bytes:
    """A file with segments (virtual, physical, bytes, size in memory) and a multiboot header behind the tables."""
    at = 52 + 32 * len(segments)
    mark = header() if head is None else head
    ident = b"\x7fELF" + bytes((kind, 1, 1))
    out = struct.pack("<16sHHIIIIIHHHHHH", ident, 2, machine, 1, entry, 52, 0, 0, 52, 32, len(segments), 40, 0, 0)
    sizes = itertools.accumulate((len(data) for _, _, data, _ in segments), initial=at + len(mark))
    for (virtual, physical, data, size), offset in zip(segments, sizes, strict=False):
        out += struct.pack("<8I", 1, offset, virtual, physical, len(data), size, 7, 4)
    return out + mark + b"".join(data for _, _, data, _ in segments)


def parts(folder: Path, kernel: bytes, **more: Any) -> dict[int, bytes]:
    """fw_cfg items of a kernel."""
    path = folder / "kernel"
    path.write_bytes(kernel)
    found = load(MachineConfig(kernel=path, **more))
    assert found is not None and found.rom_name == "genroms/multiboot.bin"
    return found.items


def number(items: dict[int, bytes], key: int) -> int:
    return int.from_bytes(items[key], "little")


def test_segments_lie_at_physical_addresses_and_so_does_the_entry(tmp_path: Path) -> None:
    high = 0xC000_0000
    data, code = (high + 0x10_2000, 0x10_2000, b"data", 0x3000), (high + 0x10_0000, 0x10_0000, b"code", 4)
    items = parts(tmp_path, elf(data, code, entry=high + 0x10_0002))
    image = items[KERNEL_DATA]
    assert number(items, KERNEL_ADDR) == 0x10_0000 and number(items, KERNEL_ENTRY) == 0x10_0002
    assert image[:0x1000] == b"code".ljust(0x1000, b"\0") and image[0x2000:0x5000] == b"data".ljust(0x3000, b"\0")
    line_at, n_modules, name_at = (struct.unpack_from("<I", items[INITRD_DATA], at)[0] - 0x10_0000 for at in (16, 20, 64))
    assert n_modules == -0x10_0000 and image[line_at:name_at].endswith(b"kernel \0") and image[name_at:][:6] == b"jitvm\0"
    assert number(items, INITRD_ADDR) == 0x3500 and len(items[INITRD_DATA]) == 88
    assert line_at == 0x5000, "behind what the kernel keeps for zeros"


def test_addresses_of_the_header_go_before_elf(tmp_path: Path) -> None:
    """Also in 64-bit ELF.  Bytes before the header belong to it; no end is the file's end."""
    head = header(0x10003, 0x20_0004, 0x20_0000, 0, 0x20_0100, 0x20_0008)
    items = parts(tmp_path, b"\x7fELF" + head + b"rest")
    assert items[KERNEL_DATA][: len(head) + 8] == b"\x7fELF" + head + b"rest"
    assert (number(items, KERNEL_ADDR), number(items, KERNEL_ENTRY)) == (0x20_0000, 0x20_0008)
    assert struct.unpack_from("<I", items[INITRD_DATA], 16)[0] == 0x20_1000


def test_a_right_header_behind_a_wrong_one_counts(tmp_path: Path) -> None:
    code = (0x10_0000, 0x10_0000, b"x", 1)
    assert parts(tmp_path, elf(code, head=header(checksum=1) + bytes(4) + header()))
    last = header().rjust(8192 - 52 - 32, b"\0")
    assert parts(tmp_path, elf(code, head=last)), "ends with the 8 KiB"
    with pytest.raises(ImageError, match="no multiboot header"):
        parts(tmp_path, elf(code, head=bytes(4) + last))


def test_names_of_modules() -> None:
    assert module_names("") == []
    assert module_names("a,,b c,d") == [("a,b c", "a,b"), ("d", "d")]


SEGMENT = (0x10_0000, 0x10_0000, b"\xf4", 1)
BAD: dict[str, tuple[bytes, dict[str, Any], type[Exception], str]] = {
    "checksum": (header(checksum=5) + bytes(99), {}, ImageError, "header at 0x0 has checksum 0x5, not 0xe4524ffb"),
    "version 2": (struct.pack("<I", 0xE85250D6) + bytes(99), {}, ImageError, "multiboot 2 at 0x0; give one of version 1"),
    "video": (elf(SEGMENT, head=header(7)), {}, ImageError, "asks for a video mode"),
    "flags": (elf(SEGMENT, head=header(0x13)), {}, ImageError, "has flags 0x13; of the lower 16"),
    "no ELF": (header() + bytes(99), {}, ImageError, r"no ELF file, and .* no addresses"),
    "short": (header(0x10003), {}, ImageError, "not within the first 8 KiB"),
    "64-bit": (elf(SEGMENT, kind=2), {}, ImageError, "malformed|64-bit ELF"),
    "ARM": (elf(SEGMENT, machine=40), {}, ImageError, "ELF for ARM, not for x86"),
    "tables": (elf(SEGMENT)[:60] + header(), {}, ImageError, "malformed"),
    "no segment": (elf(), {}, ImageError, "no segment to load"),
    "cut off": (elf(SEGMENT)[:-1], {}, ImageError, "segment at 0x100000 is cut off"),
    "larger": (elf((0x10_0000, 0x10_0000, b"12", 1)), {}, ImageError, "or larger in the file"),
    "entry": (elf(SEGMENT, entry=0x1234), {}, ImageError, "entry 0x1234 is not in what is loaded"),
    "too low": (elf((0x3C00, 0x3C00, b"x", 1), entry=0x3C00), {}, ImageError, "at 0x3c00; up to 0x3fff is the firmware's"),
    "hole": (elf((0x9_0000, 0x9_0000, b"x", 0x1_0000), entry=0x9_0000), {}, ImageError, "0x9fc00 to 1 MiB there is no RAM"),
    "little memory": (elf((0, 2 << 20, b"x", 1), entry=2 << 20), {"memory": 2 << 20}, ConfigError, "-m: 2 MiB .* give 4M"),
    "outside RAM": (elf((0, 0xE000_0000, b"x", 1), entry=0), {}, ConfigError, "-m: 128 MiB are too few"),
    "address": (header(0x10003, 0x10_0000, 0x10_0004, 0, 0, 0x10_0000), {}, ImageError, "addresses .* its file does not"),
    "before": (header(0x10003, 0x10_0000, 0xF_FFF0, 0, 0, 0x10_0000), {}, ImageError, "addresses .* its file does not"),
    "ends": (header(0x10003, 0x10_0000, 0x10_0000, 0x10_0004, 1, 0x10_0000), {}, ImageError, "ends before begins"),
    "cut flat": (header(0x10003, 0x10_0000, 0x10_0000, 0x10_1000, 0, 0x10_0000), {}, ImageError, "cut off: 32 bytes"),
    "module": (elf(SEGMENT), {"initrd": "no-such-file x"}, ImageError, "module 'no-such-file' can't be read: No such file"),
    "no name": (elf(SEGMENT), {"initrd": "a, b"}, ConfigError, "--initrd: module 2 of 'a, b' has no name"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_kernels(name: str, tmp_path: Path) -> None:
    kernel, more, error, message = BAD[name]
    with pytest.raises(error, match=message):
        parts(tmp_path, kernel, **more)


def test_64_bit_elf_is_refused_as_in_qemu(tmp_path: Path, kernels: dict[str, Path]) -> None:
    wide = tmp_path / "wide.elf"
    subprocess.run(["objcopy", "-I", "elf32-i386", "-O", "elf64-x86-64", str(kernels["ELF"]), str(wide)], check=True)
    with pytest.raises(ImageError, match=r"64-bit ELF; make it 32-bit: objcopy -O elf32-i386"):
        load(MachineConfig(kernel=wide))
