"""The command line: which command is meant, the small ones, and what becomes of their errors.

`jitvm.boot_command` is the large one. Nothing heavy is imported before a command needs it: `jitvm --help` answers at once.
"""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path

from jitvm import __version__
from jitvm.boot_command import boot
from jitvm.config import MIB
from jitvm.errors import ConfigError, JitvmError
from jitvm.exit_status import Exit, exit_table
from jitvm.parser import Parser

COMMANDS: Mapping[str, str] = {
    "boot": "run a guest: the embedded firmware, or a BIOS image and disks",
    "bench": "guest speed beside QEMU, Bochs and unicorn, where installed",
    "cache": "the folder of compiled code: info, clear",
    "isa": "what of the instruction set is implemented, and how it is proved",
    "gdb-init": "print a script for gdb: 16-bit frames, tables as commands",
    "version": "versions of jitvm and of what it runs on",
}


def bench(argv: Sequence[str], debug: bool) -> int:
    """`jitvm bench`: the harness has options of its own."""
    from jitvm.bench import main as bench_main

    return bench_main(list(argv))


def cache(argv: Sequence[str], debug: bool) -> int:
    """`jitvm cache info|clear`."""
    from jitvm.engine.cache import clear, default_folder, file_sizes

    parser = Parser("jitvm cache", description="The folder in which compiled code is kept ($XDG_CACHE_HOME/jitvm).")
    parser.add_argument("action", choices=("info", "clear"), help="show what is in it, or empty it")
    action = parser.parse_args(argv).action
    folder = default_folder()
    sizes = file_sizes(folder)
    if action == "info":
        print(f"{folder}: {len(sizes)} files, {sum(sizes) / MIB:.1f} MiB" if sizes else f"{folder}: empty")
        return Exit.OK
    if folder.is_symlink():
        raise ConfigError(f"cache folder {folder} is a symbolic link; empty what it points to by hand")
    try:
        clear(folder)
    except OSError as error:
        raise ConfigError(f"cache folder {folder} can't be removed: {error.strerror}") from None
    print(f"{folder}: {len(sizes)} files removed, {sum(sizes) / MIB:.1f} MiB")
    return Exit.OK


def gdb_init(argv: Sequence[str], debug: bool) -> int:
    """`jitvm gdb-init`."""
    description = "Print a Python script for gdb. Save it and in gdb: source FILE."
    Parser("jitvm gdb-init", description=description).parse_args(argv)
    print((Path(__file__).parent / "gdb_script.py").read_text(encoding="utf-8"), end="")
    return Exit.OK


def isa(argv: Sequence[str], debug: bool) -> int:
    """`jitvm isa`."""
    from jitvm import isa_command

    parser = Parser("jitvm isa")
    isa_command.fill(parser)
    isa_command.show(parser.parse_args(argv))
    return Exit.OK


def version(argv: Sequence[str], debug: bool) -> int:
    """`jitvm version`."""
    import platform
    from importlib import metadata

    Parser("jitvm version", description=COMMANDS["version"]).parse_args(argv)
    print(f"jitvm {__version__}")
    print(f"Python {platform.python_version()} on {platform.machine()}")
    for package in ("numba", "llvmlite", "numpy", "iced-x86"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            print(f"{package} {metadata.version(package)}")
    return Exit.OK


RUN = {"boot": boot, "bench": bench, "cache": cache, "isa": isa, "gdb-init": gdb_init, "version": version}


# ---- main -----------------------------------------------------------------------------------------------------------
def top_help() -> str:
    """`jitvm --help`."""
    commands = "\n".join(f"  {name:<9} {what}" for name, what in COMMANDS.items())
    return (
        "usage: jitvm [--debug] COMMAND ...\n\nAn x86 PC emulator whose CPU is readable Python, compiled by Numba.\n\n"
        f"commands:\n{commands}\n\nexit status:\n{exit_table()}\n\n"
        "jitvm COMMAND --help tells more; jitvm boot runs the embedded firmware."
    )


def dispatch(argv: list[str], debug: bool) -> int:
    """Run the command that the arguments name."""
    words = list(argv)
    while words and words[0] == "--debug":
        words.pop(0)
    if not words:
        raise ConfigError(f"no command given; write jitvm {', jitvm '.join(COMMANDS)} or jitvm --help")
    command, rest = words[0], words[1:]
    if command in ("-h", "--help", "help"):
        print(top_help())
        return Exit.OK
    if command == "--version":
        command = "version"
    if command not in RUN:
        raise ConfigError(f"unknown command '{command}'; known: {', '.join(COMMANDS)}")
    return RUN[command](rest, debug)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry of the console script; the exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    _open_streams()
    debug = "--debug" in words or "-debug" in words
    try:
        status = dispatch(words, debug)
        sys.stdout.flush()
        return int(status)
    except SystemExit as done:  # argparse after --help
        return done.code if isinstance(done.code, int) else 0
    except JitvmError as error:
        _complain("error", str(error), debug)
        return Exit.BAD_INPUT
    except KeyboardInterrupt:
        _complain("interrupted", "", debug=False)
        return Exit.INTERRUPTED
    except BrokenPipeError:
        _drop_stdout()
        return Exit.BAD_INPUT
    except OSError as error:  # of standard output, mostly: a full disk
        _drop_stdout()
        what = f"'{error.filename}': " if error.filename else ""
        _complain("error", f"{what}{error.strerror or error}", debug)
        return Exit.BAD_INPUT
    except Exception as error:  # a bug: the top level gives it an exit status and one line, --debug a traceback
        first = str(error).partition("\n")[0]
        _complain("internal error", f"{type(error).__name__}: {first} (--debug shows the traceback)", debug)
        return Exit.INTERNAL


def _open_streams() -> None:
    """A standard stream that is closed leads nowhere from now on: no disk that is opened later shall take its number."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):  # each gets the lowest number that is free
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode))


def _complain(what: str, message: str, debug: bool) -> None:
    """One line on standard error, with the traceback under --debug."""
    if debug:
        traceback.print_exc()
    print(f"jitvm: {what}: {message}" if message else f"jitvm: {what}", file=sys.stderr, flush=True)


def _drop_stdout() -> None:
    """Nobody reads any more: keep the interpreter from complaining when it flushes at its end."""
    with contextlib.suppress(AttributeError, OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(main())
