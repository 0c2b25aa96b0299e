"""The command line: one line and status 2 for every mistake, QEMU's spellings, exit statuses, what is printed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from jitvm import cli
from jitvm.boot_command import boot_parser
from jitvm.exit_status import EXIT_MEANING, Exit
from jitvm.progress import cache_name
from tests.fast_set import share
from tests.texts import reading_texts

ROOT = Path(__file__).resolve().parents[1]


# ---- mistakes -------------------------------------------------------------------------------------------------------
@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with good and bad files, which is the current one."""
    monkeypatch.chdir(tmp_path)
    for name, size in (("empty.bin", 0), ("odd.bin", 1000), ("huge.bin", (16 << 20) + 65536), ("disk.img", 1 << 20)):
        (tmp_path / name).touch()
        os.truncate(tmp_path / name, size)
    (tmp_path / "bad.elf").write_bytes(b"\x7fELF\x01\x01\x01" + bytes(30))
    return tmp_path


MISTAKES = [
    ("", "no command given"),
    ("frobnicate", "unknown command 'frobnicate'"),
    ("boot missing.bin", "BIOS image 'missing.bin' does not exist"),
    ("boot empty.bin", "is empty"),
    ("boot odd.bin", "not a multiple of 64 KiB"),
    ("boot huge.bin", "larger than 16 MiB"),
    ("boot .", "is a folder"),
    ("boot --bios=", "the name of the BIOS image is empty"),
    ("boot a b", "unrecognized arguments: b"),
    ("boot a --bios b", "name the same thing"),
    ("boot --drive file=missing.img", "disk image 'missing.img' does not exist"),
    ("boot --drive file=.", "is a folder"),
    ("boot --cdrom missing.iso", "CD image 'missing.iso' does not exist; give the path of an ISO image"),
    ("boot --drive file=disk.img,index=7", "index 7"),
    ("boot --drive file=disk.img,format=qcow2", "not yet"),
    ("boot --hda disk.img --drive file=disk.img,index=0", "is taken"),
    ("boot -m lots", "'lots' is not a size"),
    ("boot -m 0", "from 1 MiB"),
    ("boot -m", "expected one argument"),
    ("boot --smp two", "'two' is not a number"),
    ("boot --smp 20", "give 1 to 16"),
    ("boot --smp 0", "cpus is 0; give 1 or more"),
    ("boot --smp 2,maxcpus=1", "maxcpus 1 is less than 2"),
    ("boot --smp 3,sockets=2", "2 sockets are not 3 CPUs"),
    ("boot --smp 4,sockets=1,cores=2,threads=1", "1 sockets x 2 cores x 1 threads are not 4 CPUs"),
    ("boot --smp sockets=3,cores=8", "24 CPUs; give 1 to 16"),
    ("boot --smp 1,shelves=2", "unknown key 'shelves'"),
    ("boot --max-insns many", "'many' is not a number"),
    ("boot --timeout soon", "'soon' is not a number of seconds"),
    ("boot --timeout -1", "--timeout"),
    ("boot --device e1000", "unknown device 'e1000'"),
    ("boot -device isa-debug-exit,iobase=xyz", "'xyz' is not a number"),
    ("boot --serial telepathy", "unknown character device 'telepathy'"),
    ("boot --clock sundial", "'sundial'"),
    ("boot --display sdl", "'sdl'"),
    ("boot --trace nonsense", "no event matches 'nonsense'"),
    ("boot --stats=xml", "neither json nor table"),
    ("boot --cache maybe", "neither on nor off"),
    ("boot --opt warp=on", "unknown option 'warp'"),
    ("boot --boot z", "--boot"),
    ("boot --kernel nothing-there", "No such file"),
    ("boot --kernel odd.bin", "no multiboot header"),
    ("boot --kernel=", "--kernel: the name of the file is empty"),
    ("boot --trace-json=", "--trace-json: the name of the file is empty"),
    ("boot --initrd initrd", "--kernel"),
    ("boot --append quiet", "--kernel"),
    ("boot --gdb nowhere", "--gdb: 'nowhere' is no address"),
    ("boot --gdb :1234 --gdb-arch z80", "'z80'"),
    ("boot --gdb :1234 --gdb-on-disconnect sulk", "'sulk'"),
    ("boot --gdb - --serial stdio", "--gdb -"),
    ("boot --gdb-wait", "give --gdb too"),
    ("boot --fda floppy.img", "the embedded firmware reads no floppies"),
    ("boot --symbols missing.elf", "symbols 'missing.elf' does not exist"),
    ("boot --symbols .", "is a folder"),
    ("boot --symbols odd.bin", "no ELF file"),
    ("boot --symbols bad.elf", "malformed"),
    ("boot --symbols odd.bin,offset=far", "'far' is not a number"),
    ("boot --symbols odd.bin,offset=0x100000000", "not below 4 GiB"),
    ("boot --symbols offset=1", "no file given"),
    ("boot --symbols odd.bin,base=1", "unknown key 'base'"),
    ("boot --no-such-option", "unrecognized arguments: --no-such-option"),
    ("boot --mem 5", "unrecognized arguments"),
    ("boot -monitor stdio", "unrecognized arguments: -monitor"),
    ("boot -d int", "unrecognized arguments: -d"),
    ("boot -m128", "unrecognized arguments: -m128"),
    ("boot --drive file=disk.img,bus=-1", "bus 0 and 1 with unit 0 and 1"),
    ("boot --drive file=disk.img,unit=0,index=0", "not both"),
    ("cache", "the following arguments are required"),
    ("cache burn", "invalid choice: 'burn'"),
    ("version 7", "unrecognized arguments: 7"),
    ("--cpu", "unknown command '--cpu'"),
]


@pytest.mark.parametrize(("command", "words"), MISTAKES, ids=[command or "nothing" for command, _ in MISTAKES])
def test_a_mistake_is_one_line_and_status_2(
    files: Path, capsys: pytest.CaptureFixture[str], command: str, words: str
) -> None:
    assert cli.main(command.split()) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("jitvm: error: ")
    assert words in said.err
    assert said.err.count("\n") == 1 and said.err.endswith("\n")


def test_an_unreadable_disk(files: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert cli.main(["boot", "--drive", "file=disk.img"]) == 2
    assert "Permission denied" in capsys.readouterr().err


def test_a_mistake_in_a_process_of_its_own(files: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "jitvm", "boot", "empty.bin"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [done.stderr.rstrip("\n")] and "Traceback" not in done.stderr


def test_debug_shows_the_traceback(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["boot", "empty.bin", "--debug"]) == 2
    said = capsys.readouterr().err
    assert "Traceback" in said and said.splitlines()[-1].startswith("jitvm: error: ")


# ---- help and the small commands ------------------------------------------------------------------------------------
def test_help_names_every_option_and_exit_status(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["boot", "--help"]) == 0
    said = capsys.readouterr().out
    for action in boot_parser()._actions:
        assert not action.option_strings or action.option_strings[0] in said
    for code in Exit:
        assert f"\n  {int(code)} " in said
    assert cli.main(["--help"]) == 0
    said = capsys.readouterr().out
    assert all(f"\n  {command} " in said for command in cli.COMMANDS)


def test_exit_statuses_can_be_told_from_isa_debug_exits() -> None:
    assert all(code % 2 == 0 for code in Exit)
    assert set(EXIT_MEANING) == set(Exit)


def test_version_names_what_matters(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["version"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("jitvm ") and "\nnumba " in said and "\nllvmlite " in said


def test_cache_info_and_clear(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = tmp_path / "jitvm"
    assert cli.main(["cache", "info"]) == 0
    assert capsys.readouterr().out == f"{folder}: empty\n"
    (folder / "epoch").mkdir(parents=True)
    (folder / "epoch" / "a.o").write_bytes(bytes(1 << 20))
    assert cli.main(["cache", "info"]) == 0
    assert capsys.readouterr().out == f"{folder}: 1 files, 1.0 MiB\n"
    assert cli.main(["cache", "clear"]) == 0
    assert not folder.exists() and "1 files removed" in capsys.readouterr().out
    (tmp_path / "elsewhere").mkdir()
    folder.symlink_to(tmp_path / "elsewhere")
    assert cli.main(["cache", "clear"]) == 2
    assert (tmp_path / "elsewhere").is_dir() and "symbolic link" in capsys.readouterr().err


def test_what_others_take_out_of_the_cache_meanwhile_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "jitvm").mkdir()
    going, staying = tmp_path / "jitvm" / ".new-1", tmp_path / "jitvm" / "a.o"
    looked, walk = os.lstat, os.walk

    def lstat(path: str, **more: Any) -> os.stat_result:
        going.unlink(missing_ok=True)
        return looked(path, **more)

    for action in ("info", "clear"):
        going.touch()
        staying.write_bytes(bytes(1 << 20))
        with monkeypatch.context() as patch:
            patch.setattr(os, "lstat", lstat)
            patch.setattr(os, "walk", lambda folder: [(base, [], sorted(names)) for base, _, names in walk(folder)])
            assert cli.main(["cache", action]) == 0
        assert "1 files" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_a_relative_cache_home_is_ignored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "here")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cli.main(["cache", "info"]) == 0
    assert capsys.readouterr().out == f"{tmp_path / '.cache' / 'jitvm'}: empty\n"
    assert cache_name() == "~/.cache/jitvm"


def test_bench_gets_its_arguments_untouched(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []

    def main(argv: list[str]) -> int:
        seen.append(argv)
        return 5

    module = types.ModuleType("jitvm.bench")
    module.main = main  # type: ignore[attr-defined]  # a stand-in
    monkeypatch.setitem(sys.modules, "jitvm.bench", module)
    assert cli.main(["bench", "--only", "alu", "--help"]) == 5
    assert seen == [["--only", "alu", "--help"]]


# ---- real runs ------------------------------------------------------------------------------------------------------
GUESTS = ROOT / "firmware" / "images" / "guests"


def jitvm(*argv: str, before: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """`jitvm` in a process of its own, without a terminal; what that does first."""
    start = ["-c", f"{before}import sys; from jitvm.cli import main; sys.exit(main(sys.argv[1:]))"]
    return subprocess.run(
        [sys.executable, *(start if before else ["-m", "jitvm"]), *argv],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
        timeout=300,
    )


def test_the_embedded_firmware_boots_passes_its_tests_and_powers_off() -> None:
    done = jitvm("boot")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("jitvm BIOS")
    assert " 0 failed\n" in done.stdout and "FAIL" not in done.stdout


@pytest.mark.parametrize(
    ("argv", "status", "out", "err"),
    [
        (["hello.bin", "--device", "isa-debug-exit,iobase=0xf4"], 1, "hello from the ROM\n", ""),
        (["echo.bin", "--max-insns", "100"], Exit.INSN_LIMIT, "", "jitvm: the limit of 100 instructions "),
        (["echo.bin", "-S", "--timeout", "0.2"], Exit.TIMEOUT, "", "jitvm: the time of 0.2 seconds is over\n"),
    ],
)
def test_real_ends(argv: list[str], status: int, out: str, err: str) -> None:
    image, *options = argv
    done = jitvm("boot", str(GUESTS / image), *options)
    assert done.returncode == status
    assert done.stdout.endswith(out)
    assert done.stderr.startswith(err) and done.stderr.count("\n") == (1 if err else 0)


def test_stats_of_a_real_run_are_one_object_on_a_line_of_its_own() -> None:
    done = jitvm("boot", str(GUESTS / "hello.bin"), "--device", "isa-debug-exit,iobase=0xf4", "--stats", "json")
    assert json.loads(done.stderr)["retired"] > 0


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM)])
def test_signals_end_a_real_run(tmp_path: Path, number: signal.Signals, status: int) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "jitvm", "boot", str(GUESTS / "echo.bin"), "--clock", "realtime"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(
            signal.SIGINT, signal.SIG_DFL
        ),  # a shell's background job begins with it ignored
    ) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline().startswith(b"echo")
            child.send_signal(number)
            assert child.wait(60) == status
        finally:
            child.kill()


def test_a_warm_run_imports_no_numba() -> None:
    """Nor rich, which draws the progress of compiling, nor what reads all that a distribution says of itself.

    The first of the two runs warms what is not.
    """
    program = f"""
import sys
from jitvm.cli import main
status = main(["boot", {str(GUESTS / "hello.bin")!r}, "--device", "isa-debug-exit,iobase=0xf4", "--serial", "null"])
print(status, [name for name in ("numba", "rich", "unicorn", "importlib.metadata", "email") if name in sys.modules])
"""
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
    assert (done.stdout, done.stderr) == ("1 []\n", "")


@pytest.mark.parametrize("closed", share(["<&- >&- 2>&-", "<&-", ">&-", "2>&-"], 1))
def test_closed_standard_streams_lead_nowhere(tmp_path: Path, closed: str) -> None:
    """And their numbers are not a disk's, into which messages would go."""
    disk = tmp_path / "disk.img"
    disk.write_bytes(bytes(1 << 20))
    command = f'exec "$0" -m jitvm boot --drive file={disk} --max-insns 10 {closed}'
    done = subprocess.run(
        ["sh", "-c", command, sys.executable],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    said = "" if "2>" in closed else "jitvm: the limit of 10 instructions was reached\n"
    assert (done.returncode, done.stdout, done.stderr) == (Exit.INSN_LIMIT, "", said)
    assert disk.read_bytes() == bytes(1 << 20)


@pytest.mark.parametrize("line", share(["--help", "version", "boot --serial null --display text"], 1))
def test_output_that_can_not_be_written_is_one_line(line: str) -> None:
    with open("/dev/full", "w", encoding="utf-8") as full:
        done = subprocess.run(
            [sys.executable, "-m", "jitvm", *line.split()],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.DEVNULL,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert (done.returncode, done.stderr) == (2, "jitvm: error: No space left on device\n")


@pytest.mark.slow
def test_an_unusable_cache_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = jitvm("boot", str(GUESTS / "hello.bin"), "--serial", "null", "--max-insns", "10",
                 before=reading_texts(tmp_path / "texts"), XDG_CACHE_HOME=str(tmp_path / "file"))  # fmt: skip
    first, second = done.stderr.splitlines()
    assert done.returncode == Exit.INSN_LIMIT
    assert first.startswith("jitvm: warning: cache folder ") and second.startswith("jitvm: the limit of 10 ")
