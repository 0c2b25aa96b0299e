"""Two vCPUs under a debugger: all stop when one does, and one that is not resumed moves not one instruction.

The second is a bare one: the board knows nothing of it, and it is given its registers as a client would.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from gdbstub.stop import BreakpointHit, BreakpointKind, Interrupted, Stepped, Stop, ThreadStop, WatchKind, WatchpointHit
from gdbstub.target import Action, Continue, RangeStep, Step
from jitvm.bench.gdb_client import Packets
from jitvm.engine.accel import Options, VcpuEngine
from jitvm.gdb_target import GdbTarget, serve
from jitvm.machine import Machine
from jitvm.vcpu import Vcpu
from tests.boot.guests import config, rom
from tests.gdb.bench import PATIENCE_S
from tests.gdbstub.real_gdb import Gdb

START = 0xF0000
COUNT = "40 a30005 ebfa"
"""0: inc ax; 1: mov [500h], ax; 4: jmp 0; the two differ by DS."""
SIZE = 6
SOFT = BreakpointKind.SOFTWARE


def add_vcpu(machine: Machine) -> None:
    """One more CPU on the same memory and buses, in its reset state."""
    first = machine.vcpus[0]
    engine = VcpuEngine(machine.accel, machine.memory, Options())
    vcpu = Vcpu(len(machine.vcpus), engine, first.buses.ports, first.buses.mmio, machine.clock, machine.lock)
    machine.vcpus.append(vcpu)


def place(target: GdbTarget, thread: int, code: int = START, data: int = 0) -> None:
    """Let a thread begin at F000:code, DS based at `data`, AX = 0."""
    layout, values = target.layout, {"cs": 0xF000, "ds": data >> 4, "rip": code, "rax": 0}
    numbers = {layout.numbers[name]: value for name, value in values.items()}
    target.write_registers(thread, {n: v.to_bytes(layout.registers[n].size, "little") for n, v in numbers.items()})


class Two:
    """The target of a machine with two vCPUs; both stand."""

    def __init__(self, machine: Machine) -> None:
        self.machine, self.target = machine, GdbTarget(machine)
        self.stops: queue.Queue[Stop] = queue.Queue()
        self.target.watched = lambda: True
        self.target.listen(self)
        machine.gate.debugger, machine.gate.held = self.target, True
        for thread, data in ((1, 0), (2, 0x10000)):
            place(self.target, thread, data=data)

    def stopped(self, stop: Stop) -> None:
        self.stops.put(stop)

    def go(self, plan: dict[int, Action]) -> ThreadStop:
        """Resume, and the one stop that answers."""
        self.target.resume(plan)
        return self.stop()

    def stop(self) -> ThreadStop:
        stop = self.stops.get(timeout=PATIENCE_S)
        assert isinstance(stop, ThreadStop) and self.machine.gate.held
        return stop

    def retired(self) -> tuple[int, int]:
        """Instructions of each."""
        first, second = self.machine.vcpus
        return first.retired, second.retired

    def pcs(self) -> tuple[int, int]:
        """Offsets of both in the ROM."""
        number = self.target.layout.numbers["rip"]
        values = [int.from_bytes(self.target.read_register(thread, number), "little") for thread in (1, 2)]
        return values[0] - START, values[1] - START

    def ax(self) -> tuple[int, int]:
        """AX of each."""
        number = self.target.layout.numbers["rax"]
        values = [int.from_bytes(self.target.read_register(thread, number)[:2], "little") for thread in (1, 2)]
        return values[0], values[1]


@contextmanager
def two_cpus(bios: Path) -> Iterator[Machine]:
    with Machine(config(bios)) as machine:
        add_vcpu(machine)
        yield machine
        machine.quit()


@pytest.fixture
def two(tmp_path: Path) -> Iterator[Two]:
    with two_cpus(rom(tmp_path, COUNT)) as machine:
        made = Two(machine)
        machine.start()
        yield made


def test_both_are_threads(two: Two) -> None:
    infos = two.target.threads()
    assert [(info.thread, info.name, info.core) for info in infos] == [(1, "CPU0 real16", 0), (2, "CPU1 real16", 1)]


def test_the_monitor_is_about_the_chosen_thread(two: Two) -> None:
    said: list[str] = []
    before = [vcpu.retired for vcpu in two.machine.vcpus]
    two.target.monitor("cpu", said.append, 2)
    two.target.monitor("step 3", said.append, 2)
    assert "* CPU1" in said[0] and "  CPU0" in said[0]
    for command, thread, chosen in (("cpu 0", 2, 0), ("cpu", 2, 0), ("cpu", 1, 0), ("cpu", 2, 1)):
        two.target.monitor(command, said.append, thread)
        assert f"* CPU{chosen}" in said[-1], "cpu N holds until gdb chooses another thread"
    assert [vcpu.retired - n for vcpu, n in zip(two.machine.vcpus, before, strict=True)] == [0, 3]


@pytest.mark.parametrize("mover", [1, 2])
def test_a_step_moves_one_thread_by_one_instruction(two: Two, mover: int) -> None:
    before = two.retired()
    for _ in range(20):
        assert two.go({mover: Step()}) == Stepped(mover)
    after = two.retired()
    assert tuple(b - a for a, b in zip(before, after, strict=True)) == ((20, 0) if mover == 1 else (0, 20))
    assert two.pcs() == ((4, 0) if mover == 1 else (0, 4)) and two.ax()[2 - mover] == 0


@pytest.mark.parametrize("mover", [1, 2])
def test_a_thread_that_is_not_resumed_stands_while_the_other_runs(two: Two, mover: int) -> None:
    other = 3 - mover
    two.target.insert_breakpoint(SOFT, START + 4, 1)
    for n in range(1, 30):
        assert two.go({mover: Continue()}) == BreakpointHit(mover)
        assert two.ax()[mover - 1] == n and two.ax()[other - 1] == 0 and two.retired()[other - 1] == 0
    two.target.remove_breakpoint(SOFT, START + 4, 1)
    two.target.resume({mover: Continue()})
    two.target.interrupt()
    assert two.stop() == Interrupted(mover) and two.retired()[other - 1] == 0


def test_a_breakpoint_of_one_stops_both(two: Two) -> None:
    place(two.target, 2, code=START + 0x100)
    two.target.write_memory(1, START + 0x100, bytes.fromhex("43ebfd"))  # inc bx, for ever
    two.target.insert_breakpoint(SOFT, START + 4, 1)
    for n in range(1, 20):
        assert two.go({1: Continue(), 2: Continue()}) == BreakpointHit(1)
        assert two.ax()[0] == n and two.pcs()[0] == 4 and two.pcs()[1] in (0x100, 0x101)
        assert len({two.retired() for _ in range(1000)}) == 1, "both stand"


def test_breakpoints_that_both_hit_are_told_one_by_one(two: Two) -> None:
    """A hit that was not told is hit again; none is lost, none is told twice."""
    two.target.insert_breakpoint(SOFT, START + 4, 1)
    hits = {1: 0, 2: 0}
    for _ in range(60):
        stop = two.go({1: Continue(), 2: Continue()})
        assert isinstance(stop, BreakpointHit)
        hits[stop.thread] += 1
        assert two.pcs()[stop.thread - 1] == 4 and two.ax()[stop.thread - 1] == hits[stop.thread]
    for thread in hits:
        assert two.go({thread: Continue()}) == BreakpointHit(thread) and two.ax()[thread - 1] == hits[thread] + 1


def test_ctrl_c_stops_both(two: Two) -> None:
    for _ in range(20):
        two.target.resume({1: Continue(), 2: Continue()})
        two.target.interrupt()
        assert two.stop() == Interrupted(1)
        assert len({two.retired() for _ in range(1000)}) == 1
    assert two.stops.empty()


def test_one_steps_while_the_other_runs(two: Two) -> None:
    """How far it runs in the time of a step is the host's matter."""
    n = 0
    while n < 20 or (two.retired()[1] == 0 and n < 5000):
        assert two.go({1: Step(), 2: Continue()}) == Stepped(1)
        n += 1
    assert two.retired()[0] == n and two.retired()[1] > 0


def test_both_step(two: Two) -> None:
    """One of the two is told; neither has done more than one instruction."""
    for n in range(1, 20):
        before = two.retired()
        stop = two.go({1: Step(), 2: Step()})
        after = two.retired()
        assert isinstance(stop, Stepped) and after[stop.thread - 1] == before[stop.thread - 1] + 1, n
        assert all(0 <= b - a <= 1 for a, b in zip(before, after, strict=True))


def test_a_watchpoint_is_of_the_thread_that_wrote(two: Two) -> None:
    two.target.insert_watchpoint(WatchKind.WRITE, 0x10500, 2)  # the second one's counter
    for n in range(1, 20):
        assert two.go({1: Continue(), 2: Continue()}) == WatchpointHit(2, WatchKind.WRITE, 0x10500)
        assert two.target.read_memory(1, 0x10500, 2) == n.to_bytes(2, "little") and two.pcs()[1] == 4


def test_a_range_step_of_one(two: Two) -> None:
    two.target.insert_breakpoint(SOFT, START + 4, 1)
    assert two.go({2: RangeStep(START, START + 4)}) == BreakpointHit(2)
    two.target.remove_breakpoint(SOFT, START + 4, 1)
    assert two.go({2: RangeStep(START, START + 4)}) == Stepped(2)
    assert two.pcs() == (0, 4) and two.retired() == (0, 5), "the jump goes back into the range, and once round"


def test_a_reset_is_of_both(two: Two) -> None:
    two.go({1: Step()})
    two.target.reset()
    number = two.target.layout.numbers["rip"]
    assert [two.target.read_register(thread, number)[:4].hex() for thread in (1, 2)] == ["f0ffffff"] * 2


def test_the_same_run_with_steps_and_without(two: Two) -> None:
    """Counts and registers of a thread do not depend on how the other was moved meanwhile."""
    place(two.target, 1)
    for n in range(30):
        two.go({1: Step()} if n % 3 else {2: Step()})
    assert two.retired() == (20, 10) and two.ax() == (7, 4)


# ---- by packets and by gdb ------------------------------------------------------------------------------------------
@pytest.fixture
def served(tmp_path: Path) -> Iterator[int]:
    """The port of two CPUs that stand at F000:0000."""
    with two_cpus(rom(tmp_path, COUNT)) as machine, serve(machine, ":0", wait=True) as server:
        target = machine.gate.debugger
        assert isinstance(target, GdbTarget)
        for thread, data in ((1, 0), (2, 0x10000)):
            place(target, thread, data=data)
        runner = threading.Thread(target=machine.run, daemon=True)
        runner.start()
        yield int(str(server.address).rsplit(":", 1)[1])
        machine.quit()
        runner.join(PATIENCE_S)


def test_packets_of_threads(served: int) -> None:
    with closing(Packets(served)) as gdb:
        assert gdb.ask(b"qfThreadInfo") == b"m1,2" and gdb.ask(b"qsThreadInfo") == b"l"
        assert gdb.ask(b"T2") == b"OK" and gdb.ask(b"T3").startswith(b"E")
        assert b'name="CPU1 real16"' in gdb.ask(b"qXfer:threads:read::0,1000")
        assert bytes.fromhex(gdb.ask(b"qThreadExtraInfo,2").decode()) == b"CPU1 real16"
        for _ in range(3):
            assert b"thread:2;" in gdb.stop_of(b"vCont;s:2")
        assert gdb.ask(b"Hg2") == b"OK" and gdb.ask(b"p10")[:8] == b"00000f00"
        assert b"thread:2;" in gdb.stop_of(b"vCont;s:2")
        assert gdb.ask(b"p10")[:8] == b"01000f00" and gdb.ask(b"Hg1") == b"OK" and gdb.ask(b"p10")[:8] == b"00000f00"
        assert gdb.ask(b"Hc1") == b"OK" and b"thread:1;" in gdb.stop_of(b"s")
        assert gdb.ask(b"p10")[:8] == b"01000f00"
        gdb.send(b"vCont;c")
        gdb.break_in()
        assert gdb.read().startswith(b"T02")


@pytest.mark.needs("gdb")
def test_real_gdb_locks_the_scheduler(served: int) -> None:
    gdb = Gdb()
    try:
        gdb.connect(f"localhost:{served}")
        said = gdb.cli("info threads")
        assert '"CPU0 real16"' in said and '"CPU1 real16"' in said
        gdb.cli("set scheduler-locking on")
        gdb.cli("thread 2")
        gdb.cli(f"break *{START + 1:#x}")
        for n in range(1, 6):
            stop = gdb.stop_of("continue")
            assert (stop["reason"], stop["thread-id"]) == ("breakpoint-hit", "2")
            assert gdb.value("$ax") == n
        gdb.cli("thread 1")
        assert (gdb.pc(), gdb.value("$ax")) == (START, 0)
        gdb.cli("set scheduler-locking off")
        seen: set[str] = set()
        for _ in range(300):  # which of two threads comes first is the host's affair
            seen.add(gdb.stop_of("continue")["thread-id"])
            if len(seen) == 2:
                break
        assert seen == {"1", "2"}
        gdb.cli("delete")
        start = len(gdb.records)
        gdb.cli("continue &")
        gdb.mi("-exec-interrupt")
        assert gdb.wait_stop(start)["signal-name"] == "SIGINT"
    finally:
        gdb.close()
