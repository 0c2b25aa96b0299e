"""Where the firmware lies, and QEMU runs of it: the outside truth of the firmware's tests."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

FIRMWARE = Path(__file__).resolve().parents[2] / "firmware"
IMAGES = FIRMWARE / "images"
BIOS = IMAGES / "jitvm-bios.bin"
QEMU = "qemu-system-i386"
ICOUNT = ("-icount", "shift=2")
"""By instruction count QEMU lets its devices have their turn: without it, on a busy host, a guest that polls a disk may keep
the reset of that disk from being done for seconds."""

ATTEMPTS, OURS = 8, "jitvm BIOS"
"""On a busy host QEMU's disks answer later than the BIOS waits: a run of ours that misses a disk is made again."""
TIMEOUT = 60
"""Seconds of wall time; a run takes about one on an idle machine."""


@dataclass(frozen=True)
class Run:
    """What a QEMU run left: its exit status, COM1's and the debug port's output."""

    status: int
    serial: str
    debug: str


def text_of(output: bytes) -> str:
    """With the line ends of `read_text`."""
    return output.decode("latin-1").replace("\r\n", "\n")


def run_qemu(
    folder: Path, bios: Path, *options: str, typed: str = "", program: str = QEMU, hangs_behind: str | None = None
) -> Run:
    """Run QEMU's pc board headless until it ends by itself; `typed` is fed to COM1.

    `hangs_behind`: the debug output behind which this QEMU sometimes hangs by an error of its own; it is run again.
    """
    debug = folder / "debug.txt"
    command = [
        program, "-M", "pc", "-accel", "tcg", "-display", "none", "-no-reboot",
        "-bios", str(bios), "-serial", "stdio", "-debugcon", f"file:{debug}", *options,
    ]  # fmt: skip

    def misses_a_disk(serial: str) -> bool:
        return OURS in serial and serial.count("\nDisk 8") < options.count("-drive")

    for attempt in range(ATTEMPTS):
        try:
            done = subprocess.run(command, input=typed.encode(), capture_output=True, timeout=TIMEOUT, check=False)
        except subprocess.TimeoutExpired as stuck:
            hangs = debug.read_text(encoding="latin-1") == hangs_behind or misses_a_disk(text_of(stuck.stdout or b""))
            if attempt == ATTEMPTS - 1 or not hangs:
                raise
            continue
        serial = text_of(done.stdout)
        if not misses_a_disk(serial):
            break
    return Run(done.returncode, serial, debug.read_text(encoding="latin-1"))


def drive(image: Path, *, index: int = 0) -> tuple[str, str]:
    """QEMU's option for a raw IDE disk whose writes are thrown away."""
    return ("-drive", f"file={image},format=raw,if=ide,index={index},snapshot=on")


DEBUG_EXIT = ("-device", "isa-debug-exit,iobase=0xf4")
