"""Watchpoints, caught events, steps and range steps of a machine, by the target's methods."""

from __future__ import annotations

import threading
from contextlib import closing
from pathlib import Path

import pytest

from gdbstub.errors import TargetError
from gdbstub.stop import BreakpointHit, BreakpointKind, Signal, Signalled, Stepped, WatchKind, WatchpointHit
from jitvm.bench.gdb_client import Packets
from jitvm.debugger import Caught, Debugger, Watched
from jitvm.debugger import WatchKind as Kind
from jitvm.errors import ConfigError
from jitvm.gdb_target import serve
from jitvm.machine import Machine
from tests.boot.guests import config, rom
from tests.gdb.bench import bench

START = 0xF0000
LOOP = "b96400 a30005 ff060205 e2f7 a10205 f4"
"""mov cx, 100; 3: mov [500h], ax; 6: inc word [502h]; a: loop 3; c: mov ax, [502h]; f: hlt"""


def test_watchpoints_stop_behind_the_access_and_name_it(tmp_path: Path) -> None:
    with bench(rom(tmp_path, LOOP)) as b:
        b.step()
        b.target.insert_watchpoint(WatchKind.WRITE, 0x503, 1)
        for n in range(1, 41):
            assert b.run() == WatchpointHit(1, WatchKind.WRITE, 0x503)
            assert (b.pc, b.read("rcx"), b.target.read_memory(1, 0x502, 2)) == (
                START + 10,
                101 - n,
                n.to_bytes(2, "little"),
            )
        b.target.remove_watchpoint(WatchKind.WRITE, 0x503, 1)
        b.target.insert_watchpoint(WatchKind.READ, 0x502, 2)
        assert b.run() == WatchpointHit(1, WatchKind.READ, 0x502), "INC reads"
        b.target.remove_watchpoint(WatchKind.READ, 0x502, 2)
        b.target.insert_watchpoint(WatchKind.ACCESS, 0x500, 1)
        assert b.run() == WatchpointHit(1, WatchKind.ACCESS, 0x500)
        b.target.remove_watchpoint(WatchKind.ACCESS, 0x500, 1)
        b.target.insert_breakpoint(BreakpointKind.SOFTWARE, START + 12, 1)
        assert b.run() == BreakpointHit(1) and b.target.read_memory(1, 0x502, 2) == b"\x64\0"


def test_a_watchpoint_goes_before_a_breakpoint_and_a_step(tmp_path: Path) -> None:
    with bench(rom(tmp_path, LOOP)) as b:
        b.step(2)
        b.target.insert_watchpoint(WatchKind.WRITE, 0x500, 2)
        b.target.insert_breakpoint(BreakpointKind.SOFTWARE, START + 6, 1)
        assert b.step() == WatchpointHit(1, WatchKind.WRITE, 0x500)
        assert b.run() == WatchpointHit(1, WatchKind.WRITE, 0x500)
        assert b.pc == START + 6
        b.target.remove_watchpoint(WatchKind.WRITE, 0x500, 2)
        assert b.run() == BreakpointHit(1) and b.pc == START + 6 and b.read("rcx") == 98, "no stop at the same place"


def test_thousands_of_watchpoints(tmp_path: Path) -> None:
    """Any number, of any length: those that are taken away are not hit, the others are, whatever their order."""
    with bench(rom(tmp_path, LOOP)) as b:
        b.step()
        for n in range(3000):
            b.target.insert_watchpoint(WatchKind.WRITE, 0x10000 + 16 * n, 1 + n)
        b.target.insert_watchpoint(WatchKind.WRITE, 0x502, 2)
        b.target.insert_watchpoint(WatchKind.ACCESS, 0x8000_0000, 1 << 62)
        for n in range(0, 3000, 3):
            b.target.remove_watchpoint(WatchKind.WRITE, 0x10000 + 16 * n, 1 + n)
        for _ in range(3):
            assert b.run() == WatchpointHit(1, WatchKind.WRITE, 0x502)
        b.target.remove_watchpoint(WatchKind.WRITE, 0x502, 2)
        b.target.insert_breakpoint(BreakpointKind.SOFTWARE, START + 0xF, 1)
        assert b.run() == BreakpointHit(1)


def test_watchpoints_of_all_kinds_at_once_and_their_limits(tmp_path: Path) -> None:
    with bench(rom(tmp_path, LOOP)) as b:
        b.step()
        for kind in WatchKind:
            b.target.insert_watchpoint(kind, 0x502, 2)
        assert b.run() == WatchpointHit(1, WatchKind.WRITE, 0x502), "a write is told before an access and a read"
        for address, size in ((1 << 64, 1), ((1 << 64) - 1, 2)):
            with pytest.raises(TargetError, match="no range"):
                b.target.insert_watchpoint(WatchKind.WRITE, address, size)
        for kind in WatchKind:
            b.target.remove_watchpoint(kind, 0x502, 2)


def test_a_watchpoint_set_twice_is_removed_once(tmp_path: Path) -> None:
    """By packets, which may be repeated: a stale one would stop the guest for a client that knows of none."""
    with Machine(config(rom(tmp_path, LOOP))) as machine, serve(machine, ":0", wait=True) as server:
        runner = threading.Thread(target=machine.run, daemon=True)
        runner.start()
        with closing(Packets(int(str(server.address).rsplit(":", 1)[1]))) as client:
            for _ in range(3):
                assert client.ask(b"Z2,502,2") == b"OK"
            assert b"watch:" in client.stop_of(b"vCont;c")
            assert client.ask(b"z2,502,2") == b"OK" and client.ask(b"Z0,f000f,1") == b"OK"
            assert b"swbreak" in client.stop_of(b"vCont;c") and client.ask(b"m502,2") == b"6400"
        machine.quit()
        runner.join(60)
        assert not runner.is_alive()


def test_a_watched_run_is_the_same_run(tmp_path: Path) -> None:
    """Counts and virtual time are those of a run that nobody watches."""
    ends = []
    for watched in (False, True):
        with bench(rom(tmp_path, LOOP)) as b:
            b.step()
            b.target.insert_breakpoint(BreakpointKind.SOFTWARE, START + 15, 1)
            if watched:
                b.target.insert_watchpoint(WatchKind.WRITE, 0x500, 4)
            while isinstance(b.run(), WatchpointHit):
                pass
            vcpu = b.machine.vcpus[0]
            ends.append((b.pc, vcpu.retired, vcpu.now(), b.machine.ram[:0x1000].tobytes()))
    assert ends[0] == ends[1]


def test_physical_watch_sees_dma_and_the_guest(tmp_path: Path) -> None:
    with bench(rom(tmp_path, LOOP)) as b:
        b.step()
        debugger = Debugger.of(b.machine)
        assert Debugger.of(b.machine) is debugger
        debugger.watch_physical(0x502, 2)
        stop = b.run()
        assert isinstance(stop, Signalled) and "write access to physical 0x502" in stop.message and b.pc == START + 10
        assert debugger.reason() == Watched("write", 0x502, 0x502, physical=True)
        debugger.unwatch_physical(0x502, 2)
        debugger.watch_physical(0x7FF, 0x1002)
        with b.machine.lock:
            b.machine.gate.held = False
            b.machine.memory.write(0x17F0, bytes(0x20))
            b.machine.gate.held = True
        assert debugger.take_dma() == Watched("write", 0x17F0, 0x7FF, physical=True, dma=True)
        b.target.write_memory(1, 0x800, b"12")
        assert debugger.take_dma() is None, "the client's own writes do not count"
        with pytest.raises(ConfigError, match="no range"):
            debugger.watch_physical(0x500, 0)
        with pytest.raises(ConfigError, match="no range"):
            debugger.watch_physical(0, 1 << 40)
        with pytest.raises(ConfigError, match="no range"):
            debugger.watch((1 << 64) - 1, 2)


def test_caught_events_are_told_in_words(tmp_path: Path) -> None:
    with bench(rom(tmp_path, "31c0 8ed8 c70618000001 c7061a0000f0 0f0b")) as b:  # vector 6 to F000:0100; ud2
        debugger = Debugger.of(b.machine)
        debugger.catch("vector", 6)
        stop = b.run()
        assert stop == Signalled(1, Signal.TRAP, "vector 6 is about to be delivered: #UD invalid opcode")
        assert debugger.reason() == Caught("vector", 6) and b.pc == START + 16
        assert b.step() == Stepped(1) and b.pc == START + 0x100, "delivery is the step"
        debugger.uncatch("vector")
        debugger.catch("vector")
        assert int(b.machine.vcpus[0].engine.c.n_catch) == 256
        debugger.uncatch()
        debugger.catch("msr", 0x1B)
        debugger.catch("triple")
        assert int(b.machine.vcpus[0].engine.c.n_catch) != 0
        debugger.uncatch("msr")
        debugger.uncatch("triple")
        assert int(b.machine.vcpus[0].engine.c.n_catch) == 0
        for kind, number in (("vector", 256), ("triple", 1), ("cr3", 0), ("msr", -1), ("nmi", None)):
            with pytest.raises(ConfigError):
                debugger.catch(kind, number)  # type: ignore[arg-type]  # one is no kind


def test_a_triple_fault_is_caught_before_the_reset(tmp_path: Path) -> None:
    with bench(rom(tmp_path, "31c0 8ed8 0f011e0004 0f0b")) as b:  # lidt [400h]: limit 0
        Debugger.of(b.machine).catch("triple")
        stop = b.run()
        assert isinstance(stop, Signalled) and "triple fault" in stop.message and b.pc == START + 9
        b.target.insert_breakpoint(BreakpointKind.HARDWARE, 0xFFFF_FFF0, 1)
        assert b.run() == BreakpointHit(1, BreakpointKind.HARDWARE), "then the machine resets"


def test_a_breakpoint_of_the_guest_is_its_own(tmp_path: Path) -> None:
    """DR0 written by the guest, on an instruction: its handler runs with gdb attached as without."""
    code = (
        "31c0 8ed8 c70604000001 c7060600 00f0"  # vector 1 to F000:0100
        "66b81e000f00 0f23c0 66b802000000 0f23f8 90 f4"  # dr0 = F001Eh, dr7 = G0
    )
    with bench(rom(tmp_path, code)) as b:
        at = START + 16 + 6 + 3 + 6 + 3
        b.step(3 + 2)
        b.target.insert_breakpoint(BreakpointKind.SOFTWARE, START + 0x100, 1)
        b.write({"dr0": at})
        b.step(3)
        b.write({"dr0": at})
        assert b.run() == BreakpointHit(1)
        assert (
            b.read("dr6") == 0xFFFF0FF1
            and int.from_bytes(b.target.read_memory(1, b.read("rsp"), 2), "little") == at - START
        )


RANGE = "90 b90000 66ba00000100 40 e2fd 664a 75f9 90 90"
"""nop; mov cx, 0; mov edx, 10000h; a: inc ax; loop a; dec edx; jnz a; nop"""


def test_a_range_step_runs_natively_and_ends_outside(tmp_path: Path) -> None:
    with bench(rom(tmp_path, RANGE.replace("00000100", "00010000"))) as b:  # edx = 100h
        b.step()
        before = b.machine.vcpus[0].retired
        assert b.range_step(START + 1, START + 17) == Stepped(1)
        assert (b.pc, b.read("rcx"), b.read("rdx")) == (START + 17, 0, 0)
        done = b.machine.vcpus[0].retired - before
        assert done == 3 + 0x100 * (2 * 0x10000 + 2)
        assert b.range_step(START, START + 1) == Stepped(1) and b.pc == START + 18, "one instruction from outside"


def test_a_range_step_stops_at_points_in_the_range(tmp_path: Path) -> None:
    code = "b90300 a30005 40 e2fa 90 90"  # mov cx, 3; 3: mov [500h], ax; 6: inc ax; loop 3; 9: nop
    with bench(rom(tmp_path, code)) as b:
        b.step()
        b.target.insert_breakpoint(BreakpointKind.SOFTWARE, START + 6, 1)
        for cx in (3, 2, 1):
            assert b.range_step(START, START + 9) == BreakpointHit(1) and b.read("rcx") == cx
        b.target.remove_breakpoint(BreakpointKind.SOFTWARE, START + 6, 1)
        assert b.range_step(START, START + 9) == Stepped(1) and b.pc == START + 9


@pytest.mark.parametrize("raw", [False, True])
def test_a_call_leaves_the_range(tmp_path: Path, raw: bool) -> None:
    with bench(rom(tmp_path, "bc0080 e80200 90 f4 40 c3")) as b:  # mov sp, 8000h; call 8; nop; hlt; 8: inc ax; ret
        b.step()
        said: list[str] = []
        b.target.monitor("pc raw" if raw else "pc linear", said.append)
        base = 0 if raw else START
        assert b.range_step(base, base + 7) == Stepped(1) and b.pc == START + 8
        assert b.range_step(base + 8, base + 10) == Stepped(1) and b.pc == START + 6, "the return does"
        assert b.range_step(base + 6, base + 6) == Stepped(1) and b.pc == START + 7, "an empty range is a step"


@pytest.mark.parametrize(
    ("kind", "first", "length", "told"),
    [("write", 0x602, 1, 0x602), ("access", 0x5FF, 2, 0x600), ("read", 0x50F, 1, 0x50F), ("read", 0x4F0, 0x200, 0x500)],
)
def test_dma_by_a_device_stops_the_machine(tmp_path: Path, kind: Kind, first: int, length: int, told: int) -> None:
    """fw_cfg reads 16 bytes at 500h, which say what to do, and writes its signature to 600h: the stop is told, behind the
    OUT that began it or the instruction after.
    """
    words = (0x0A000000, 0x04000000, 0, 0x00060000)  # select key 0 and read; 4 bytes; to 600h: big-endian
    stores = "".join(
        f"66c706{(0x500 + 4 * n).to_bytes(2, 'little').hex()}{w.to_bytes(4, 'little').hex()}"
        for n, w in enumerate(words)
    )
    code = f"31c0 8ed8 {stores} 66b800050000 660fc8 ba1805 66ef 90 90 f4"  # bswap eax; mov dx, 518h; out dx, eax
    with bench(rom(tmp_path, code)) as b:
        debugger = Debugger.of(b.machine)
        debugger.watch_physical(first, length, kind)
        stop = b.run()
        assert (
            isinstance(stop, Signalled) and f"a device has made a {kind} access to physical {told:#x}" in stop.message
        )
        assert b.target.read_memory(1, 0x600, 4) == b"QEMU"
        out = START + 4 + 4 * 9 + 6 + 3 + 3
        assert out <= b.pc <= out + 3
