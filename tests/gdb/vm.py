"""`jitvm boot` as a process, and gdbs on it: what tests with a real debugger share."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path

from tests.gdbstub.real_gdb import Gdb
from tests.warm import WarmProcess

RESET, START = 0xFFFF_FFF0, 0xF0000
PATIENCE_S = 60.0
COUNTER = "40 ebfd"
"""inc ax; jmp back"""


class Vm:
    """`jitvm boot` as a process (`tests/warm.py`), and gdbs on it."""

    def __init__(self, folder: Path, bios: Path, *options: str) -> None:
        self.log = folder / "vm.log"
        command = ["boot", str(bios), "--serial", "null", "--gdb", ":0", "--timeout", "90"]
        command += ["--device", "isa-debug-exit,iobase=0xf4", *options]
        self.process = WarmProcess(command, self.log)
        self.gdbs: list[Gdb] = []
        self.address = self._address()

    def _address(self) -> str:
        """Where the server says that it is."""
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end and self.process.poll() is None:
            found = re.search(r"gdb: target remote (\S+)\n", self.log.read_text())
            if found:
                return found[1]
            time.sleep(0.02)
        raise AssertionError(f"no server: {self.log.read_text()}")

    def gdb(self, *before: str, kind: str = "remote", connect: bool = True) -> Gdb:
        """A gdb that has done these commands and is connected."""
        gdb = Gdb()
        self.gdbs.append(gdb)
        for command in before:
            gdb.cli(command)
        if connect:
            gdb.connect(self.address, kind)
        return gdb

    def status(self) -> int:
        """The exit status, of a machine that ends by itself."""
        return self.process.wait(PATIENCE_S)

    def close(self) -> None:
        """End everything."""
        for gdb in self.gdbs:
            gdb.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(PATIENCE_S)


Start = Callable[..., Vm]
"""The fixture `boot`: an image and options to a process."""


def interrupt(gdb: Gdb, start: int) -> float:
    """Ctrl-C; how long it took."""
    began = time.monotonic()
    gdb.mi("-exec-interrupt")
    assert gdb.wait_stop(start)["signal-name"] == "SIGINT"
    return time.monotonic() - began


def let_run(gdb: Gdb) -> int:
    """Continue; where the records were before."""
    start = len(gdb.records)
    gdb.cli("continue &")
    return start
