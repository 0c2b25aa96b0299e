"""--kernel: a kernel of a few bytes that says what it was given, on our firmware, on SeaBIOS and in QEMU; bad ones."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest

from jitvm.config import MachineConfig
from jitvm.devices.fwcfg import CMDLINE_DATA, INITRD_ADDR, INITRD_DATA, KERNEL_DATA, SETUP_DATA
from jitvm.errors import ConfigError, ImageError
from jitvm.kernel_boot import load
from jitvm.machine import Machine
from tests.boot.guests import BIOS, GOOD, config, debug_output
from tests.engine.assembler import assemble
from tests.firmware.qemu import DEBUG_EXIT, QEMU, run_qemu
from tests.needs import SEABIOS, VGABIOS, need

SETUP_SIZE, CODE_AT, KERNEL_AT = 1024, 0x268, 0x100000
SETUP = """
    cli
    mov ax, cs
    sub ax, 0x20
    mov bx, ds
    cmp ax, bx
    jne bad
    mov bx, es
    cmp ax, bx
    jne bad
    mov bx, ss
    cmp ax, bx
    jne bad
    cmp sp, [0x224]
    jb bad
    movzx esi, ax
    shl esi, 4
    lea ebx, [esi + gdt]
    mov [gdtr + 2], ebx
    lgdt [gdtr]
    mov eax, cr0
    or al, 1
    mov cr0, eax
    .byte 0x66, 0xEA
    .long 0x100000
    .word 8
bad:
    mov al, '!'
    out 0xE9, al
    cli
    hlt
gdtr: .word 23
    .long 0
gdt: .quad 0, 0x00CF9B000000FFFF, 0x00CF93000000FFFF
"""
KERNEL = """
    mov ax, 0x10
    mov ds, ax
    mov es, ax
    mov ss, ax
    mov edx, 0xE9
    mov ebp, esi
    mov esi, [ebp + 0x228]
1:  lodsb
    test al, al
    jz 2f
    out dx, al
    jmp 1b
2:  mov al, '|'
    out dx, al
    mov esi, [ebp + 0x218]
    mov ecx, [ebp + 0x21C]
    rep outsb
    mov al, 10
    out dx, al
    mov al, 0x31
    out 0xF4, al
    hlt
"""
VERSION, LOADED_HIGH, INITRD_MAX = 0x20A, 1, 0x7FFF_FFFF


def image(
    kernel: bytes = b"\xf4" * 64,
    code: bytes = b"\xf4",
    version: int = VERSION,
    flags: int = LOADED_HIGH,
    longest: int = 2047,
) -> bytes:
    """A bzImage with the setup code `code`."""
    setup = bytearray(SETUP_SIZE)
    setup[0x1F1] = SETUP_SIZE // 512 - 1
    setup[0x200:0x206] = bytes((0xEB, CODE_AT - 0x202)) + b"HdrS"
    struct.pack_into("<H", setup, 0x206, version)
    setup[0x211] = flags
    struct.pack_into("<I", setup, 0x22C, INITRD_MAX)
    struct.pack_into("<I", setup, 0x238, longest)
    struct.pack_into("<QI", setup, 0x258, KERNEL_AT, 0x4000)
    setup[CODE_AT : CODE_AT + len(code)] = code
    return bytes(setup) + kernel


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """A kernel that tells its command line and its RAM disk, and a RAM disk."""
    kernel, initrd = tmp_path / "kernel", tmp_path / "initrd"
    kernel.write_bytes(image(assemble(KERNEL, KERNEL_AT, 32), assemble(SETUP, CODE_AT, 16)))
    initrd.write_bytes(b"initial, " * 1000 + b"the end")
    return {"kernel": kernel, "initrd": initrd}


def said(**more: Any) -> str:
    """What the kernel wrote to the debug port."""
    with Machine(config(**more)) as machine:
        result = machine.run()
        assert (result.reason, result.code) == ("debug-exit", 0x31 << 1 | 1), result
        return debug_output(machine)


LINE = "console=ttyS0 a=b,c  =d"


@pytest.mark.parametrize("bios", [BIOS, SEABIOS], ids=["our firmware", "SeaBIOS"])
def test_firmware_starts_it_before_the_disks(bios: Path, files: dict[str, Path]) -> None:
    if bios == SEABIOS:
        need(SEABIOS, VGABIOS)
    wanted = f"{LINE}|{files['initrd'].read_text()}\n"
    assert said(bios=bios, append=LINE, **files) == wanted
    assert said(bios=bios, kernel=files["kernel"]) == "|\n"


def test_as_in_qemu(tmp_path: Path, files: dict[str, Path]) -> None:
    need(QEMU, SEABIOS)
    options = ("-kernel", str(files["kernel"]), "-initrd", str(files["initrd"]), "-append", LINE)
    there = run_qemu(tmp_path, SEABIOS, *options, *DEBUG_EXIT)
    assert there.status == GOOD
    assert there.debug == said(bios=SEABIOS, append=LINE, **files)


def parts(folder: Path, kernel: bytes, **more: Any) -> dict[int, bytes]:
    """fw_cfg items of a kernel."""
    path = folder / "kernel"
    path.write_bytes(kernel)
    found = load(MachineConfig(kernel=path, **more))
    assert found is not None
    return found.items


def test_the_header_is_filled_in(tmp_path: Path) -> None:
    initrd = tmp_path / "initrd"
    initrd.write_bytes(bytes(5000))
    items = parts(tmp_path, image(), initrd=initrd, append="quiet", memory=64 << 20)
    setup = items[SETUP_DATA]
    (at,) = struct.unpack("<I", items[INITRD_ADDR])
    assert len(setup) == SETUP_SIZE and items[KERNEL_DATA] == b"\xf4" * 64
    assert items[CMDLINE_DATA] == b"quiet\0" and items[INITRD_DATA] == bytes(5000)
    assert setup[0x210:0x212] == bytes((0xFF, 0x81)), "type of loader, loaded high with a heap"
    assert struct.unpack_from("<II", setup, 0x218) == (at, 5000)
    assert at == (63 << 20) - 0x2000, "whole pages below what firmware keeps"


def test_an_old_kernel_gets_its_ram_disk_lower(tmp_path: Path) -> None:
    initrd = tmp_path / "initrd"
    initrd.write_bytes(bytes(1))
    items = parts(tmp_path, image(version=0x202), initrd=initrd, memory=1 << 30)
    assert struct.unpack("<I", items[INITRD_ADDR]) == (0x37FF_F000,)


BAD: dict[str, tuple[bytes, dict[str, Any], type[Exception], str]] = {
    "empty": (b"", {}, ImageError, "is empty"),
    "no kernel": (bytes(4096), {}, ImageError, "no Linux kernel"),
    "short": (b"HdrS", {}, ImageError, "no Linux kernel"),
    "zImage": (image(flags=0), {}, ImageError, "zImage"),
    "old": (image(version=0x201), {}, ImageError, "protocol 2.01"),
    "setup alone": (image(b""), {}, ImageError, "cut off"),
    "long line": (image(longest=10), {"append": "x" * 11}, ConfigError, "--append: 11 bytes; .* takes 10"),
    "little memory": (image(), {"memory": 1 << 20}, ConfigError, "-m: 1 MiB are too few .* give 3M"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_kernels(name: str, tmp_path: Path) -> None:
    kernel, more, error, message = BAD[name]
    with pytest.raises(error, match=message):
        parts(tmp_path, kernel, **more)


def test_the_ram_disk_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"initrd .* can't be read: No such file"):
        parts(tmp_path, image(), initrd=tmp_path / "nothing")
