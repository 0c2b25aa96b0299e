"""Debian's SeaBIOS on the board, with QEMU's run of the same image as the outside truth."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from jitvm.machine import Machine
from tests.acpi.linker import tables
from tests.acpi.test_tables import loaded
from tests.boot.guests import (
    GOOD,
    GUESTS,
    config,
    debug_output,
    disk,
    fingerprint,
)
from tests.fast_set import share
from tests.needs import SEABIOS, SEABIOS_256K, need
from tests.texts import texts_of_this_session

ROOT = Path(__file__).resolve().parents[2]
SEABIOS_PORT = 0x402
NO_DEVICE = "No bootable device."
CHUNK, CHUNKS = 500_000, 40
"""Instructions between two looks at the screen; SeaBIOS needs about 6 million."""

QEMU = "qemu-system-i386"
KNOWN_DIFFERENCES = {
    "SMBIOS tables come from QEMU; here SeaBIOS makes its own, of another size, so other things move": [
        r"Copying (MPTABLE|SMBIOS|ACPI RSDP) from 0x[\w/]+ to 0x\w+",
        r"Space available for UMB: \w+-\w+, \w+-\w+",
    ],
    "QEMU's DSDT is longer, with hotplug": [
        r"ACPI: parse DSDT at 0x\w+ \(len \d+\)",
        r"table\(50434146\)=0x\w+ \(via rsdt\)",
    ],
}


def lines(log: str) -> list[str]:
    """The lines of a debug log that must be the same."""
    known = re.compile("|".join(f"(?:{p})" for patterns in KNOWN_DIFFERENCES.values() for p in patterns))
    return [line for line in log.replace("\r", "").split("\n") if line and not known.fullmatch(line)]


def boot_to_no_device(bios: Path, **more: Any) -> tuple[str, str]:
    """The VGA text screen and the debug log of a SeaBIOS that found nothing to boot."""
    with Machine(config(bios, debugcons=((SEABIOS_PORT, "memory"),), memory=128 << 20, **more)) as m:
        for _ in range(CHUNKS):
            assert m.run(CHUNK).reason == "max-insns"
            screen = "\n".join(row.rstrip() for row in m.screen_text())
            if NO_DEVICE in screen:
                return screen, debug_output(m, SEABIOS_PORT)
    raise AssertionError(f"'{NO_DEVICE}' never came; the screen is:\n{screen}")


def qemu_log(bios: Path, folder: Path, *more: str) -> str:
    """QEMU's debug log up to the same line, on a board without what ours lacks."""
    path = folder / "qemu.log"
    command = [
        QEMU, "-M", "pc", "-accel", "tcg", "-m", "128M", "-nodefaults", "-vga", "std", "-cpu", "pentium3",
        "-global", "apic-common.vapic=off", "-display", "none", "-serial", "null", "-bios", str(bios),
        "-debugcon", f"file:{path}", "-global", "isa-debugcon.iobase=0x402", *more,
    ]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            end = time.monotonic() + 60
            while not (path.exists() and NO_DEVICE in path.read_text("latin-1")):
                assert time.monotonic() < end, "QEMU did not come to the end"
                time.sleep(0.05)
        finally:
            process.kill()
    return path.read_text("latin-1")


@pytest.mark.parametrize("bios", share([SEABIOS, SEABIOS_256K], 1), ids=lambda path: path.stem)
def test_no_bootable_device(bios: Path, tmp_path: Path) -> None:
    need(bios)
    screen, log = boot_to_no_device(bios)
    assert screen.startswith("SeaBIOS (version")
    assert "Found QEMU fw_cfg" in log and "PS2 keyboard initialized" in log
    need(QEMU)
    assert lines(log) == lines(qemu_log(bios, tmp_path))


def test_acpi_tables_lie_where_their_pointers_say() -> None:
    """SeaBIOS runs the loader's script: the same tables as by the script of a test's own."""
    need(SEABIOS)
    with Machine(config(SEABIOS, smp=2)) as m:
        for _ in range(CHUNKS):
            m.run(CHUNK)
            if any(NO_DEVICE in row for row in m.screen_text()):
                break
        found, expected = tables(m.ram.tobytes()), loaded(m)
        assert set(found) == set(expected)
        for name in ("DSDT", "APIC"):
            assert found[name] == expected[name]
        assert found["FACP"][44:] == expected["FACP"][44:]


def test_several_processors(tmp_path: Path) -> None:
    """SeaBIOS starts the second one by INIT and SIPI, and counts them."""
    need(SEABIOS_256K)
    _, log = boot_to_no_device(SEABIOS_256K, smp=2)
    assert "Found 2 cpu(s) max supported 2 cpu(s)" in log
    need(QEMU)
    assert lines(log) == lines(qemu_log(SEABIOS_256K, tmp_path, "-smp", "2"))


def test_system_management_mode(tmp_path: Path) -> None:
    """SeaBIOS moves SMBASE to A0000h, then calls 32-bit code from 16-bit code by SMIs, as often as on QEMU."""
    need(SEABIOS_256K)
    with Machine(config(SEABIOS_256K, memory=128 << 20)) as m:
        count = []
        m.trace.listeners.append(lambda event, fields: count.append(event) if event == "smi" else None)
        while NO_DEVICE not in "\n".join(m.screen_text()):
            assert m.run(CHUNK).reason == "max-insns"
        assert int(m.vcpus[0].engine.c.smbase) == 0xA0000
    need(QEMU)
    path = tmp_path / "int.log"
    qemu_log(SEABIOS_256K, tmp_path, "-d", "int", "-D", str(path))
    assert len(count) == path.read_text("latin-1").count("SMM: enter") > 1


@pytest.mark.parametrize("name", ["bootsect", "services", "diskwrite"])
def test_boot_sector_guest(name: str) -> None:
    need(SEABIOS)
    with Machine(config(SEABIOS, drives=disk(name), debugcons=((0xE9, "memory"), (SEABIOS_PORT, "memory")))) as m:
        result = m.run()
        assert (result.reason, result.code) == ("debug-exit", GOOD), debug_output(m)
        assert "Booting from 0000:7c00" in debug_output(m, SEABIOS_PORT)
        if name == "bootsect":
            output = debug_output(m)
            assert "sectors read by AH=02 and AH=42\n" in output
            # one serial port, mouse, 80 columns in color; no printer port and no diskette drive, which QEMU's pc has
            # (SeaBIOS claims an FPU unseen); 639 KiB below 1 MiB, and the memory above it but for ACPI tables
            assert f" equipment {0x226:08x} low {639:08x}\n88 {31 * 1024 - 128:08x} " in output


def test_keys_reach_int_16h() -> None:
    need(SEABIOS)
    with Machine(config(SEABIOS, drives=disk("keys"))) as m:
        while "keys: " not in debug_output(m):
            assert m.run(CHUNK).reason == "max-insns"
        m.type_text("aq")
        assert m.run().code == GOOD
        assert debug_output(m).partition("keys: ")[2].split() == ["1e61/00", "1071/00"]


def test_reset_boots_again() -> None:
    need(SEABIOS)
    with Machine(config(SEABIOS, drives=disk("bootsect"))) as m:
        assert m.run().code == GOOD
        first = debug_output(m)
        m.reset()
        assert m.run().code == GOOD
        second = debug_output(m)[len(first) :]
        assert [line for line in second.split("\n") if "e820" in line] == [
            line for line in first.split("\n") if "e820" in line
        ]


# ---- reproducibility ------------------------------------------------------------------------------------------------
def run_of_its_own(cache: Path, bios: Path, name: str) -> tuple[dict[str, Any], int]:
    """The fingerprint of a run in another process with its own cache folder, and how many functions it compiled."""
    command = [sys.executable, "-m", "tests.boot.fingerprint", str(bios), str(GUESTS / f"{name}.img")]
    environment = os.environ | {"XDG_CACHE_HOME": str(cache)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    found, compiled = done.stdout.splitlines()
    return json.loads(found), int(compiled)


def test_two_runs_in_one_process_are_the_same() -> None:
    need(SEABIOS)
    prints = []
    for _ in range(2):
        with Machine(config(SEABIOS, drives=disk("bootsect"))) as m:
            m.run()
            prints.append(fingerprint(m))
    assert prints[0] == prints[1]


@pytest.mark.slow
def test_cold_and_warm_runs_are_the_same(tmp_path: Path) -> None:
    need(SEABIOS)
    texts_of_this_session(tmp_path / "cache")
    cold, much = run_of_its_own(tmp_path / "cache", SEABIOS, "bootsect")
    warm, little = run_of_its_own(tmp_path / "cache", SEABIOS, "bootsect")
    assert cold == warm
    assert much > 800
    assert little <= 5, "the second boot compiles next to nothing: what was on its way when the first one ended"
    assert (cold["reason"], cold["code"]) == ("debug-exit", GOOD)
    with Machine(config(SEABIOS, drives=disk("bootsect"), timeout_s=500)) as m:
        m.run()
        assert json.loads(json.dumps(fingerprint(m))) == {key: cold[key] for key in fingerprint(m)}
