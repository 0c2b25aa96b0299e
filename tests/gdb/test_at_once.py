"""A vCPU that goes alone runs its first instructions on the thread of the debugger, who finds it standing already.

What is asserted is that the stop was told before `resume` returned, so no thread was woken in between.
"""

from __future__ import annotations

import queue
import threading
from pathlib import Path

import pytest

from gdbstub.stop import BreakpointHit, BreakpointKind, Exited, Interrupted, Stepped, Stop, WatchKind, WatchpointHit
from gdbstub.target import Continue, Step
from jitvm.gdb_target import GdbTarget
from jitvm.machine import AT_ONCE, Machine
from tests.boot.guests import config, rom
from tests.gdb.bench import PATIENCE_S, Bench, bench
from tests.gdb.vm import COUNTER, RESET, START

SOFT = BreakpointKind.SOFTWARE
FAR = "b9ffff 40 e2fd eb f8"
"""0: mov cx, FFFFh; 3: inc ax; 4: loop 3; 6: jmp 0"""


class Stops(queue.Queue[Stop]):
    """A target's listener."""

    def stopped(self, stop: Stop) -> None:
        self.put(stop)


def told(b: Bench) -> list[Stop]:
    """The stops told so far."""
    return [b.stops.get_nowait() for _ in range(b.stops.qsize())]


def test_steps_and_breakpoints_nearby_wake_no_thread(tmp_path: Path) -> None:
    with bench(rom(tmp_path, COUNTER)) as b:
        b.step()
        b.target.insert_breakpoint(SOFT, START + 1, 1)
        for n in range(1, 51):
            b.go(Continue())
            assert told(b) == [BreakpointHit(1, SOFT)] and b.read("rax") == n and b.pc == START + 1
            b.go(Step())
            assert told(b) == [Stepped(1)] and b.pc == START
        assert b.machine.vcpus[0].retired == 1 + 2 * 50


def test_what_is_far_away_is_reached_by_the_vcpus_own_thread(tmp_path: Path) -> None:
    """The same instructions are counted; in between the machine can be stopped."""
    with bench(rom(tmp_path, FAR)) as b:
        b.step(2)
        b.target.insert_breakpoint(SOFT, START + 6, 1)
        b.go(Continue())
        assert b.stop() == BreakpointHit(1, SOFT) and b.read("rax") == 0xFFFF
        assert b.machine.vcpus[0].retired == 2 + 2 * 0xFFFF > AT_ONCE
        b.target.remove_breakpoint(SOFT, START + 6, 1)
        b.go(Continue())
        assert told(b) == []
        b.target.interrupt()
        assert b.stop() == Interrupted(1)


def test_a_halted_cpu_does_not_keep_the_debugger_waiting(tmp_path: Path) -> None:
    with bench(rom(tmp_path, "fb f4 ebfd")) as b:  # sti; hlt; jmp to hlt
        b.step(2)
        b.go(Continue())
        assert told(b) == [] and b.machine.gate.held is False
        b.target.interrupt()
        assert b.stop() == Interrupted(1)


def test_a_watchpoint_at_once(tmp_path: Path) -> None:
    with bench(rom(tmp_path, "a20005 ebfb")) as b:  # mov [500h], al; jmp back
        b.step()
        b.target.insert_watchpoint(WatchKind.WRITE, 0x500, 1)
        for _ in range(3):
            b.go(Continue())
            assert told(b) == [WatchpointHit(1, WatchKind.WRITE, 0x500)]


@pytest.mark.parametrize("action", [Step(), Continue()])
def test_the_end_of_the_guest_at_once(tmp_path: Path, action: Step | Continue) -> None:
    with bench(rom(tmp_path, "b021 e6f4 ebfe")) as b:  # mov al, 21h; out f4h, al
        b.step(2)
        b.go(action)
        assert [type(stop) for stop in told(b)] == [Exited]
        b.finish()
        assert b.machine.wait().code == 0x43


def test_a_reset_at_once(tmp_path: Path) -> None:
    """Asked for by the instruction that is stepped: the vCPU's thread does it, and the step ends at the reset vector."""
    with bench(rom(tmp_path, "b0fe e664 ebfe")) as b:  # mov al, feh; out 64h, al
        b.step(2)
        b.go(Step())
        assert b.stop() == Stepped(1) and b.pc == RESET
        b.go(Step())
        assert told(b) == [Stepped(1)] and b.pc == START


def test_a_host_that_fails_at_once_fails_in_wait(tmp_path: Path) -> None:
    def fail(due: int, end: int) -> tuple[int, ...]:
        raise RuntimeError("the host failed")

    with Machine(config(rom(tmp_path, COUNTER))) as machine:
        target, stops = GdbTarget(machine), Stops()
        target.listen(stops)
        machine.gate.debugger, machine.gate.held = target, True
        machine.start()
        target.resume({1: Step()})
        assert stops.get(timeout=PATIENCE_S) == Stepped(1)
        machine.vcpus[0].enter = fail
        target.resume({1: Step()})
        assert stops.get_nowait() == Exited(1, "the host failed")
        with pytest.raises(RuntimeError, match="the host failed"):
            machine.wait()


def test_a_machine_is_paused_while_a_debugger_steps(tmp_path: Path) -> None:
    """Whoever pauses waits until the debugger's thread is out of the guest, and until then nobody else runs it."""
    with bench(rom(tmp_path, COUNTER)) as b:
        b.step()
        machine, vcpu = b.machine, b.machine.vcpus[0]
        enter, seen = vcpu.enter, []

        def pauses(due: int, end: int) -> tuple[int, ...]:
            vcpu.enter = enter
            pauser = threading.Thread(target=machine.pause)
            pauser.start()
            while not vcpu.exit_request:
                pauser.join(0.001)
            seen.append((pauser, pauser.is_alive(), machine.paused))
            return enter(due, end)

        vcpu.enter = pauses
        b.go(Continue())
        ((pauser, waited, paused),) = seen
        pauser.join(PATIENCE_S)
        assert waited and paused and not pauser.is_alive()
        before = vcpu.retired
        with machine.lock:
            assert vcpu.retired == before and machine.paused
        machine.resume()
        b.target.interrupt()
        assert b.stop() == Interrupted(1)


def test_one_of_several_cpus_that_take_turns_steps_at_once(tmp_path: Path) -> None:
    """The others are kept, as by gdb when it steps over a breakpoint."""
    with bench(rom(tmp_path, COUNTER), smp=2) as b:
        b.step()
        for n in range(20):
            b.target.resume({1: Step()})
            assert told(b) == [Stepped(1)] and b.pc == START + (n + 1) % 2
        assert [vcpu.retired for vcpu in b.machine.vcpus] == [21, 0]
        b.target.resume({2: Step()})  # it waits for SIPI
        assert told(b) == []
        b.target.interrupt()
        assert b.stop() == Interrupted(2)
        b.target.resume({1: Step()})
        assert b.stop() == Stepped(1)


def test_a_threads_name_follows_what_the_cpu_does(tmp_path: Path) -> None:
    """It is made anew when what it depends on has changed."""
    with bench(rom(tmp_path, "0f20c0 0c01 0f22c0 90 f4")) as b:  # cr0 |= PE; nop; hlt
        names = []
        for _ in range(6):
            b.step()
            names.append(b.target.threads()[0].name)
        assert names == ["CPU0 real16"] * 3 + ["CPU0 prot16"] * 2 + ["CPU0 prot16 halted"]


TIMER = "fa b034 e643 31c0 e640 e640 b011 e620 b008 e621 b004 e621 b001 e621 b0fe e621 fb f4 ebfd"
"""The 8254's channel 0 at its slowest, the 8259A with IRQ 0 open at vector 8; sti; hlt; and again."""
N_TO_HLT = 19


def test_a_halted_cpu_that_goes_alone_waits_for_its_timer(tmp_path: Path) -> None:
    """Time goes on for it, although the turn was another one's, which runs and is kept standing."""
    with bench(rom(tmp_path, TIMER), smp=2) as b:
        assert b.step(N_TO_HLT) == Stepped(1) and int(b.machine.vcpus[0].engine.c.halted)
        b.target.write_registers(2, {b.numbers["rip"]: (START + 1).to_bytes(8, "little")})
        b.target.resume({2: Step()})
        assert b.stop() == Stepped(2)
        assert b.machine.rotation is not None and b.machine.rotation.current == 1
        before = b.machine.vcpus[1].retired
        assert b.step() == Stepped(1) and b.pc == 0, "the handler that the empty vector table names"
        assert b.machine.vcpus[1].retired == before
