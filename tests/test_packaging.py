"""What is installed works from any folder: the wheel has the code, the firmware and the type marker, and boots."""

from __future__ import annotations

import email
import importlib.metadata
import os
import re
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

from jitvm import __version__

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def requirement(name: str) -> str:
    """What pyproject asks of a dependency."""
    found = [text for text in PROJECT["project"]["dependencies"] if re.match(rf"{name}\b", text)]
    assert len(found) == 1
    return str(found[0])


@pytest.mark.parametrize("name", ["numba", "llvmlite"])
def test_what_the_stitcher_was_proved_on_is_pinned_and_is_what_runs_here(name: str) -> None:
    major, minor = importlib.metadata.version(name).split(".")[:2]
    assert requirement(name) == f"{name}=={major}.{minor}.*"


def test_the_changelog_knows_the_version() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert "## [Unreleased]" in changelog or f"## [{__version__}]" in changelog


def test_ci_is_a_program() -> None:
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    assert (ROOT / ".ci" / "run").read_text(encoding="utf-8").startswith("#!/usr/bin/env bash\n")


def run(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a command outside of the checkout, without what the tests' environment adds."""
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    return subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
        timeout=1200,
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    done = run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", folder, ROOT, cwd=folder)
    assert done.returncode == 0, done.stderr
    (found,) = folder.glob("jitvm-*.whl")
    return found


@pytest.mark.packaging
def test_the_wheel_has_all_sources_the_firmware_and_nothing_else(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    packages = [ROOT / "jitvm", ROOT / "gdbstub"]
    sources = {str(path.relative_to(ROOT)) for package in packages for path in package.rglob("*.py")}
    images = {f"jitvm/{path.relative_to(ROOT)}" for path in (ROOT / "firmware/images").rglob("*") if path.is_file()}
    assert sources | images | {"jitvm/py.typed", "gdbstub/py.typed"} <= names
    assert not [name for name in names if name.startswith(("tests/", "firmware/")) or "__pycache__" in name]
    about = next(name for name in names if name.endswith(".dist-info/licenses/LICENSE"))
    assert b"MIT License" in zipfile.ZipFile(wheel).read(about)
    metadata = next(name for name in names if name.endswith(".dist-info/METADATA"))
    said = email.message_from_bytes(zipfile.ZipFile(wheel).read(metadata))
    assert (said["Name"], said["Version"], said["Requires-Python"]) == ("jitvm", __version__, ">=3.11")
    assert said["Summary"] and said["License-Expression"] == "MIT"
    assert str(said.get_payload()).startswith("# jitvm\n"), "the description is the README"


API = """
from jitvm.bare import Bare
from jitvm.config import MachineConfig
from jitvm.machine import Machine

with Machine(MachineConfig(serials=("memory",))) as machine:
    print(machine.run().reason, machine.serial_output().startswith(b"jitvm BIOS"))
bare = Bare(engine="handlers")
bare.set_mode("prot32")
bare.write(0x1000, bytes.fromhex("01d8"))
bare.set_registers({"eip": 0x1000, "eax": 1, "ebx": 2})
print(bare.run(1).reason, bare.registers()["eax"])
"""


@pytest.mark.packaging
def test_the_installed_wheel_boots_its_firmware_from_any_folder(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", with_pip=True)
    programs = tmp_path / "venv" / "bin"
    done = run(programs / "python", "-m", "pip", "install", "--quiet", wheel, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    where = run(programs / "python", "-c", "import jitvm; print(jitvm.__file__)", cwd=tmp_path)
    assert where.stdout.startswith(str(tmp_path))
    assert run(programs / "jitvm", "--help", cwd=tmp_path).returncode == 0
    said = run(programs / "jitvm", "boot", cwd=tmp_path)
    assert said.returncode == 0, said.stdout + said.stderr
    assert said.stdout.startswith("jitvm BIOS") and " 0 failed" in said.stdout
    assert run(programs / "jitvm", "boot", "missing.bin", cwd=tmp_path).returncode == 2
    api = run(programs / "python", "-c", API, cwd=tmp_path)
    assert (api.stdout, api.stderr) == ("poweroff True\nlimit 3\n", "")
