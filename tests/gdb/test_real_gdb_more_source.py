"""What a user does with symbols, lines and variables of a 32-bit guest under an unmodified gdb."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.gdb.programs import COUNTING, Program, c_program
from tests.gdbstub.real_gdb import Gdb, GdbError
from tests.needs import TOOLCHAIN, needs

pytestmark = [pytest.mark.slow, needs("gdb", "nm", *TOOLCHAIN)]  # the fast ones are in test_real_gdb_machine.py
Debug = Callable[..., Gdb]


def line(text: str) -> int:
    """The number of the line of the C program that holds `text`."""
    return next(n for n, each in enumerate(COUNTING.splitlines(), 1) if text in each)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Program:
    return c_program(tmp_path_factory.mktemp("program"))


@pytest.fixture
def debug(boot: Callable[..., object], program: Program) -> Debug:
    """A gdb that knows the program's file, at the reset vector or at the first call of a function."""

    def start(stop_at: str = "", kind: str = "remote") -> Gdb:
        vm = boot(program.image, "-S", "--gdb-arch", "i386")
        gdb: Gdb = vm.gdb(f"file {program.elf}", kind=kind)  # type: ignore[attr-defined]  # a Vm
        if stop_at:
            gdb.cli(f"tbreak {stop_at}")
            assert gdb.stop_of("continue")["reason"] == "breakpoint-hit"
        return gdb

    return start


def answer(gdb: Gdb, command: str) -> str:
    """What a command says, or why it fails."""
    try:
        return gdb.cli(command)
    except GdbError as e:
        return str(e)


def frame(stop: dict[str, object]) -> tuple[str, int]:
    """Function and line of a stop."""
    found = stop["frame"]
    assert isinstance(found, dict)
    return found["func"], int(found.get("line", 0))


# ---- breakpoints ----------------------------------------------------------------------------------------------------
def test_tbreak_stops_once(debug: Debug) -> None:
    gdb = debug("main")
    gdb.cli("tbreak leaf")
    gdb.cli("break middle")
    assert [frame(gdb.stop_of("continue"))[0] for _ in range(4)] == ["middle", "leaf", "middle", "middle"]


def test_hbreak_by_name(debug: Debug) -> None:
    gdb = debug()
    gdb.cli("hbreak leaf")
    stop = gdb.stop_of("continue")
    assert stop["reason"] == "breakpoint-hit" and frame(stop)[0] == "leaf"
    assert "hw breakpoint" in gdb.cli("info breakpoints")


def test_a_condition_picks_one_call(debug: Debug) -> None:
    gdb = debug()
    gdb.cli("break leaf if a == 7 && b == 2")
    assert frame(gdb.stop_of("continue"))[0] == "leaf" and gdb.value("a") == 7 and gdb.value("counter") == 2 * 7 + 21


def test_hits_are_counted_and_ignored(debug: Debug) -> None:
    gdb = debug()
    gdb.cli("break leaf")
    gdb.cli("ignore 1 9")
    gdb.stop_of("continue")
    assert gdb.value("a") == 9 and "already hit 10 times" in gdb.cli("info breakpoints")


def test_a_disabled_breakpoint_is_not_hit(debug: Debug) -> None:
    gdb = debug("main")
    gdb.cli("break leaf")
    gdb.cli("break middle")
    gdb.cli("disable 2")
    assert [frame(gdb.stop_of("continue"))[0] for _ in range(2)] == ["middle", "middle"]
    gdb.cli("enable 2")
    assert frame(gdb.stop_of("continue"))[0] == "leaf"


def test_dprintf_prints_and_goes_on(debug: Debug) -> None:
    gdb = debug("main")
    gdb.cli('dprintf leaf,"a is %d\\n", a')
    gdb.cli("break middle if n == 3")
    start = len(gdb.records)
    gdb.stop_of("continue")
    said = "".join(str(r["payload"]) for r in gdb.records[start:] if r["type"] == "console")
    assert [f"a is {n}" in said for n in range(4)] == [True, True, True, False]


# ---- lines and frames -----------------------------------------------------------------------------------------------
def test_step_goes_into_a_call_and_next_over_it(debug: Debug) -> None:
    gdb = debug("middle")
    assert frame(gdb.stop_of("step")) == ("leaf", line("int sum ="))
    assert frame(gdb.stop_of("next")) == ("leaf", line("counter +="))
    gdb.stop_of("finish")
    assert frame(gdb.stop_of("next"))[0] == "middle"
    gdb.cli("tbreak middle")
    gdb.stop_of("continue")
    assert frame(gdb.stop_of("next")) == ("middle", line("return result")) and gdb.value("result") == gdb.value("n") + 2


def test_finish_returns_the_value(debug: Debug) -> None:
    gdb = debug("leaf")
    stop = gdb.stop_of("finish")
    assert stop["reason"] == "function-finished" and stop["return-value"] == "2" and frame(stop)[0] == "middle"


def test_up_and_down_show_the_callers(debug: Debug) -> None:
    gdb = debug("leaf if a == 3")
    gdb.cli("set backtrace past-main on")
    assert [name in gdb.cli("bt") for name in ("leaf", "middle", "main", "start32")] == [True] * 4
    gdb.cli("up")
    assert gdb.value("n") == 3
    gdb.cli("up")
    assert gdb.value("i") == 3
    gdb.cli("down")
    assert "caller of frame at" in gdb.cli("info frame") and gdb.value("n") == 3


def test_until_leaves_the_loop_forward_and_advance_goes_to_a_place(debug: Debug) -> None:
    gdb = debug("main")
    assert frame(gdb.stop_of("advance leaf"))[0] == "leaf"
    assert frame(gdb.stop_of(f"until {line('return sum')}")) == ("leaf", line("return sum"))
    stop = gdb.stop_of("until middle")
    assert frame(stop)[0] in ("middle", "main"), "a place outside ends at the return"


def test_return_drops_a_frame(debug: Debug) -> None:
    gdb = debug("leaf")
    gdb.cli("return 100")
    gdb.stop_of("next")
    assert gdb.value("result") == 100 and gdb.value("counter") == 0


def test_a_function_of_the_guest_is_called(debug: Debug) -> None:
    gdb = debug("middle if n == 2")
    before = gdb.value("counter"), gdb.pc()
    assert "= 42" in gdb.cli("print leaf(40, 2)")
    assert (gdb.value("counter"), gdb.pc()) == (before[0] + 42, before[1])


def test_jump_goes_on_elsewhere(debug: Debug) -> None:
    gdb = debug("leaf")
    gdb.cli(f"tbreak {line('return sum')}")
    stop = gdb.stop_of(f"jump {line('return sum')}")
    assert frame(stop) == ("leaf", line("return sum")) and gdb.value("counter") == 0


def test_stepi_with_a_count(debug: Debug) -> None:
    gdb = debug("main")
    other = debug("main")
    gdb.stop_of("stepi 60")
    for _ in range(60):
        other.stop_of("stepi")
    assert gdb.pc() == other.pc() and gdb.value("$esp") == other.value("$esp")
    assert other.cli("info registers") == gdb.cli("info registers")


def test_display_at_each_stop(debug: Debug) -> None:
    gdb = debug("middle")
    gdb.cli("display counter")
    gdb.cli("display/i $pc")
    gdb.cli("break middle")
    for expected in (2, 5):
        start = len(gdb.records)
        gdb.stop_of("continue")
        gdb.cli("echo")
        said = "".join(str(r["payload"]) for r in gdb.records[start:] if r["type"] == "console")
        assert f"counter = {expected}" in said and "=> " in said


# ---- variables ------------------------------------------------------------------------------------------------------
def test_watch_a_variable(debug: Debug) -> None:
    gdb = debug("main")
    gdb.cli("watch counter")
    total = 0
    for n in range(2, 8):
        stop = gdb.stop_of("continue")
        assert stop["reason"] == "watchpoint-trigger" and frame(stop)[0] == "leaf"
        assert (int(stop["value"]["old"]), int(stop["value"]["new"])) == (total, total + n)
        total += n


def test_watch_with_a_condition(debug: Debug) -> None:
    gdb = debug("main")
    gdb.cli("watch counter if counter > 100")
    assert gdb.stop_of("continue")["reason"] == "watchpoint-trigger" and gdb.value("counter") == sum(range(2, 15))


def test_rwatch_and_awatch_one_element(debug: Debug) -> None:
    gdb = debug("main")
    gdb.cli("awatch table[5]")
    stop = gdb.stop_of("continue")
    assert stop["reason"] == "access-watchpoint-trigger" and gdb.value("table[5]") == 14
    gdb.cli("delete")
    gdb.cli("rwatch counter")
    stop = gdb.stop_of("continue")
    assert stop["reason"] in ("read-watchpoint-trigger", "access-watchpoint-trigger") and frame(stop)[0] == "leaf"


def test_watch_a_local_until_its_frame_is_gone(debug: Debug) -> None:
    gdb = debug("leaf")
    gdb.cli("watch sum")
    assert gdb.stop_of("continue")["reason"] == "watchpoint-trigger" and gdb.value("sum") == 2
    assert gdb.stop_of("continue")["reason"] == "watchpoint-scope"


def test_variables_are_written(debug: Debug) -> None:
    gdb = debug("leaf")
    gdb.cli("set var counter = 1000")
    gdb.cli("set var a = 7")
    gdb.cli("set var table[1] = -1")
    gdb.stop_of("finish")
    assert gdb.value("counter") == 1009 and gdb.value("table[1]") == 0xFFFF_FFFF


def test_locals_and_arguments(debug: Debug) -> None:
    gdb = debug("leaf if a == 4")
    gdb.stop_of("next")
    assert "sum = 6" in gdb.cli("info locals")
    assert "a = 4" in gdb.cli("info args") and "b = 2" in gdb.cli("info args")
    assert "leaf + " in gdb.cli("info symbol $pc") and "counter" in gdb.cli("info symbol &counter")


# ---- the file beside the memory -------------------------------------------------------------------------------------
def test_compare_sections(debug: Debug) -> None:
    gdb = debug("main")
    said = gdb.cli("compare-sections")
    assert "Section .text, range 0xf0000" in said and "MIS-MATCHED" not in said
    gdb.cli("delete mem")
    gdb.cli("set mem inaccessible-by-default off")
    gdb.cli("set {char}&gdt = 1")
    assert "MIS-MATCHED" in gdb.cli("compare-sections .text")


def test_find_in_memory(debug: Debug, program: Program) -> None:
    gdb = debug("main")
    assert f"{program.symbols['gdt'] + 8:#x}" in gdb.cli("find /g1 0xf0000, 0xfffff, 0x00cf9b000000ffff")
    assert "Pattern not found" in gdb.cli("find /w 0x2000, +0x1000, 0x12345678")
    gdb.cli("set var table[3] = 0x12345678")
    assert f"{program.symbols['table'] + 12:#x}" in gdb.cli("find /w 0x2000, +0x1000, 0x12345678")


def test_dump_and_restore(debug: Debug, tmp_path: Path) -> None:
    gdb = debug("main")
    data = bytes(range(256)) * 1024
    (tmp_path / "data").write_bytes(data)
    gdb.cli(f"restore {tmp_path}/data binary 0x100000")
    gdb.cli(f"dump binary memory {tmp_path}/back 0x100000 {0x100000 + len(data):#x}")
    assert (tmp_path / "back").read_bytes() == data
    gdb.cli(f"dump ihex memory {tmp_path}/back.hex 0x100000 0x100100")
    gdb.cli("set {int}0x100000 = 0")
    gdb.cli(f"restore {tmp_path}/back.hex")
    assert gdb.memory(0x100000, 256) == data[:256]


def test_restore_of_an_elf_file_at_an_offset(debug: Debug, tmp_path: Path) -> None:
    gdb = debug("main")
    (tmp_path / "elsewhere").mkdir()
    gdb.cli(f"restore {c_program(tmp_path / 'elsewhere').elf} 0x110000")
    assert gdb.memory(0x200000, 64) == gdb.memory(0xF0000, 64)


def test_run_starts_again_with_breakpoints(debug: Debug) -> None:
    gdb = debug("main", "extended-remote")
    gdb.cli("break leaf if a == 2")
    gdb.stop_of("continue")
    for n in (2, 3):
        assert gdb.stop_of("run")["reason"] == "breakpoint-hit"
        assert gdb.value("a") == 2 and gdb.value("counter") == 5 * n, "a reset leaves RAM alone"


def test_starti_stands_at_the_reset_vector(debug: Debug) -> None:
    gdb = debug("main", "extended-remote")
    gdb.stop_of("starti")
    assert gdb.pc() == 0xFFFF_FFF0


def test_info_target_and_other_queries_answer(debug: Debug) -> None:
    gdb = debug("main")
    assert "Remote" in gdb.cli("info target") and "Num" in gdb.cli("info inferiors")
    assert "not running" not in gdb.cli("info program").lower()
    for command in ("info auxv", "info proc", "info os", "info sharedlibrary", "info signals SIGINT", "tstatus"):
        said = answer(gdb, command)
        assert said and "imeout" not in said and "Reply" not in said, command
    gdb.stop_of("stepi")
