"""Guest code for tests, written in Intel syntax and put together by GNU as."""

from __future__ import annotations

import functools
import subprocess
import tempfile
from pathlib import Path

from tests.needs import need

LINK = ("--oformat", "binary", "-e", "0")


@functools.cache
def assemble(source: str, at: int = 0x1000, bits: int = 32) -> bytes:
    """Machine code of `source`, linked at address `at`; `bits` is the size of the code segment."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        head = f".code{bits}\n.intel_syntax noprefix\n"
        size, machine = ("--64", "elf_x86_64") if bits == 64 else ("--32", "elf_i386")
        _call(["as", size, "-o", "guest.o", "-"], work, head + source + "\n")
        _call(["ld", "-m", machine, *LINK, "-Ttext", hex(at), "-o", "guest.bin", "guest.o"], work)
        return (work / "guest.bin").read_bytes()


def _call(command: list[str], folder: Path, text: str = "") -> None:
    need(command[0])
    done = subprocess.run(command, cwd=folder, input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(f"{command[0]}: {done.stderr}\n{text}")
