"""The ROM firmware/guests/smp_torture: locks, queues, cross-modifying code, TLB shoot-downs, page tables' marks, NMIs.

The guest checks itself, and counts: what it says is the same whatever runs it.  What it asks for is said at its top.
"""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path

import pytest

from jitvm.engine.options import LEAST_CODE_CACHE
from jitvm.machine import Machine
from tests.boot.guests import GUESTS, config, debug_output
from tests.fast_set import share
from tests.firmware import qemu
from tests.firmware.qemu import DEBUG_EXIT, QEMU, run_qemu
from tests.needs import need

IMAGE = GUESTS / "smp_torture.bin"
ROOM = LEAST_CODE_CACHE
"""For machine code of a processor."""
ROUNDS_AT = 0x10
TESTS = (
    "locks", "locked operations", "peterson", "order", "queue", "stack", "code", "loop", "shoot-downs", "marks",
    "wake", "nmi", "restart",
)  # fmt: skip
WANTED = "".join(f"{name} ok\n" for name in TESTS)


def image(folder: Path, rounds: int) -> Path:
    """The ROM with that many rounds."""
    content = bytearray(IMAGE.read_bytes())
    struct.pack_into("<I", content, ROUNDS_AT, rounds)
    path = folder / "torture.bin"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("n", "jit"),
    share([(2, "regions"), (2, "handlers"), (2, "stencils"), (1, "regions"), (4, "regions"), (5, "sync")], 3),
)
def test_in_turns(n: int, jit: str, tmp_path: Path) -> None:
    bios = image(tmp_path, 12)
    runs = []
    for _ in range(2):
        with Machine(config(bios, smp=n, jit=jit)) as machine:
            assert machine.run().reason == "debug-exit"
            assert debug_output(machine) == WANTED
            runs.append(([vcpu.retired for vcpu in machine.vcpus], machine.clock.now_ns))
    assert runs[0] == runs[1], "the same run twice"


@pytest.mark.parametrize(
    ("n", "jit"), share([(2, "stencils"), (2, "regions"), (2, "handlers"), (4, "regions"), (3, "sync")], 2)
)
def test_at_the_same_time(n: int, jit: str, tmp_path: Path) -> None:
    with Machine(config(image(tmp_path, 6), smp=n, smp_threads=True, jit=jit)) as machine:
        result = machine.run()
        assert debug_output(machine) == WANTED, result
        assert result.reason == "debug-exit"


def test_on_qemu(tmp_path: Path) -> None:
    """With a thread for each processor: in turns it lets one spin for very long.

    QEMU 7.2 loses a store to code that another processor is translating at that moment, before its page is protected:
    "loop", which waits for such a store to be seen, then never ends, with the new byte in memory (1 run of 190 on a
    busy host).
    """
    need(QEMU)
    done = WANTED[: WANTED.index("loop")]
    threads = ("-smp", "2", "-accel", "tcg,thread=multi")
    run = run_qemu(tmp_path, image(tmp_path, 4), *threads, *DEBUG_EXIT, hangs_behind=done)
    assert run.debug == WANTED
    assert run.status == 1


def test_only_the_known_hang_is_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program in QEMU's place that hangs at its first run, behind the output that its command line says."""
    monkeypatch.setattr(qemu, "TIMEOUT", 1)
    program = tmp_path / "qemu"
    program.write_text(
        f'#!/bin/sh\nfor last; do :; done\nprintf %s "$last" > {tmp_path}/debug.txt\n'
        f"[ -e {tmp_path}/ran ] && exit 1\ntouch {tmp_path}/ran\nexec sleep 100\n"
    )
    program.chmod(0o755)
    assert run_qemu(tmp_path, IMAGE, "loop", program=str(program), hangs_behind="loop").status == 1
    (tmp_path / "ran").unlink()
    with pytest.raises(subprocess.TimeoutExpired):
        run_qemu(tmp_path, IMAGE, "locks", program=str(program), hangs_behind="loop")


@pytest.mark.parametrize(("n", "threads"), [(2, False), (2, True), (3, True)])
def test_with_little_room_for_code(n: int, threads: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each processor forgets its translations again and again, while others run, and may run regions that it drops."""
    monkeypatch.setattr("jitvm.config.MIN_CODE_CACHE", ROOM)
    with Machine(config(image(tmp_path, 3), smp=n, smp_threads=threads, jit="sync", code_cache=n * ROOM)) as machine:
        result = machine.run()
        assert debug_output(machine) == WANTED, result
        assert result.reason == "debug-exit"
        engines = [vcpu.engine for vcpu in machine.vcpus]
        assert all(engine.regions.generations and int(engine.c.stat_flushes) for engine in engines)
