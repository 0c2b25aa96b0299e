"""README's picture, drawn from a run: Debian's kernel from a CD to power-off, as the terminal showed it.

`python -m tests.boot.picture linux.svg` (or `make picture`); what the run needs is said by tests/boot/test_linux.py.
"""

from __future__ import annotations

import io
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.text import Text

from tests.boot.test_linux import cd
from tests.needs import SEABIOS_256K

WIDTH, HEAD, TAIL = 112, 6, 22
"""Columns; lines shown of the kernel's beginning and of the end."""
FONT_FACE = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)
"""Fonts from elsewhere: the reader's own will do."""
CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1bc|\r")
OPTIONS = "--cpu max -m 256M --boot d --no-reboot"


def terminal() -> list[str]:
    """What a run writes to its serial port, line by line, from the kernel's first word on."""
    with tempfile.TemporaryDirectory() as folder:
        image = cd(Path(folder))
        command = [sys.executable, "-m", "jitvm", "boot", str(SEABIOS_256K), *OPTIONS.split(), "--cdrom", str(image)]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=True)
    said = CONTROL.sub("", done.stdout.decode(errors="replace"))
    return said[said.index("[    0.000000] Linux version") :].splitlines()


def main(path: str) -> None:
    """Run, and draw."""
    lines = terminal()
    console = Console(width=WIDTH, record=True, file=io.StringIO(), force_terminal=True, legacy_windows=False)

    def show(line: str, style: str = "") -> None:
        console.print(Text(line[:WIDTH], style=style), no_wrap=True)

    show(f"$ jitvm boot /usr/share/seabios/bios-256k.bin {OPTIONS} --cdrom linux.iso", "bold green")
    for line in [*lines[:HEAD], "...", *lines[-TAIL:]]:
        show(line)
    show("$ ", "bold green")
    Path(path).write_text(FONT_FACE.sub("", console.export_svg(title="jitvm")))


if __name__ == "__main__":
    main(sys.argv[1])
