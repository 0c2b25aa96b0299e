"""Our BIOS on QEMU's pc board, and its services against SeaBIOS's."""

from __future__ import annotations

import re
import subprocess
import time
from pathlib import Path

import pytest

from tests.fast_set import share
from tests.firmware.qemu import BIOS, DEBUG_EXIT, IMAGES, QEMU, Run, drive, run_qemu
from tests.needs import SEABIOS, need, needs

pytestmark = needs(QEMU)

BOOTSECT = IMAGES / "guests" / "bootsect.img"
SERVICES = IMAGES / "guests" / "services.img"
DISKWRITE = IMAGES / "guests" / "diskwrite.img"
GOOD_STATUS = 0x31 << 1 | 1
POWER_OFF = "No bootable device, powering off.\n"

WORDS = {BIOS: (0x222, 640), SEABIOS: (0x4227, 639)}
"""INT 11h and 12h on QEMU's pc: FPU, 80 columns in color, one serial port; SeaBIOS adds the printer port, the mouse and
the diskette drive, and keeps a KiB of low memory.  INT 15h AH=88 says 63 MiB at most."""


def results(run: Run) -> dict[str, str]:
    """The self-test's lines: name to result."""
    return {match[1].rstrip(): match[2] for match in re.finditer(r"^test (.{31}) (.*)$", run.serial, re.MULTILINE)}


def test_without_disk_it_tests_the_board_and_powers_off(tmp_path: Path) -> None:
    run = run_qemu(tmp_path, BIOS)
    assert run.status == 0
    assert run.serial.startswith("jitvm BIOS")
    assert run.serial.endswith(POWER_OFF)
    assert "PCI 00:00.0 8086:1237" in run.serial
    assert "PCI 00:01.3 8086:7113" in run.serial
    assert "RAM: 131072 KiB below 4 GiB, 0 MiB above" in run.serial
    found = results(run)
    absent = {name for name, result in found.items() if result == "absent"}
    assert absent == {
        "protected mode: segment limit",  # QEMU's TCG checks none
        "IDE: identify",
        "IDE: interrupt",
        "IDE: read",
    }
    assert {found[name] for name in found.keys() - absent} == {"PASS"}
    assert f"self-test: {len(found) - len(absent)} passed, 0 failed" in run.serial


@pytest.mark.slow
def test_banner_and_summary_are_on_the_vga_screen(tmp_path: Path) -> None:
    screen = tmp_path / "screen.bin"
    command = [
        QEMU, "-M", "pc", "-accel", "tcg", "-display", "none", "-bios", str(BIOS),
        "-serial", f"file:{tmp_path / 'serial.txt'}", "-monitor", "stdio", "-no-shutdown",
    ]  # fmt: skip
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as machine:
        try:
            assert machine.stdin is not None
            serial = tmp_path / "serial.txt"
            deadline = time.monotonic() + 60
            while not (serial.exists() and "powering off" in serial.read_text("latin-1")):
                assert time.monotonic() < deadline, "no end of the run"
                time.sleep(0.05)
            machine.stdin.write(f'pmemsave 0xb8000 4000 "{screen}"\nquit\n')
            machine.stdin.flush()
            machine.wait(timeout=30)
        finally:
            machine.kill()
    text = screen.read_bytes()[::2].decode("latin-1")
    lines = [text[start : start + 80].rstrip() for start in range(0, 2000, 80)]
    assert "self-test: 32 passed, 0 failed" in lines
    assert "No bootable device, powering off." in lines


@pytest.mark.parametrize("options", share([
    "-vga cirrus -m 512 -smp 2", "-vga none -m 16", "-cpu 486 -nodefaults -m 64", "-m 3584",
], 1))  # fmt: skip
def test_other_machines_pass_too(tmp_path: Path, options: str) -> None:
    run = run_qemu(tmp_path, BIOS, *options.split())
    assert run.status == 0
    assert ", 0 failed\n" in run.serial
    assert run.serial.endswith(POWER_OFF)


@pytest.mark.slow
def test_a_failed_self_test_leaves_by_the_debug_exit(tmp_path: Path) -> None:
    run = run_qemu(tmp_path, BIOS, "-m", "1", "-nodefaults", *DEBUG_EXIT)
    failed = [name for name, result in results(run).items() if result.startswith("FAIL")]
    assert "RAM: places, independent" in failed
    assert run.status == len(failed) << 1 | 1


@pytest.mark.slow
def test_disks_are_found_and_a_disk_without_signature_is_not_booted(tmp_path: Path) -> None:
    disk = tmp_path / "empty.img"
    disk.write_bytes(bytes(1 << 20))
    run = run_qemu(tmp_path, BIOS, *drive(disk), *drive(disk, index=2))
    assert run.status == 0
    assert "Disk 80: 1 MiB" in run.serial
    assert "Disk 81: 1 MiB" in run.serial
    assert [results(run)[f"IDE: {name}"] for name in ("identify", "interrupt", "read")] == ["PASS"] * 3
    assert run.serial.endswith(POWER_OFF)


@pytest.mark.parametrize("bios", share([BIOS, SEABIOS], 0), ids=["ours", "seabios"])
def test_boot_sector_gets_its_services(tmp_path: Path, bios: Path) -> None:
    need(bios)
    run = run_qemu(tmp_path, bios, *drive(BOOTSECT), *DEBUG_EXIT)
    assert run.status == GOOD_STATUS, run.serial
    assert "boot sector runs\nsectors read by AH=02 and AH=42\n" in run.debug
    assert "boot sector done" in run.serial
    assert f" equipment {WORDS[bios][0]:08x} low {WORDS[bios][1]:08x}\n88 0000fc00 " in run.debug
    ram = [
        (int(base, 16), int(length, 16))
        for base, length, kind in re.findall(r"e820 (\w{16}) (\w{16}) (\d)", run.debug)
        if kind == "1"
    ]
    assert ram[0][0] == 0
    assert ram[1][0] == 1 << 20
    assert 126 << 20 < ram[1][1] <= 127 << 20


@pytest.mark.slow
@pytest.mark.parametrize("bios", [BIOS, SEABIOS], ids=["ours", "seabios"])
def test_services_agree(tmp_path: Path, bios: Path) -> None:
    need(bios)
    run = run_qemu(tmp_path, bios, *drive(SERVICES), *DEBUG_EXIT)
    assert run.debug.endswith("services ok\n"), run.serial
    assert run.status == GOOD_STATUS


@pytest.mark.slow
@pytest.mark.parametrize("bios", [BIOS, SEABIOS], ids=["ours", "seabios"])
def test_boot_sector_writes_through_int_13h(tmp_path: Path, bios: Path) -> None:
    need(bios)
    disk = tmp_path / "disk.img"
    disk.write_bytes(DISKWRITE.read_bytes())
    run = run_qemu(tmp_path, bios, "-drive", f"file={disk},format=raw,if=ide", *DEBUG_EXIT)
    assert run.status == GOOD_STATUS, run.serial
    content = disk.read_bytes()
    assert content[40 * 512 : 41 * 512] == b"W" * 512
    assert content[41 * 512 : 42 * 512] == b"8" * 512
    assert content[42 * 512 :] == DISKWRITE.read_bytes()[42 * 512 :]


@pytest.mark.slow
@pytest.mark.parametrize("bios", [BIOS, SEABIOS], ids=["ours", "seabios"])
def test_blocks_beyond_lba28(tmp_path: Path, bios: Path) -> None:
    need(bios)
    disk = tmp_path / "big.img"
    n_blocks = (1 << 28) + 1000
    with disk.open("wb") as image:  # sparse: takes no room
        image.write((IMAGES / "guests" / "lba48.img").read_bytes())
        for block, text in (
            ((1 << 28) - 1, b"28 ends "),
            (1 << 28, b"48 only "),
            (n_blocks - 1, b"the last"),
        ):
            image.seek(block * 512)
            image.write(text.ljust(512, b"."))
    run = run_qemu(tmp_path, bios, *drive(disk), *DEBUG_EXIT)
    assert run.status == GOOD_STATUS
    assert run.debug.endswith("28 ends \n48 only \nthe last\n")
