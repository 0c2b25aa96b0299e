"""This host's own processor as an oracle.

A small C program (`native/harness.c`) runs each case on the real CPU: 32- and
16-bit code through segments of the local descriptor table, 64-bit code
directly.  It is built with gcc on first use into a cache folder and runs as a
child process for each batch, so that no guest code can hurt the tests.

Guest code runs at privilege level 3 with interrupts enabled, single-stepped.
What that alone causes is taken out of the results here: TF and RF in the
flags, TF in a flag image that PUSHF stored; and upper halves of registers
behind 16- and 32-bit code, which are undefined there (SDM volume 1, 3.4.1.1):
AMD's IRET to a 16-bit stack leaves those of the kernel's RSP.

Not modelled: system calls (they end the child), other privilege levels.
"""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import iced_x86

from tests import needs
from tests.oracle.case import (
    BACKGROUND,
    COMPARED_FLAGS,
    DB,
    FX_SIZE,
    PAGE,
    Case,
    Fault,
    Layout,
    Result,
)

SOURCE = Path(__file__).with_name("native") / "harness.c"
FLAGS = (
    "-O2 -Wall -Wextra -Werror -static -nostdlib -ffreestanding -fno-stack-protector -fno-pie -no-pie -mno-red-zone"
).split()
SECONDS_PER_BATCH = 120

# enum layout of harness.c
_LAYOUTS = {
    (32, Layout.FLAT): 0,
    (16, Layout.WINDOW): 1,
    (32, Layout.WINDOW): 2,
    (16, Layout.SPLIT): 3,
    (32, Layout.SPLIT): 4,
    (64, Layout.FLAT): 5,
}
_CASE = struct.Struct("<II16QQQQQIIII")  # struct case_header
_POKE = struct.Struct("<II")  # struct poke
_RESULT = struct.Struct("<16QQQQIIIIII")  # struct result_header
_CHANGE = struct.Struct("<HBx")
_TRAP_TRACE = 2  # si_code of a completed single step
_PUSHF = {iced_x86.Mnemonic.PUSHF, iced_x86.Mnemonic.PUSHFD, iced_x86.Mnemonic.PUSHFQ}
_ZEROES = (0,) * 8


class NativeError(RuntimeError):
    """The harness could not be built, started, or died under a case."""


@functools.cache
def build() -> Path:
    """The harness program, built if this source and compiler have not been yet.

    Raises NativeError without a compiler or when the build fails.
    """
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        raise NativeError("no gcc in PATH: install gcc to run instructions on this CPU")
    version = subprocess.run([compiler, "--version"], capture_output=True, check=True).stdout
    key = hashlib.sha256(SOURCE.read_bytes() + " ".join(FLAGS).encode() + version).hexdigest()
    folder = Path(tempfile.gettempdir()) / f"jitvm-oracle-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise NativeError(f"{folder} belongs to another user: remove it")
    program = folder / f"harness-{key[:16]}"
    if not program.exists():
        fresh = folder / f"harness-{key[:16]}.{os.getpid()}"
        built = subprocess.run(
            [compiler, *FLAGS, "-o", str(fresh), str(SOURCE)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        if built.returncode:
            raise NativeError(f"{compiler} cannot build {SOURCE.name}:\n{built.stderr}")
        fresh.replace(program)
    return program


def host_limit() -> str | None:
    """None if the harness is made for such a host, else what is in the way."""
    if platform.system() == "Linux" and platform.machine() == "x86_64":
        return None
    return f"the host is {platform.system()} on {platform.machine()}, not Linux on x86_64"


@functools.cache
def available(mode: int = 32, layout: Layout = Layout.FLAT) -> str | None:
    """None if such cases can run on this host's CPU, else the reason why not."""
    limit = host_limit()
    if limit is not None:
        return limit
    probe = Case(mode, b"\x90", (0,) * 8, layout=layout)
    try:
        child = _execute(build(), [probe])
    except (NativeError, OSError, subprocess.SubprocessError) as error:
        return str(error)
    if child.returncode:
        return f"harness status {child.returncode}: {child.stderr.decode(errors='replace').strip()}"
    return None


def need(mode: int = 32, layout: Layout = Layout.FLAT) -> None:
    """Go on only where such cases can run: a CPU or kernel that can't is a skip, a compiler can be had.

    Raises NativeError when there is a compiler and the harness can't be built.
    """
    if host_limit() is None:
        needs.need("gcc")
        build()
    reason = available(mode, layout)
    if reason is not None:
        needs.host_cannot(f"native: {reason}")


def _execute(program: Path, cases: Sequence[Case]) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [str(program)],
        input=b"".join([BACKGROUND, *map(_encode, cases)]),
        capture_output=True,
        timeout=SECONDS_PER_BATCH,
        check=False,
    )


class NativeCpu:
    """Runs cases on this host's CPU, one child process for each batch."""

    def __init__(self) -> None:
        reason = available()
        if reason is not None:
            raise NativeError(reason)
        self._program = build()

    def run(self, cases: Sequence[Case]) -> list[Result]:
        """The results of `cases`, in their order.

        Raises NativeError, naming the case, when the child dies under one.
        """
        child = _execute(self._program, cases)
        if child.returncode:
            raise NativeError(self._blame(cases, child.returncode))
        results: list[Result] = []
        position = 0
        for case in cases:
            result, position = _decode(case, child.stdout, position)
            results.append(result)
        return results

    def _blame(self, cases: Sequence[Case], status: int) -> str:
        """Halve the batch until one case is left that ends the child."""
        while len(cases) > 1:
            half = cases[: len(cases) // 2]
            child = _execute(self._program, half)
            cases = half if child.returncode else cases[len(cases) // 2 :]
        return f"the harness ended with status {status} under {cases}"


def inside(cases: Sequence[Case]) -> list[tuple[Case, Result]]:
    """Cases with their results, but for those that reach out of the window: a page fault here, open bus on our CPU."""
    results = NativeCpu().run(cases)
    return [(c, r) for c, r in zip(cases, results, strict=True) if r.fault is None or r.fault.vector != PAGE]


def _encode(case: Case) -> bytes:
    pokes = case.pokes()
    parts = [
        _CASE.pack(
            _LAYOUTS[case.mode, case.layout],
            case.count,
            *(case.regs if len(case.regs) == 16 else case.regs + _ZEROES),
            case.address,
            case.flags & COMPARED_FLAGS,
            case.fs_base,
            case.gs_base,
            len(pokes),
            len(case.code),
            case.fx is not None,
            0,
        ),
        case.fx or b"",
    ]
    for offset, data in pokes:
        parts.append(_POKE.pack(offset, len(data)))
        parts.append(data)
    return b"".join(parts)


def _decode(case: Case, output: bytes, position: int) -> tuple[Result, int]:
    fields = _RESULT.unpack_from(output, position)
    position += _RESULT.size
    fx = None
    if case.fx is not None:
        fx = output[position : position + FX_SIZE]
        position += FX_SIZE
    ip, flags, address, _signal, code, vector, error, steps, n_changes = fields[16:]
    end = position + n_changes * _CHANGE.size
    memory = dict(_CHANGE.iter_unpack(output[position:end]))
    fault = None
    if not (vector == DB and code == _TRAP_TRACE):
        is_page_fault = vector == PAGE
        fault = Fault(vector, error, address if is_page_fault else 0)
    width = (1 << 64) - 1 if case.mode == 64 else (1 << 32) - 1
    result = Result(
        regs=tuple(value & width for value in fields[: len(case.regs)]),
        flags=flags & COMPARED_FLAGS,
        ip_delta=(ip - case.address) & 0xFFFF_FFFF_FFFF_FFFF,
        memory=memory,
        fault=fault,
        steps=steps,
        fx=fx,
    )
    if memory and fault is None and _is_pushf(case):
        _clear_stepping_flag(case, result.regs[4], memory)
    return result, end


def _is_pushf(case: Case) -> bool:
    if 0x9C not in case.code:
        return False
    return case.instruction().mnemonic in _PUSHF


def _clear_stepping_flag(case: Case, sp: int, memory: dict[int, int]) -> None:
    """Take out the TF that PUSHF stored because the harness was stepping."""
    offset = case.offset("ss", sp + 1)
    before = case.image()[offset]
    value = memory.get(offset, before) & ~1
    memory.pop(offset, None)
    if value != before:
        memory[offset] = value
