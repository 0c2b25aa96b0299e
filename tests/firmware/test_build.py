"""The images in firmware/images/ are what the sources give, byte for byte."""

from __future__ import annotations

import importlib.util
import struct
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.firmware.qemu import BIOS, FIRMWARE, IMAGES
from tests.needs import TOOLCHAIN, lacking, needs


@pytest.fixture(scope="module")
def build() -> ModuleType:
    spec = importlib.util.spec_from_file_location("firmware_build", FIRMWARE / "build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["firmware_build"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def fresh(build: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Path]]:
    """A folder into which everything was built, and the files."""
    folder = tmp_path_factory.mktemp("images")
    return folder, build.build_all(folder)


@pytest.mark.slow
@needs(*TOOLCHAIN)
def test_rebuild_gives_the_same_bytes(build: ModuleType, fresh: tuple[Path, list[Path]]) -> None:
    folder, made = fresh
    wrong = build.differences(folder, IMAGES, made)
    if wrong and build.toolchain() != (IMAGES / "toolchain.txt").read_text(encoding="utf-8"):
        lacking(f"another toolchain than the one in images/toolchain.txt: {', '.join(wrong)}")
    assert wrong == []


@pytest.mark.slow
@needs(*TOOLCHAIN)
def test_no_path_of_the_build_is_in_an_image(fresh: tuple[Path, list[Path]]) -> None:
    folder, made = fresh
    assert made
    for path in made:
        content = path.read_bytes()
        assert str(folder).encode() not in content, path.name
        assert str(FIRMWARE).encode() not in content, path.name


def test_bios_image_has_a_reset_vector_and_a_model_byte() -> None:
    image = BIOS.read_bytes()
    assert len(image) == 0x10000
    opcode, displacement = struct.unpack_from("<Bh", image, 0xFFF0)
    assert opcode == 0xE9  # a near jump: CS keeps its base at the top of 4 GiB
    assert 0 < (0xFFF3 + displacement) & 0xFFFF < 0xFFF0
    assert image[0xFFFE] == 0xFC


def test_boot_sectors_have_their_signature() -> None:
    images = sorted((IMAGES / "guests").glob("*.img"))
    assert images
    for path in images:
        assert path.read_bytes()[510:512] == b"\x55\xaa", path.name
