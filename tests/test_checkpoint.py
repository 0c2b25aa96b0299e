"""Checkpoints: what was saved is there again, and the run from there is the same run."""

from __future__ import annotations

import hashlib
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from jitvm.checkpoint import DEBUGGER, HOST, lasting_disks, restore, take
from jitvm.clock import Clock
from jitvm.config import DriveConfig
from jitvm.isa.state import ARCHITECTURAL
from jitvm.machine import Machine
from tests.boot.guests import BIOS, GOOD, GUESTS, SEABIOS, config, debug_output, disk, need, rom
from tests.fast_set import share


def state(machine: Machine) -> dict[str, Any]:
    """All that a guest could find out, and what a run to here has counted."""
    board = machine.board
    return {
        "retired": machine.vcpus[0].retired,
        "virtual_ns": machine.clock.now_ns,
        "registers": machine.registers(),
        "memory": hashlib.sha256(machine.memory.bytes.tobytes()).hexdigest(),
        "map": board.memory_map(),
        "timers": [(timer.name, at) for timer, at in machine.clock.pending()],
        "devices": [device.snapshot() for device in board.devices()],
        "interrupt": machine.vcpus[0].interrupts.pending if machine.vcpus[0].interrupts else None,
    }


@pytest.mark.parametrize(("bios", "name", "first"), share([
    (SEABIOS, "services", 2_000_000), (BIOS, "diskwrite", 1_234_567), (SEABIOS, "diskwrite", 5_000_000),
    (BIOS, "services", 300_000),
], 1), ids=["seabios-services", "own-diskwrite", "seabios-diskwrite", "own-services"])  # fmt: skip
def test_the_same_run_again(bios: Path, name: str, first: int) -> None:
    need(bios)
    with Machine(config(bios, drives=disk(name))) as m:
        assert m.run(first).reason == "max-insns"
        before = state(m)
        checkpoint = take(m)
        assert state(m) == before, "taking it changes nothing"
        assert m.run().code == GOOD, debug_output(m)
        end = state(m)
        for _ in range(2):
            restore(m, checkpoint)
            assert state(m) == before
            assert m.run().code == GOOD
            assert state(m) == end


def test_several_moments_in_any_order() -> None:
    with Machine(config(BIOS, drives=disk("bootsect"))) as m:
        kept = []
        for _ in range(4):
            m.run(150_001)
            kept.append((take(m), state(m)))
        for k in (2, 0, 3, 1, 1):
            checkpoint, then = kept[k]
            restore(m, checkpoint)
            assert state(m) == then
        m.run(150_001)
        assert state(m) == kept[2][1]


def test_code_that_was_overwritten_meanwhile_runs_again(tmp_path: Path) -> None:
    # jmp 0:1000h, where `inc ax; jmp $-1` is written, and later `inc bx`
    code = "c706 0010 40eb c706 0210 fd90 ea 0010 0000"
    with Machine(config(rom(tmp_path, code))) as m:
        m.run(4 + 1000)
        checkpoint, ax = take(m), m.registers()["eax"]
        m.write_memory(0x1000, b"\x43")
        m.run(1000)
        assert m.registers()["ebx"] == 500 and m.registers()["eax"] == ax
        restore(m, checkpoint)
        m.run(1000)
        assert m.registers()["ebx"] == 0 and m.registers()["eax"] == ax + 500


def test_a_halted_cpu_and_one_that_has_ended(tmp_path: Path) -> None:
    with Machine(config(rom(tmp_path, "90 90 fa f4"))) as m:
        m.run(2)
        checkpoint = take(m)
        assert m.run().reason == "shutdown" and m.run().reason == "shutdown"
        restore(m, checkpoint)
        assert m.result is None and m.run(1).reason == "max-insns"
        assert m.registers()["eip"] == 2


def test_while_it_runs(tmp_path: Path) -> None:
    with Machine(config(rom(tmp_path, "40 ebfd"))) as m:
        m.start()
        checkpoint = take(m)
        restore(m, checkpoint)
        with m.standing():
            assert m.vcpus[0].retired >= checkpoint.retired
        m.quit()
        assert m.wait().reason == "quit"


def test_which_disks_are_not_held(tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes((GUESTS / "diskwrite.img").read_bytes())
    drives = (DriveConfig(str(image)), DriveConfig(str(GUESTS / "bootsect.img"), index=1, snapshot=True))
    with Machine(config(BIOS, drives=drives)) as m:
        assert lasting_disks(m) == [str(image)]


def test_what_is_left_out_is_there() -> None:
    assert {str(field[0]) for field in ARCHITECTURAL} > HOST | DEBUGGER


def test_timers_fire_in_the_order_of_then() -> None:
    clock = Clock()
    fired: list[str] = []
    a, b, c = (clock.timer(name, partial(fired.append, name)) for name in "abc")
    b.arm(10)
    a.arm(10)
    then = clock.pending()
    assert then == [(b, 10), (a, 10)]
    clock.advance_to(20)
    c.arm(30)
    clock.set(5, then)
    assert (clock.now_ns, c.deadline, clock.deadline()) == (5, None, 10)
    clock.advance_to(40)
    assert fired == ["b", "a", "b", "a"]
