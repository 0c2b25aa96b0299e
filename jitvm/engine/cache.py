"""What was compiled, kept on disk for the next run: texts of units, object code, stencils, and the forms met.

Folder: `$XDG_CACHE_HOME/jitvm` (default `~/.cache/jitvm`), mode 0700, owned by the user; a folder that is not is refused
and the run goes on without (a warning).  From one that can't be written, as in a container, what it has is used (a
warning, too).  Inside, one folder an *epoch*: a hash of all of the engine's and the semantics' sources, library versions
and the host CPU; and `units`, the texts, which say themselves what they depend on.

Entries are written to a temporary name and renamed, begin with the SHA-256 of what follows, and are checked when read: a
damaged or foreign entry is removed and made anew.  Any number of processes may use the folder at once, and be killed at
any time: entries never change once written, and a process finds what others wrote since it started.

An object file is an entry of its own at first (`.o`).  When a run ends and there are many, one process (`.lock`) puts them
into a *pack* (`jitvm/engine/pack.py`) in the order in which that run wanted them, so that the next run looks at one index
and fetches neighbours together.  Whoever still wants an `.o` that went finds it in the pack.

What is kept is bounded: `KEEP_EPOCHS` epochs, the ones used last, each of at most `EPOCH_BYTES` when its packs are put
together (what the last run did not want goes first); texts of at most `TEXT_BYTES`, the ones used last, none unused for
`TEXT_DAYS`.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from jitvm.engine import pack
from jitvm.engine.pack import Entry, Kept
from jitvm.errors import CacheError

DIGEST = 32
KEEP_EPOCHS = 8
EPOCH_BYTES = 64 << 20
LOOSE_MOST, PACKS_MOST = 32, 4
"""Object files of their own, and packs, beyond which they are put together when a run ends."""
LOOSE_FAR_TOO_MANY = 512
"""Beyond so many it is done when they are looked at: runs that were killed, or never said that they end."""
TEXT_BYTES, TEXT_DAYS = 96 << 20, 30
DAY = 86400.0
ABANDONED = 600.0
"""Seconds after which a temporary file is one that a killed process left."""


def default_folder() -> Path:
    """`$XDG_CACHE_HOME/jitvm`, by default `~/.cache/jitvm`; a relative path is ignored, as the XDG specification wants."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or "")
    return (base if base.is_absolute() else Path.home() / ".cache") / "jitvm"


def file_sizes(folder: Path) -> list[int]:
    """Of all files in it; what other processes take away meanwhile does not count."""
    sizes = []
    for inside, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                sizes.append(os.lstat(os.path.join(inside, name)).st_size)
    return sizes


def clear(folder: Path) -> None:
    """Remove it with all that is in it; by another name, under which no process writes into it any more."""
    going = folder.with_name(f"{folder.name}.{os.getpid()}")
    with contextlib.suppress(FileNotFoundError):
        folder.rename(going)
        shutil.rmtree(going)


class Cache:
    """The folder of one epoch.  `folder` None: nothing is kept; not `writable`: what is there is read, nothing is added."""

    def __init__(self, folder: Path | None, epoch: str) -> None:
        self.folder: Path | None = None
        self.writable = False
        self._new_texts = self._damaged = False
        self._index: dict[str, Entry] = {}
        self._sequences: dict[str, list[Entry]] = {}
        """Entries of each file by its name, in their order."""
        self._seen = -1
        """The folder's time of change when it was last looked at."""
        if folder is None:
            return
        _own_folder(folder)
        self._texts = _own_folder(folder / "units")
        self.folder = _own_folder(folder / epoch)
        self.writable = all(os.access(path, os.W_OK) for path in (folder, self._texts, self.folder))
        with contextlib.suppress(OSError):
            os.utime(self.folder)
        _drop_old(folder, self.folder)

    # ---- checked files ------------------------------------------------------------------------------------------------
    @staticmethod
    def _read(path: Path) -> bytes | None:
        try:
            data = path.read_bytes()
        except OSError:
            return None
        body = data[DIGEST:]
        if len(data) <= DIGEST or hashlib.sha256(body).digest() != data[:DIGEST]:
            with contextlib.suppress(OSError):
                path.unlink()
            return None
        return body

    def _write(self, path: Path, data: bytes) -> None:
        """By a temporary name; a full or vanished disk only costs the entry."""
        if not self.writable:
            return
        try:
            handle, name = tempfile.mkstemp(dir=path.parent, prefix=".new-")
        except OSError:
            return
        try:
            with os.fdopen(handle, "wb") as f:
                f.write(data)
            os.replace(name, path)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(name)

    def _write_checked(self, path: Path, body: bytes) -> None:
        """What `_read` takes."""
        self._write(path, hashlib.sha256(body).digest() + body)

    # ---- texts of units: a mapping for `Units` ------------------------------------------------------------------------
    def get(self, key: str) -> str | None:
        """A unit's text by its key."""
        if self.folder is None:
            return None
        path = self._texts / key
        body = self._read(path)
        if body is None:
            return None
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > DAY:
                os.utime(path)
        return body.decode()

    def has_text(self, key: str) -> bool:
        """Whether there is something under the key of a unit's text."""
        return self.folder is not None and (self._texts / key).exists()

    def __setitem__(self, key: str, text: str) -> None:
        if self.folder is not None:
            self._write_checked(self._texts / key, text.encode())
            self._new_texts = True

    # ---- object code and stencils -------------------------------------------------------------------------------------
    def find(self, name: str) -> Entry | None:
        """The entry that has a symbol, also when another process wrote it meanwhile."""
        if self._seen < 0 or name not in self._index:
            self._look()
        return self._index.get(name)

    def following(self, entry: Entry, n: int) -> Sequence[Entry]:
        """The next entries of the same pack, at most `n`."""
        place = entry.place + 1
        return self._sequences.get(entry.path.name, [])[place : place + n]

    def read(self, entries: Sequence[Entry]) -> list[Kept | None]:
        """Entries that follow each other; None for one that is gone or damaged, which is then no longer found."""
        found = pack.read(entries)
        for entry, kept in zip(entries, found, strict=True):
            if kept is None:
                self.drop(entry)
                if not entry.path.exists():  # another process put it into a pack
                    self._sequences.pop(entry.path.name, None)
                elif entry.path.suffix == pack.LOOSE:
                    with contextlib.suppress(OSError):
                        entry.path.unlink()
                else:
                    self._damaged = True
        return found

    def drop(self, entry: Entry) -> None:
        """Don't find this entry any more: what it needs can't be had."""
        for name in entry.exports:
            if self._index.get(name) == entry:
                del self._index[name]

    def write_object(self, code: bytes, exports: Sequence[str], imports: Sequence[str]) -> Entry | None:
        """Keep an object file, or stencils."""
        if self.folder is None or not self.writable:
            return None
        data = pack.entry_bytes(code, exports, imports)
        path = self.folder / pack.loose_name(data)
        self._write(path, data)
        entry = Entry(path, 0, len(data), 0, tuple(exports))
        self.add(entry)
        return entry

    def add(self, entry: Entry) -> None:
        """An entry that was written, by this process or by the compiler's."""
        self._sequences[entry.path.name] = [entry]
        self._index.update(dict.fromkeys(entry.exports, entry))

    def _look(self) -> None:
        """Read the heads of the files that are new since the last look."""
        if self.folder is None:
            return
        try:
            changed = self.folder.stat().st_mtime_ns
            if changed == self._seen:
                return
            names = os.listdir(self.folder)
        except OSError:
            return
        self._seen = changed
        now = time.time()
        names = sorted(name for name in names if name not in self._sequences)  # often few of many
        for name in [*(n for n in names if n.endswith(pack.PACK)), *(n for n in names if n.endswith(pack.LOOSE))]:
            path = self.folder / name
            entries = pack.entries(path)
            if entries is None:  # gone, or no file of ours
                with contextlib.suppress(OSError):
                    path.unlink()
                continue
            self._sequences[name] = entries
            for entry in entries:
                self._index.update(dict.fromkeys(entry.exports, entry))
        for name in names:
            if name.startswith(".new-"):
                path = self.folder / name
                with contextlib.suppress(OSError):
                    if now - path.stat().st_mtime > ABANDONED:
                        path.unlink()
        if self.writable and self._count(pack.LOOSE) > LOOSE_FAR_TOO_MANY:
            self._pack(())

    def _count(self, suffix: str) -> int:
        """How many files of a kind there are."""
        return sum(name.endswith(suffix) for name in self._sequences)

    # ---- the end of a run ---------------------------------------------------------------------------------------------
    def tidy(self, wanted: Iterable[str]) -> None:
        """Put object files together where there are many; `wanted`: symbols in the order in which this run asked."""
        if self.folder is None or not self.writable or self._seen < 0:
            return
        self._look()
        many = self._count(pack.LOOSE) > LOOSE_MOST or self._count(pack.PACK) > PACKS_MOST
        if many or self._damaged:
            self._pack(wanted)
        if self._new_texts:
            self._new_texts = False
            with self._alone(self._texts) as mine:
                if mine:
                    _drop_texts(self._texts)

    @contextlib.contextmanager
    def _alone(self, folder: Path) -> Iterator[bool]:
        """Whether this process may tidy up a folder now; another one that does is not waited for."""
        try:
            handle = os.open(folder / ".lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except OSError:
            yield False
            return
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
        else:
            yield True
        finally:
            os.close(handle)

    def _pack(self, wanted: Iterable[str]) -> None:
        """One pack of all loose entries; of all packs, too, where there are many or one is damaged."""
        assert self.folder is not None
        with self._alone(self.folder) as mine:
            if not mine:
                return
            whole = self._count(pack.PACK) > PACKS_MOST or self._damaged
            names = [name for name in self._sequences if name.endswith(pack.LOOSE) or whole]
            entries = [entry for name in names for entry in self._sequences[name]]
            read: dict[str, list[bytes | None]] = {name: pack.read_bytes(self._sequences[name]) for name in names}
            data = {entry: one for name in names for entry, one in zip(self._sequences[name], read[name], strict=True)}
            good = [entry for entry in entries if data[entry] is not None and self._index.get(entry.exports[0]) == entry]
            kept = {entry: pack.take_apart(one) for entry in good if (one := data[entry]) is not None}
            made = pack.pack_bytes(data[entry] or b"" for entry in pack.order(kept, wanted, EPOCH_BYTES))
            target = self.folder / pack.pack_name(made)
            self._write(target, made)
            if not target.exists():
                return
            for name in names:
                if name != target.name:
                    del self._sequences[name]
                    with contextlib.suppress(OSError):
                        (self.folder / name).unlink()
            self._damaged = False
            self._index = {name: entry for name, entry in self._index.items() if entry.path.name in self._sequences}
            self._sequences[target.name] = pack.entries(target) or []
            for entry in self._sequences[target.name]:
                self._index.update(dict.fromkeys(entry.exports, entry))

    # ---- what the guests used -----------------------------------------------------------------------------------------
    def load(self, name: str) -> Any:
        """A JSON value kept under `name`, None when there is none."""
        if self.folder is None:
            return None
        body = self._read(self.folder / f"{name}.json")
        try:
            return json.loads(body) if body is not None else None
        except ValueError:
            return None

    def save(self, name: str, value: Any) -> None:
        """Keep a JSON value."""
        if self.folder is not None:
            self._write_checked(self.folder / f"{name}.json", json.dumps(value).encode())


def _own_folder(path: Path) -> Path:
    """Create a private folder, or refuse one of somebody else's."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        info = path.stat()
    except OSError as e:
        raise CacheError(f"cache folder {path}: {e.strerror or e}; compiled code is not kept") from None
    if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.getuid():
        raise CacheError(f"cache folder {path} belongs to another user; compiled code is not kept")
    if not os.access(path, os.R_OK | os.X_OK):
        raise CacheError(f"cache folder {path} can't be read; compiled code is not kept")
    if info.st_mode & 0o022:
        raise CacheError(f"cache folder {path} is writable by others (chmod go-w it); compiled code is not kept")
    return path


def _drop_old(folder: Path, current: Path) -> None:
    """Remove the epochs that have not been used for longest."""
    with contextlib.suppress(OSError):
        epochs = [p for p in folder.iterdir() if p.is_dir() and p.name not in ("units", current.name)]
        epochs.sort(key=lambda p: p.stat().st_mtime, reverse=True)
        for old in epochs[KEEP_EPOCHS - 1 :]:
            shutil.rmtree(old, ignore_errors=True)


def _drop_texts(folder: Path) -> None:
    """Remove the texts that have not been used for longest, once a day (the lock's file keeps when)."""
    now = time.time()
    lock = folder / ".lock"
    with contextlib.suppress(OSError):
        if now - lock.stat().st_mtime < DAY and lock.stat().st_size:
            return
        lock.write_bytes(b"looked at\n")
        left = TEXT_BYTES
        texts = [(info.st_mtime, info.st_size, e.path, e.name) for e in os.scandir(folder) if (info := e.stat())]
        for used, size, path, name in sorted(texts, reverse=True):
            left -= size
            new = name.startswith(".new-")
            if (left < 0 or now - used > TEXT_DAYS * DAY or (new and now - used > ABANDONED)) and name != lock.name:
                with contextlib.suppress(OSError):
                    os.unlink(path)
