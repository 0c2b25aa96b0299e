"""A CPU record's registers by the names of gdbstub's x86 layouts, to read and to write.

`rip` (`eip`) is linear, base of CS + instruction pointer, unless `raw`: so that gdb finds symbols and breakpoints in
real mode.  `ip` and `cs_base` are its parts.

A selector that is written loads the segment as an instruction would: shifted by four in real and virtual-8086 mode, from
the descriptor tables in protected mode.  Bases, limits and attributes change nothing but themselves.

x87 and SSE registers read as zeros: this CPU has none of them.

Source: Intel SDM vol. 3, 3.4.5 (descriptors), 20.1.1 (segments in real mode), 24.4.1 (attributes, "unusable").
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np

from gdbstub.errors import TargetError
from jitvm.engine.accel import VcpuEngine
from jitvm.isa.mode import read_eflags, write_eflags
from jitvm.isa.words import u64

M32 = 0xFFFF_FFFF
GENERAL = "ax cx dx bx sp bp si di".split()
SLOTS = {"es": 0, "cs": 1, "ss": 2, "ds": 3, "fs": 4, "gs": 5, "ldtr": 6, "tr": 7}
CS, SS = 1, 2
CONTROL = frozenset({"cr0", "cr2", "cr3", "cr4", "cr8", "efer"})
TABLES = {f"{table}r_{part}": f"{table}_{part}" for table in ("gdt", "idt") for part in ("base", "limit")}
MSRS = {
    name: f"msr_{name}"
    for name in "apic_base sysenter_cs sysenter_esp sysenter_eip pat star lstar cstar fmask tsc_aux".split()
} | {"k_gs_base": "msr_kernel_gs_base"}
PE, VM = 1, 1 << 17
PRESENT, UNUSABLE, ATTRIBUTES = 0x80, 1 << 16, 0xF0FF
REAL_DATA = 0x93
NO_FPU = re.compile(r"st\d|f(ctrl|stat|tag|iseg|ioff|oseg|ooff|op)|xmm\d+|mxcsr")

ReadLinear = Callable[[int, int], bytes]
"""(linear address, size): the bytes up to the first that can't be read."""


class Registers:
    """The registers of one vCPU that stands."""

    def __init__(self, engine: VcpuEngine, read_linear: ReadLinear) -> None:
        self._engine, self._c, self._read_linear = engine, engine.c, read_linear
        self.raw = False
        """`rip` is the instruction pointer without the base of CS."""
        self._readers: dict[str, Callable[[], int]] = {}

    # ---- the program counter
    def linear_pc(self) -> int:
        """Linear address of the next instruction."""
        return int(self._c.base[CS]) + int(self._c.rip) & M32

    def _read_pc(self) -> int:
        return int(self._c.rip) if self.raw else self.linear_pc()

    def _write_pc(self, value: int) -> None:
        ip = value if self.raw else (value - int(self._c.base[CS])) & M32
        if ip > int(self._c.limit[CS]):
            raise TargetError(f"{value:#x} is outside of CS; write cs first, or ip")
        self._c.rip = ip
        self._c.halted = 0

    # ---- by name
    def read(self, name: str) -> int:
        """A register's value."""
        reader = self._readers.get(name)
        if reader is None:
            reader = self._readers[name] = self._reader(name)
        return reader()

    def _reader(self, name: str) -> Callable[[], int]:
        """How a register is read; found once, as a client wants all of them at each stop."""
        c = self._c
        if (number := general_number(name)) is not None:
            return lambda: int(c.gpr[number])
        if name in ("rip", "eip"):
            return self._read_pc
        if name == "eflags":
            return self._read_flags
        if name in SLOTS:
            slot = SLOTS[name]
            return lambda: int(c.sel[slot])
        segment, _, part = name.rpartition("_")
        if segment in SLOTS:
            slot = SLOTS[segment]
            return lambda: self._hidden(slot, part)
        if re.fullmatch(r"dr\d", name):
            number = int(name[2:])
            return lambda: int(c.dr[number])
        if name == "tsc":
            return lambda: (self._engine.retired() + int(c.extra_ns) + int(c.tsc_offset)) & 0xFFFF_FFFF_FFFF_FFFF
        if NO_FPU.fullmatch(name):
            return lambda: 0
        own = "rip" if name == "ip" else name if name in CONTROL else TABLES.get(name) or MSRS.get(name)
        if own is None:
            raise TargetError(f"no register {name}")
        return lambda: int(getattr(c, own))

    def _read_flags(self) -> int:
        with np.errstate(over="ignore"):
            return int(read_eflags(self._c))

    def write(self, name: str, value: int) -> None:
        """Write a register; `take_effect` follows when all are written."""
        c = self._c
        if (number := general_number(name)) is not None:
            c.gpr[number] = value & M32
        elif name in ("rip", "eip"):
            self._write_pc(value)
        elif name == "ip":
            c.rip = value & M32
            c.halted = 0
        elif name == "eflags":
            with np.errstate(over="ignore"):
                write_eflags(c, u64(value))
        elif name in SLOTS:
            self._load(SLOTS[name], value)
        elif name in TABLES:
            setattr(c, TABLES[name], value & M32)
        elif (slot := name.rpartition("_"))[0] in SLOTS:
            self._set_hidden(SLOTS[slot[0]], slot[2], value)
        elif name in CONTROL:
            setattr(c, name, value if name == "efer" else value & M32)
        elif re.fullmatch(r"dr\d", name):
            c.dr[int(name[2:])] = value & M32
        elif name == "tsc":
            c.tsc_offset = (value - self._engine.retired() - int(c.extra_ns)) & 0xFFFF_FFFF_FFFF_FFFF
        elif name in MSRS:
            setattr(c, MSRS[name], value)
        else:
            raise TargetError(f"this CPU has no register {name} that could be written")

    def take_effect(self) -> None:
        """Derive privilege, mode and limits again, forget translations of addresses."""
        c = self._c
        c.cpl = 0 if not self._protected() else 3 if int(c.rflags) & VM else int(c.sel[CS]) & 3
        self._engine.registers_changed()

    # ---- segments
    def _protected(self) -> bool:
        return bool(int(self._c.cr0) & PE)

    def _hidden(self, slot: int, part: str) -> int:
        c = self._c
        if part == "base":
            return int(c.base[slot])
        if part == "limit":
            return int(c.limit[slot])
        attr = int(c.attr[slot])
        return attr if attr & PRESENT else attr | UNUSABLE

    def _set_hidden(self, slot: int, part: str, value: int) -> None:
        c = self._c
        if part == "base":
            c.base[slot] = value & M32
        elif part == "limit":
            c.limit[slot] = value & M32
        else:
            c.attr[slot] = value & ATTRIBUTES & (~PRESENT if value & UNUSABLE else ~0)

    def _load(self, slot: int, selector: int) -> None:
        c = self._c
        selector &= 0xFFFF
        if slot <= SLOTS["gs"]:
            if not self._protected() or int(c.rflags) & VM:
                c.base[slot] = selector << 4
                if self._protected():
                    c.limit[slot], c.attr[slot] = 0xFFFF, REAL_DATA | 0x60
            elif selector & ~3:
                c.base[slot], c.limit[slot], c.attr[slot] = self._descriptor(selector)
            elif slot in (CS, SS):
                raise TargetError("CS and SS can't be null")
            else:
                c.attr[slot] = int(c.attr[slot]) & ~PRESENT
        c.sel[slot] = selector

    def _descriptor(self, selector: int) -> tuple[int, int, int]:
        """Base, limit and attributes that a selector names."""
        c = self._c
        local = selector & 4
        base, limit = (int(c.base[6]), int(c.limit[6])) if local else (int(c.gdt_base), int(c.gdt_limit))
        at = selector & ~7
        data = self._read_linear(base + at & M32, 8) if at + 7 <= limit else b""
        if len(data) < 8:
            raise TargetError(f"selector {selector:#x} names no descriptor")
        word = int.from_bytes(data, "little")
        size = word & 0xFFFF | word >> 32 & 0xF_0000
        return (
            word >> 16 & 0xFF_FFFF | word >> 32 & 0xFF00_0000,
            size << 12 | 0xFFF if word >> 55 & 1 else size,
            word >> 40 & ATTRIBUTES,
        )


def general_number(name: str) -> int | None:
    """Index in `gpr` of a general register, None for another one."""
    if name[0] in "er" and name[1:] in GENERAL:
        return GENERAL.index(name[1:])
    if name[0] == "r" and name[1:].isdigit():
        return int(name[1:])
    return None


def mode_name(c: Any) -> str:
    """What a user calls the mode of a record: real16, prot16, prot32 or v86."""
    if not int(c.cr0) & PE:
        return "real16"
    if int(c.rflags) & VM:
        return "v86"
    return "prot32" if int(c.attr[CS]) & 0x4000 else "prot16"
