"""A C program compiled for 64-bit mode gives the same bytes as a guest on each engine and as a process of this host.

Once for the first x86-64 processors, once with BMI, LZCNT, POPCNT and MOVBE.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from jitvm.bare import HIGH, Bare
from tests import needs

SOURCE = Path(__file__).with_name("long_program.c")
FLAGS = (
    "-m64 -O2 -mgeneral-regs-only -ffreestanding -fno-pie -no-pie -nostdlib -static -fno-stack-protector"
    " -fno-asynchronous-unwind-tables -fno-tree-loop-distribute-patterns -fcf-protection=none -Wall -Werror"
    " -Wl,--build-id=none"
).split()
LOAD, STACK, BUFFER, MEMORY = 0x1_0000, 0x7_0000, 0x4_0000, 1 << 20
MOST = 20_000_000
FEATURES = {"plain": (), "bits": ("-mbmi", "-mbmi2", "-mlzcnt", "-mpopcnt", "-mmovbe")}


def build(folder: Path, name: str, *flags: str) -> Path:
    """The linked program."""
    needs.need("gcc")
    made = folder / name
    subprocess.run(["gcc", *FLAGS, *flags, "-o", str(made), str(SOURCE)], check=True, capture_output=True, timeout=60)
    return made


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """What this host's CPU makes of it."""
    program = build(tmp_path_factory.mktemp("native"), "process", "-DPROCESS")
    try:
        return subprocess.run([str(program)], capture_output=True, timeout=60, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        needs.host_cannot(f"64-bit processes don't run here: {error}")


@pytest.mark.parametrize("at", [0, HIGH])
@pytest.mark.parametrize("features", FEATURES)
@pytest.mark.parametrize("engine", ["handlers", "stencils", "pinned", "regions"])
def test_the_same_bytes_as_a_process(engine: str, features: str, at: int, truth: bytes, tmp_path: Path) -> None:
    """Also where code and stack have addresses that need all 64 bits."""
    model = "-mcmodel=large" if at else "-mcmodel=small"
    where = f"-Wl,-Ttext={at + LOAD:#x},-N"
    elf = build(tmp_path, "guest", where, model, *FEATURES[features])
    image = tmp_path / "guest.bin"
    subprocess.run(["objcopy", "-O", "binary", str(elf), str(image)], check=True, timeout=60)
    names = subprocess.run(["nm", str(elf)], check=True, capture_output=True, text=True, timeout=60).stdout
    entry = next(int(line.split()[0], 16) for line in names.splitlines() if line.endswith(" _start"))
    bare = Bare(engine, MEMORY)
    bare.vcpu.set_cpu("max")
    bare.set_mode("long")
    bare.write(LOAD, image.read_bytes())
    bare.set_registers({"rip": entry, "rsp": at + STACK})
    assert bare.run(MOST).reason == "hlt"
    assert bare.registers()["rax"] == len(truth) > 4000
    assert bare.read(BUFFER, len(truth)) == truth
