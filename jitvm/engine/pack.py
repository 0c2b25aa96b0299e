"""Files of compiled code: one entry, or a pack of many behind an index.

An entry: `SHA-256 in hex`, blank, then what it is of: a line of JSON (`exports`, `imports`), and the code.  A file with the
suffix `.o` is one entry.  A `.pack` is a line with the SHA-256 of its index and the index's length, the index (JSON: size
and exports of each entry), and the entries one behind the other.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

LOOSE, PACK = ".o", ".pack"
HEX = 64
"""Digits of a digest."""
HEAD_MOST = 1 << 20
"""Bytes of the first line of an entry, at most."""


class Entry(NamedTuple):
    """Where the code of some symbols lies: in bytes `offset` to `offset + size` of a file, as its entry number `place`."""

    path: Path
    offset: int
    size: int
    place: int
    exports: tuple[str, ...]


class Kept(NamedTuple):
    """An entry's content: the symbols that it defines and those that it needs, and the object file or what else it is."""

    exports: tuple[str, ...]
    imports: tuple[str, ...]
    code: bytes


def entry_bytes(code: bytes, exports: Sequence[str], imports: Sequence[str]) -> bytes:
    """An entry."""
    rest = json.dumps({"exports": list(exports), "imports": list(imports)}).encode() + b"\n" + code
    return hashlib.sha256(rest).hexdigest().encode() + b" " + rest


def loose_name(data: bytes) -> str:
    """File name of an entry: the beginning of its digest."""
    return data[:24].decode() + LOOSE


def pack_name(data: bytes) -> str:
    """File name of a pack."""
    return hashlib.sha256(data).hexdigest()[:24] + PACK


def take_apart(data: bytes) -> Kept:
    """Content of an entry that was checked."""
    line, _, code = data[HEX + 1 :].partition(b"\n")
    head = json.loads(line)
    return Kept(tuple(head["exports"]), tuple(head["imports"]), code)


def read_bytes(entries: Sequence[Entry]) -> list[bytes | None]:
    """Bytes of entries that follow each other in a file; None for one that is gone or damaged."""
    if not entries:
        return []
    start, last = entries[0].offset, entries[-1]
    try:
        with entries[0].path.open("rb") as f:
            f.seek(start)
            data = f.read(last.offset + last.size - start)
    except OSError:
        return [None] * len(entries)
    return [_checked(data[e.offset - start : e.offset - start + e.size]) for e in entries]


def _checked(data: bytes) -> bytes | None:
    good = data[HEX : HEX + 1] == b" " and hashlib.sha256(data[HEX + 1 :]).hexdigest().encode() == data[:HEX]
    return data if good else None


def read(entries: Sequence[Entry]) -> list[Kept | None]:
    """Entries that follow each other in a file; None for one that is gone or damaged."""
    out: list[Kept | None] = []
    for data in read_bytes(entries):
        try:
            out.append(take_apart(data) if data is not None else None)
        except (ValueError, KeyError, TypeError):  # no entry of ours
            out.append(None)
    return out


def entries(path: Path) -> list[Entry] | None:
    """What a file says that it has (the code is checked when it is read); None for one that is damaged or gone."""
    try:
        with path.open("rb") as f:
            line = f.readline(HEAD_MOST)
            if path.suffix == LOOSE:
                exports = json.loads(line[HEX + 1 :])["exports"]
                return [Entry(path, 0, f.seek(0, 2), 0, tuple(exports))]
            digest, length = line.split()
            index = f.read(int(length))
            if hashlib.sha256(index).hexdigest().encode() != digest:
                return None
        listed = json.loads(index)
        offsets = itertools.accumulate((size for size, _ in listed), initial=len(line) + len(index))
        numbered = enumerate(zip(offsets, listed, strict=False))
        return [Entry(path, offset, size, n, tuple(exports)) for n, (offset, (size, exports)) in numbered]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def pack_bytes(data: Iterable[bytes]) -> bytes:
    """A pack of entries."""
    all_data = list(data)
    index = json.dumps([[len(one), take_apart(one).exports] for one in all_data]).encode()
    head = f"{hashlib.sha256(index).hexdigest()} {len(index)}\n".encode()
    return b"".join([head, index, *all_data])


def order(kept: Mapping[Entry, Kept], wanted: Iterable[str], most: int) -> list[Entry]:
    """Entries in the order in which symbols were wanted, each behind what it needs, then the others as they come.

    Those that would make it more than `most` bytes are left out.
    """
    having = {name: entry for entry, one in kept.items() for name in one.exports}
    out: dict[Entry, None] = {}
    begun: set[Entry] = set()

    def place(entry: Entry) -> None:
        if entry in begun:
            return
        begun.add(entry)
        for name in kept[entry].imports:
            if name in having:
                place(having[name])
        out[entry] = None

    for name in wanted:
        if name in having:
            place(having[name])
    for entry in kept:
        place(entry)
    total = itertools.accumulate(entry.size for entry in out)
    return [entry for entry, so_far in zip(out, total, strict=True) if so_far <= most]
