"""SeaBIOS boots from a floppy and serves it by INT 13h, with QEMU's run of the same disk beside."""

from __future__ import annotations

from pathlib import Path

import pytest

from jitvm.config import DriveConfig
from jitvm.machine import Machine
from tests.boot.guests import GOOD, config, debug_output
from tests.engine.assembler import assemble
from tests.firmware.qemu import DEBUG_EXIT, QEMU, run_qemu
from tests.needs import SEABIOS_256K, VGABIOS, need

SECTOR, BOOT_AT = 512, 0x7C00
GUEST = """
    xor ax, ax
    mov ds, ax
    mov es, ax
    mov ss, ax
    mov sp, 0x7C00
    mov ah, 8                   # drive parameters: type, cylinders, sectors, heads, drives
    xor dx, dx
    int 0x13
    mov al, bl
    call tell
    mov ax, cx
    call tell2
    mov ax, dx
    call tell2
    xor ax, ax
    mov es, ax
    mov bx, 0x8000
    mov si, offset LAST
    mov ax, 0x0201              # the last sector
    call disk
    mov ax, 0x0301              # into the second one
    mov si, offset SECOND
    call disk
    mov ax, 0x0200 + TRACK      # the first track: two reads if it lies across 64 KiB of DMA
    mov si, offset FIRST
    call disk
    mov bx, 0x8200              # which holds what was the last sector
    call show
    mov ax, 0x0201              # no such sector
    mov si, offset NONE
    call disk
    mov al, 0x31
    out 0xF4, al
disk:
    mov cx, [si]
    mov dx, [si + 2]
    int 0x13
    mov al, ah
    call tell
show:
    mov al, [bx]
    call tell
    mov al, [bx + 1]
tell:
    out 0xE9, al
    ret
tell2:
    call tell
    mov al, ah
    jmp tell
LAST: .byte TRACK, CYLINDERS - 1, 0, 1
SECOND: .byte 2, 0, 0, 0
FIRST: .byte 1, 0, 0, 0
NONE: .byte TRACK + 1, 0, 0, 0
"""


def floppy(folder: Path, cylinders: int, track: int) -> Path:
    """A floppy of two sides that starts the guest; each sector begins with its number."""
    n_sectors = 2 * cylinders * track
    data = bytearray(b"".join(n.to_bytes(2, "big").ljust(SECTOR, b"-") for n in range(n_sectors)))
    code = assemble(f"TRACK = {track}\nCYLINDERS = {cylinders}\n{GUEST}", BOOT_AT, 16)
    data[:SECTOR] = code.ljust(SECTOR - 2, b"\0") + b"\x55\xaa"
    path = folder / "floppy.img"
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(("cylinders", "track", "kind"), [(80, 18, 4), (80, 36, 5), (80, 15, 2)])
def test_boot_read_and_write_a_floppy(tmp_path: Path, cylinders: int, track: int, kind: int) -> None:
    need(SEABIOS_256K, VGABIOS)
    image = floppy(tmp_path, cylinders, track)
    before = image.read_bytes()
    drive = DriveConfig(str(image), interface="floppy", snapshot=True)
    with Machine(config(SEABIOS_256K, drives=(drive,), boot="a")) as machine:
        result = machine.run()
        said = machine.debug_output(0xE9)
        assert (result.reason, result.code) == ("debug-exit", GOOD), debug_output(machine)
    last = (2 * cylinders * track - 1).to_bytes(2, "big")
    assert said[:5] == bytes((kind, track, cylinders - 1, 1, 1)), "of type, cylinders, sectors, heads, drives"
    assert said[5:16] == b"".join((b"\0", last, b"\0", last, b"\0", before[:2], last))
    assert said[16] != 0, "an error"
    assert image.read_bytes() == before
    need(QEMU)
    options = ("-drive", f"file={image},format=raw,if=floppy,snapshot=on", "-boot", "a", *DEBUG_EXIT)
    there = run_qemu(tmp_path, SEABIOS_256K, *options)
    assert (there.status, there.debug.encode("latin-1")) == (GOOD, said)
