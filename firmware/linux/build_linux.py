"""Build linuxboot.bin and multiboot.bin, the option ROMs behind --kernel, with their two checksums each."""

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

HEADER_AT, HEADER_SIZE, HEADER_SUM = 0x1A, 32, 9
"""Where the ROM says that its Plug and Play header lies, the header's size, and its checksum in it."""


def build(out_dir: Path) -> list[Path]:
    """Assemble and link the ROMs."""
    return [_rom(name, out_dir) for name in ("linuxboot", "multiboot")]


def _rom(name: str, out_dir: Path) -> Path:
    """One of them; bytes of its header, and of the whole, add up to 0."""
    image = out_dir / f"{name}.bin"
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        obj = toolchain.assemble(HERE / f"{name}.S", work / f"{name}.o")
        toolchain.binary(toolchain.link([obj], HERE / "rom.lds", work / f"{name}.elf"), image)
    rom = bytearray(image.read_bytes())
    if len(rom) != rom[2] * 512 or rom[-1]:
        raise toolchain.BuildError(f"{image.name}: {len(rom)} bytes, not {rom[2] * 512} with room for the checksum")
    header = int.from_bytes(rom[HEADER_AT : HEADER_AT + 2], "little")
    rom[header + HEADER_SUM] = -sum(rom[header : header + HEADER_SIZE]) & 0xFF
    rom[-1] = -sum(rom) & 0xFF
    image.write_bytes(rom)
    return image
