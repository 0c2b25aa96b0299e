"""The ROMs firmware/guests/access and access_long: what 32-bit, PAE and 4-level paging allow, 187,000 and 143,000 accesses,
compared by the guest with the rules; firmware/guests/access.h says what the guest expects of QEMU instead.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from jitvm.machine import Machine
from tests.boot.bochs import run_bochs
from tests.boot.guests import GUESTS, config, debug_output
from tests.fast_set import share
from tests.firmware.qemu import DEBUG_EXIT, run_qemu
from tests.needs import needs

QEMU64 = "qemu-system-x86_64"
IMAGE = GUESTS / "access.bin"
WANTED = "32-bit: 00003cc0 made, wrong: 0 0 0 0 0 0 0 0 0\nPAE: 00029c40 made, wrong: 0 0 0 0 0 0 0 0 0\n"


@pytest.mark.parametrize("jit", share(["regions", "handlers", "stencils"], 1))
def test_on_jitvm(jit: str) -> None:
    with Machine(config(IMAGE, jit=jit, cpu="max")) as machine:
        assert machine.run().code == 1
        assert debug_output(machine) == WANTED


LONG = GUESTS / "access_long.bin"


def made(n: int) -> str:
    """What the ROM of 4-level paging prints when nothing is wrong."""
    return f"4-level: {n:08x} made, wrong: 0 0 0 0 0 0 0 0 0\n"


@pytest.mark.parametrize("jit", share(["regions", "handlers", "stencils"], 1))
def test_four_levels_on_jitvm(jit: str) -> None:
    with Machine(config(LONG, jit=jit, cpu="max")) as machine:
        assert machine.run().code == 1
        assert debug_output(machine) == made(143_424)


@pytest.mark.parametrize(("cpu", "n"), [("nehalem", 23_904), ("pentium3", 0)])
def test_four_levels_without_the_later_features(cpu: str, n: int) -> None:
    """No SMEP, SMAP and pages of 1 GiB, whose bit is reserved then; no long mode."""
    with Machine(config(LONG, cpu=cpu)) as machine:
        assert machine.run().code == (1 if n else 5)
        assert debug_output(machine) == (made(n) if n else "this CPU has no long mode\n")


@needs(QEMU64)
@pytest.mark.parametrize(("image", "wanted"), [(IMAGE, WANTED), (LONG, made(143_424))], ids=["32-bit", "64-bit"])
def test_on_qemu(image: Path, wanted: str, tmp_path: Path) -> None:
    run = run_qemu(tmp_path, image, "-cpu", "max", *DEBUG_EXIT, program=QEMU64)
    assert (run.status, run.debug) == (1, wanted)


@pytest.mark.slow
def test_four_levels_on_bochs(tmp_path: Path) -> None:
    """As above: it differs only in what EFLAGS.AC permits for level 3 under SMAP."""
    said = run_bochs(tmp_path, LONG)
    counts = re.findall(r"(\w+) made, wrong: ((?:\w+ ){8})\w+", said)
    assert counts == [(f"{143_424:08x}", "0 " * 8)]
    odd = re.findall(r"^fault 08(?: \w+){5} (\w+) (\w+) \w+ \w+ 0000ffff", said, re.MULTILINE)
    assert odd
    assert all(int(cr4, 16) & 0x200000 and int(flags, 16) & 0x40000 for cr4, flags in odd)


@pytest.mark.slow
def test_on_bochs(tmp_path: Path) -> None:
    """It lets EFLAGS.AC permit what the processor itself reads for level 3, under SMAP (4.6.1: explicit accesses only)."""
    said = run_bochs(tmp_path, IMAGE)
    counts = re.findall(r"(\w+) made, wrong: ((?:\w+ ){8})\w+", said)
    assert counts == [("00003cc0", "0 " * 8), ("00029c40", "0 " * 8)]
    odd = re.findall(r"^fault 08 \w+ \w+ \w+ (\w+) (\w+) \w+ ffff\r?$", said, re.MULTILINE)
    assert odd
    assert all(int(cr4, 16) & 0x200000 and int(flags, 16) & 0x40000 for cr4, flags in odd)
