"""Build the small test guests into images/guests/: ROMs for --bios, sectors for --drive.

A ROM is 64 KiB with its reset vector at the end; it is linked with lib.S. A disk is a raw
image of 64 KiB whose first sector boots. Each source says at its top what it proves.
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

ROMS = ("hello", "halt_timer", "triple_fault", "port_storm", "mmio_storm", "smc_check", "echo")
LARGE_ROMS = ("long_mode", "tasks", "events")
"""ROMs with more code."""
FLAT = {
    "access": ("access_entry.S", "access.c"),
    "access_long": ("access_long_entry.S", "access_long.c"),
    "smp_torture": ("smp_start.S", "smp_torture.c", "smp_locks.c", "smp_queues.c", "smp_code.c", "smp_paging.c"),
}
"""ROMs in C, from 32-bit flat code on: what each has besides flat.S."""
DISKS = ("bootsect", "diskwrite", "services", "lba48", "keys")
IMAGE_SIZE = 0x10000


def _link_flat(sources: tuple[str, ...], script: str, work: Path, elf: Path) -> Path:
    """32-bit code of several sources."""
    objects = []
    for source in sources:
        obj = work / f"{source}.o"
        if source.endswith(".S"):
            toolchain.assemble(HERE / source, obj)
        else:
            toolchain.compile_c(HERE / source, obj, *toolchain.CODE32, "-mgeneral-regs-only")
        objects.append(obj)
    return Path(toolchain.link(objects, HERE / script, elf))


def _build_teach(work: Path, out: Path) -> list[Path]:
    """A disk with a boot sector and, behind it, the ELF file of a kernel."""
    kernel = _link_flat(("teach_entry.S", "teach.c"), "teach.lds", work, out / "teach.elf")
    boot = _link_flat(("teach_boot.S", "teach_load.c"), "teach_boot.lds", work, work / "teach_boot.elf")
    sector = toolchain.binary(boot, work / "teach_boot.bin").read_bytes()
    image = out / "teach.img"
    image.write_bytes((sector + kernel.read_bytes()).ljust(IMAGE_SIZE, b"\0"))
    image.chmod(0o644)
    if image.stat().st_size != IMAGE_SIZE:
        raise toolchain.BuildError(f"{image.name}: not {IMAGE_SIZE} bytes")
    return [image, kernel]


def _build_flat(name: str, sources: tuple[str, ...], work: Path, out: Path) -> list[Path]:
    """One ROM of flat code: its image and its ELF file."""
    elf = _link_flat(("flat.S", *sources), "flat.lds", work, out / f"{name}.elf")
    return [toolchain.binary(elf, out / f"{name}.bin"), elf]


def build(out_dir: Path) -> list[Path]:
    """Build every guest into out_dir/guests; returns the images and their ELF files."""
    out = out_dir / "guests"
    out.mkdir(parents=True, exist_ok=True)
    made: list[Path] = []
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        lib = toolchain.assemble(HERE / "lib.S", work / "lib.o")
        for name in ROMS + LARGE_ROMS + DISKS:
            elf = out / f"{name}.elf"
            objects = [toolchain.assemble(HERE / f"{name}.S", work / f"{name}.o")]
            script = "rom.lds" if name in ROMS else "rom32k.lds" if name in LARGE_ROMS else "sector.lds"
            if name not in DISKS:
                objects.append(lib)
            toolchain.link(objects, HERE / script, elf)
            image = toolchain.binary(elf, out / f"{name}.{'img' if name in DISKS else 'bin'}")
            if image.stat().st_size != IMAGE_SIZE:
                raise toolchain.BuildError(f"{image.name}: not {IMAGE_SIZE} bytes")
            made += [image, elf]
        made += _build_teach(work, out)
        for name, sources in FLAT.items():
            made += _build_flat(name, sources, work, out)
    return made
