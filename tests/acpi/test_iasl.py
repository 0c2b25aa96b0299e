"""Intel's compiler reads the tables without a complaint, and makes the DSDT again from what it has read."""

from __future__ import annotations

import re
import struct
import subprocess
from pathlib import Path
from typing import Any

import pytest

from jitvm.config import DriveConfig
from jitvm.machine import Machine
from tests.acpi.test_tables import HEADER, loaded
from tests.boot.guests import config
from tests.needs import needs

pytestmark = needs("iasl")
BOARDS: dict[str, dict[str, Any]] = {
    "one processor": {},
    "all of it": {"smp": 16, "serials": ("null",) * 4, "memory": 3 << 30, "drives": "floppy"},
    "without an APIC": {"cpu": "pentium", "serials": ()},
}


def iasl(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["iasl", *arguments], cwd=folder, capture_output=True, text=True, check=False)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    # "0 Errors, 0 Warnings, 0 Remarks" is what it says when all is well
    rest = re.sub(r"\b0 (Errors|Warnings|Remarks)\b", "", said)
    assert not re.search(r"(?i)error|warning|remark", rest), said
    return said


@pytest.mark.parametrize("name", BOARDS)
def test_tables_are_read_and_made_again(name: str, tmp_path: Path) -> None:
    more = dict(BOARDS[name])
    if more.pop("drives", None):
        (tmp_path / "a.img").write_bytes(bytes(1440 << 10))
        more |= {"drives": (DriveConfig(str(tmp_path / "a.img"), interface="floppy"),), "bios": tmp_path / "bios"}
        (tmp_path / "bios").write_bytes(bytes(0x10000))
    with Machine(config(more.pop("bios", None), **more)) as machine:
        found = loaded(machine)
    for signature, table in found.items():
        if signature != "RSDP":
            (tmp_path / f"{signature}.dat").write_bytes(table)
            iasl(tmp_path, "-d", f"{signature}.dat")
    asl = (tmp_path / "DSDT.dsl").read_text()
    # what the disassembler writes where it cannot tell what an object is, or misses one
    assert "FIXME" not in asl and "Invalid" not in asl and "External" not in asl
    assert ("PNP0700" in asl) == (name == "all of it")
    assert asl.count('"ACPI0007"') == more.get("smp", 1)
    assert asl.count("PNP0501") == len(more.get("serials", ("memory",)))
    iasl(tmp_path, "-oa", "-p", "again", "DSDT.dsl")
    again = (tmp_path / "again.aml").read_bytes()
    (length,) = struct.unpack_from("<I", again, 4)
    assert length == len(again)
    assert again[HEADER:] == found["DSDT"][HEADER:], "all but the header, in which the compiler names itself"
