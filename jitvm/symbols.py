"""The guest's program: an ELF file with symbols, for gdb and for reports.

A file may be loaded elsewhere than it says: `offset` is added to all of its addresses.  The embedded firmware's own ELF
counts from its segment's begin, F0000h.

Not modelled: line numbers, relocatable files, sections that are moved apart.
"""

from __future__ import annotations

import bisect
import contextlib
import tempfile
from collections.abc import Callable
from pathlib import Path

from jitvm.config import MachineConfig, firmware_image
from jitvm.elf_file import MAGIC, opened
from jitvm.elf_shift import shifted
from jitvm.errors import ImageError

FIRMWARE_ELF, FIRMWARE_BASE = "jitvm-bios.elf", 0xF0000
FAR = 0x1_0000
"""An address that far behind a symbol without a size does not belong to it."""
MAX_SIZE = 1 << 30
KINDS = ("STT_FUNC", "STT_OBJECT", "STT_NOTYPE")
"""What is taken, the best name of an address first."""


class Symbols:
    """The names in an ELF file; `path` is absolute.  `ImageError` when it is none."""

    def __init__(self, path: Path, offset: int = 0) -> None:
        self.path, self.offset = path.resolve(), offset
        found = _read(path)
        best: dict[int, tuple[int, str, int]] = {}
        for name, kind, value, size in found:
            address = value + offset
            best[address] = min(best.get(address, (len(KINDS), "", 0)), (KINDS.index(kind), name, size))
        self._starts = sorted(best)
        self._names = [best[address][1:] for address in self._starts]
        self._by_name = {name: value + offset for name, _, value, _ in found}

    def __len__(self) -> int:
        return len(self._starts)

    def address(self, name: str) -> int | None:
        """Where a symbol is."""
        return self._by_name.get(name)

    def start(self, address: int) -> int | None:
        """The address of the symbol to which a linear address belongs."""
        k = bisect.bisect_right(self._starts, address) - 1
        if k < 0 or address - self._starts[k] >= (self._names[k][1] or FAR):
            return None
        return self._starts[k]

    def at(self, address: int) -> str:
        """`name+0x1f` for a linear address, "" when it belongs to no symbol."""
        start = self.start(address)
        if start is None:
            return ""
        name, inside = self._names[bisect.bisect_left(self._starts, start)][0], address - start
        return f"{name}+{inside:#x}" if inside else name


def program(config: MachineConfig) -> tuple[Path, int] | None:
    """The ELF of a machine's guest and its offset: the one that was named, the kernel, or that of the embedded firmware."""
    if config.symbols is not None:
        return config.symbols, config.symbols_offset
    if config.kernel is not None and _is_elf(config.kernel):
        return config.kernel, 0
    image = firmware_image()
    elf = image.with_name(FIRMWARE_ELF)
    embedded = config.bios is None or config.bios.resolve() == image
    return (elf, FIRMWARE_BASE) if embedded and elf.is_file() else None


def load(config: MachineConfig) -> Symbols | None:
    """The symbols of a machine's guest, where they are known."""
    found = program(config)
    return Symbols(*found) if found is not None else None


def file_for_gdb(config: MachineConfig, resources: contextlib.ExitStack, log: Callable[[str], None]) -> str | None:
    """Path of the guest's ELF with addresses as the guest has them: a copy, which `resources` removes, when it lies
    elsewhere than it says.  `log` is told of a file that can't be copied so.
    """
    found = program(config)
    if found is None:
        return None
    path, offset = found
    if not offset:
        return str(path.resolve())
    data = shifted(path.read_bytes(), offset)
    if data is None:
        log(f"gdb: load the symbols with: symbol-file {path.resolve()} -o {offset:#x}")
        return None
    folder = resources.enter_context(tempfile.TemporaryDirectory(prefix="jitvm-"))
    copy = Path(folder) / path.name
    copy.write_bytes(data)
    return str(copy)


def _is_elf(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def _read(path: Path) -> list[tuple[str, str, int, int]]:
    """(name, kind, value, size) of an ELF file's symbols that have an address."""
    from elftools.elf.sections import SymbolTableSection

    where = f"symbols '{path}'"
    if path.is_dir():
        raise ImageError(f"{where} is a folder; name the ELF file in it")
    try:
        with path.open("rb") as file:
            if file.read(4) != MAGIC:
                raise ImageError(f"{where}: this is no ELF file; give the one that the linker made")
            if file.seek(0, 2) > MAX_SIZE:
                raise ImageError(f"{where}: the file is larger than 1 GiB")
            with opened(where, file) as elf:
                tables = [s for s in elf.iter_sections() if isinstance(s, SymbolTableSection)]
                found = [
                    (symbol.name, symbol["st_info"]["type"], int(symbol["st_value"]), int(symbol["st_size"]))
                    for table in tables
                    for symbol in table.iter_symbols()
                    if isinstance(symbol["st_shndx"], int)
                ]
    except FileNotFoundError:
        raise ImageError(f"{where} does not exist") from None
    except OSError as error:
        raise ImageError(f"{where} can't be read: {error.strerror}") from None
    return [s for s in found if s[0] and s[1] in KINDS and not s[0].startswith((".L", "$"))]
