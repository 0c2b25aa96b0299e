"""A guest for engine tests: a `Bare` whose port and MMIO accesses are answered by a recording device.

`Guest.go` runs exactly n instructions (or less, if the guest ends before), `Guest.state` is all that a guest could see
of the CPU and its memory.  Two engines are compared by running the same guest on both.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from jitvm.bare import Bare
from jitvm.engine import layout as lay
from jitvm.engine.accel import Options
from jitvm.isa.mode import read_eflags, update_mode
from tests.engine.assembler import assemble

MEMORY = 0x40000
"""Bytes of RAM; what lies above is the MMIO bus."""
CODE, DATA, IDT, GDT, STACK = 0x1000, 0x8000, 0x4000, 0x5000, 0x20000
SCALARS = "rip rflags cr0 cr2 cr3 cr4 cpl halted gdt_base gdt_limit idt_base idt_limit".split()
ARRAYS = "gpr sel base limit attr dr".split()
FLAT_CODE, FLAT_DATA = 0x08, 0x10


class Access(NamedTuple):
    """One element of a port or MMIO access, as the outside saw it."""

    kind: str
    write: bool
    address: int
    size: int
    value: int


class Device:
    """Answers every read with a value that depends on how often it was asked, and records all accesses."""

    def __init__(self) -> None:
        self.seen: list[Access] = []

    def read(self, kind: str, address: int, size: int) -> int:
        """The next value."""
        value = (0x9E37_79B9_7F4A_7C15 * (address + 1) + 0x0101_0101_0101_0101 * len(self.seen)) & ((1 << 8 * size) - 1)
        self.seen.append(Access(kind, False, address, size, value))
        return value

    def write(self, kind: str, address: int, size: int, value: int) -> None:
        """Keep what was written."""
        self.seen.append(Access(kind, True, address, size, value))


class Guest:
    """RAM, one CPU and a `Device`.  `deliver`: faults and interrupts go to the guest's own handlers."""

    def __init__(
        self, engine: str, *, deliver: bool = False, memory: int = MEMORY, options: Options | None = None
    ) -> None:
        self.bare = Bare(engine=engine, memory=memory, options=options)
        self.device = Device()
        self.c: Any = self.bare.c
        self.bare.set_mode("prot32")
        self.c.deliver = int(deliver)
        self.bare.set_registers({"esp": STACK})
        self._start = self.bare.vcpu.retired()
        self.engine = engine
        self.ends: list[tuple[str, int]] = []
        """Why runs ended, and at which count; a limit is no end."""
        self._memory = b""

    # ---- set up -------------------------------------------------------------------------------------------------------
    def load(self, source: str, at: int = CODE, bits: int = 32) -> None:
        """Assemble guest code into memory and let the CPU start there."""
        self.bare.write(at, assemble(source, at, bits))
        self.bare.set_registers({"eip": at})

    def registers(self, **values: int) -> None:
        """Write registers by name."""
        self.bare.set_registers(values)

    def update(self) -> None:
        """Derive the mode after a test wrote the record's fields."""
        with np.errstate(over="ignore"):
            update_mode(self.c)
        self.bare.vcpu.accel.flush(self.bare.vcpu.address)

    # ---- run ----------------------------------------------------------------------------------------------------------
    @property
    def retired(self) -> int:
        """Instructions since the guest was made."""
        return self.bare.vcpu.retired() - self._start

    def go(self, n: int = 10_000) -> str:
        """Run `n` instructions: "limit", or why the guest ended before."""
        goal = self.retired + n
        while True:
            stop = self.bare.run(goal - self.retired)
            assert self.retired <= goal, "the budget was overrun"
            if stop.reason in ("io", "mmio"):
                self._serve(stop.reason)
                continue
            if stop.reason != "limit":
                why = stop.reason if stop.fault is None else f"fault {stop.fault.vector} {stop.fault.error}"
                self.ends.append((why, self.retired))
                return why
            if self.retired == goal:
                return "limit"

    def _serve(self, kind: str) -> None:
        c, words = self.c, self.bare.vcpu.words
        address, size, write, count = (int(getattr(c, name)) for name in _EXIT)
        n, data = int(c.io_n), lay.at("io_data")
        raw = words.cast("B")
        for k in range(count):
            at = data + k * size
            if write:
                self.device.write(kind, address, size, int.from_bytes(raw[at : at + size], "little"))
            else:
                value = self.device.read(kind, address, size)
                if count == 1:
                    words[lay.at("io_value") // 8 + n] = value
                else:
                    raw[at : at + size] = value.to_bytes(size, "little")
        if count > 1:
            words[lay.at("io_value") // 8 + n] = count
        c.io_n = n + 1

    # ---- look ---------------------------------------------------------------------------------------------------------
    def state(self) -> dict[str, Any]:
        """Registers, counts, memory, and what the outside saw."""
        c = self.c
        out: dict[str, Any] = {name: int(getattr(c, name)) for name in SCALARS}
        out |= {name: np.array(getattr(c, name)).tolist() for name in ARRAYS}
        with np.errstate(over="ignore"):
            out["eflags"] = int(read_eflags(c))
        out["retired"] = self.retired
        if not np.array_equal(self.bare.ram, np.frombuffer(self._memory, np.uint8)):
            self._memory = self.bare.ram.tobytes()  # else states share it: a test may keep thousands
        out["memory"] = self._memory
        out["seen"] = list(self.device.seen)
        out["ends"] = list(self.ends)
        return out


_EXIT = ("io_address", "io_size", "io_write", "io_count")


def differences(a: dict[str, Any], b: dict[str, Any]) -> list[str]:
    """What two states differ in, in words."""
    out = []
    for name in a:
        if a[name] == b[name]:
            continue
        if name == "memory":
            x, y = np.frombuffer(a[name], np.uint8), np.frombuffer(b[name], np.uint8)
            where = np.flatnonzero(x != y)
            shown = ", ".join(f"{k:#x}: {x[k]:02x}/{y[k]:02x}" for k in where[:8])
            out.append(f"memory at {len(where)} bytes: {shown}")
        elif isinstance(a[name], list):
            pairs = list(enumerate(zip(a[name], b[name], strict=False)))
            first = next(((k, p) for k, p in pairs if p[0] != p[1]), (len(pairs), ("(end)", "(end)")))
            out.append(f"{name}[{first[0]}] of {len(a[name])}/{len(b[name])}: {first[1][0]} / {first[1][1]}")
        else:
            out.append(f"{name}: {a[name]:#x} / {b[name]:#x}")
    return out


def same(a: dict[str, Any], b: dict[str, Any], what: str) -> None:
    """Assert that two states are equal."""
    found = differences(a, b)
    assert not found, f"{what}:\n" + "\n".join(found)
