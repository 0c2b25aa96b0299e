"""This host's own debug registers as an oracle: code runs in a traced child, which stops at each #DB.

    python -m tests.oracle.debug_registers < cases.json > results.json

A case is code (hex), which ends in INT3, `dr`: up to four [offset, R/W, bytes] in the window, and registers as offsets in
it.  A result is the list of stops: offset of the return address, B0-B3, and RF of the image (which Linux sets itself
behind an instruction breakpoint).  Code of one encoding and meaning in 32- and 64-bit mode runs at addresses below 2 GiB.

Source: ptrace(2); Linux, arch/x86/include/asm/user_64.h (struct user), kernel/hw_breakpoint.c (addresses are aligned).
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import platform
import signal
import subprocess
import sys
from typing import Any

WINDOW, DATA = 0x10000, 0x8000
"""Bytes of the window, and where data lie in it; code is at 0."""
MOST_STOPS = 64
RF = 1 << 16
LENGTHS = {1: 0, 2: 1, 4: 3}
MAP_32BIT = 0x40
TRACEME, PEEKUSER, POKEUSER, CONT, GETREGS, SETREGS = 0, 3, 6, 7, 12, 13
DEBUG_REGISTERS, N_REGISTERS = 848, 27
REGISTERS = (
    "r15 r14 r13 r12 rbp rbx r11 r10 r9 r8 rax rcx rdx rsi rdi orig_rax rip cs eflags rsp ss fs_base gs_base ds es fs gs"
).split()


def dr7(points: list[list[int]]) -> int:
    """DR7 that enables these (offset, R/W, bytes) locally."""
    return sum(1 << 2 * n | (kind | LENGTHS[size] << 2) << 16 + 4 * n for n, (_, kind, size) in enumerate(points))


class Tracer:
    """Runs cases one by one, each in a fresh child."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._libc.ptrace.restype, self._libc.ptrace.argtypes = ctypes.c_long, [ctypes.c_long] * 4
        flags = mmap.MAP_SHARED | mmap.MAP_ANONYMOUS | MAP_32BIT
        self._window = mmap.mmap(-1, WINDOW, flags=flags, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        self._base = ctypes.addressof(ctypes.c_char.from_buffer(self._window))

    def _ptrace(self, request: int, pid: int, address: int = 0, data: int = 0) -> int:
        ctypes.set_errno(0)
        result = int(self._libc.ptrace(request, pid, address, data))
        if result == -1 and ctypes.get_errno():
            raise OSError(ctypes.get_errno(), f"ptrace {request}")
        return result

    def run(self, case: dict[str, Any]) -> list[list[int]]:
        """The stops of a case."""
        self._window[:WINDOW] = bytes(WINDOW)
        code = bytes.fromhex(case["code"])
        self._window[: len(code)] = code
        pid = os.fork()
        if pid == 0:
            self._libc.ptrace(TRACEME, 0, 0, 0)
            os.kill(os.getpid(), signal.SIGSTOP)
            os._exit(0)
        os.waitpid(pid, 0)
        try:
            return self._stops(pid, case)
        finally:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)

    def _stops(self, pid: int, case: dict[str, Any]) -> list[list[int]]:
        registers = (ctypes.c_ulonglong * N_REGISTERS)()
        self._ptrace(GETREGS, pid, 0, ctypes.addressof(registers))
        values = {name: self._base + offset for name, offset in case["pointers"].items()} | case["values"]
        values |= {"rip": self._base, "orig_rax": (1 << 64) - 1}
        for name, value in values.items():
            registers[REGISTERS.index(name)] = value
        self._ptrace(SETREGS, pid, 0, ctypes.addressof(registers))
        for n, (offset, _, _) in enumerate(case["dr"]):
            self._ptrace(POKEUSER, pid, DEBUG_REGISTERS + 8 * n, self._base + offset)
        self._ptrace(POKEUSER, pid, DEBUG_REGISTERS + 8 * 7, dr7(case["dr"]))
        stops: list[list[int]] = []
        while len(stops) < MOST_STOPS:
            self._ptrace(CONT, pid)
            _, status = os.waitpid(pid, 0)
            if not os.WIFSTOPPED(status) or os.WSTOPSIG(status) != signal.SIGTRAP:
                raise RuntimeError(f"the child ended with status {status:#x} under {case}")
            self._ptrace(GETREGS, pid, 0, ctypes.addressof(registers))
            bits = self._ptrace(PEEKUSER, pid, DEBUG_REGISTERS + 8 * 6) & 0xF
            if not bits:
                return stops
            rf = registers[REGISTERS.index("eflags")] & RF
            stops.append([registers[REGISTERS.index("rip")] - self._base, bits, rf])
            self._ptrace(POKEUSER, pid, DEBUG_REGISTERS + 8 * 6, 0)
        return stops


def run(cases: list[dict[str, Any]]) -> list[list[list[int]]]:
    """The results of cases, from a process beside."""
    command = [sys.executable, "-m", __name__]
    done = subprocess.run(command, input=json.dumps(cases), capture_output=True, text=True, timeout=120, check=False)
    if done.returncode:
        raise OSError(done.stderr)
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def unavailable() -> str | None:
    """Why this host can't be asked, None when it can."""
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        return f"the host is {platform.system()} on {platform.machine()}, not Linux on x86_64"
    probe = {"code": "890390cc", "dr": [[DATA, 1, 4]], "pointers": {"rbx": DATA}, "values": {}}
    try:
        found = run([probe])
    except (OSError, subprocess.SubprocessError) as error:
        return f"a child can't be traced: {str(error).strip().splitlines()[-1:]}"
    return None if found == [[[2, 1, 0]]] else f"its debug registers do not work: {found}"


if __name__ == "__main__":
    tracer = Tracer()
    json.dump([tracer.run(case) for case in json.load(sys.stdin)], sys.stdout)
