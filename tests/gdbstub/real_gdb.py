"""A real gdb, driven over its machine interface; every wait has an end."""

from __future__ import annotations

import os
import select
import subprocess
import time
from pathlib import Path
from typing import Any

from pygdbmi import gdbmiparser

TIMEOUT = 60.0
"""As a machine may have to compile first what no run before it has used."""


class GdbError(Exception):
    """What gdb answered to a command that failed."""


class Gdb:
    """One gdb process. `cli` runs a command as a user would type it, `wait_stop` waits for the guest to stop."""

    def __init__(self) -> None:
        environment = {**os.environ, "DEBUGINFOD_URLS": "", "LC_ALL": "C"}
        self.process = subprocess.Popen(
            ["gdb", "-q", "-nx", "--interpreter=mi3"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
        )
        self._rest = b""
        self.records: list[dict[str, Any]] = []
        self._token = 0
        for command in ("set confirm off", "set width 0", "set height 0", "set tcp connect-timeout 5"):
            self.cli(command)
        self.mi("-gdb-set mi-async on")

    def _read(self) -> None:
        """At least one more record."""
        assert self.process.stdout is not None
        end = time.monotonic() + TIMEOUT
        while b"\n" not in self._rest:
            left = end - time.monotonic()
            if left <= 0 or not select.select([self.process.stdout], [], [], left)[0]:
                raise TimeoutError(f"gdb is silent; last: {self.records[-3:]}")
            data = os.read(self.process.stdout.fileno(), 1 << 16)
            if not data:
                raise GdbError("gdb has ended")
            self._rest += data
        *lines, self._rest = self._rest.split(b"\n")
        for line in lines:
            self.records.append(gdbmiparser.parse_response(line.decode("utf-8", "replace")))

    def mi(self, command: str) -> dict[str, Any]:
        """A machine-interface command's result; the records before it stay in `records`."""
        assert self.process.stdin is not None
        self._token += 1
        start = len(self.records)
        self.process.stdin.write(f"{self._token}{command}\n".encode())
        self.process.stdin.flush()
        while True:
            for record in self.records[start:]:
                if record["type"] == "result" and record["token"] == self._token:
                    if record["message"] == "error":
                        raise GdbError(record["payload"]["msg"])
                    return dict(record["payload"] or {})
            self._read()

    def cli(self, command: str) -> str:
        """A user's command; what it printed."""
        start = len(self.records)
        quoted = command.replace("\\", "\\\\").replace('"', '\\"')
        self.mi(f'-interpreter-exec console "{quoted}"')
        texts = [r["payload"] for r in self.records[start:] if r["type"] in ("console", "target", "log", "output")]
        return "".join(text for text in texts if text).replace("\\n", "\n").replace("\\t", "\t")

    def stop_of(self, command: str) -> dict[str, Any]:
        """A command that lets the guest run, and how it stopped."""
        start = len(self.records)
        self.cli(command)
        return self.wait_stop(start)

    def wait_stop(self, start: int) -> dict[str, Any]:
        """The first stop after a place in `records`."""
        while True:
            for record in self.records[start:]:
                if record["type"] == "notify" and record["message"] == "stopped":
                    return dict(record["payload"])
            self._read()

    def value(self, expression: str) -> int:
        """An expression's value."""
        return int(self.mi(f'-data-evaluate-expression "(unsigned long)({expression})"')["value"].split()[0], 0)

    def pc(self) -> int:
        """The program counter."""
        return self.value("$pc")

    def connect(self, address: str, kind: str = "remote") -> None:
        """`target remote`; waits until gdb knows where the guest stands."""
        start = len(self.records)
        self.cli(f"target {kind} {address}")
        self.wait_stop(start)

    def memory(self, address: int, size: int) -> bytes:
        """Guest memory."""
        return bytes.fromhex(self.mi(f"-data-read-memory-bytes {address} {size}")["memory"][0]["contents"])

    def kill(self) -> None:
        """End it as kill -9 does."""
        self.process.kill()
        self.process.wait(TIMEOUT)

    def close(self) -> None:
        """End it in whatever state it is."""
        if self.process.poll() is None:
            try:
                assert self.process.stdin is not None
                self.process.stdin.write(b"-gdb-exit\n")
                self.process.stdin.flush()
                self.process.wait(5)
            except (OSError, subprocess.TimeoutExpired):
                self.kill()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()


def assemble(folder: Path, text: str, address: int) -> tuple[Path, bytes]:
    """An ELF with symbols and lines, and its code."""
    source, elf, code = folder / "guest.s", folder / "guest.elf", folder / "guest.bin"
    source.write_text(text)
    subprocess.run(["as", "-g", "-o", folder / "guest.o", source], check=True, timeout=30)
    subprocess.run(["ld", f"-Ttext={address:#x}", "-e", "start", "-o", elf, folder / "guest.o"], check=True, timeout=30)
    subprocess.run(["objcopy", "-O", "binary", "-j", ".text", elf, code], check=True, timeout=30)
    return elf, code.read_bytes()
