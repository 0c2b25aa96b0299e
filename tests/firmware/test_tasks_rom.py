"""The ROM firmware/guests/tasks.S: tasks, call gates, segments, virtual-8086 mode and the I/O map on jitvm, Bochs and QEMU.

A line is a test's letter and what it saw; a fault is vector:error, TR, CS, DR6.
"""

from __future__ import annotations

import subprocess
import threading
from pathlib import Path

import pytest

from jitvm.bench.runners import Bochs
from jitvm.machine import Machine
from tests.boot.guests import config
from tests.firmware.qemu import DEBUG_EXIT, IMAGES, QEMU, run_qemu
from tests.needs import need

IMAGE = IMAGES / "guests" / "tasks.bin"
WANTED = """\
A 5678 0020 0002 0000 8900 0019 b0046 8900 0002 BEEF
B 5678 0020 4002 0018 8B00 0019 b0046 8900 0002 BEEF ab0002 8900 0002 BEEF
C 5678 0020 4002 0018 8B00 0019
D 5678 0020 4002 0018 8B00 0019
E 0001
F 1238 1000
G 0D :0018 0018 0008 0FF0
H 0B :0068 0018 0008 0FF0
I 0A :0070 0018 0008 0FF0
J 0D :0010 0018 0008 0FF0
K 0A :0020 0018 0008 0FF0
L 0A :1008 0020 0008 0FF0
M 0B :0058 0020 0008 0FF0
N 0A :0010 0020 0008 0FF0
O 01 :0000 0020 0008 8FF0
P 0008 1FE8 2222 1111 2FF8 003B 3000  003B 0000 3000
Q 0053  003B 0000 3000
R+ 0D :0000 0018 0008 0FF0
S+ 0D :000C 0018 0008 0FF0
T 0D :0000 0018 F000 0FF0
U F000 0002 0100
Vv 0D :0000 0018 F000 0FF0
W F000 0002 0100
X 0008 0030 0018
."""
QEMU_LACKS = {
    "E": "RF in the image that a fault saves (vol. 3, 17.3.1.1)",
    "O": "the trap of a TSS's T bit (vol. 3, 17.3.1.5)",
    "R": "limits of data segments (vol. 3, 5.3)",
}


def lines(output: str) -> list[str]:
    """The lines from the first test on, without blanks at their ends."""
    found = [line.rstrip() for line in output.split("\n")]
    return found[next(k for k, line in enumerate(found) if line[:2] == "A ") :]


@pytest.mark.parametrize("jit", ["handlers", "stencils", "regions"])
def test_on_jitvm(jit: str) -> None:
    with Machine(config(IMAGE, jit=jit)) as machine:
        assert machine.run(1_000_000).reason == "debug-exit"
        assert lines(machine.debug_output(0xE9).decode())[:-1] == WANTED.split("\n")


def test_on_qemu(tmp_path: Path) -> None:
    need(QEMU)
    theirs = lines(run_qemu(tmp_path, IMAGE, *DEBUG_EXIT).debug)
    for line, wanted in zip(theirs, WANTED.split("\n"), strict=False):
        assert (line == wanted) != (wanted[0] in QEMU_LACKS), line


def test_on_bochs(tmp_path: Path) -> None:
    need("bochs")
    command = Bochs(tmp_path).command(IMAGE)
    output = b""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=tmp_path) as process:
        end = threading.Timer(100, process.kill)
        end.start()
        try:
            while b"\n." not in output and process.stdout and (byte := process.stdout.read(1)):
                output += byte
        finally:
            end.cancel()
            process.kill()
    assert lines(output.decode("latin-1")) == WANTED.split("\n")
