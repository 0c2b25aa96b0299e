"""Debian's own 64-bit kernel on the board: SeaBIOS, GRUB from a CD, Linux, a program in user space, power-off by ACPI.
Also started by the firmware itself (--kernel), on two processors that take turns or run at the same time.

The kernel is an installed one, or that of the path in `JITVM_TEST_KERNEL`.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.boot.guests import BIOS
from tests.needs import GRUB_RESCUE, SEABIOS_256K, lacking, needs

BUSYBOX = Path("/bin/busybox")
GRUB = Path("/usr/lib/grub/i386-pc/cdboot.img")
TIMEOUT = 900
INIT = """#!/bin/busybox sh
/bin/busybox mkdir -p /proc
/bin/busybox mount -t proc proc /proc
echo user space: $(/bin/busybox uname -m)
/bin/busybox sha256sum /bin/busybox
echo $(/bin/busybox grep -c . /proc/interrupts) lines of interrupts
/bin/busybox poweroff -f
"""
LOAD = """#!/bin/busybox sh
/bin/busybox mkdir -p /dev /proc /tmp
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t tmpfs tmpfs /tmp
echo user space: $(/bin/busybox uname -m)
work() {
    for n in 1 2; do
        /bin/busybox cat /bin/busybox | /bin/busybox gzip -1 | /bin/busybox gunzip | /bin/busybox sha256sum
    done > /tmp/$1
}
for k in $(/bin/busybox seq 4); do work $k & done
wait
echo $(/bin/busybox cat /tmp/* | /bin/busybox sort | /bin/busybox uniq -c)
/bin/busybox sha256sum /bin/busybox
/bin/busybox grep '^cpu[0-9]' /proc/stat
/bin/busybox poweroff -f
"""
"""Four processes with pipes, two to a core; what they found, and how long each core was busy."""
GRUB_CONFIG = """serial --unit=0
terminal_output serial
set timeout=0
menuentry linux {
 linux /boot/vmlinuz console=ttyS0 panic=-1 nokaslr
 initrd /boot/initrd
}
"""
pytestmark = [pytest.mark.slow, needs(*GRUB_RESCUE, BUSYBOX, GRUB, SEABIOS_256K)]


def kernel() -> Path:
    """An x86-64 kernel of Debian's."""
    named = os.environ.get("JITVM_TEST_KERNEL")
    found = [Path(named)] if named else sorted(Path("/boot").glob("vmlinuz-*-amd64"))
    if not found or not found[-1].is_file():
        lacking("needs a kernel: /boot/vmlinuz-*-amd64 or JITVM_TEST_KERNEL")
    return found[-1]


def initrd(folder: Path, init: str = INIT) -> bytes:
    """A cpio archive with BusyBox and `init`."""
    root = folder / "root"
    (root / "bin").mkdir(parents=True)
    shutil.copy(BUSYBOX, root / "bin" / "busybox")
    (root / "init").write_text(init)
    (root / "init").chmod(0o755)
    names = "\n".join((".", "bin", "bin/busybox", "init"))
    return subprocess.run(
        ["cpio", "-o", "-H", "newc", "--quiet"], cwd=root, input=names.encode(), stdout=subprocess.PIPE, check=True
    ).stdout


def cd(folder: Path) -> Path:
    """A CD whose GRUB starts the kernel."""
    tree, image = folder / "cd", folder / "linux.iso"
    (tree / "boot" / "grub").mkdir(parents=True)
    shutil.copy(kernel(), tree / "boot" / "vmlinuz")
    (tree / "boot" / "initrd").write_bytes(initrd(folder))
    (tree / "boot" / "grub" / "grub.cfg").write_text(GRUB_CONFIG)
    command = ["grub-mkrescue", "-d", str(GRUB.parent), "-o", str(image), str(tree)]
    subprocess.run(command, check=True, capture_output=True)
    return image


def boot(log: Path, *options: str, end: str = "Power down", bios: Path = SEABIOS_256K) -> str:
    """Run firmware and what it boots until the guest switches off, or as `end` says; what was said on COM1."""
    common = f"--cpu max -m 256M --display none --no-reboot --serial file:{log} --timeout {TIMEOUT}".split()
    done = subprocess.run(
        [sys.executable, "-m", "jitvm", "boot", str(bios), *common, *options],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    said = log.read_text(errors="replace")
    assert done.returncode == 0, done.stderr + said[-2000:]
    assert "user space: x86_64" in said
    assert f"{hashlib.sha256(BUSYBOX.read_bytes()).hexdigest()}  /bin/busybox" in said
    assert f"reboot: {end}" in said
    assert "BUG:" not in said and "Call Trace" not in said
    assert not re.search(r"ACPI[ \w]*(Error|Warning|Exception)|ACPI BIOS|IRQ.*(conflict|nobody cared)", said)
    return said


def test_a_debian_kernel_comes_up_and_switches_off(tmp_path: Path) -> None:
    boot(tmp_path / "serial.log", "--boot", "d", "--cdrom", str(cd(tmp_path)))


def test_on_two_processors_without_a_boot_loader(tmp_path: Path) -> None:
    (tmp_path / "initrd").write_bytes(initrd(tmp_path))
    files = ["--kernel", str(kernel()), "--initrd", str(tmp_path / "initrd")]
    said = boot(tmp_path / "serial.log", "--smp", "2", *files, "--append", "console=ttyS0 panic=-1")
    assert "smp: Brought up 1 node, 2 CPUs" in said
    assert "clocksource: Switched to clocksource tsc" in said and "TSC warp" not in said
    assert "ACPI: Using ACPI (MADT) for SMP configuration information" in said
    assert "PCI: Using ACPI for IRQ routing" in said
    for link, irq in (("A", 10), ("B", 10), ("C", 11), ("D", 11)):
        assert f"Interrupt link LNK{link} configured for IRQ {irq}" in said
    assert "pnp: PnP ACPI: found 4 devices" in said
    assert "00:03: ttyS0 at I/O 0x3f8 (irq = 4, base_baud = 115200) is a 16550A" in said


def test_without_acpi_by_the_bios_mp_table(tmp_path: Path) -> None:
    """SeaBIOS lists one processor of a socket there, on QEMU, too."""
    (tmp_path / "initrd").write_bytes(initrd(tmp_path, INIT.replace("poweroff", "reboot")))
    files = ["--kernel", str(kernel()), "--initrd", str(tmp_path / "initrd")]
    options = ["--smp", "2,sockets=2", *files, "--append", "console=ttyS0 panic=-1 acpi=off"]
    said = boot(tmp_path / "serial.log", *options, end="Restarting")
    assert "found SMP MP-table" in said and "smp: Brought up 1 node, 2 CPUs" in said


@pytest.mark.parametrize("ways", ["in turns", "at the same time"])
def test_a_load_on_two_processors(ways: str, tmp_path: Path) -> None:
    (tmp_path / "initrd").write_bytes(initrd(tmp_path, LOAD))
    files = ["--kernel", str(kernel()), "--initrd", str(tmp_path / "initrd"), "--append", "console=ttyS0 panic=-1"]
    threads = ["--smp-threads"] * (ways == "at the same time")
    said = boot(tmp_path / "serial.log", "--smp", "2", *threads, *files, bios=BIOS if threads else SEABIOS_256K)
    assert "smp: Brought up 1 node, 2 CPUs" in said
    assert f"8 {hashlib.sha256(BUSYBOX.read_bytes()).hexdigest()} -" in said, "four processes, twice each"
    times = re.findall(r"^(cpu\d) (\d+) \d+ (\d+) ", said, re.MULTILINE)
    busy = {name: int(user) + int(system) for name, user, system in times}
    assert len(busy) == 2 and min(busy.values()) > 0, busy
    assert "soft lockup" not in said and "rcu_sched" not in said and "self-detected" not in said
