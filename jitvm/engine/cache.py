"""What was compiled, kept on disk for the next run: texts of units, object code, and the forms met.

Folder: `$XDG_CACHE_HOME/jitvm` (default `~/.cache/jitvm`), mode 0700, owned by the user; a folder that is not is refused
and the run goes on without (a warning).  Inside, one folder an *epoch*: a hash of all of the engine's and the semantics'
sources, library versions and the host CPU.  Entries are written to a temporary name and renamed, begin with the SHA-256
of what follows, and are checked when read: a damaged or foreign entry is removed and made anew.  Two processes may use
the folder at once: entries never change once written.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jitvm.errors import CacheError

DIGEST = 32
KEEP_EPOCHS = 4
"""Epoch folders kept; the ones unused for longest go."""


def default_folder() -> Path:
    """`$XDG_CACHE_HOME/jitvm`, by default `~/.cache/jitvm`; a relative path is ignored, as the XDG specification wants."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or "")
    return (base if base.is_absolute() else Path.home() / ".cache") / "jitvm"


@dataclass(frozen=True)
class Batch:
    """An object file on disk: the symbols that it defines and the ones that it needs."""

    path: Path
    exports: tuple[str, ...]
    imports: tuple[str, ...]


class Cache:
    """The folder of one epoch.  `folder` None: nothing is kept."""

    def __init__(self, folder: Path | None, epoch: str) -> None:
        self.folder: Path | None = None
        if folder is None:
            return
        _own_folder(folder)
        self._texts = _own_folder(folder / "units")
        self.folder = _own_folder(folder / epoch)
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

    @staticmethod
    def _write(path: Path, data: bytes) -> None:
        """By a temporary name; a full or vanished disk only costs the entry."""
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
        body = self._read(self._texts / key)
        return body.decode() if body is not None else None

    def __setitem__(self, key: str, text: str) -> None:
        if self.folder is not None:
            self._write_checked(self._texts / key, text.encode())

    # ---- object code --------------------------------------------------------------------------------------------------
    def batches(self) -> Iterator[Batch]:
        """All object files of this epoch (their heads; the code is checked when it is read)."""
        if self.folder is None:
            return
        for path in sorted(self.folder.glob("*.o")):
            try:
                with path.open("rb") as f:
                    head = json.loads(f.readline()[2 * DIGEST + 1 :])
                yield Batch(path, tuple(head["exports"]), tuple(head["imports"]))
            except (OSError, ValueError, KeyError, TypeError):
                with contextlib.suppress(OSError):
                    path.unlink()

    def read_object(self, batch: Batch) -> bytes | None:
        """Object code of a batch, None when it is damaged (it is removed)."""
        try:
            data = batch.path.read_bytes()
        except OSError:
            return None
        digest, _, rest = data.partition(b" ")
        if hashlib.sha256(rest).hexdigest().encode() != digest:
            with contextlib.suppress(OSError):
                batch.path.unlink()
            return None
        return rest[rest.index(b"\n") + 1 :]

    def write_object(self, code: bytes, exports: list[str], imports: list[str]) -> Batch | None:
        """Keep an object file."""
        if self.folder is None:
            return None
        rest = json.dumps({"exports": exports, "imports": imports}).encode() + b"\n" + code
        digest = hashlib.sha256(rest).hexdigest()
        path = self.folder / f"{digest[:24]}.o"
        self._write(path, digest.encode() + b" " + rest)
        return Batch(path, tuple(exports), tuple(imports))

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
    if not os.access(path, os.W_OK | os.X_OK):
        raise CacheError(f"cache folder {path} is not writable; compiled code is not kept")
    if info.st_mode & 0o022:
        raise CacheError(f"cache folder {path} is writable by others (chmod go-w it); compiled code is not kept")
    return path


def _drop_old(folder: Path, current: Path) -> None:
    """Remove epochs that have not been used for longest, and what a killed process left."""
    with contextlib.suppress(OSError):
        epochs = [p for p in folder.iterdir() if p.is_dir() and p.name not in ("units", current.name)]
        epochs.sort(key=lambda p: p.stat().st_mtime, reverse=True)
        for old in epochs[KEEP_EPOCHS - 1 :]:
            shutil.rmtree(old, ignore_errors=True)
        for left in current.glob(".new-*"):
            if time.time() - left.stat().st_mtime > 600:
                left.unlink()
