"""gdb driven by its machine interface as front ends do it: the commands that VS Code's C/C++ extension (cppdbg) sends for
the launch.json in README, in their order, and those of the Native Debug extension.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.gdb.programs import Program, c_program
from tests.gdb.vm import Start, Vm
from tests.gdbstub.real_gdb import Gdb
from tests.needs import needs

pytestmark = needs("gdb", "gcc")
README = Path(__file__).resolve().parents[2] / "README.md"


def configurations() -> dict[str, dict[str, Any]]:
    """README's launch.json by the debugger's type."""
    blocks = re.findall(r"^    \{\n(?:     .*\n)+    \}$", README.read_text(encoding="utf-8"), re.MULTILINE)
    found = [json.loads(block) for block in blocks]
    return {one["type"]: one for one in found if "type" in one}


def script(folder: Path) -> Path:
    """What `jitvm gdb-init` prints, in a file."""
    made = folder / "jitvm-gdb.py"
    made.write_bytes(
        subprocess.run([sys.executable, "-m", "jitvm", "gdb-init"], check=True, capture_output=True, timeout=60).stdout
    )
    return made


def go(gdb: Gdb, command: str) -> dict[str, Any]:
    """An -exec command and the stop behind it."""
    start = len(gdb.records)
    gdb.mi(command)
    return gdb.wait_stop(start)


def drive(gdb: Gdb, program: Program, vm: Vm, setup: list[str], *, stands: bool) -> None:
    """From the connection to Ctrl-C and detach."""
    for command in setup:
        gdb.mi(f'-interpreter-exec console "{command}"')
    for command in (
        *("-gdb-set target-async on", "-gdb-set breakpoint pending on", "-enable-pretty-printing"),
        *(f"-environment-cd {program.elf.parent}", f"-file-exec-and-symbols {program.elf}"),
    ):
        gdb.mi(command)
    start = len(gdb.records)
    gdb.mi(f"-target-select remote {vm.address}")
    if stands:
        assert gdb.wait_stop(start)["frame"]["addr"].endswith("fff0")
    gdb.mi("-break-insert -f leaf")
    hit = go(gdb, "-exec-continue")
    assert hit["reason"] == "breakpoint-hit" and hit["frame"]["func"] == "leaf"
    assert [t["state"] for t in gdb.mi("-thread-info")["threads"]] == ["stopped"]
    frames = [f["func"] for f in gdb.mi("-stack-list-frames 0 10")["stack"]]
    assert frames[:3] == ["leaf", "middle", "main"]
    assert {v["name"] for v in gdb.mi("-stack-list-variables 1")["variables"]} == {"a", "b", "sum"}
    assert go(gdb, "-exec-next")["frame"]["func"] == "leaf"
    assert go(gdb, "-exec-finish")["reason"] == "function-finished"
    names, values = (gdb.mi(f"-data-list-register-{what}") for what in ("names", "values x 0 1 2 3 8"))
    assert "eip" in names["register-names"] and len(values["register-values"]) == 5
    assert gdb.mi('-var-create - * "table"')["numchild"] == "16"
    assert len(gdb.mi("-data-read-memory-bytes 0x2000 16")["memory"][0]["contents"]) == 32
    assert gdb.mi('-data-disassemble -s $pc -e "$pc+12" -- 2')["asm_insns"]
    assert gdb.mi('-data-evaluate-expression "counter"')["value"] == "2"
    gdb.mi("-break-delete")
    start = len(gdb.records)
    gdb.mi("-exec-continue --all")
    gdb.mi("-exec-interrupt")
    assert gdb.wait_stop(start)["signal-name"] == "SIGINT"
    gdb.mi("-target-detach")


def test_the_c_and_cpp_extension(boot: Start, tmp_path: Path) -> None:
    wanted = configurations()["cppdbg"]
    assert wanted["miDebuggerServerAddress"] == "localhost:1234" and wanted["stopAtConnect"]
    setup = [one["text"].replace("jitvm-gdb.py", str(script(tmp_path))) for one in wanted["setupCommands"]]
    program = c_program(tmp_path)
    vm = boot(program.image, "-S", "--gdb-arch", "i386")
    drive(vm.gdb(connect=False), program, vm, setup, stands=True)


@pytest.mark.parametrize("stands", [True, False])
def test_the_native_debug_extension(boot: Start, tmp_path: Path, stands: bool) -> None:
    wanted = configurations()["gdb"]
    assert wanted["request"] == "attach" and wanted["remote"] and wanted["target"] == "localhost:1234"
    setup = [one.replace("jitvm-gdb.py", str(script(tmp_path))) for one in wanted["autorun"]]
    program = c_program(tmp_path)
    vm = boot(program.image, *(["-S"] if stands else []), "--gdb-arch", "i386")
    gdb = vm.gdb(connect=False)
    if stands:
        drive(gdb, program, vm, setup, stands=True)
    else:
        gdb.mi(f"-file-exec-and-symbols {program.elf}")
        gdb.mi(f"-target-select remote {vm.address}")
        assert gdb.mi("-thread-info")["threads"][0]["frame"]["level"] == "0"
