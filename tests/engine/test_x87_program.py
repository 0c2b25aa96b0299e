"""A C program compiled for the x87 gives the same bytes as a guest on each engine and as a process of this host."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from jitvm.bare import Bare
from tests import needs

SOURCE = Path(__file__).with_name("x87_program.c")
FLAGS = (
    "-m32 -march=i686 -mfpmath=387 -mno-sse -O2 -ffast-math -fno-builtin-memcpy -ffreestanding -fno-pie -no-pie -nostdlib"
    " -static -fno-stack-protector -fno-asynchronous-unwind-tables -fno-tree-loop-distribute-patterns -Wall -Werror"
).split()
LOAD, STACK, BUFFER, MEMORY = 0x1_0000, 0x7_0000, 0x4_0000, 1 << 20
MOST = 20_000_000


def compile_program(folder: Path, name: str, *flags: str) -> Path:
    """The linked program."""
    out = folder / name
    subprocess.run(["gcc", *FLAGS, *flags, "-o", str(out), str(SOURCE)], check=True, capture_output=True, timeout=60)
    return out


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """What this host's CPU makes of it."""
    needs.need("gcc")
    program = compile_program(tmp_path_factory.mktemp("native"), "process", "-DPROCESS")
    try:
        done = subprocess.run([str(program)], capture_output=True, timeout=60, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        needs.host_cannot(f"32-bit processes don't run here: {error}")
    return done.stdout


@pytest.mark.parametrize("engine", ["handlers", "regions"])
def test_the_same_bytes_as_a_process(engine: str, truth: bytes, tmp_path: Path) -> None:
    elf = compile_program(tmp_path, "guest", f"-Wl,-Ttext={LOAD:#x},-N", "-Wl,--build-id=none")
    image = tmp_path / "guest.bin"
    subprocess.run(["objcopy", "-O", "binary", str(elf), str(image)], check=True, timeout=60)
    bare = Bare(engine, MEMORY)
    bare.set_mode("prot32")
    bare.write(LOAD, image.read_bytes())
    start = subprocess.run(["nm", str(elf)], check=True, capture_output=True, text=True, timeout=60).stdout
    entry = next(int(line.split()[0], 16) for line in start.splitlines() if line.endswith(" _start"))
    bare.set_registers({"eip": entry, "esp": STACK})
    assert bare.run(MOST).reason == "hlt"
    assert bare.registers()["eax"] == len(truth) > 5000
    assert bare.read(BUFFER, len(truth)) == truth
