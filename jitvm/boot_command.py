"""`jitvm boot`: options to a `MachineConfig`, a run, its end to an exit status.

Nothing heavy is imported before a machine is made: a mistake in an option answers at once.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from jitvm import config
from jitvm import option_values as values
from jitvm.config import MachineConfig
from jitvm.exit_status import DEBUG_EXIT, Exit, exit_status, exit_table
from jitvm.parser import Parser

if TYPE_CHECKING:
    from jitvm.console import Console
    from jitvm.crash_report import Crashes
    from jitvm.machine import Machine
    from jitvm.run_result import RunResult


def boot_parser() -> Parser:
    """All options of `jitvm boot`."""
    result = Parser(
        "jitvm boot",
        usage="jitvm boot [IMAGE] [options]",
        description="Run a guest. Without IMAGE the embedded firmware boots. QEMU's one-dash spelling works too.",
        epilog=f"exit status:\n{exit_table()}\n\nat a terminal, Ctrl-A h shows the keys of --serial stdio",
    )
    add = result.option
    result.add_argument("image", nargs="?", metavar="IMAGE", help="BIOS image, the same as --bios")
    add("m", "memory (default 128M)", "SIZE")
    add("smp", "CPUs, which take turns", "N[,sockets=S][,cores=C][,threads=T]")
    add("smp-threads", "each CPU on a thread of its own, at the same time: faster, but no two runs are the same")
    add("cpu", "CPU model, with features: pentiumpro,-cmov", "MODEL[,+F][,-F]")
    add("bios", "firmware image, a multiple of 64 KiB (default: the embedded one)", "IMAGE")
    add("drive", "disk: file=...,format=raw,if=ide|floppy|pflash,index=N,media=disk|cdrom,readonly=on,snapshot=on", "KEYS",
        action="append", default=[])  # fmt: skip
    for place, letter in enumerate("abcd"):
        add(f"hd{letter}", f"disk, the same as --drive file=FILE,index={place}", "FILE")
    add("cdrom", "CD image, the same as --drive file=FILE,index=2,media=cdrom", "FILE")
    for place, letter in enumerate("ab"):
        add(f"fd{letter}", f"floppy disk, the same as --drive file=FILE,if=floppy,index={place}", "FILE")
    add("pflash", "flash with firmware, then one with its variables; the same as --drive file=FILE,if=pflash", "FILE",
        action="append", default=[], dest="drive", type=values.flash_drive)  # fmt: skip
    add("boot", "boot order (c disk, d CD, ...)", "[order=]LETTERS[,menu=on]")
    add("kernel", "Linux (bzImage) or multiboot kernel that the firmware starts", "FILE")
    add("initrd", "its initial RAM disk, or its modules", "FILE[ ARGUMENTS][,FILE...]")
    add("append", "its command line", "TEXT")
    add("serial", "COM1, then COM2, ...: stdio, null, file:PATH, pty, tcp:HOST:PORT[,server] (default stdio)", "DEV",
        action="append")  # fmt: skip
    add("debugcon", "debug port to a file or stdio (default port 0xe9)", "[PORT=]FILE", action="append", default=[])
    add("device", "isa-debug-exit,iobase=0xf4", "NAME[,KEY=N]", action="append", default=[])
    add("display", "none, or text: the screen is printed at the end", "KIND", default="none")
    add("nographic", "the same as --display none --serial stdio")
    add("no-reboot", "a reset of the guest ends the run")
    add("S", "do not start the CPU; the monitor's cont does, or gdb")
    add("s", "the same as --gdb :1234")
    add("gdb", "serve gdb at :PORT, HOST:PORT, unix:PATH, or - for its target remote |", "ADDRESS")
    add("gdb-wait", "hold the CPU at the reset vector until gdb lets it go, the same as -S")
    add("gdb-arch", "registers that gdb sees: x86-64 (default), i386 or i8086", "ARCH", default="x86-64")
    add("gdb-on-disconnect", "when gdb leaves: run (default), stop or exit", "WHAT", default="run")
    add("symbols", "ELF file with the guest's symbols, for gdb and for crash reports", "FILE[,offset=N]")
    add("clock", "auto (default: reproducible, waits only for a person), icount or realtime", "KIND", default="auto")
    add("max-insns", "end after so many instructions", "N")
    add("timeout", "end after so many seconds", "SECONDS")
    add("trace", "trace events to standard error or a file; patterns with commas, e.g. exit,unassigned_*",
        "PATTERNS[:FILE]")  # fmt: skip
    add("stats", "statistics at the end: as a table, or one line of JSON", "json|table")
    add("perf-map", "names of compiled code for Linux perf, in /tmp/perf-PID.map")
    add("trace-json", "compile events, exits and guest time for a trace viewer", "FILE")
    add("cache", "keep compiled code in the cache folder (default on)", "on|off", default="on")
    add("jit", "handlers, stencils (copied machine code too), regions (default: hot loops compiled too) or sync", "TIER",
        default="regions")  # fmt: skip
    add("code-cache", "machine code in memory at most (default 256M); what is full is emptied as a whole", "SIZE")
    add("opt", f"experiments of the engine: {', '.join(config.ENGINE_OPTIONS)}", "NAME=on|no-NAME", action="append",
        default=[])  # fmt: skip
    add("debug", "show tracebacks and what is compiled")
    return result


def spell_out(argv: Sequence[str]) -> list[str]:
    """`--stats` gets its value: an option whose value may be left out would swallow the image."""
    result: list[str] = []
    words = list(argv)
    while words:
        word = words.pop(0)
        if word in ("--stats", "-stats"):
            word = f"--stats={words.pop(0) if words and words[0] in ('json', 'table') else 'table'}"
        result.append(word)
    return result


def machine_config(options: argparse.Namespace) -> MachineConfig:
    """The machine that the options of `jitvm boot` ask for."""
    if options.image is not None and options.bios is not None:
        config.fail(f"IMAGE '{options.image}' and --bios '{options.bios}' name the same thing; give one of them")
    bios = options.image if options.image is not None else options.bios
    if bios == "":
        config.fail("the name of the BIOS image is empty; leave it out for the embedded one")
    smp, cores, threads = values.parse_smp(options.smp) if options.smp is not None else (1, None, 1)
    cpu, features = values.parse_cpu(options.cpu) if options.cpu is not None else (None, ())
    order, menu = values.parse_boot(options.boot) if options.boot is not None else ("", False)
    patterns, trace_file = values.parse_trace(options.trace) if options.trace is not None else ("", None)
    if options.stats not in (None, "json", "table"):
        config.fail(f"--stats: '{options.stats}' is neither json nor table")
    gdb = ":1234" if options.s and options.gdb is None else options.gdb
    if options.gdb_wait and gdb is None:
        config.fail("--gdb-wait: nobody could let the CPU go; give --gdb too")
    symbols, offset = values.parse_symbols(options.symbols) if options.symbols is not None else (None, 0)
    return MachineConfig(
        memory=values.parse_memory(options.m) if options.m is not None else config.DEFAULT_MEMORY,
        smp=smp,
        cores_per_socket=cores,
        threads_per_core=threads,
        smp_threads=options.smp_threads,
        cpu=cpu,
        cpu_features=features,
        bios=Path(bios) if bios is not None else None,
        drives=_drives(options),
        kernel=_file("--kernel", options.kernel),
        initrd=_name("--initrd", options.initrd),
        append=options.append,
        boot=order,
        boot_menu=menu,
        serials=tuple(values.parse_serial(spec) for spec in options.serial or ["null" if gdb == "-" else "stdio"]),
        debugcons=tuple(values.parse_debugcon(spec) for spec in options.debugcon),
        devices=tuple(values.parse_device(spec) for spec in options.device),
        no_reboot=options.no_reboot,
        start_paused=options.S or options.gdb_wait,
        gdb=gdb,
        gdb_arch=options.gdb_arch,
        gdb_on_disconnect=options.gdb_on_disconnect,
        symbols=symbols,
        symbols_offset=offset,
        display="none" if options.nographic else options.display,
        clock=options.clock,
        max_insns=values.parse_number("--max-insns", options.max_insns) if options.max_insns is not None else None,
        timeout_s=values.parse_seconds("--timeout", options.timeout) if options.timeout is not None else None,
        trace=patterns,
        trace_file=trace_file,
        stats=options.stats or "",
        perf_map=options.perf_map,
        trace_json=_file("--trace-json", options.trace_json),
        cache=values.parse_switch("--cache", options.cache),
        jit=options.jit,
        code_cache=values.parse_size("--code-cache", options.code_cache)
        if options.code_cache is not None
        else config.DEFAULT_CODE_CACHE,
        engine=tuple(pair for text in options.opt for pair in values.parse_opt(text)),
    )


def _name(option: str, name: str | None) -> str | None:
    """A file's name; an empty one would be the current folder's."""
    if name == "":
        config.fail(f"{option}: the name of the file is empty")
    return name


def _file(option: str, name: str | None) -> Path | None:
    """A file's path."""
    return None if _name(option, name) is None else Path(str(name))


def _drives(options: argparse.Namespace) -> tuple[config.DriveConfig, ...]:
    """Disks with a fixed place first, so that the others find the free ones."""
    drives: list[config.DriveConfig] = []
    for place, name in enumerate((options.hda, options.hdb, options.hdc, options.hdd)):
        if name is not None:
            drives.append(config.DriveConfig(name, index=place))
    for place, name in enumerate((options.fda, options.fdb)):
        if name is not None:
            drives.append(config.DriveConfig(name, interface="floppy", index=place))
    if options.cdrom is not None:
        drives.append(config.DriveConfig(options.cdrom, index=2, media="cdrom", readonly=True))
    for text in options.drive:
        drives.append(values.parse_drive(text, drives))
    return tuple(drives)


# ---- the run -----------------------------------------------------------------------------------------------------------
def boot(argv: Sequence[str], debug: bool) -> int:
    """`jitvm boot`: run a machine to its end."""
    options = boot_parser().parse_args(spell_out(argv))
    cfg = machine_config(options)
    config.check_files(cfg)
    if cfg.symbols is not None or cfg.kernel is not None:
        from jitvm.symbols import load

        load(cfg)
    return run_machine(cfg, debug)


def run_machine(cfg: MachineConfig, debug: bool = False) -> int:
    """Make a machine, run it, say how it ended; the exit status."""
    gc.disable()  # what a start makes stays: to look for garbage in it takes a fifteenth of its time
    try:
        return _run_machine(cfg, debug)
    finally:
        gc.unfreeze()
        gc.enable()


def _run_machine(cfg: MachineConfig, debug: bool) -> int:
    from jitvm.console import Console
    from jitvm.progress import Progress

    console = Console() if cfg.uses_stdio else None
    progress = Progress(plain=debug)
    if console is not None:
        console.before_output = progress.hide
    with contextlib.ExitStack() as stack:
        stack.callback(progress.close)
        if console is not None:
            stack.callback(console.close)
            if "stdio" in cfg.serials:
                console.start()
        ends = stack.enter_context(_signals(console))
        from gdbstub.patience import Patience
        from jitvm.machine import Machine

        def step(what: str) -> None:
            ends.go_on()
            progress.step(what)

        with Patience() if cfg.gdb == "-" else contextlib.nullcontext():
            machine = Machine(cfg, on_progress=step, console=console)
        stack.callback(machine.close)
        ends.go_on()
        if cfg.gdb is not None:
            stack.enter_context(_gdb(cfg, machine))
        ends.machine = machine
        crashes = _crashes(cfg, machine, console, progress.hide)
        if console is not None:
            console.on_quit = machine.quit
        progress.running()
        gc.freeze()
        gc.enable()
        result = machine.run()
        progress.close()
        if console is not None:
            console.restore()
        _report(cfg, machine, result, console)
        crashes.tell_the_way(result)
    if ends.signal is not None:
        return _status_of_signal(ends.signal)
    return exit_status(result)


@contextlib.contextmanager
def _gdb(cfg: MachineConfig, machine: Machine) -> Iterator[None]:
    """The server for gdb; where it is found is told on standard error."""
    from jitvm.gdb_target import serve

    def say(line: str) -> None:
        print(f"jitvm: {line}", file=sys.stderr, flush=True)

    with serve(
        machine,
        cfg.gdb or "",
        arch=cfg.gdb_arch,
        wait=cfg.start_paused,
        on_disconnect=cfg.gdb_on_disconnect,
        exit_code=exit_status,
        log=say,
    ) as server:
        if server.warning:
            say(f"warning: {server.warning}")
        say(f"gdb: target remote {server.address}" if cfg.gdb != "-" else "gdb: on standard input and output")
        yield


def _crashes(cfg: MachineConfig, machine: Machine, console: Console | None, hide: Callable[[], None]) -> Crashes:
    """Who tells of triple faults; a message of ours goes on a line of its own."""
    from jitvm.crash_report import Crashes

    def say(text: str) -> None:
        hide()
        if console is not None and not console.at_line_start and _one_stream():
            print(file=sys.stderr)
        print(f"jitvm: {text}", file=sys.stderr, flush=True)

    return Crashes(cfg, machine, say)


class Ends:
    """What the signal handlers know: the machine to end, and which signal came."""

    def __init__(self) -> None:
        self.machine: Machine | None = None
        self.signal: int | None = None

    def go_on(self) -> None:
        """Before there is a machine to end: unless a signal came that could not say so."""
        if self.signal is not None and self.machine is None:
            raise KeyboardInterrupt


def _would_be_lost(frame: FrameType | None) -> bool:
    """Whether an exception here may be one of a function that LLVM calls back, and printed and forgotten by ctypes."""
    while frame is not None:
        if frame.f_globals.get("__name__", "").startswith("llvmlite."):
            return True
        frame = frame.f_back
    return False


@contextlib.contextmanager
def _signals(console: Console | None) -> Iterator[Ends]:
    """SIGINT, SIGTERM and SIGHUP end the machine; a second one, or one before there is a machine, ends at once."""
    ends = Ends()

    def handle(number: int, frame: FrameType | None) -> None:
        if console is not None:
            console.restore()
        again, ends.signal = ends.signal is not None, number
        if ends.machine is not None and not again:
            ends.machine.quit()
        elif again or not _would_be_lost(frame):
            raise KeyboardInterrupt

    wanted = [n for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) is not signal.SIG_IGN]
    old = {number: signal.signal(number, handle) for number in wanted}
    try:
        yield ends
    except KeyboardInterrupt:
        if ends.signal in (None, signal.SIGINT):
            raise
        _status_of_signal(int(ends.signal or 0))
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def _status_of_signal(number: int) -> int:
    """130 for Ctrl-C; by any other signal the process dies as it would have without a handler."""
    if number != signal.SIGINT:
        sys.stdout.flush()
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    return Exit.INTERRUPTED


def _report(cfg: MachineConfig, machine: Machine, result: RunResult, console: Console | None) -> None:
    """What is printed after a run: the screen, why it ended, statistics."""
    sys.stdout.flush()
    if console is not None and not console.at_line_start and _one_stream():
        print(file=sys.stderr)
    if cfg.display == "text":
        _print_screen(machine.screen_text())
    if result.message and result.reason not in ("poweroff", "quit", DEBUG_EXIT):
        print(f"jitvm: {result.message}", file=sys.stderr)
    if cfg.stats:
        print_stats(machine.stats(), cfg.stats)


def _one_stream() -> bool:
    """Whether standard output and standard error go to the same place."""
    try:
        return os.path.samestat(os.fstat(sys.stdout.fileno()), os.fstat(sys.stderr.fileno()))
    except (AttributeError, OSError, ValueError):
        return False


def _print_screen(lines: Sequence[str]) -> None:
    """The text screen without the empty lines below."""
    rows = [line.rstrip() for line in lines]
    while rows and not rows[-1]:
        rows.pop()
    for row in rows:
        print(row)
    sys.stdout.flush()


def print_stats(stats: Mapping[str, Any], form: str) -> None:
    """Statistics on standard error: one line of JSON, or a table."""
    if form == "json":
        print(json.dumps(stats, separators=(",", ":")), file=sys.stderr, flush=True)
        return
    from rich.console import Console as RichConsole
    from rich.table import Table

    from jitvm.stats import flat

    table = Table("statistic", "value", box=None, pad_edge=False)
    for name, value in flat(stats):
        table.add_row(name, value)
    RichConsole(stderr=True, highlight=False).print(table)
