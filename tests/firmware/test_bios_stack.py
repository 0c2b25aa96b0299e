"""Our BIOS on a caller's stack whose end is the segment's: what INT pushes goes on at its other end."""

from __future__ import annotations

from pathlib import Path

import pytest

from jitvm.config import DriveConfig
from jitvm.machine import Machine
from tests.boot.guests import BIOS, GOOD, config
from tests.engine.assembler import assemble

SECTOR = """
    xor ax, ax
    mov ss, ax
    mov sp, {sp}
    int 0x12
    jc bad
    cmp ax, 640
    jne bad
    mov al, 0x31
bad:
    out 0xF4, al
"""


@pytest.mark.parametrize("sp", [0, 2, 4, 6, 0x7000])
def test_a_service_finds_its_callers_flags(sp: int, tmp_path: Path) -> None:
    disk = tmp_path / "disk.img"
    disk.write_bytes(assemble(SECTOR.format(sp=sp), 0x7C00, 16).ljust(510, b"\0") + b"\x55\xaa" + bytes(1 << 20))
    with Machine(config(BIOS, drives=(DriveConfig(str(disk), snapshot=True),))) as machine:
        result = machine.run(200_000_000)
        assert (result.reason, result.code) == ("debug-exit", GOOD), result
