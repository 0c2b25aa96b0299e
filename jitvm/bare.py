"""The bare form: RAM and a CPU, no board.  What instruction tests use, ours and others'.

    m = Bare(engine="handlers", memory=1 << 20)
    m.set_mode("prot32")
    m.write(0x1000, bytes.fromhex("01d8"))            # add eax, ebx
    m.set_registers({"eip": 0x1000, "eax": 1, "ebx": 2})
    stop = m.run(1)                                    # Stop(reason="limit", retired=1, fault=None)
    m.registers()["eax"]                               # 3

Faults, and software interrupts, are not delivered but stop the run and are returned.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from jitvm.engine import layout as lay
from jitvm.engine.accel import Accelerator, Options, VcpuEngine
from jitvm.engine.plain import PlainEngine
from jitvm.errors import ConfigError
from jitvm.exits import ExitReason
from jitvm.isa.mode import update_mode
from jitvm.isa.reset import reset_cpu
from jitvm.isa.state import CR0_PE, CR0_PG, CR4_PAE, EFER_LMA, EFER_LME
from jitvm.isa.words import u64
from jitvm.memory import PAGE, GuestMemory
from jitvm.registers import CONTROL_NAMES, SEGMENT_NAMES, read_registers, write_registers

ENGINES: dict[str, Options | None] = {
    "plain": None,
    "handlers": Options(stencils=False, groups=False),
    "groups": Options(stencils=False, group_hot=1),
    "stencils": Options(regions=False, hot=1, drops=4, pins=False),
    "pinned": Options(regions=False, hot=1, drops=4, pin_hot=1),
    "regions": Options(hot=1, region_hot=2, drops=4, sync=True),
}
"""Engines by name: plain Python; handlers alone; in groups, and machine code, for every block at its first execution."""
MOST = 1 << 62
"""More instructions than anybody waits for; the engine counts in 64 bits."""
DATA_ATTR, CODE_ATTR, BIG, LONG_CODE_ATTR = 0x93, 0x9B, 0xC000, 0xA09B
HIGH = 0xFFFF_8000_0000_0000
"""The second linear address of RAM in mode `long`: the lowest of the upper half."""

PRESENT, LARGE = 0x7, 0x80
"""Bits of a paging-structure entry: present, writable, for all privilege levels; a page of 2 MiB."""

_accelerator: Accelerator | None = None


def _tables(at: int) -> bytes:
    """Three pages of page tables, to lie at physical address `at`: 1 GiB at 0 and at `HIGH` (SDM vol. 3, 4.5)."""
    words = np.zeros((3, 512), np.uint64)
    words[0, [0, 256]] = at + PAGE | PRESENT
    words[1, 0] = at + 2 * PAGE | PRESENT
    words[2] = np.arange(512) << 21 | LARGE | PRESENT
    return words.tobytes()


def accelerator() -> Accelerator:
    """The process's accelerator, made on first use."""
    global _accelerator
    if _accelerator is None:
        _accelerator = Accelerator()
    return _accelerator


@dataclass(frozen=True)
class Fault:
    """An exception that stopped a run: vector, error code (None: it has none), CR2 for page faults."""

    vector: int
    error: int | None
    address: int | None


@dataclass(frozen=True)
class Stop:
    """Why a run ended.  `reason`: limit, fault, hlt, io, mmio, shutdown, internal-error; `retired`: instructions done."""

    reason: str
    retired: int
    fault: Fault | None = None


class Bare:
    """RAM and one CPU on a chosen engine.

    `engine`: a name of `ENGINES`.  `memory`: bytes of RAM at physical 0, a multiple of 4096.  `options`: what the engine
    may do, in place of the name's own.

    Raises:
        ConfigError: an unknown engine; a size that is no RAM, or more than the host has.
    """

    def __init__(self, engine: str = "handlers", memory: int = 1 << 20, options: Options | None = None) -> None:
        if engine not in ENGINES:
            raise ConfigError(f"engine '{engine}' is unknown; there are {', '.join(ENGINES)}")
        self.memory = GuestMemory(memory)
        self.memory.map(0, memory, 0)
        self.vcpu = VcpuEngine(accelerator(), self.memory, options or ENGINES[engine])
        self.c: Any = self.vcpu.c
        self.c.deliver = 0
        self._plain = PlainEngine(self.c, self.vcpu.accel.forms) if engine == "plain" else None

    # ---- state --------------------------------------------------------------------------------------------------------
    def set_mode(self, mode: str, *, base: int = 0, limit: int | None = None) -> None:
        """Reset the CPU and set `real`, `prot16` or `prot32` with all segments at `base` with `limit` (bytes, inclusive).

        Without `limit` it is FFFFh, in prot32 FFFFFFFFh.  Privilege level 0, no paging, eip 0, RAM as it was.

        `long` is 64-bit mode with flat segments (a `base` is ignored, but of FS and GS).  It needs page tables: they are
        put into the last 3 pages of RAM, which they map, by pages of 2 MiB (up to 1 GiB), at linear addresses 0 and
        `HIGH` for all privilege levels.

        Raises:
            ConfigError: an unknown mode; a base or a limit that has more than 32 bits; RAM too small for page tables.
        """
        modes = {"real": (0, 0xFFFF, 0), "prot16": (1, 0xFFFF, 0), "prot32": (1, 0xFFFF_FFFF, BIG)}
        modes["long"] = (1, 0xFFFF_FFFF, BIG)
        if mode not in modes:
            raise ConfigError(f"mode '{mode}' is unknown; there are {', '.join(modes)}")
        for name, value in (("base", base), ("limit", limit or 0)):
            if not 0 <= value < 1 << 32:
                raise ConfigError(f"{name} {value:#x} is not from 0 to 0xffffffff")
        if mode == "long" and self.memory.size < 4 * PAGE:
            raise ConfigError(f"mode 'long' needs {4 * PAGE} bytes of RAM: 3 pages hold its page tables")
        protected, default_limit, big = modes[mode]
        with np.errstate(over="ignore"):
            c = self.c
            reset_cpu(c)
            c.gpr[:] = 0
            if protected:
                c.cr0 = u64(c.cr0) | CR0_PE
            for k, name in enumerate(SEGMENT_NAMES):
                c.sel[k] = 0 if not protected else 0x08 if name == "cs" else 0x10
                c.base[k], c.limit[k] = base, default_limit if limit is None else limit
                c.attr[k] = (CODE_ATTR if name == "cs" and protected else DATA_ATTR) | big
            if mode == "long":
                self._enter_long()
            c.rip = 0
            update_mode(c)
        self.vcpu.accel.flush(self.vcpu.address)

    def _enter_long(self) -> None:
        """Page tables, and the bits that 64-bit mode is made of (SDM vol. 3, 10.8.5)."""
        c, at = self.c, self.memory.size - 3 * PAGE
        self.memory.write(at, _tables(at))
        c.cr3 = at
        c.cr4 = CR4_PAE
        c.efer = EFER_LME | EFER_LMA
        c.cr0 = u64(c.cr0) | CR0_PG
        c.attr[1] = LONG_CODE_ATTR

    def registers(self) -> dict[str, int]:
        """Registers by their names in jitvm/registers.py, as unsigned numbers."""
        return read_registers(self.c)

    def set_registers(self, values: Mapping[str, int]) -> None:
        """Write registers by name (those of `registers`, but no selectors); a control register takes effect at once.

        Raises:
            ConfigError: a name that can't be written, a value that does not fit; nothing has been written.
        """
        write_registers(self.c, values)
        with np.errstate(over="ignore"):
            update_mode(self.c)
        if not values.keys().isdisjoint(CONTROL_NAMES):
            self.vcpu.accel.flush(self.vcpu.address)

    def write(self, gpa: int, data: bytes) -> None:
        """Store bytes at a physical address; translated code there is dropped.  What lies outside of RAM is left out."""
        self.memory.write(gpa, data)

    def read(self, gpa: int, n: int) -> bytes:
        """`n` bytes at a physical address; outside of RAM they are FFh."""
        return self.memory.read(gpa, n)

    @property
    def ram(self) -> npt.NDArray[np.uint8]:
        """RAM as an array (memory,) of uint8 that shares the guest's bytes; code that ran is changed through `write`."""
        return self.memory.bytes

    # ---- run ----------------------------------------------------------------------------------------------------------
    def run(self, n: int) -> Stop:
        """Execute at most `n` instructions.  An IO or MMIO exit stops the run before its instruction is complete.

        Raises:
            ConfigError: `n` is negative.
        """
        if n < 0:
            raise ConfigError(f"{n} instructions can't be run")
        n = min(n, MOST)
        before = self.vcpu.retired()
        why = (self._plain or self.vcpu).run(n)
        retired = self.vcpu.retired() - before
        c = self.c
        if why == lay.WHY_FAULT:
            vector = int(c.vector)
            error = int(c.error) if c.has_error else None
            return Stop("fault", retired, Fault(vector, error, int(c.cr2) if vector == 14 else None))
        if why == lay.WHY_EXIT:
            reason = ExitReason(int(c.exit_reason))
            c.halted = 0
            return Stop(reason.name.lower().replace("_", "-"), retired)
        return Stop("limit", retired)
