"""The accelerators of the process: one a cache folder, shared by its machines."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from jitvm.engine.accel import Accelerator
from jitvm.engine.cache import default_folder
from jitvm.engine.observer import Observer

_accelerators: dict[str, Accelerator] = {}


def shared_accelerator(
    keep: bool = True, on_progress: Callable[[str], None] = lambda what: None, observers: Sequence[Observer] = ()
) -> Accelerator:
    """The process's accelerator for a cache folder (`keep`: code is kept there), made on first use."""
    key = str(default_folder()) if keep else ""
    found = _accelerators.get(key)
    if found is None:
        found = _accelerators[key] = Accelerator(keep=keep, on_progress=on_progress, observers=observers)
    else:
        found.code.on_progress = found.units.on_progress = on_progress
        for observer in observers:
            found.observe(observer)
    return found
