"""A second process for a start with an empty cache: it compiles units from the far end while the first comes towards it.

Both keep each text in the cache and look there before they compile, so they meet, and hardly a unit is compiled twice.
It is started where there is a cache, a second core, and much to do, and it is ended when the first process has all units.

    python -m jitvm.engine.beside EPOCH_FOLDER UNIT ...
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from jitvm.engine.cache import Cache
from jitvm.engine.units import Units

MUCH = 40
"""Missing units from which on a second process, which must begin by importing Numba, pays."""


@contextlib.contextmanager
def helped(units: Units, cache: Cache, roots: Iterable[str]) -> Iterator[None]:
    """While all that `roots` need is compiled."""
    roots = list(roots)
    folder = cache.folder if cache.writable else None
    process = _start(folder, roots) if folder is not None and _pays(units, cache, roots) else None
    try:
        yield
    finally:
        if process is not None:
            process.terminate()
            process.wait()


def _pays(units: Units, cache: Cache, roots: Iterable[str]) -> bool:
    if len(os.sched_getaffinity(0)) < 2:
        return False
    return sum(not cache.has_text(units.key(name)) for name in units.below(roots)) >= MUCH


def _start(folder: Path, roots: Iterable[str]) -> subprocess.Popen[bytes]:
    package = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join([package, *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.Popen(
        [sys.executable, "-m", "jitvm.engine.beside", str(folder), *roots],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,  # what it can't compile the first process finds, too, and says
        env={**os.environ, "PYTHONPATH": path},
        start_new_session=True,
    )


def main(folder: Path, roots: Iterable[str]) -> None:
    """The process itself; it goes with its parent."""
    parent = os.getppid()
    units = Units(Cache(folder.parent, folder.name))
    for name in reversed(units.below(roots)):
        if os.getppid() != parent:
            return
        units.text(name)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
