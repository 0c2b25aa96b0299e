"""What a machine is made of, as one frozen record; `jitvm.option_values` makes its values from the command line.

`MachineConfig` is what `jitvm.machine.Machine` takes.  Values are checked when the record is made; files of the host
are looked at by `check_files`, or when they are opened.  Every complaint is a `ConfigError` or `ImageError` of one
line: what, where, what to do.

Not modelled: disk formats but raw, drive interfaces but IDE, floppy and pflash, `-chardev`, `-machine`, `-accel`.
"""

from __future__ import annotations

import os
import platform
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NoReturn

from jitvm.errors import BackendError, ConfigError, ImageError
from jitvm.trace import Trace

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
DEFAULT_MEMORY = 128 * MIB
MIN_MEMORY, MAX_MEMORY = MIB, 3 * GIB
"""RAM ends below the PCI hole; more than that needs the 64-bit CPU."""
MAX_CPUS = 16
"""More would take more of the host's memory for translated code than they are worth."""
MAX_PER_SOCKET = 255
"""QEMU's "pc" has so many CPUs at most, and CPUID leaf 1 eight bits for those of a socket."""
BIOS_UNIT, MAX_BIOS = 64 * KIB, 16 * MIB
DEFAULT_CODE_CACHE, MIN_CODE_CACHE = 256 * MIB, MIB
N_IDE = 4
PLACES: Mapping[str, int] = {"ide": N_IDE, "floppy": 2, "pflash": 2}
"""Interfaces of drives, and how many each has."""
N_SERIALS = 4
DEBUGCON_PORT = 0xE9
EMBEDDED_BIOS = "jitvm-bios.bin"
BOOT_LETTERS = {"a": "floppy", "c": "disk", "d": "cdrom", "n": "network"}
CHARDEVS = ("null", "stdio", "pty", "file:PATH", "tcp:HOST:PORT[,server][,nowait]")
DEVICES: Mapping[str, Mapping[str, int]] = {"isa-debug-exit": {"iobase": 0x501, "iosize": 2}}
"""What --device can name, with the properties and their defaults."""
OPTIMISATIONS: Mapping[str, str] = {
    "stencils": "hot blocks become copied machine code",
    "regions": "hot loops are compiled as a whole",
    "beside": "stencils are made by the compiler process while the guest runs on",
    "groups": "without stencils, instructions of hot blocks are put together by three",
    "pins": "without regions, hot blocks keep the guest's registers in the host's",
    "fuse": "a compare and the jump behind it are one",
    "dead_flags": "flags that nothing in the block reads are not made",
    "chain": "a jump leads to the next block without a look-up",
    "pads": "copied blocks jump to each other directly",
    "jump_cache": "indirect jumps find their block in a table by address",
    "targets": "a region goes on where its indirect jumps were seen to go",
    "returns": "a region goes on behind calls",
    "lazy_flags": "a region makes flags where they are read",
    "copies": "small loops of a region have several copies of their body",
    "joins": "a region's block that runs into another one ends there",
    "shared_lookups": "accesses of a region that stay on a page look into the TLB once",
    "grouped_lookups": "accesses of a region's block that lie close together look once",
    "latches": "ports that only hold a value, and the local APIC at interrupts, are served without an exit",
}
"""What --opt can switch off (`jitvm.engine.accel.Options`), and what each does."""
ENGINE_OPTIONS: Mapping[str, str] = {**OPTIMISATIONS, "count": "instructions are counted by tier (off; slow), for --stats"}
"""All that --opt can switch."""
JITS: Mapping[str, Mapping[str, bool]] = {
    "handlers": {"stencils": False, "regions": False},
    "stencils": {"regions": False, "beside": True},
    "regions": {"beside": True},
    "sync": {"sync": True},
}
"""The tiers up to which --jit goes, as `jitvm.engine.accel.Options`; sync: the guest waits for its regions and stencils."""

Clock = Literal["auto", "icount", "realtime"]
Display = Literal["none", "text"]
CLOCKS: tuple[Clock, ...] = ("auto", "icount", "realtime")
DISPLAYS: tuple[Display, ...] = ("none", "text")
GDB_ARCHS = ("x86-64", "i386", "i8086")
GDB_POLICIES = ("run", "stop", "exit")


@dataclass(frozen=True)
class DriveConfig:
    """One disk or CD: `index` 0..3 is primary master, primary slave, secondary master, secondary slave; of floppies A and B;
    of flashes the one at 4 GiB, the one below.
    """

    file: str
    format: str = "raw"
    interface: str = "ide"
    index: int = 0
    readonly: bool = False
    media: str = "disk"
    snapshot: bool = False

    def __post_init__(self) -> None:
        where = f"drive '{self.file}'"
        if not self.file:
            fail("--drive: no file given; write file=PATH")
        if self.media not in ("disk", "cdrom"):
            fail(f"{where}: media '{self.media}' is neither disk nor cdrom")
        if self.format != "raw":
            fail(f"{where}: format '{self.format}' is not yet supported; convert it to raw (qemu-img convert -O raw)")
        if self.interface not in PLACES:
            fail(f"{where}: interface '{self.interface}' is not yet supported; use if=ide")
        if not 0 <= self.index < PLACES[self.interface]:
            of = {"ide": "two IDE channels with two drives each"}.get(self.interface, f"two drives of if={self.interface}")
            fail(f"{where}: index {self.index} is not 0 to {PLACES[self.interface] - 1} ({of})")
        if self.media == "cdrom" and self.interface != "ide":
            fail(f"{where}: a CD is read by if=ide, not if={self.interface}")


@dataclass(frozen=True)
class DeviceConfig:
    """A device of --device with the properties that were given, as integers."""

    name: str
    options: tuple[tuple[str, int], ...] = ()

    def __post_init__(self) -> None:
        known = DEVICES.get(self.name)
        if known is None:
            fail(f"--device: unknown device '{self.name}'; known: {', '.join(DEVICES)}")
        for key, value in self.options:
            if key not in known:
                fail(f"--device {self.name}: unknown property '{key}'; known: {', '.join(known)}")
            if not 0 <= value <= 0xFFFF:
                fail(f"--device {self.name}: {key} {value:#x} is not a 16-bit number")

    def option(self, key: str) -> int:
        """A property, as given or by default."""
        return dict(self.options).get(key, DEVICES[self.name][key])


@dataclass(frozen=True)
class MachineConfig:
    """A machine and how it is run.

    Attributes:
        memory: RAM in bytes.
        smp: CPUs; they take turns, or `smp_threads`: they run at the same time, which no second run repeats.
        cores_per_socket, threads_per_core: what CPUID says of them; without a number of cores one socket has all.
        cpu: model name, None for the default; `cpu_features` are (name, on or off) pairs.
        bios: path of a firmware image, None for the embedded one.  A path may be given as a string, here and below.
        drives: disks, CDs, floppies and flashes, each with its own index among those of its interface.
        kernel: a Linux or multiboot kernel that firmware starts (`jitvm.kernel_boot`), with its command line `append` and
            its initial RAM disk `initrd`, or its modules as text: files with arguments, between commas.
        boot: order as letters (a floppy, c disk, d CD, n network), "" for the firmware's own.
        serials: COM1, COM2, ... as character devices (`jitvm.backends.chardev.open_chardev`).
        debugcons: (port, character device) pairs.
        no_reboot: a reset ends the run.
        start_paused: wait for `cont`, or for gdb's.
        gdb: where the command line serves gdb (`jitvm.gdb_target.serve`), with a register layout (x86-64, i386, i8086) and
            what becomes of the guest when gdb leaves (run, stop, exit).
        clock: auto, icount (virtual time only) or realtime.
        max_insns: end after so many instructions, None for no limit; `timeout_s` likewise in the host's seconds.
        trace: patterns of events, "" for none, and a file for them, None for standard error.
        cache: whether compiled code is kept on disk.
        jit: the highest tier: handlers, stencils, regions, or sync (all compiled while the guest waits).
        perf_map: whether /tmp/perf-PID.map is written; trace_json: a file for trace viewers.
        code_cache: bytes of machine code that is kept in memory, for all CPUs together.
        engine: (option, on or off) pairs of the engine's experiments.
    """

    memory: int = DEFAULT_MEMORY
    smp: int = 1
    cores_per_socket: int | None = None
    threads_per_core: int = 1
    smp_threads: bool = False
    cpu: str | None = None
    cpu_features: tuple[tuple[str, bool], ...] = ()
    bios: Path | None = None
    drives: tuple[DriveConfig, ...] = ()
    kernel: Path | None = None
    initrd: Path | str | None = None
    append: str | None = None
    boot: str = ""
    boot_menu: bool = False
    serials: tuple[str, ...] = ("null",)
    debugcons: tuple[tuple[int, str], ...] = ()
    devices: tuple[DeviceConfig, ...] = ()
    no_reboot: bool = False
    start_paused: bool = False
    gdb: str | None = None
    gdb_arch: str = "x86-64"
    gdb_on_disconnect: str = "run"
    symbols: Path | None = None
    symbols_offset: int = 0
    display: Display = "none"
    clock: Clock = "auto"
    max_insns: int | None = None
    timeout_s: float | None = None
    trace: str = ""
    trace_file: Path | None = None
    stats: Literal["", "table", "json"] = ""
    perf_map: bool = False
    trace_json: Path | None = None
    cache: bool = True
    jit: str = "regions"
    code_cache: int = DEFAULT_CODE_CACHE
    engine: tuple[tuple[str, bool], ...] = ()

    def __post_init__(self) -> None:
        for name in ("bios", "kernel", "symbols", "trace_file", "trace_json"):
            if isinstance(path := getattr(self, name), str):
                object.__setattr__(self, name, Path(path))  # the way to set a field of a frozen record as it is made
        if not MIN_MEMORY <= self.memory <= MAX_MEMORY:
            fail(f"-m: {show_size(self.memory)} of memory is not from 1 MiB to {show_size(MAX_MEMORY)}")
        if self.memory % (4 * KIB):
            fail(f"-m: {self.memory} bytes are no whole 4 KiB pages; round to {show_size(-(-self.memory >> 20) << 20)}")
        if not 1 <= self.smp <= MAX_CPUS:
            fail(f"--smp: {self.smp} CPUs; give 1 to {MAX_CPUS}")
        if not (1 <= self.cores <= MAX_PER_SOCKET and 1 <= self.threads_per_core <= MAX_PER_SOCKET // self.cores):
            given = f"{self.cores} cores with {self.threads_per_core} threads each"
            fail(f"--smp: {given} in a socket; CPUID tells 1 to {MAX_PER_SOCKET} CPUs")
        if self.smp_threads and platform.machine() != "x86_64":
            fail(f"--smp-threads: memory has x86's order only on x86-64 hosts, not on {platform.machine()}; leave it out")
        for option, value in (("--initrd", self.initrd), ("--append", self.append)):
            if value is not None and self.kernel is None:
                fail(f"{option}: there is no kernel for it; give --kernel FILE")
        self._check_gdb()
        if not 0 <= self.symbols_offset < 1 << 32:
            fail(f"--symbols: offset {self.symbols_offset:#x} is not below 4 GiB")
        if self.max_insns is not None and self.max_insns < 0:
            fail(f"--max-insns: {self.max_insns} is negative")
        if self.timeout_s is not None and not 0 < self.timeout_s < 1e9:
            fail(f"--timeout: {self.timeout_s} is no number of seconds above 0")
        if self.clock not in CLOCKS:
            fail(f"--clock: '{self.clock}' is none of {', '.join(CLOCKS)}")
        if self.display not in DISPLAYS:
            fail(f"--display: '{self.display}' is none of {', '.join(DISPLAYS)}")
        self._check_drives()
        self._check_chardevs()
        taken = [device.name for device in self.devices]
        for name in taken:
            if taken.count(name) > 1:
                fail(f"--device: {name} is given twice")
        for letter in self.boot:
            if letter not in BOOT_LETTERS or self.boot.count(letter) > 1:
                names = ", ".join(f"{key} {what}" for key, what in BOOT_LETTERS.items())
                fail(f"--boot: '{self.boot}' is no order of {names}, each at most once")
        if self.jit not in JITS:
            fail(f"--jit: '{self.jit}' is none of {', '.join(JITS)}")
        if not MIN_CODE_CACHE * self.smp <= self.code_cache < 1 << 40:
            fail(f"--code-cache: {show_size(self.code_cache)} is not from {show_size(MIN_CODE_CACHE)} a CPU to 1 TiB")
        for name, _ in self.engine:
            if name not in ENGINE_OPTIONS:
                fail(f"--opt: unknown option '{name}'; known: {', '.join(ENGINE_OPTIONS)}")
        if self.trace:
            Trace(self.trace)

    def _check_drives(self) -> None:
        taken: dict[tuple[str, int], str] = {}
        for drive in self.drives:
            place = drive.interface, drive.index
            if place in taken:
                fail(f"drive '{drive.file}': index {drive.index} is taken by '{taken[place]}'; give another index=")
            taken[place] = drive.file
        if ("pflash", 1) in taken and ("pflash", 0) not in taken:
            fail(f"drive '{taken['pflash', 1]}': the second flash alone has no reset vector; give if=pflash,index=0 too")
        if ("pflash", 0) in taken and self.bios is not None:
            fail(f"--bios '{self.bios}' and the flash '{taken['pflash', 0]}' are in the same place; give one of them")
        if ("floppy", 0) in taken and self.bios is None and self.kernel is None and ("pflash", 0) not in taken:
            fail("--fda: the embedded firmware reads no floppies; give one that does: /usr/share/seabios/bios-256k.bin")

    def _check_gdb(self) -> None:
        if self.gdb_arch not in GDB_ARCHS:
            fail(f"--gdb-arch: '{self.gdb_arch}' is none of {', '.join(GDB_ARCHS)}")
        if self.gdb_on_disconnect not in GDB_POLICIES:
            fail(f"--gdb-on-disconnect: '{self.gdb_on_disconnect}' is none of {', '.join(GDB_POLICIES)}")
        if self.gdb == "-" and self.uses_stdio:
            fail("--gdb -: standard input and output are gdb's; give --serial null or file:PATH")

    def _check_chardevs(self) -> None:
        if len(self.serials) > N_SERIALS:
            fail(f"--serial: {len(self.serials)} serial ports; a PC has up to {N_SERIALS}")
        for spec in self.serials:
            check_chardev("--serial", spec)
        if self.serials.count("stdio") > 1:
            fail("--serial: stdio serves one serial port only; use file:PATH, pty or tcp: for the others")
        ports: set[int] = set()
        for port, spec in self.debugcons:
            check_chardev("--debugcon", spec)
            if not 0 <= port <= 0xFFFF:
                fail(f"--debugcon: port {port:#x} is not a 16-bit number")
            if port in ports:
                fail(f"--debugcon: port {port:#x} is given twice")
            ports.add(port)

    @property
    def cores(self) -> int:
        """Cores of a socket."""
        return -(-self.smp // self.threads_per_core) if self.cores_per_socket is None else self.cores_per_socket

    @property
    def uses_stdio(self) -> bool:
        """Whether the terminal is the guest's: COM or debug output goes there."""
        return "stdio" in self.serials or any(spec == "stdio" for _, spec in self.debugcons)


# ---- errors and checks ----------------------------------------------------------------------------------------------
def fail(message: str) -> NoReturn:
    """A bad value."""
    raise ConfigError(message)


def show_size(size: int) -> str:
    """A size for a person."""
    for unit, name in ((GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
        if size >= unit and size % unit == 0:
            return f"{size // unit} {name}"
    return f"{size} bytes"


def check_chardev(option: str, spec: str) -> None:
    """Whether a character device is of a kind that there is."""
    kind, _, rest = spec.partition(":")
    if spec in ("null", "stdio", "pty", "memory") or (kind in ("file", "tcp") and rest):
        return
    if kind in ("file", "tcp"):
        fail(f"{option}: '{spec}' says no {'path' if kind == 'file' else 'address'}; known: {', '.join(CHARDEVS)}")
    fail(f"{option}: unknown character device '{spec}'; known: {', '.join(CHARDEVS)}")


def gdb_error(error: Exception) -> ConfigError:
    """What gdbstub says of an address, as a mistake in an option."""
    return ConfigError(str(error).replace("gdb:", "--gdb:", 1))


def _check_gdb_address(address: str) -> None:
    from gdbstub.errors import ServerError
    from gdbstub.server import check_address

    try:
        check_address(address)
    except ServerError as error:
        raise gdb_error(error) from None


# ---- firmware --------------------------------------------------------------------------------------------------------
def firmware_image(name: str = EMBEDDED_BIOS) -> Path:
    """A file of `firmware/images`: beside the package in a checkout, inside it when installed.

    Raises:
        ImageError: neither has it.
    """
    package = Path(__file__).resolve().parent
    places = [root / "firmware" / "images" / name for root in (package, package.parent)]
    for path in places:
        if path.is_file():
            return path
    raise ImageError(f"firmware image '{name}' is not at {places[0].parent}; run: python firmware/build.py")


def read_bios(path: Path | None) -> bytes:
    """A firmware image, None for the embedded one: whole 64 KiB, at most 16 MiB, else `ImageError`."""
    path = firmware_image() if path is None else path
    where = f"BIOS image '{path}'"
    try:
        if stat.S_ISDIR(path.stat().st_mode):
            raise ImageError(f"{where} is a folder; name the file in it")
        with path.open("rb") as file:
            data = file.read(MAX_BIOS + 1)
    except FileNotFoundError:
        raise ImageError(f"{where} does not exist; leave it out for the embedded one") from None
    except OSError as error:
        raise ImageError(f"{where} can't be read: {error.strerror}") from None
    except ValueError as error:
        raise ImageError(f"{where} can't be read: {error}") from None
    if not data:
        raise ImageError(f"{where} is empty; leave it out for the embedded one")
    if len(data) > MAX_BIOS:
        raise ImageError(f"{where} is larger than 16 MiB; a disk image goes to --drive file={path}")
    if len(data) % BIOS_UNIT:
        raise ImageError(
            f"{where} has {len(data)} bytes, not a multiple of 64 KiB; "
            f"pad it in front to {-(-len(data) // BIOS_UNIT) * BIOS_UNIT}, or give a disk image to --drive"
        )
    return data


def check_files(config: MachineConfig) -> None:
    """Look at the files that a run needs, and at gdb's address, before anything is started.

    Raises:
        ImageError: the BIOS can't be used.
        BackendError: a disk can't be opened.
        ConfigError: gdb can't be served at its address.
    """
    read_bios(config.bios)
    if config.gdb is not None:
        _check_gdb_address(config.gdb)
    for drive in config.drives:
        where, make = f"disk image '{drive.file}'", f"make one with: truncate -s 64M '{drive.file}'"
        if drive.media == "cdrom":
            where, make = f"CD image '{drive.file}'", "give the path of an ISO image"
        if not os.path.exists(drive.file):
            raise BackendError(f"{where} does not exist; {make}")
        if os.path.isdir(drive.file):
            raise BackendError(f"{where} is a folder; name the file in it")
        writes = os.W_OK if not (drive.readonly or drive.snapshot or drive.media == "cdrom") else 0
        if not os.access(drive.file, os.R_OK | writes):
            hint = "; open it with readonly=on or snapshot=on" if os.access(drive.file, os.R_OK) else ""
            raise BackendError(f"{where} can't be opened: Permission denied{hint}")
        if os.path.isfile(drive.file) and os.path.getsize(drive.file) == 0:
            raise BackendError(f"{where} is empty; {make}")
