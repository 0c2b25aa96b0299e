"""How each emulator is called on a bench image, and whether it is there.

Sources: QEMU's manual page (``-bios``, ``isa-debugcon``, ``isa-debug-exit``);
the bochsrc reference of Bochs 2.7 (``port_e9_hack``, ``romimage``).
"""

from __future__ import annotations

import importlib.util
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from jitvm.bench.errors import RunError
from jitvm.bench.workloads import iterations_of, name_of

MAX_INSTRUCTIONS = 1 << 62
"""Passed to jitvm: a limit that no bench run reaches."""


class Runner(Protocol):
    """Who can run a bench image.

    Attributes:
        name: of the emulator.
        board: whether there are a PC's devices around the CPU.
        machine: whether it runs images as a machine does; else only programs that use nothing of one.
    """

    name: str
    board: bool
    machine: bool

    def missing(self) -> str | None:
        """Why it can't run here ("not installed"), or None."""

    def version(self) -> str:
        """Its version, as it says itself."""

    def command(self, image: Path) -> list[str]:
        """The command that runs `image`, port 0xE9 on standard output."""

    def several(self, cpus: int) -> list[str] | None:
        """Options for so many CPUs that run at the same time, on a host thread each; None: it has one."""


def _said(command: Sequence[str], word: str = "") -> str:
    """The first line with `word` that a program prints, "?" when there is none."""
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return "?"
    lines = (result.stdout + result.stderr).splitlines()
    return next((line.strip() for line in lines if word in line), "?")


class Jitvm:
    """jitvm in a process of its own, with this Python.

    Args:
        options: further options of ``jitvm boot``.
        name: of a variant that runs beside the usual one.
    """

    board = True
    machine = True

    def __init__(self, options: Sequence[str] = (), name: str = "jitvm") -> None:
        self.options, self.name = tuple(options), name

    def missing(self) -> str | None:
        return None if importlib.util.find_spec("jitvm.cli") else "not installed"

    def version(self) -> str:
        from jitvm import __version__

        return " ".join((__version__, *self.options))

    def command(self, image: Path) -> list[str]:
        return [
            *self.boot(image), "--debugcon", "stdio",
            "--device", "isa-debug-exit,iobase=0xf4",
            "--max-insns", str(MAX_INSTRUCTIONS), "--stats", "json", *self.options,
        ]  # fmt: skip

    def several(self, cpus: int) -> list[str] | None:
        return ["--smp", str(cpus), "--smp-threads"]

    def boot(self, image: Path) -> list[str]:
        """``jitvm boot`` on an image, without console, on a CPU that has what every workload uses."""
        return [
            sys.executable, "-m", "jitvm", "boot", str(image), "--cpu", "max",
            "--display", "none", "--serial", "null",
        ]  # fmt: skip


class Qemu:
    """qemu-system-x86_64 with its translator (TCG), no KVM."""

    name = "qemu"
    board = True
    machine = True
    program = "qemu-system-x86_64"

    def missing(self) -> str | None:
        return None if shutil.which(self.program) else "not installed"

    def version(self) -> str:
        return _said([self.program, "--version"])

    def command(self, image: Path) -> list[str]:
        return [
            *self.boot(image), "-debugcon", "stdio",
            "-device", "isa-debug-exit,iobase=0xf4",
        ]  # fmt: skip

    def several(self, cpus: int) -> list[str] | None:
        return ["-smp", str(cpus), "-accel", "tcg,thread=multi"]

    def boot(self, image: Path) -> list[str]:
        """QEMU's PC on an image, without network card and display."""
        return [
            self.program, "-accel", "tcg", "-M", "pc", "-m", "128M", "-nic", "none",
            "-bios", str(image), "-display", "none",
        ]  # fmt: skip


class Bochs:
    """Bochs with a generated configuration, its log and option ROM in `scratch`.

    Debian's Bochs has the debugger built in, so that it asks what to do
    first: a command file says "c" (continue). It insists on a VGA option ROM,
    which the bench guests never call, and on a display: ``rfb`` (a VNC server
    that nobody calls either) needs no screen, and ``term`` and ``nogui`` are
    taken first where they are built in. The dummy sound drivers keep it from
    looking for a sound card.
    """

    name = "bochs"
    board = True
    machine = True
    program = "bochs"
    displays = (
        ("nogui", "display_library: nogui"),
        ("rfb", 'display_library: rfb, options="timeout=0"'),
        ("term", "display_library: term"),
    )

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch

    def missing(self) -> str | None:
        if not shutil.which(self.program):
            return "not installed"
        return None if self._display() else "no display library without a screen"

    def version(self) -> str:
        return _said([self.program, "--help"], "Emulator")

    def _display(self) -> str | None:
        """The configuration line of a display library that is installed."""
        folders = [Path("/usr/lib"), Path("/usr/local/lib"), Path("/usr/lib64")]
        for name, line in self.displays:
            for folder in folders:
                if any(folder.glob(f"bochs/plugins/libbx_{name}_gui.so")) or any(
                    folder.glob(f"*/bochs/plugins/libbx_{name}_gui.so")
                ):
                    return line
        return None

    def command(self, image: Path) -> list[str]:
        rom = bytearray(2048)
        rom[0:3] = b"\x55\xaa\x04"
        rom[-1] = -sum(rom) & 0xFF
        (self.scratch / "vga.rom").write_bytes(rom)
        (self.scratch / "commands").write_text("c\n")
        lines = [
            "plugin_ctrl: unmapped=1, biosdev=1, speaker=1, e1000=0, parallel=0, serial=0",
            self._display() or "",
            "sound: waveoutdrv=dummy, waveindrv=dummy, midioutdrv=dummy",
            "speaker: enabled=1, mode=none",
            "memory: guest=128, host=128",
            f"romimage: file={image}, address=0xffff0000",
            f"vgaromimage: file={self.scratch / 'vga.rom'}",
            "cpu: model=bx_generic, count=1, ips=100000000, reset_on_triple_fault=0",
            "clock: sync=none, time0=utc",
            "port_e9_hack: enabled=1",
            f"log: {self.scratch / 'log'}",
            "panic: action=fatal",
            "error: action=ignore",
            "info: action=ignore",
            "debug: action=ignore",
        ]
        configuration = self.scratch / "bochsrc"
        configuration.write_text("\n".join(lines) + "\n")
        commands = str(self.scratch / "commands")
        return [self.program, "-q", "-f", str(configuration), "-rc", commands]

    def several(self, cpus: int) -> list[str] | None:
        return None


class Unicorn:
    """unicorn, driven by a child process of this Python."""

    name = "unicorn"
    board = False
    machine = True

    def missing(self) -> str | None:
        return None if importlib.util.find_spec("unicorn") else "not installed"

    def version(self) -> str:
        from importlib.metadata import version

        return version("unicorn")

    def command(self, image: Path) -> list[str]:
        return [sys.executable, "-m", "jitvm.bench.unicorn_guest", str(image)]

    def several(self, cpus: int) -> list[str] | None:
        return None


class Native:
    """This host's own CPU: the guest's measured part as a program of Linux, by the compiler and flags that made the guest.

    No emulator: what the others' speed is a part of.
    """

    name = "native"
    board = True
    machine = False
    tools = ("gcc", "ld")

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch
        self.sources = Path(__file__).resolve().parents[2] / "firmware/bench"

    def missing(self) -> str | None:
        if platform.machine() != "x86_64" or sys.platform != "linux":
            return "this host is no x86-64 Linux"
        if not all(shutil.which(tool) for tool in self.tools):
            return "not installed (gcc, binutils)"
        return None if (self.sources / "build_bench.py").is_file() else "the guests' sources are not here"

    def version(self) -> str:
        return _said(["gcc", "--version"])

    def command(self, image: Path) -> list[str]:
        content = image.read_bytes()
        name, iterations = name_of(content), iterations_of(content)
        folder = self.scratch / "native"
        if not (folder / name).exists():
            folder.mkdir(exist_ok=True)
            build = [sys.executable, str(self.sources / "build_bench.py"), "--native", name, str(folder)]
            done = subprocess.run(build, capture_output=True, text=True, check=False)
            if done.returncode:
                said = (done.stderr.strip() or "nothing said").splitlines()
                raise RunError(f"{name} can't be built for this host: {said[-1][:160]}")
        return [str(folder / name), str(iterations)]

    def several(self, cpus: int) -> list[str] | None:
        return []


def all_runners(scratch: Path, jitvm_options: Sequence[str] = ()) -> list[Runner]:
    """Every emulator that the bench knows, in table order, and this host."""
    return [Jitvm(jitvm_options), Qemu(), Bochs(scratch), Unicorn(), Native(scratch)]
