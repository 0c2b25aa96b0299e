"""Versions by folder names are those that Python itself tells."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import pytest

from jitvm.engine.installed import installed_version
from jitvm.errors import EngineError


@pytest.mark.parametrize("package", ["numba", "llvmlite", "iced_x86"])
def test_the_same_as_metadata_says(package: str) -> None:
    assert installed_version(package) == version(package)


def test_two_folders_are_metadatas_affair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "both").mkdir()
    (tmp_path / "both" / "__init__.py").touch()
    for number in ("1", "2"):
        folder = tmp_path / f"both-{number}.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: both\nVersion: {number}\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert installed_version("both") in ("1", "2")
    (tmp_path / "both-2.dist-info" / "METADATA").unlink()
    (tmp_path / "both-2.dist-info").rmdir()
    assert installed_version("both") == "1"


def test_what_is_not_there_is_told() -> None:
    with pytest.raises(EngineError, match="no_such_package is not installed"):
        installed_version("no_such_package")
