"""lldb on the machine: another debugger with its own packets, which reads the registers' description."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.boot.guests import rom
from tests.gdb.programs import c_program
from tests.gdb.vm import START, Start, Vm
from tests.needs import needs

pytestmark = needs("gcc", "lldb")
LOOP = "31c0 40 a30005 ebfa"
"""0: xor ax, ax; 2: inc ax; 3: mov [500h], ax; 6: jmp 2"""


def session(vm: Vm, *commands: str) -> str:
    """What lldb prints for these commands, connected."""
    every = [f"gdb-remote {vm.address}", *commands, "process detach"]
    options = [word for command in every for word in ("-o", command)]
    done = subprocess.run(["lldb", "--no-lldbinit", "--batch", *options], capture_output=True, text=True, timeout=120)
    assert "error:" not in done.stderr.replace("ModuleNotFoundError: ", "") and "Assertion" not in done.stderr, (
        done.stderr
    )
    return done.stdout


@pytest.mark.parametrize("arch", ["x86-64", "i386"])
def test_real_mode(boot: Start, tmp_path: Path, arch: str) -> None:
    said = session(
        boot(rom(tmp_path, LOOP), "-S", "--gdb-arch", arch),
        "thread step-inst", "thread step-inst", "thread step-inst", "register read cs_base cr0 ip",
        f"breakpoint set -a {START + 6:#x}", "continue", "register read eax" if arch == "i386" else "register read rax",
        "memory read -c 4 -f x -s 2 0x500", "breakpoint delete -f", "watchpoint set expression -w write -s 2 -- 0x500",
        "continue", "register write ip 2", "register read ip", "memory write 0x600 0x11 0x22", "memory read -c 2 0x600",
        "memory region 0xfec00000",
    )  # fmt: skip
    for words in (
        *(
            "cs_base = 0x",
            "cr0 = 0x",
            "stop reason = breakpoint 1.1",
            "0x0001 0x0000",
            "new value: 2",
            "stop reason = watchpoint 1",
            "11 22",
        ),
        "[0x00000000fec00000-0x00000000ff000000) ---",
    ):
        assert words in said, said


def test_protected_mode_with_source(boot: Start, tmp_path: Path) -> None:
    program = c_program(tmp_path)
    said = session(
        boot(program.image, "-S", "--gdb-arch", "i386"),
        f"target modules add {program.elf}", f"target modules load --file {program.elf.name} --slide 0",
        "breakpoint set -n leaf", "continue", "bt", "frame variable", "thread step-in", "thread step-over",
        "expression counter + 40", "finish",
    )  # fmt: skip
    for words in ("leaf(a=0, b=2) at main.c:4", "main at main.c", "(int) b = 2", "at main.c:5", "= 42", "step out"):
        assert words in said, said
    assert "Return value: (int)" in said and "= 2\n" in said
