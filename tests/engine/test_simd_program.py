"""C code with SSE2 as gcc makes it: the same results in a guest, on each engine, and natively."""

from __future__ import annotations

import ctypes
import platform
import subprocess
from pathlib import Path

import pytest

from jitvm.bare import Bare
from tests.fast_set import share
from tests.needs import host_cannot, needs

SOURCE = Path(__file__).with_name("simd") / "program.c"
FLAGS = "-O2 -ffp-contract=off -fno-builtin -fno-tree-vectorize -Wall -Wextra -Werror".split()
GUEST = "-m32 -msse2 -mfpmath=sse -DGUEST -ffreestanding -nostdlib -fno-pic -no-pie -fno-stack-protector".split()
LINK = "-fno-asynchronous-unwind-tables -Wl,--build-id=none -Wl,-Ttext=0x10000 -Wl,--oformat=binary".split()
START, RESULTS, ROUNDS, STACK, BYTES = 0x10000, 0x40000, 0x3F000, 0x3DFFC, 16 * 4 + 32 * (8 + 4 + 4 + 1)
ENOUGH = 1 << 24

pytestmark = needs("gcc")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, ctypes.CDLL]:
    """The guest's code, and the same source as a library of the host."""
    if platform.machine() != "x86_64":
        host_cannot("the host has no SSE2")
    folder = tmp_path_factory.mktemp("simd")
    script = folder / "order.lds"
    script.write_text(
        "SECTIONS { . = 0x10000; .text : { *(.start) *(.text*) *(.rodata*) *(.data*) *(.bss*) } "
        "/DISCARD/ : { *(*) } }\n"
    )
    guest, library = folder / "guest.bin", folder / "native.so"
    subprocess.run(["gcc", *FLAGS, *GUEST, *LINK, f"-Wl,-T{script}", "-o", str(guest), str(SOURCE)], check=True)
    subprocess.run(["gcc", *FLAGS, "-shared", "-fPIC", "-o", str(library), str(SOURCE)], check=True)
    return guest.read_bytes(), ctypes.CDLL(str(library))


@pytest.mark.parametrize(
    ("engine", "rounds"), share([("handlers", 30), ("stencils", 30), ("pinned", 30), ("regions", 30), ("plain", 1)], 4)
)
def test_a_program_computes_what_it_computes_natively(
    built: tuple[bytes, ctypes.CDLL], engine: str, rounds: int
) -> None:
    code, library = built
    seed = bytes(k * 37 & 0x3F for k in range(BYTES))
    truth = ctypes.create_string_buffer(seed, BYTES)
    library.run(truth, rounds)
    machine = Bare(engine=engine, memory=1 << 20)
    machine.vcpu.set_cpu("max")
    machine.set_mode("prot32")
    machine.write(START, code)
    machine.write(RESULTS, seed)
    machine.write(ROUNDS, rounds.to_bytes(4, "little"))
    machine.set_registers({"eip": START, "esp": STACK, "cr4": 0x600})
    stop = machine.run(ENOUGH)
    assert stop.reason == "hlt", (
        stop,
        hex(machine.registers()["eip"]),
        machine.read(machine.registers()["eip"], 8).hex(),
    )
    assert machine.read(RESULTS, BYTES) == truth.raw
