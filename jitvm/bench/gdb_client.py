"""An emulator that waits for a debugger, and the two who debug it here: bare packets, and gdb.

Source: gdb's manual, "Remote Serial Protocol" and "GDB/MI".
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from gdbstub.framing import Decoder, Packet, frame
from jitvm.bench.errors import RunError

PATIENCE = 60.0
"""Seconds after which a silent emulator or gdb is given up."""


class Debuggee(Protocol):
    """An emulator that can be debugged."""

    name: str

    def missing(self) -> str | None:
        """Why it can't run here, or None."""

    def command(self, image: Path, port: int) -> list[str]:
        """Run `image`, held at the reset vector for gdb at `port`; port 0: not debugged."""


class Jitvm:
    """jitvm with gdb's i386 registers, as QEMU's i386 has them."""

    name = "jitvm"

    def missing(self) -> str | None:
        return None

    def command(self, image: Path, port: int) -> list[str]:
        gdb = ["-S", "--gdb", f"127.0.0.1:{port}", "--gdb-arch", "i386"] if port else []
        return [
            sys.executable, "-m", "jitvm", "boot", str(image), "--display", "none",
            "--serial", "null", "--debugcon", "stdio", "--device", "isa-debug-exit,iobase=0xf4",
            *gdb,
        ]  # fmt: skip


class Qemu:
    """qemu-system-i386 with its translator."""

    name = "qemu"
    program = "qemu-system-i386"

    def missing(self) -> str | None:
        return None if shutil.which(self.program) else "not installed"

    def command(self, image: Path, port: int) -> list[str]:
        gdb = ["-S", "-gdb", f"tcp:127.0.0.1:{port}"] if port else []
        return [
            self.program, "-accel", "tcg", "-M", "pc", "-m", "128M", "-nic", "none",
            "-bios", str(image), "-display", "none", "-debugcon", "stdio",
            "-device", "isa-debug-exit,iobase=0xf4", *gdb,
        ]  # fmt: skip


def free_port() -> int:
    """A port of loopback that nobody uses at this moment."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@contextlib.contextmanager
def started(who: Debuggee, image: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """The emulator, which is ended with the block; what it complains of is not shown."""
    process = subprocess.Popen(
        who.command(image, port),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(3)
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


class Packets:
    """A debugger of bare packets, without acknowledgments."""

    def __init__(self, port: int) -> None:
        self._socket = _connected(port)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._decoder = Decoder(1 << 20, replies=True)
        self.ask(b"qSupported:swbreak+;hwbreak+;xmlRegisters=i386")
        self.ask(b"QStartNoAckMode")
        self.ask(b"?")

    def send(self, payload: bytes) -> None:
        """A packet; its answer is not waited for."""
        self._socket.sendall(frame(payload))

    def break_in(self) -> None:
        """Ctrl-C."""
        self._socket.sendall(b"\x03")

    def read(self) -> bytes:
        """The next packet that comes."""
        while True:
            for event in self._decoder.events():
                if isinstance(event, Packet):
                    return event.payload
            self._socket.settimeout(PATIENCE)
            try:
                data = self._socket.recv(1 << 18)
            except TimeoutError:
                raise RunError(f"no answer within {PATIENCE:g} s") from None
            if not data:
                raise RunError("the connection was closed")
            self._decoder.feed(data)

    def ask(self, payload: bytes) -> bytes:
        """A packet and its answer."""
        self.send(payload)
        return self.read()

    def stop_of(self, payload: bytes) -> bytes:
        """A packet that lets the guest run, and why it stopped; what the guest's end says is skipped."""
        self.send(payload)
        while True:
            reply = self.read()
            if reply[:1] in b"TSWX":
                return reply
            if not reply.startswith(b"O"):
                raise RunError(f"{payload!r} was answered by {reply[:60]!r}")

    def close(self) -> None:
        """Hang up."""
        self._socket.close()


def _connected(port: int) -> socket.socket:
    """A connection to an emulator that is starting."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=5)
        except OSError as error:
            if time.monotonic() > end:
                raise RunError(f"nobody listens at port {port}: {error.strerror}") from error
            time.sleep(0.02)


class Gdb:
    """gdb itself, by its machine interface."""

    def __init__(self, port: int, before: Sequence[str] = ()) -> None:
        self._process = subprocess.Popen(
            ["gdb", "-q", "-nx", "--interpreter=mi3"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "DEBUGINFOD_URLS": "", "LC_ALL": "C"},
        )
        self._rest = b""
        for line in ("set confirm off", "set width 0", "set architecture i386", *before):
            self.do(line)
        self.do(f"target remote 127.0.0.1:{port}")

    @staticmethod
    def missing() -> str | None:
        """Why there is none, or None."""
        return None if shutil.which("gdb") else "not installed"

    def _line(self) -> bytes:
        assert self._process.stdout is not None
        while b"\n" not in self._rest:
            if not select.select([self._process.stdout], [], [], PATIENCE)[0]:
                raise RunError(f"gdb is silent for {PATIENCE:g} s")
            data = os.read(self._process.stdout.fileno(), 1 << 16)
            if not data:
                raise RunError("gdb has ended")
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        return line

    def do(self, command: str, *, until: bytes = b"7^") -> float:
        """A command; the seconds until its result, or until a line that begins with `until`."""
        assert self._process.stdin is not None
        began = time.perf_counter()
        self._process.stdin.write(f'7-interpreter-exec console "{command}"\n'.encode())
        self._process.stdin.flush()
        while True:
            line = self._line()
            if line.startswith(b"7^error"):
                raise RunError(f"gdb: {command}: {line[:120].decode('ascii', 'replace')}")
            if line.startswith(until):
                return time.perf_counter() - began

    def stop_of(self, command: str) -> float:
        """A command that lets the guest run; the seconds until it has stopped."""
        return self.do(command, until=b"*stopped")

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()
