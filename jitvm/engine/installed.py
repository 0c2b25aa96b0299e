"""Versions of installed distributions, which compiled code depends on.

`importlib.metadata` would read and parse what a distribution says of itself, a twentieth of a warm start.

Source: PyPA specifications, "Recording installed projects": the folder NAME-VERSION.dist-info beside the package.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from jitvm.errors import EngineError


def installed_version(package: str) -> str:
    """Version of the distribution that a package of the same name is from, which is not imported."""
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise EngineError(f"Python package {package} is not installed; pip install jitvm brings it")
    names = [path.name for path in Path(spec.origin).parents[1].glob(f"{package}-*.dist-info")]
    if len(names) == 1:
        return names[0].removeprefix(f"{package}-").removesuffix(".dist-info")
    from importlib.metadata import version  # installed in another way, or twice

    return version(package)
