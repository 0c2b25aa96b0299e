"""The guest `teach`: how small teaching kernels start, from the boot sector to a program at level 3, on SeaBIOS.

Processors and APICs are found in the MP tables that SeaBIOS makes.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from jitvm.machine import Machine
from tests.boot.guests import GOOD, GUESTS, SEABIOS, config, debug_output, disk
from tests.firmware.qemu import DEBUG_EXIT, QEMU, drive, run_qemu
from tests.needs import need

WANTED = """\
processors {n:02}
I/O APIC with 18 pins
all started
disk
COM1
keyboard
ticks
program
"""


@pytest.mark.parametrize(("n", "jit"), [(1, "regions"), (2, "handlers"), (2, "regions"), (4, "stencils")])
def test_on_jitvm(n: int, jit: str) -> None:
    need(SEABIOS)
    with Machine(config(SEABIOS, smp=n, cores_per_socket=1, jit=jit, drives=disk("teach"))) as machine:
        assert machine.run().code == GOOD
        assert debug_output(machine) == WANTED.format(n=n)


@pytest.mark.parametrize("n", [1, 2])
def test_on_qemu(n: int, tmp_path: Path) -> None:
    """SeaBIOS lists one processor of a socket."""
    need(QEMU, SEABIOS)
    run = run_qemu(tmp_path, SEABIOS, *drive(GUESTS / "teach.img"), "-smp", f"{n},sockets={n}", *DEBUG_EXIT)
    assert run.debug == WANTED.format(n=n)
    assert run.status == GOOD
