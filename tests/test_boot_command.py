"""`jitvm boot`: QEMU's spellings, and how a run ends: exit statuses, what is printed, signals."""

from __future__ import annotations

import ctypes
import gc
import json
import signal
import socket
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from jitvm import cli
from jitvm.boot_command import boot_parser, machine_config, spell_out
from jitvm.config import DriveConfig, MachineConfig
from jitvm.errors import BackendError
from jitvm.exit_status import Exit


def parse(*argv: str) -> MachineConfig:
    """The configuration that the arguments of `jitvm boot` give."""
    return machine_config(boot_parser().parse_args(spell_out(argv)))


# ---- spellings ------------------------------------------------------------------------------------------------------
def test_no_option_gives_the_embedded_default() -> None:
    assert parse() == MachineConfig(serials=("stdio",))


def test_the_image_is_the_same_as_bios() -> None:
    assert parse("x.bin").bios == parse("--bios", "x.bin").bios == parse("-bios", "x.bin").bios == Path("x.bin")


def test_both_spellings_of_every_option_are_one() -> None:
    one, two = (
        parse(
            "x.bin", "-m", "256", f"{dash}smp", "1", f"{dash}drive", "file=d.img,index=1", f"{dash}serial", "null",
            f"{dash}debugcon", "0x402=log", f"{dash}device", "isa-debug-exit,iobase=0xf4", f"{dash}no-reboot", "-S",
            f"{dash}display", "text", f"{dash}clock", "icount", f"{dash}max-insns", "1000", f"{dash}timeout", "2.5",
            f"{dash}trace", "exit", f"{dash}stats", f"{dash}cpu", "pentium,-tsc", f"{dash}boot", "d",
            f"{dash}cdrom", "c", f"{dash}opt", "fuse=off", f"{dash}cache", "off",
        )
        for dash in ("-", "--")
    )  # fmt: skip
    assert one == two
    assert one.memory == 256 << 20
    assert one.drives == (
        DriveConfig("c", index=2, media="cdrom", readonly=True),
        DriveConfig("d.img", index=1),
    )
    assert one.no_reboot and one.start_paused and not one.cache
    assert (one.max_insns, one.timeout_s, one.stats, one.engine) == (1000, 2.5, "table", (("fuse", False),))


def test_flashes_take_their_places_in_the_order_in_which_they_are_given() -> None:
    """As in QEMU: README's OVMF has its code by --drive, and behind it its variables by --pflash."""
    code, kept = DriveConfig("code", interface="pflash", readonly=True), DriveConfig("k,ept", interface="pflash", index=1)
    assert parse("--drive", "if=pflash,readonly=on,file=code", "--pflash", "k,ept").drives == (code, kept)
    first, second = DriveConfig("code", interface="pflash"), DriveConfig("k,ept", interface="pflash", index=1)
    assert parse("-pflash", "code", "--pflash", "k,ept").drives == (first, second)


def test_options_may_be_written_with_an_equals_sign() -> None:
    assert parse("--bios=x.bin", "--serial=null", "-display=text") == MachineConfig(
        bios=Path("x.bin"), serials=("null",), display="text"
    )


@pytest.mark.parametrize(
    ("argv", "stats", "bios"),
    [
        (["--stats", "json", "x.bin"], "json", "x.bin"),
        (["--stats", "x.bin"], "table", "x.bin"),
        (["x.bin", "--stats"], "table", "x.bin"),
        (["--stats=json", "x.bin"], "json", "x.bin"),
    ],
)
def test_stats_does_not_swallow_the_image(argv: list[str], stats: str, bios: str) -> None:
    found = parse(*argv)
    assert (found.stats, str(found.bios)) == (stats, bios)


def test_repeated_options_add_up() -> None:
    found = parse(
        "--serial", "stdio", "--serial", "file:b", "--drive", "file=a", "--drive", "file=b,index=3",
        "--drive", "file=c", "--debugcon", "stdio", "--debugcon", "0x402=log", "-hdc", "d",
    )  # fmt: skip
    assert found.serials == ("stdio", "file:b")
    assert [(drive.file, drive.index) for drive in found.drives] == [("d", 2), ("a", 0), ("b", 3), ("c", 1)]
    assert found.debugcons == ((0xE9, "stdio"), (0x402, "file:log"))


def test_nographic_and_qemus_names_of_character_devices() -> None:
    assert parse("-nographic").serials == ("stdio",)
    assert parse("-serial", "mon:stdio").serials == ("stdio",)
    assert parse("-serial", "none").serials == ("null",)


# ---- the end of a run -----------------------------------------------------------------------------------------------
@dataclass
class Result:
    """As `jitvm.machine.RunResult`."""

    reason: str
    code: int | None = None
    message: str = ""


class FakeMachine:
    """As `jitvm.machine.Machine`; `script` is what a run does."""

    script: Callable[[FakeMachine], Result]
    made: FakeMachine | None = None

    def __init__(self, config: MachineConfig, *, on_progress: Callable[[str], None], console: Any) -> None:
        self.config, self.console = config, console
        self.quits = 0
        self.closed = False
        on_progress("first unit")
        FakeMachine.made = self

    def run(self) -> Result:
        return FakeMachine.script(self)

    def quit(self) -> None:
        self.quits += 1

    def stats(self) -> dict[str, Any]:
        return {"retired": 12345, "exits": {"io": 3}, "host_seconds": 0.25, "marks": [[1, 83]]}

    def screen_text(self) -> list[str]:
        return ["Hello", "  world  ", "", ""]

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> type[FakeMachine]:
    """A machine that is not one, in place of jitvm.machine's."""
    module = types.ModuleType("jitvm.machine")
    module.Machine = FakeMachine  # type: ignore[attr-defined]  # a stand-in
    monkeypatch.setitem(sys.modules, "jitvm.machine", module)
    FakeMachine.made = None
    return FakeMachine


def ends_with(result: Result) -> Callable[[FakeMachine], Result]:
    """A script that only ends."""
    return lambda made: result


@pytest.mark.parametrize(
    ("result", "status", "line"),
    [
        (Result("poweroff"), 0, ""),
        (Result("quit", message="ended"), 0, ""),
        (Result("debug-exit", 0x63), 0x63, ""),
        (Result("debug-exit", 0x1FF), 0xFF, ""),
        (Result("timeout", message="timeout after 1 s"), 124, "jitvm: timeout after 1 s\n"),
        (Result("max-insns", message="limit"), 6, "jitvm: limit\n"),
        (Result("shutdown", message="triple fault"), 4, "jitvm: triple fault\n"),
        (Result("error", message="can't run 0f 0b"), 4, "jitvm: can't run 0f 0b\n"),
        (Result("interrupt", message="interrupted"), 130, "jitvm: interrupted\n"),
    ],
)
def test_every_end_has_its_status(
    machine: type[FakeMachine], capsys: pytest.CaptureFixture[str], result: Result, status: int, line: str
) -> None:
    machine.script = ends_with(result)
    assert cli.main(["boot", "--serial", "null"]) == status
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", line)
    assert machine.made is not None and machine.made.closed


def test_garbage_is_looked_for_only_while_the_machine_runs(machine: type[FakeMachine]) -> None:
    looked: list[bool] = []

    def script(made: FakeMachine) -> Result:
        looked.append(gc.isenabled() and gc.get_freeze_count() > 1000)
        return Result("poweroff")

    class Watched(FakeMachine):
        def __init__(self, *args: Any, **more: Any) -> None:
            looked.append(gc.isenabled())
            super().__init__(*args, **more)

    sys.modules["jitvm.machine"].Machine = Watched  # type: ignore[attr-defined]  # a stand-in
    machine.script = script
    assert cli.main(["boot"]) == 0
    assert looked == [False, True]
    assert gc.isenabled() and gc.get_freeze_count() == 0


def test_an_error_of_the_host_during_the_run_is_one_line(
    machine: type[FakeMachine], capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(made: FakeMachine) -> Result:
        raise BackendError("disk image 'a' can't be read at 0x200: Input/output error")

    machine.script = fails
    assert cli.main(["boot", "--serial", "null"]) == 2
    assert capsys.readouterr().err == "jitvm: error: disk image 'a' can't be read at 0x200: Input/output error\n"
    assert machine.made is not None and machine.made.closed


def test_an_error_of_ours_is_one_line_and_another_status(
    machine: type[FakeMachine], capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(made: FakeMachine) -> Result:
        raise ZeroDivisionError("division by zero\nmore")

    machine.script = fails
    assert cli.main(["boot", "--serial", "null"]) == Exit.INTERNAL
    said = capsys.readouterr().err
    assert said == "jitvm: internal error: ZeroDivisionError: division by zero (--debug shows the traceback)\n"


def test_where_gdb_can_not_be_served_is_told_before_a_machine_is_made(
    machine: type[FakeMachine], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        assert cli.main(["boot", "--serial", "null", "--gdb", f":{busy.getsockname()[1]}"]) == 2
    assert "Address already in use" in capsys.readouterr().err
    assert cli.main(["boot", "--serial", "null", "--gdb", f"unix:{tmp_path}/none/socket"]) == 2
    assert "No such file or directory" in capsys.readouterr().err
    assert machine.made is None


def test_stats_are_one_line_of_json_or_a_table(machine: type[FakeMachine], capsys: pytest.CaptureFixture[str]) -> None:
    machine.script = ends_with(Result("poweroff"))
    assert cli.main(["boot", "--serial", "null", "--stats", "json"]) == 0
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and json.loads(said)["exits"] == {"io": 3}
    assert cli.main(["boot", "--serial", "null", "--stats"]) == 0
    table = capsys.readouterr().err
    assert "12,345" in table and "exits.io" in table and "0.250" in table


def test_the_text_screen_is_printed_at_the_end(machine: type[FakeMachine], capsys: pytest.CaptureFixture[str]) -> None:
    machine.script = ends_with(Result("poweroff"))
    assert cli.main(["boot", "--serial", "null", "--display", "text"]) == 0
    assert capsys.readouterr().out == "Hello\n  world\n"


def test_the_console_is_there_only_when_the_terminal_is_the_guests(machine: type[FakeMachine]) -> None:
    machine.script = ends_with(Result("poweroff"))
    for argv, there in ((["--serial", "null"], False), ([], True), (["--serial", "null", "--debugcon", "stdio"], True)):
        cli.main(["boot", *argv])
        assert machine.made is not None
        assert (machine.made.console is not None) is there


def test_ctrl_c_ends_the_machine_and_gives_130(machine: type[FakeMachine]) -> None:
    def interrupted(made: FakeMachine) -> Result:
        signal.raise_signal(signal.SIGINT)  # this thread gets it
        assert made.quits == 1
        return Result("quit")

    before = signal.getsignal(signal.SIGINT)
    machine.script = interrupted
    assert cli.main(["boot", "--serial", "null"]) == 130
    assert signal.getsignal(signal.SIGINT) is before


def test_ctrl_c_where_llvm_calls_back_is_not_lost(
    machine: type[FakeMachine], capsys: pytest.CaptureFixture[str]
) -> None:
    """ctypes prints what is raised there, and goes on."""
    steps: list[str] = []
    called_by_llvm: dict[str, Any] = {"__name__": "llvmlite.binding.executionengine", "signal": signal}
    exec("def notify():\n signal.raise_signal(signal.SIGINT)\n", called_by_llvm)

    class Compiling(FakeMachine):
        def __init__(self, config: MachineConfig, *, on_progress: Callable[[str], None], console: Any) -> None:
            ctypes.CFUNCTYPE(None)(called_by_llvm["notify"])()
            steps.append("next")
            super().__init__(config, on_progress=on_progress, console=console)
            steps.append("made")

    sys.modules["jitvm.machine"].Machine = Compiling  # type: ignore[attr-defined]  # a stand-in
    assert cli.main(["boot", "--serial", "null"]) == 130
    assert steps == ["next"], "the next step ends it"
    assert capsys.readouterr().err == "jitvm: interrupted\n"


def test_a_second_ctrl_c_does_not_wait_for_the_machine(
    machine: type[FakeMachine], capsys: pytest.CaptureFixture[str]
) -> None:
    def stuck(made: FakeMachine) -> Result:
        for _ in range(2):
            signal.raise_signal(signal.SIGINT)  # this thread gets it
        raise AssertionError("the second signal raises")

    machine.script = stuck
    assert cli.main(["boot", "--serial", "null"]) == 130
    assert capsys.readouterr().err == "jitvm: interrupted\n"
    assert machine.made is not None and machine.made.closed
