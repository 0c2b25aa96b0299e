"""Build the bench guests: one 64 KiB BIOS ROM and one ELF file per workload.

Each image is linked from ``boot.S``, ``main.c`` and the workload's source by
``image.ld``, which also says how the ROM is laid out. The iteration count is
32 bits, little endian, at file offset 0xFF00, after the magic ``JVMBENCH`` at
0xFEF8; the workload's name follows at 0xFF10. The same compiler gives the
same bytes: no debug information, no dates, no paths.

    python firmware/bench/build_bench.py [FOLDER]               the images
    python firmware/bench/build_bench.py --native NAME FOLDER   one workload as a program of Linux (``native.c``)
"""

from __future__ import annotations

import importlib
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

# firmware/build.py, which alone calls the toolchain; found by the path just set.
toolchain: Any = importlib.import_module("build")

IMAGE_SIZE = 0x10000

# Not the firmware's own flags: -O2 is what bench figures of C code are about,
# and the instruction counts of the harness hold for exactly these.
CFLAGS = (
    "-O2", "-std=gnu11", "-ffreestanding", "-nostdlib",
    "-fno-pic", "-fno-pie", "-fno-stack-protector", "-fcf-protection=none",
    "-mno-sse", "-mno-mmx", "-fno-tree-vectorize", "-fno-asynchronous-unwind-tables",
    "-fno-tree-loop-distribute-patterns", "-fno-ident", "-fno-toplevel-reorder",
    "-frandom-seed=jitvm", "-Wall", "-Wextra", "-Werror",
)  # fmt: skip

WIDTHS: dict[int, tuple[tuple[str, ...], str]] = {
    32: (("-m32", "-march=i486"), "elf_i386"),
    64: (("-m64", "-march=x86-64", "-mno-red-zone"), "elf_x86_64"),
}
"""Bits of a guest's code to the compiler's flags and to ld's name of the kind of file."""

WORKLOADS: dict[str, tuple[str, int]] = {
    "alu": ("alu.S", 600_000),
    "sieve": ("sieve.c", 150),
    "two_cpus": ("two_cpus.c", 150),
    "one_cpu": ("two_cpus.c", 75),
    "crc": ("crc.c", 1_000),
    "cmix": ("cmix.c", 400),
    "quicksort": ("quicksort.c", 150),
    "matrix": ("matrix.c", 400),
    "mandel_sse2": ("mandel_sse2.c", 300),
    "mandel": ("mandel.c", 20),
    "rep_movsd": ("rep_movsd.S", 1_000),
    "rep_stosb": ("rep_stosb.S", 500),
    "rep_short": ("rep_short.S", 50_000),
    "memcpy_loop": ("memcpy_loop.S", 1_500),
    "calls": ("calls.c", 10_000),
    "real16": ("real16.S", 500_000),
    "paging_chase": ("paging_chase.c", 500_000),
    "port_storm": ("port_storm.S", 50_000),
    "mmio_storm": ("mmio_storm.S", 50_000),
    "port_latch": ("port_latch.S", 50_000),
    "port_empty": ("port_empty.S", 50_000),
    "vga_text": ("vga_text.S", 50_000),
    "apic_eoi": ("apic_eoi.S", 50_000),
    "smc": ("smc.S", 50_000),
    "smc_data": ("smc_data.S", 50_000),
    "fresh": ("fresh.c", 20_000),
    "irq": ("irq.S", 100_000),
    "irq_ipi": ("irq_ipi.S", 50_000),
    "irq_pit": ("irq_pit.S", 20_000),
    "cmix64": ("cmix.c", 400),
    "quicksort64": ("quicksort.c", 150),
}
"""Workload name to its source file and the iterations of the built image."""

LONG = frozenset({"cmix64", "quicksort64"})
"""Workloads that are compiled for 64 bits, and run there."""

DEFINES: dict[str, tuple[str, ...]] = {"one_cpu": ("-DCPUS=1",)}
"""What a workload's source is told besides its name and iterations."""

START_UP = "first"
"""The guest that only shows when its first instruction ran; no ``main.c``."""


def _compile(source: str, obj: Path, width: int, defines: tuple[str, ...]) -> Path:
    """Compile or assemble one source of this folder."""
    flags, _ = WIDTHS[width]
    if source.endswith(".S"):
        toolchain.assemble(HERE / source, obj, flags[0], *defines)
    else:
        toolchain.run(["gcc", *flags, *CFLAGS, *defines, "-c", f"bench/{source}", "-o", str(obj)])
    return obj


def _build_one(name: str, sources: tuple[str, ...], iterations: int, out: Path) -> list[Path]:
    """Compile and link one guest; its ROM image and its ELF file."""
    image, elf = out / f"{name}.bin", out / f"{name}.elf"
    width = 64 if name in LONG else 32
    defines = (f'-DBENCH_NAME="{name}"', f"-DBENCH_ITERATIONS={iterations}", *DEFINES.get(name, ()))
    with tempfile.TemporaryDirectory() as scratch:
        objects = [
            _compile(source, Path(scratch) / f"{Path(source).stem}.o", width, defines)
            for source in sources
        ]
        toolchain.link(objects, HERE / "image.ld", elf, emulation=WIDTHS[width][1])
        toolchain.binary(elf, image)
    content = image.read_bytes()
    # A guest without payload starts at the boot code: fill up below it.
    image.write_bytes(bytes(IMAGE_SIZE - len(content)) + content)
    for path in (image, elf):
        path.chmod(0o644)
    return [image, elf]


def build_native(name: str, out: Path) -> Path:
    """A guest's measured part as a program of Linux: the same compiler and flags, so the same instructions."""
    source, _ = WORKLOADS[name]
    width = 64 if name in LONG else 32
    program = out / name
    with tempfile.TemporaryDirectory() as scratch:
        defines = ("-DNATIVE", f'-DBENCH_NAME="{name}"', *DEFINES.get(name, ()))
        objects = [
            _compile(one, Path(scratch) / f"{Path(one).stem}.o", width, defines) for one in ("native.c", source)
        ]
        emulation = WIDTHS[width][1]
        options = ("-nostdlib", "--build-id=none", "-z", "noexecstack")
        toolchain.run(["ld", "-m", emulation, *options, "-o", str(program), *map(str, objects)])
    return program


def build(out_dir: Path) -> list[Path]:
    """Build every bench guest into ``out_dir/bench``; the files written."""
    out = out_dir.absolute() / "bench"
    out.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    for name, (source, iterations) in WORKLOADS.items():
        written += _build_one(name, ("boot.S", "main.c", source), iterations, out)
    return written + _build_one(START_UP, ("first.S",), 0, out)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--native"]:
        print(build_native(sys.argv[2], Path(sys.argv[3])))
    else:
        for path in build(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE.parent / "images"):
            print(path)
