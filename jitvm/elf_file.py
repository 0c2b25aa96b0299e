"""ELF files of users, read by pyelftools: what it says of a malformed one becomes one line."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING

from jitvm.errors import ImageError

if TYPE_CHECKING:
    from elftools.elf.elffile import ELFFile

MAGIC = b"\x7fELF"


@contextlib.contextmanager
def opened(where: str, file: IO[bytes]) -> Iterator[ELFFile]:
    """The file taken apart; `ImageError`, which begins with `where`, for what can't be read of it in the `with` block."""
    from elftools.elf.elffile import ELFFile

    try:
        yield ELFFile(file)
    except (ImageError, OSError):
        raise
    except Exception as error:  # what the library raises on a malformed file has no common base
        what = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(f"{where}: the ELF file is malformed ({what[:100]})") from None
