"""An unmodified gdb on four vCPUs, which the guest starts itself by INIT and SIPI."""

from __future__ import annotations

import re
from contextlib import closing
from pathlib import Path

import pytest

from jitvm.bench.gdb_client import Packets
from tests.boot.guests import rom
from tests.gdb.programs import AP_PAGE, Program, smp_program
from tests.gdb.vm import Start, Vm, interrupt, let_run
from tests.gdbstub.real_gdb import Gdb
from tests.needs import needs

pytestmark = needs("gdb", "gcc")
N_CPUS = 4
OTHERS = range(2, N_CPUS + 1)
"""gdb's numbers of those that wait for SIPI."""
HALTED = "fb f4 ebfc"
"""sti; hlt, for ever"""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Program:
    return smp_program(tmp_path_factory.mktemp("program"), N_CPUS)


@pytest.fixture(params=[(), pytest.param(("--smp-threads",), marks=pytest.mark.slow)], ids=["turns", "threads"])
def smp(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """Options: four CPUs, in turns or at the same time."""
    return "--smp", str(N_CPUS), *request.param


@pytest.fixture
def vm(boot: Start, program: Program, smp: tuple[str, ...]) -> Vm:
    return boot(program.image, "-S", *smp, "--gdb-arch", "i386")


@pytest.fixture
def gdb(vm: Vm, program: Program) -> Gdb:
    """At the reset vector, with the program's symbols."""
    return vm.gdb(f"file {program.elf}")


def started(gdb: Gdb) -> Gdb:
    """All four run."""
    gdb.cli("hbreak ready")
    assert gdb.stop_of("continue")["thread-id"] == "1"
    gdb.cli("delete")
    return gdb


def counters(gdb: Gdb) -> list[int]:
    """What each CPU has counted."""
    return [gdb.value(f"done[{n}]") for n in range(N_CPUS)]


def modes(gdb: Gdb) -> list[str]:
    """What the threads are called."""
    return re.findall(r'"CPU\d (.+?)"', gdb.cli("info threads"))


def places(gdb: Gdb) -> dict[int, int]:
    """Where each stands; the first is chosen then."""
    found = {}
    for n in range(N_CPUS, 0, -1):
        gdb.cli(f"thread {n}")
        found[n] = gdb.pc()
    return found


def test_threads_before_and_after_sipi(gdb: Gdb) -> None:
    assert modes(gdb) == ["real16"] + ["real16 halted"] * 3
    assert modes(started(gdb)) == ["prot32"] * 4


def test_a_breakpoint_at_the_first_instruction_of_an_ap(gdb: Gdb) -> None:
    gdb.cli(f"hbreak *{AP_PAGE:#x}")
    hits = []
    for _ in OTHERS:
        stop = gdb.stop_of("continue")
        assert stop["reason"] == "breakpoint-hit" and gdb.pc() == AP_PAGE
        assert gdb.value("$cs") == AP_PAGE >> 4 and gdb.value("$eip - $cs_base") == 0
        hits.append(int(stop["thread-id"]))
    assert sorted(hits) == [*OTHERS], "each of them once"


def test_one_ap_is_stepped_and_the_others_stand(gdb: Gdb) -> None:
    gdb.cli(f"hbreak *{AP_PAGE:#x}")
    mover = int(gdb.stop_of("continue")["thread-id"])
    gdb.cli("delete")
    gdb.cli("set scheduler-locking on")
    before = places(gdb)
    gdb.cli(f"thread {mover}")
    seen = ["real16"]
    for n in range(6):
        stop = gdb.stop_of("stepi")
        assert (stop["reason"], stop["thread-id"]) == ("end-stepping-range", str(mover))
        seen.append(modes(gdb)[mover - 1])
        if n == 0:
            assert gdb.value("$bx") == 5
    after = places(gdb)
    assert list(dict.fromkeys(seen)) == ["real16", "prot16", "prot32"]
    assert {n: at for n, at in before.items() if n != mover} == {n: at for n, at in after.items() if n != mover}


def test_each_goes_on_alone(gdb: Gdb) -> None:
    started(gdb)
    gdb.cli("set scheduler-locking on")
    gdb.cli("hbreak work")
    for mover in (3, 1, 4, 2):
        gdb.cli(f"thread {mover}")
        before = counters(gdb)
        for _ in range(3):
            stop = gdb.stop_of("continue")
            assert (stop["reason"], stop["thread-id"]) == ("breakpoint-hit", str(mover))
            assert gdb.value("number") == mover - 1
        grown = [b - a for a, b in zip(before, counters(gdb), strict=True)]
        assert [n for n, more in enumerate(grown) if more] == [mover - 1] and grown[mover - 1] in (2, 3)


def test_a_breakpoint_that_all_hit_is_told_of_all(gdb: Gdb, smp: tuple[str, ...]) -> None:
    """With turns, in turn, though the first one could hit it thousands of times before the next one's turn comes."""
    started(gdb)
    gdb.cli("hbreak work")
    seen = []
    for _ in range(3 * N_CPUS):
        seen.append(int(gdb.stop_of("continue")["thread-id"]))
        assert gdb.value("number") == seen[-1] - 1
    if "--smp-threads" in smp:
        assert set(seen) <= {1, *OTHERS}
    else:
        assert seen[:N_CPUS] * 3 == seen and set(seen) == {1, *OTHERS}


def test_a_breakpoint_of_one_thread(gdb: Gdb) -> None:
    started(gdb)
    gdb.cli("break work thread 3")
    for _ in range(3):
        assert gdb.stop_of("continue")["thread-id"] == "3"


def test_a_watchpoint_names_the_thread_that_wrote(gdb: Gdb) -> None:
    started(gdb)
    for number in (2, 0, 3):
        gdb.cli(f"watch done[{number}]")
        stop = gdb.stop_of("continue")
        assert (stop["reason"], stop["thread-id"]) == ("watchpoint-trigger", str(number + 1))
        assert int(stop["value"]["new"]) == int(stop["value"]["old"]) + 1
        gdb.cli("delete")


def test_all_backtraces(gdb: Gdb) -> None:
    started(gdb)
    gdb.cli("hbreak work")
    gdb.stop_of("continue")
    said = gdb.cli("thread apply all bt")
    assert [int(n) for n in re.findall(r"^Thread (\d)", said, re.MULTILINE)] == [4, 3, 2, 1]
    for number in range(1, N_CPUS):
        assert f"ap_main (number={number})" in said
    assert re.search(r"(#0  | in )main \(\)", said)


def test_registers_of_one_thread_are_written(gdb: Gdb) -> None:
    started(gdb)
    gdb.cli("thread 3")
    before = gdb.value("$esi")
    gdb.cli("set $esi = 0x1234")
    gdb.cli("maintenance flush register-cache")
    assert gdb.value("$esi") == 0x1234
    gdb.cli("thread 2")
    assert gdb.value("$esi") == before != 0x1234


def test_ctrl_c_while_all_run(gdb: Gdb) -> None:
    started(gdb)
    for _ in range(3):
        assert interrupt(gdb, let_run(gdb)) < 10
        assert set(modes(gdb)) == {"prot32"} and gdb.pc() >> 16 == 0xF
        assert counters(gdb) == counters(gdb), "all stand"


@pytest.mark.parametrize("clock", ["icount", "realtime"])
def test_ctrl_c_while_all_are_halted(boot: Start, tmp_path: Path, clock: str, smp: tuple[str, ...]) -> None:
    gdb = boot(rom(tmp_path, HALTED), "-S", *smp, "--clock", clock).gdb()
    gdb.stop_of("stepi 3")
    for _ in range(3):
        assert interrupt(gdb, let_run(gdb)) < 10
        assert modes(gdb) == ["real16 halted"] * N_CPUS


def test_run_starts_all_again(vm: Vm, program: Program) -> None:
    gdb = started(vm.gdb(f"file {program.elf}", kind="extended-remote"))
    gdb.cli("hbreak ready")
    assert gdb.stop_of("run")["thread-id"] == "1"
    assert modes(gdb) == ["prot32"] * 4 and counters(gdb)[0] == 0


def test_packets_for_threads(vm: Vm, program: Program) -> None:
    """What runs is exactly what vCont, Hc and T say."""
    with closing(Packets(int(vm.address.rsplit(":", 1)[1]))) as client:
        work = program.symbols["work"]
        assert client.ask(b"qfThreadInfo") == b"m1,2,3,4"
        assert client.ask(b"Z1,%x,1" % program.symbols["ready"]) == b"OK"
        assert b"thread:1;" in client.stop_of(b"vCont;c")
        assert client.ask(b"z1,%x,1" % program.symbols["ready"]) == b"OK"

        def pcs() -> list[bytes]:
            found = []
            for n in range(1, N_CPUS + 1):
                assert client.ask(b"Hg%x" % n) == b"OK"
                found.append(client.ask(b"p8"))
            return found

        before = pcs()
        assert b"thread:3;" in client.stop_of(b"vCont;s:3")
        after = pcs()
        assert [a == b for a, b in zip(before, after, strict=True)] == [True, True, False, True]
        assert b"thread:2;" in client.stop_of(b"vCont;t:3;s:2;t")
        assert [a == b for a, b in zip(after, pcs(), strict=True)] == [True, False, True, True]
        assert client.ask(b"Z1,%x,1" % work) == b"OK"
        assert b"thread:4;" in client.stop_of(b"vCont;c:4")
        assert client.ask(b"Hc2") == b"OK" and b"thread:2;" in client.stop_of(b"c")
        assert client.ask(b"z1,%x,1" % work) == b"OK"
        assert b"thread:3;" in client.stop_of(b"vCont;s:3;c"), "the others run meanwhile"
        assert client.ask(b"T4") == b"OK" and client.ask(b"T5").startswith(b"E")
        assert client.ask(b"vCont;s:5").startswith(b"E") and client.ask(b"Hg5").startswith(b"E")
        assert client.ask(b"Hc-1") == b"OK"
        client.send(b"c")
        client.break_in()
        assert client.read().startswith(b"T02")
