"""Random cases of 64-bit code: REX, 16 registers, RIP-relative addresses, bases of FS and GS, addresses that are not
canonical."""

from __future__ import annotations

import random

from tests.isa.cases import Builder, Form
from tests.oracle.case import WINDOW, WINDOW_SIZE, Case, Layout

RSP, RBP = 4, 5
REX, REX_W, REX_R, REX_X, REX_B = 0x40, 8, 4, 2, 1
BASES = (0, 0x1230, 0x7FFF_1234_5600, 0xFFFF_8765_0000_1000)
"""Of FS and GS."""
EDGES = (0x7FFF_FFFF_FFF0, 0x8000_0000_0000, 0x1234_5678_9ABC_DEF0, 0xFFFF_7FFF_FFFF_FFF0)
"""Near these addresses some or all are not canonical."""
CMPXCHG16B = b"\x0f\xc7"
M64 = (1 << 64) - 1


class LongBuilder(Builder):
    """Puts one case of 64-bit code together."""

    def __init__(self, form: Form, mode: int, layout: Layout, rng: random.Random, *, plain: bool = False) -> None:
        self.fs_base, self.gs_base = rng.choice(BASES), rng.choice(BASES)
        needed = form.operand_size == 64 and not form.wide
        self.rex = REX if needed or (not plain and rng.random() < 0.6) else 0
        self.relative: int | None = None  # address of a RIP-relative operand
        self.has_index = False
        super().__init__(form, mode, layout, rng, plain=plain)

    def _empty(self) -> Case:
        return Case(64, b"", (0,) * 16, layout=Layout.FLAT, fs_base=self.fs_base, gs_base=self.gs_base)

    def _register(self) -> int:
        width = self.rng.choice((8, 16, 32, 64, 64))
        rest = self.rng.getrandbits(64) if self._chance(0.7) else 0
        return rest >> width << width | self.value(width)

    def _target(self, segment: str, aligned: bool = False) -> int:
        linear = self.rng.randrange(WINDOW + 0x40, WINDOW + WINDOW_SIZE - 0x60)
        if not self.plain and self._chance(0.04):
            linear = self.rng.choice(EDGES) + self.rng.randrange(-0x18, 0x18)
        if aligned:
            linear &= ~15
        return linear - self.geometry.segment(segment).base & M64

    def _number(self, field: str) -> int:
        if not self.rex or self.plain:
            return self.rng.randrange(8)
        number = self.rng.randrange(16)
        if number > 7:
            self.rex |= REX_R if field == "r" else REX_B
        return number

    def _byte_register(self, number: int) -> tuple[int, int]:
        return (number, 0) if self.rex else super()._byte_register(number)

    # ---- encoding -------------------------------------------------------

    def _is_short(self) -> bool:
        return self.operand_size == 16 and bool(self.form.operand_size)

    def _ignores_w(self) -> bool:
        """Whether REX.W changes nothing."""
        return not self.form.operand_size and self.form.opcode != CMPXCHG16B

    def _prefixes(self, length: int) -> bytes:
        if self.form.operand_size == 64:
            wide = not self.form.wide or bool(self.rex and self._chance(0.5))
        else:
            wide = bool(self.rex) and self._ignores_w() and self._chance(0.1)
        if wide:
            self.rex |= REX_W
        if self.rex and not self.has_index and self._chance(0.1):
            self.rex |= REX_X  # there is nothing that it could extend
        rex = bytes([self.rex]) if self.rex else b""
        legacy = super()._prefixes(length + len(rex))
        if legacy and self._chance(0.05) and length + len(legacy) < 14:
            legacy = bytes([REX | self.rng.randrange(16)]) + legacy  # not directly before the opcode: it is nothing
        return legacy + rex

    def _made(self, code: bytes, flags: int, count: int, ip: int) -> Case:
        if self.relative is not None:
            at = len(code) - self.n_behind - 4
            disp = (self.relative - (WINDOW + ip + len(code))) % (1 << 32)
            code = code[:at] + disp.to_bytes(4, "little") + code[at + 4 :]
        return Case(64, code, tuple(self.regs), flags, self.memory, count, Layout.FLAT, ip, self.fs_base, self.gs_base)

    def _memory_32(self, aligned: bool) -> tuple[int, bytes, str, int, int]:
        mod, rm = self.rng.randrange(3), self.rng.randrange(8)
        self.relative = None
        if mod == 0 and rm == RBP:
            return self._relative_address(aligned)
        index, scale, sib = None, 0, b""
        base: int | None = rm
        if rm == RSP:
            low = self.rng.randrange(8)
            index, scale = self._index(), self.rng.randrange(4)
            sib = bytes([scale << 6 | (RSP if index is None else index & 7) << 3 | low])
            base = low
        if mod == 0 and base == RBP:
            base = None
        elif self.rex and not self.plain and self._chance(0.5):
            self.rex |= REX_B
            assert base is not None
            base += 8
        default = "ss" if base in (RSP, RBP) else "ds"
        target = self._target(self.override or default, aligned)
        return self._with_registers(mod, rm, sib, base, index, scale, default, target)

    def _index(self) -> int | None:
        """An index register, None for none."""
        self.rex &= ~REX_X
        number = self.rng.randrange(16 if self.rex and not self.plain else 8)
        if number == RSP:
            return None
        self.has_index = True
        self.rex |= REX_X if number > 7 else 0
        return number

    def _relative_address(self, aligned: bool) -> tuple[int, bytes, str, int, int]:
        address = self._target(self.override or "ds", aligned)
        if not WINDOW <= address < 1 << 31:  # by a base of FS or GS
            address = self.rng.randrange(1 << 31)
        self.relative = address & ~15 if aligned else address
        return RBP, bytes(4), "ds", self.relative, self.operand_size

    def _with_registers(
        self,
        mod: int,
        rm: int,
        sib: bytes,
        base: int | None,
        index: int | None,
        scale: int,
        default: str,
        target: int,
    ) -> tuple[int, bytes, str, int, int]:
        """Registers and displacement so that the address is `target`, as far as it can be."""
        width = self.address_size
        size = {0: 4 if base is None else 0, 1: 1, 2: 4}[mod]
        reach = 0x4000 if base == RSP else 1 << 31
        disp = {0: 0, 1: self.rng.randrange(-128, 128), 4: self.rng.randrange(-reach, reach)}[size]
        if base is None:
            if index is not None:
                self._set_low(index, self.rng.randrange(-0x100, 0x100), width)
                target -= self.regs[index] << scale
            disp = ((target + (1 << 31)) % (1 << 32)) - (1 << 31)
        elif base == index:
            self._set_low(base, (target - disp) // (1 + (1 << scale)), width)
        else:
            scaled = 0 if index is None else self.regs[index] << scale
            self._set_low(base, target - disp - scaled, width)
        address = disp
        for register, shift in ((base, 0), (index, scale)):
            if register is not None:
                self.pinned.add(register)
                address += self.regs[register] << shift
        rest = sib + (disp & (1 << 8 * size) - 1).to_bytes(size, "little")
        return mod << 6 | rm, rest, default, address % (1 << width), self.operand_size
