"""For processes that start without a cache, or with an empty one: the texts of units that this session has.

What Numba makes of the semantics takes most of a really cold start, ten seconds and more; one test makes it once
(`tests/engine/test_cache.py`), and others of what a cold start does take the texts and compile the rest.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from jitvm.engine.cache import default_folder

_READ = """
from pathlib import Path
from jitvm.engine.cache import Cache
texts = Cache(Path({folder!r}), "texts")
own, Cache.get = Cache.get, lambda cache, key: own(cache, key) or (None if cache is texts else own(texts, key))
"""


def link(source: str, target: str) -> None:
    """A second name where that is possible: entries are replaced, never written to."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def texts_of_this_session(home: Path) -> None:
    """A cache with nothing but the texts of units that this session has, if any."""
    texts = default_folder() / "units"
    if texts.is_dir():
        (home / "jitvm").mkdir(mode=0o700, parents=True)
        shutil.copytree(texts, home / "jitvm" / "units", ignore=shutil.ignore_patterns(".new-*"), copy_function=link)
        (home / "jitvm" / "units").chmod(0o700)


def reading_texts(home: Path) -> str:
    """The beginning of a program that finds them in the cache in `home`, whatever its own cache is."""
    texts_of_this_session(home)
    return _READ.format(folder=str(home / "jitvm"))
