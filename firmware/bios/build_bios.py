"""Build jitvm-bios.bin (64 KiB) and jitvm-bios.elf from the sources in this folder."""

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


def build(out_dir: Path) -> list[Path]:
    """Compile, link and check the size; returns the image and its ELF file."""
    elf = out_dir / "jitvm-bios.elf"
    image = out_dir / "jitvm-bios.bin"
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        objects = [
            toolchain.assemble(source, work / f"{source.stem}_s.o")
            for source in sorted(HERE.glob("*.S"))
        ]
        objects += [
            toolchain.compile_c(source, work / f"{source.stem}.o", *toolchain.CODE16, "-mregparm=3")
            for source in sorted(HERE.glob("*.c"))
        ]
        toolchain.link(objects, HERE / "bios.lds", elf)
        toolchain.binary(elf, image)
    if image.stat().st_size != IMAGE_SIZE:
        raise toolchain.BuildError(f"{image.name}: {image.stat().st_size} bytes, not {IMAGE_SIZE}")
    return [image, elf]
