"""A CPU record's registers by the names of gdbstub's x86 layouts, to read and to write.

`rip` (`eip`) is linear, base of CS + instruction pointer, unless `raw`: so that gdb finds symbols and breakpoints in
real mode.  `ip` and `cs_base` are its parts.  Written in real or virtual-8086 mode, it takes CS along where CS does not
reach: to 0000h, 1000h ... F000h, or FFFFh behind the first MiB.

A selector that is written loads the segment as an instruction would: shifted by four in real and virtual-8086 mode, from
the descriptor tables in protected mode, but for those of LDTR and TR.  Bases, limits and attributes change nothing but
themselves.  EFER.LMA follows from EFER.LME and CR0.PG.

General registers, of which code outside of 64-bit mode sees 32 bits, are cut to these there; but R8 to R15, of which it
sees nothing, stay as they are written.

Source: Intel SDM vol. 3, 3.4.5 (descriptors), 20.1.1 (segments in real mode), 24.4.1 (attributes, "unusable"), 2.2.1
(EFER), 9.8.5 (LMA).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import numpy as np

from gdbstub.errors import TargetError
from jitvm import gdb_fpu
from jitvm.engine.accel import VcpuEngine
from jitvm.engine.layout import at as field_at
from jitvm.isa.control import is_pae_only
from jitvm.isa.mode import write_eflags
from jitvm.isa.paging_long import load_pdptes
from jitvm.isa.segment import set_null, set_plain, set_segment
from jitvm.isa.state import EFER_LMA, EFER_LME, MODE_CODE32, MODE_CODE64, OK
from jitvm.isa.words import u64

if TYPE_CHECKING:
    from gdbstub.layout import Register

M32, M64 = 0xFFFF_FFFF, 0xFFFF_FFFF_FFFF_FFFF
GENERAL = "ax cx dx bx sp bp si di".split()
SLOTS = {"es": 0, "cs": 1, "ss": 2, "ds": 3, "fs": 4, "gs": 5, "ldtr": 6, "tr": 7}
CS, SS = 1, 2
CONTROL = {"cr0": M32, "cr2": M64, "cr3": M64, "cr4": M32, "cr8": 0xF, "efer": M64}
"""Control registers and the bits that they have."""
TABLES = {f"{table}r_{part}": f"{table}_{part}" for table in ("gdt", "idt") for part in ("base", "limit")}
MSRS = {
    name: f"msr_{name}"
    for name in "apic_base sysenter_cs sysenter_esp sysenter_eip pat star lstar cstar fmask tsc_aux".split()
} | {"k_gs_base": "msr_kernel_gs_base"}
PE, PG, VM = 1, 1 << 31, 1 << 17
LME, LMA, CODE64, CODE32 = int(EFER_LME), int(EFER_LMA), int(MODE_CODE64), int(MODE_CODE32)
REAL_END = 0x10_FFF0
"""Behind the last address that FFFFh:FFFFh reaches."""
PRESENT, UNUSABLE, ATTRIBUTES = 0x80, 1 << 16, 0xF0FF

ReadLinear = Callable[[int, int], bytes]
"""(linear address, size): the bytes up to the first that can't be read."""


class Registers:
    """The registers of one vCPU that stands."""

    def __init__(self, engine: VcpuEngine, read_linear: ReadLinear) -> None:
        self._engine, self._c, self._read_linear = engine, engine.c, read_linear
        self.raw = False
        """`rip` is the instruction pointer without the base of CS."""
        self._record, self._words = engine.array.view(np.uint8).data, engine.words
        self._read_eflags = engine.accel.code.function("mode.read_eflags", 0, short=True)
        self._tag_word = engine.accel.code.function("x87_env.tag_word", 0, short=True)
        self._rip, self._mode, self._cs_base = (field_at(n) // 8 for n in ("rip", "mode", "base"))
        self._cs_base += CS

    # ---- the program counter
    def linear_pc(self) -> int:
        """Linear address of the next instruction."""
        words = self._words
        rip = words[self._rip]
        return rip if words[self._mode] & CODE64 else words[self._cs_base] + rip & M32

    def _read_pc(self) -> int:
        return self._words[self._rip] if self.raw else self.linear_pc()

    def _write_pc(self, value: int) -> None:
        c = self._c
        if int(c.mode) & CODE64:
            if value + (1 << 47) & M64 >= 1 << 48:
                raise TargetError(f"{value:#x} is not canonical: bits 47 to 63 must be the same")
            ip = value
        else:
            ip = value if self.raw else (value - int(c.base[CS])) & M32
            if ip > int(c.limit[CS]) and not self.raw and not self._is_protected_code() and value < REAL_END:
                selector = value >> 4 & 0xF000 if value < 1 << 20 else 0xFFFF
                self._load(CS, selector)
                self.take_effect()
                ip = value - (selector << 4)
            if ip > int(c.limit[CS]):
                raise TargetError(f"{value:#x} is outside of CS; write cs first, or ip")
        c.rip = ip
        c.halted = 0

    # ---- by name
    def reader(self, name: str, size: int) -> Callable[[], bytes]:
        """How a register is read as `size` bytes; found once, as a client wants all of them at each stop."""
        at = self._place(name)
        if at is not None:
            record = self._record
            return lambda: bytes(record[at : at + size])
        value, mask = self._value(name), (1 << 8 * size) - 1
        return lambda: (value() & mask).to_bytes(size, "little")

    def all_of(self, registers: Sequence[Register]) -> Callable[[], list[bytes | None]]:
        """How all registers of a layout are read, None for views: what lies in the record as it is, in one go."""
        places = [None if register.view_of else self._place(register.name) for register in registers]
        parts = [slice(0) if at is None else slice(at, at + r.size) for at, r in zip(places, registers, strict=True)]
        record, cut = self._record[: max(part.stop for part in parts)], itemgetter(*parts)
        others = [
            (number, None if register.view_of else self.reader(register.name, register.size))
            for number, (at, register) in enumerate(zip(places, registers, strict=True))
            if at is None
        ]

        def read() -> list[bytes | None]:
            values: list[bytes | None] = list(cut(bytes(record)))
            for number, own in others:
                values[number] = own() if own is not None else None
            return values

        return read

    def _place(self, name: str) -> int | None:
        """Where in the record a register lies; None: it is made of other things."""
        if (number := general_number(name)) is not None:
            return field_at("gpr") + 8 * number
        if name in SLOTS:
            return field_at("sel") + 8 * SLOTS[name]
        segment, _, part = name.rpartition("_")
        if segment in SLOTS and part in ("base", "limit"):
            return field_at(part) + 8 * SLOTS[segment]
        if re.fullmatch(r"dr\d", name):
            return field_at("dr") + 8 * int(name[2:])
        if (at := gdb_fpu.place(name)) is not None:
            return at
        own = "rip" if name == "ip" else name if name in CONTROL else TABLES.get(name) or MSRS.get(name)
        return None if own is None else field_at(own)

    def _value(self, name: str) -> Callable[[], int]:
        """How the value of any other register is found."""
        c = self._c
        if name in ("rip", "eip"):
            return self._read_pc
        if name in ("eflags", "ftag"):
            function = self._read_eflags if name == "eflags" else self._tag_word
            return lambda: function(self._engine.address)
        segment, _, part = name.rpartition("_")
        if segment in SLOTS and part == "attr":
            at = field_at("attr") // 8 + SLOTS[segment]
            return lambda: self._attributes(at)
        if name == "tsc":
            return lambda: self._engine.retired() + int(c.extra_ns) + int(c.tsc_offset)
        found = gdb_fpu.value(self._words, name)
        if found is None:
            raise TargetError(f"no register {name}")
        return found

    def write(self, name: str, value: int) -> None:
        """Write a register; `take_effect` follows when all are written."""
        c = self._c
        if (number := general_number(name)) is not None:
            c.gpr[number] = value & (self._code_mask() if number < len(GENERAL) else M64)
        elif name in ("rip", "eip"):
            self._write_pc(value)
        elif name == "ip":
            c.rip = value & self._code_mask()
            c.halted = 0
        elif name == "eflags":
            with np.errstate(over="ignore"):
                write_eflags(c, u64(value))
        elif name in SLOTS:
            self._load(SLOTS[name], value)
        elif name in TABLES:
            setattr(c, TABLES[name], value if name.endswith("base") else value & 0xFFFF)
        elif (slot := name.rpartition("_"))[0] in SLOTS:
            self._set_hidden(SLOTS[slot[0]], slot[2], value)
        elif name in CONTROL:
            self._set_control(name, value & CONTROL[name])
        elif re.fullmatch(r"dr\d", name):
            c.dr[int(name[2:])] = value & M32 if name in ("dr6", "dr7") else value
        elif name == "tsc":
            c.tsc_offset = (value - self._engine.retired() - int(c.extra_ns)) & 0xFFFF_FFFF_FFFF_FFFF
        elif name in MSRS:
            setattr(c, MSRS[name], value)
        elif not gdb_fpu.write(c, name, value):
            raise TargetError(f"this CPU has no register {name} that could be written")

    def take_effect(self) -> None:
        """Derive privilege, mode and limits again, forget translations of addresses."""
        c = self._c
        c.cpl = 0 if not self._protected() else 3 if int(c.rflags) & VM else int(c.sel[CS]) & 3
        self._engine.registers_changed()

    def _set_control(self, name: str, value: int) -> None:
        """A control register with what follows from it: LMA, and the PDPTEs of PAE paging."""
        c = self._c
        before = int(getattr(c, name)), int(c.efer)
        setattr(c, name, value)
        active = int(c.efer) & LME and int(c.cr0) & PG
        c.efer = int(c.efer) & ~LMA | (LMA if active else 0)
        with np.errstate(over="ignore"):
            if is_pae_only(c, c.cr0, c.cr4) and load_pdptes(c, c.cr3) != OK:
                c.status, c.efer = OK, before[1]
                setattr(c, name, before[0])
                raise TargetError(f"{name}: the PDPTEs at {int(c.cr3):#x} have reserved bits set")

    def _code_mask(self) -> int:
        """The bits of a general register that the code can see."""
        return M64 if int(self._c.mode) & CODE64 else M32

    # ---- segments
    def _is_protected_code(self) -> bool:
        """Descriptors say where code is, and not selectors alone."""
        return self._protected() and not int(self._c.rflags) & VM

    def _protected(self) -> bool:
        return bool(int(self._c.cr0) & PE)

    def _attributes(self, at: int) -> int:
        attr = self._words[at]
        return attr if attr & PRESENT else attr | UNUSABLE

    def _set_hidden(self, slot: int, part: str, value: int) -> None:
        c = self._c
        if part == "base":
            c.base[slot] = value
        elif part == "limit":
            c.limit[slot] = value
        else:
            c.attr[slot] = value & ATTRIBUTES & (~PRESENT if value & UNUSABLE else ~0)

    def _load(self, slot: int, selector: int) -> None:
        c = self._c
        selector &= 0xFFFF
        with np.errstate(over="ignore"):
            if slot > SLOTS["gs"]:
                c.sel[slot] = selector
            elif not self._protected() or int(c.rflags) & VM:
                set_plain(c, u64(slot), u64(selector))
            elif selector & ~3:
                set_segment(c, u64(slot), u64(selector), u64(self._descriptor(selector)))
            elif slot in (CS, SS) and not (slot == SS and int(c.mode) & CODE64):
                raise TargetError("CS and SS can't be null")
            else:
                set_null(c, u64(slot), u64(selector))

    def _descriptor(self, selector: int) -> int:
        """The descriptor that a selector names."""
        c = self._c
        local = selector & 4
        base, limit = (int(c.base[6]), int(c.limit[6])) if local else (int(c.gdt_base), int(c.gdt_limit))
        at = selector & ~7
        address = base + at & (M64 if int(c.efer) & LMA else M32)
        data = self._read_linear(address, 8) if at + 7 <= limit else b""
        if len(data) < 8:
            raise TargetError(f"selector {selector:#x} names no descriptor")
        return int.from_bytes(data, "little")


def general_number(name: str) -> int | None:
    """Index in `gpr` of a general register, None for another one."""
    if name[0] in "er" and name[1:] in GENERAL:
        return GENERAL.index(name[1:])
    if name[0] == "r" and name[1:].isdigit():
        return int(name[1:])
    return None


def mode_name(c: Any) -> str:
    """What a user calls the mode of a record: real16, prot16, prot32, v86, long64, compat16 or compat32; with "smm" behind
    it in system management mode.
    """
    return f"{_code_mode(c)} smm" if int(c.smm) else _code_mode(c)


def _code_mode(c: Any) -> str:
    if not int(c.cr0) & PE:
        return "real16"
    if int(c.rflags) & VM:
        return "v86"
    if int(c.mode) & CODE64:
        return "long64"
    return ("compat" if int(c.efer) & LMA else "prot") + ("32" if int(c.mode) & CODE32 else "16")
