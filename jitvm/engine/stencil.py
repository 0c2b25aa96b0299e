"""Stencils: the object code of a handler, cut before the jump to the next, with holes where operands go.

`StencilBuilder` is the stitcher with another parameter source: what a handler reads from the micro-op is here the address
of an absolute symbol, which the code generator leaves as a relocation.  `cut` takes the object file apart: code bytes and
holes (where, what, how wide).  The native part (`jitvm/engine/copy.py`) copies stencils of a hot block one behind the
other and fills the holes.

A stencil has no slow path.  What misses (TLB, limit, a page with code) jumps to the same instruction's handler, whose
micro-op stands `hole_uop` bytes behind the block's entry; handlers finish the block.

x86-64 hosts only: the relocations are theirs (System V ABI, AMD64 supplement, table 4.9).
"""

from __future__ import annotations

import platform
import re
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from jitvm.engine import layout as lay
from jitvm.engine.backend import compile_relocatable
from jitvm.engine.compose import compose
from jitvm.engine.fast_path import FastPathBuilder
from jitvm.engine.forms import Shape
from jitvm.engine.ir_text import TYPES
from jitvm.engine.objects import ObjectFile
from jitvm.engine.stencil_key import EXITS, HOLES, KINDS_OF_HOLES, MISS, SCALE_SHIFT, SEG_SHIFT, TURNED_MARK
from jitvm.engine.stitch import HandlerBuilder, module
from jitvm.engine.units import Units
from jitvm.isa.table import AT_ONCE, QUICK

WIDTHS = {1: 8, 10: 4, 11: 4, 14: 1, 12: 2}
"""Relocation types that may be holes, to bytes: R_X86_64_64, _32, _32S, _8, _16."""
R_PC32, R_PLT32 = 2, 4
MOST_BYTES = 512
KINDS = frozenset("value push pop leave jcc loop jmp jmpi call calli ret goto host move".split())
Built = TypeVar("Built", bound=HandlerBuilder)


def supported() -> bool:
    """Whether this host has the tier."""
    return platform.machine() == "x86_64"


def possible(shape: Shape) -> bool:
    """Whether a shape can be a stencil: nothing out of line, no segment or control register operand."""
    if shape.unit in QUICK or (shape.unit in AT_ONCE and not shape.ends):
        return True
    if shape.kind not in KINDS or "n" in shape.ops:
        return False
    return not (shape.kind == "pop" and "m" in shape.ops) and not shape.unit.startswith("system.")


def normal(shapes: Sequence[Shape], key: int) -> int:
    """A key without what its shape does not use: keys of equal stencils become equal."""
    shape = shapes[key & 0xFFFF]
    if shape.flat or not (shape.mem or shape.unit in AT_ONCE):
        key &= ~(7 << SEG_SHIFT)
    if "x" not in shape.mem:
        key &= ~(3 << SCALE_SHIFT)
    return key


@dataclass(frozen=True)
class Stencil:
    """Code bytes and holes: (offset, number in KINDS_OF_HOLES, width in bytes, addend).

    `exits`: number of pads that follow; `marks`: those of `stencil_key`, of which TURNED_MARK says that the code runs on to
    the pad of the fall-through.
    """

    code: bytes
    holes: tuple[tuple[int, int, int, int], ...]
    exits: int = 0
    marks: int = 0

    def blob(self) -> bytes:
        """As the copier reads it: length, numbers of holes and pads, marks, code filled up to 8 bytes, a word a hole."""
        words = [at | kind << 12 | width << 16 | (addend & 0xFFFF_FFFF) << 32 for at, kind, width, addend in self.holes]
        padded = self.code + bytes(-len(self.code) % 8)
        head = struct.pack("<IHBB", len(self.code), len(words), self.exits, self.marks)
        return head + padded + struct.pack(f"<{len(words)}Q", *words)


def join(blobs: Iterable[bytes]) -> bytes:
    """Blobs as the cache keeps them: each behind its length."""
    return b"".join(struct.pack("<I", len(blob)) + blob for blob in blobs)


def split(data: bytes) -> list[bytes]:
    """The blobs that `join` joined."""
    out, at = [], 0
    while at < len(data):
        (size,) = struct.unpack_from("<I", data, at)
        out.append(data[at + 4 : at + 4 + size])
        at += 4 + size
    return out


class StencilBuilder(FastPathBuilder):
    """The handler builder with holes for parameters and no slow paths."""

    def __init__(self, units: Units, name: str, shape: Shape, seg: int, scale: int) -> None:
        super().__init__(units, name, long=shape.long)
        self._shape, self._seg, self._scale, self._missed = shape, seg, scale, False

    def hole(self, name: str) -> str:
        return f"ptrtoint (ptr @hole_{name} to i64)"

    def word_hole(self, name: str) -> str:
        """A hole of 32 unsigned bits.  Holes are declared as signed words: LLVM takes a symbol below 2**32 for one that
        may be sign-extended."""
        return self.new(f"and i64 {self.hole(name)}, 4294967295")

    def wide_hole(self, name: str) -> str:
        """A hole of 64 bits.  LLVM stores any symbol as 32 bits, whatever range it is said to have, but for its address in
        a register."""
        return self.new(f'call i64 asm "movabsq $$hole_{name}, $0", "=r"()')

    def imm(self) -> str:
        if "w" in self._shape.ops or self._shape.mem == "o":
            return self.wide_hole("imm")
        return self.hole("imm") if self._shape.size == 8 else self.word_hole("imm")

    def disp(self) -> str:
        return self.hole("disp")

    def scale(self) -> str:
        return str(self._scale)

    def segment(self) -> str:
        return str(self._seg)

    def number(self, slot: str) -> str:
        return self.new(f"lshr i64 {self.hole(slot)}, 3")

    def next_rip(self) -> str:
        return self.wide_hole("next") if self.long else self.word_hole("next")

    def relative(self) -> str:
        return self.wide_hole("relative")

    def slot_at(self, slot: str) -> str:
        return self.hole(slot)

    def slot_reg(self, slot: str, size: int) -> str:
        return self._read(self.gep("%cpu", self.hole(slot)), size)

    def set_slot_reg(self, slot: str, size: int, v: str) -> None:
        self._write(self.gep("%cpu", self.hole(slot)), size, v)

    def again(self) -> str:
        self._missed = True
        return "again"

    # ---- where to go --------------------------------------------------------------------------------------------------
    def next(self) -> None:
        self.go("@next", "%uop", "%budget")

    def block_end(self) -> str:
        return self.gep("%uop", self.hole("end"))

    def _follow(self, slot: int) -> None:
        self.go(self.exit_of(slot), "%uop", "%budget")

    def exit_of(self, slot: int) -> str:
        """The pad by which a link slot's way goes."""
        return "@taken" if slot == lay.UOP_TAKEN else "@fall"

    def leave(self) -> None:
        """On in this instruction's handler."""
        u = self.gep("%uop", self.hole("uop"))
        self.go(self.new(f"load ptr, ptr {u}"), u, "%budget")

    def missed(self) -> None:
        """The way of a miss, at the end of the text."""
        if self._missed:
            self.place("again")
            self.leave()

    def text(self) -> str:
        self.missed()
        return super().text()


def _declarations(types: str) -> str:
    holes = "".join(
        f"@hole_{n} = external dso_local global i8, !absolute_symbol !{2 if len(n) > 1 else 3}\n" for n in HOLES
    )
    ranges = "!2 = !{i64 -2147483648, i64 2147483648}\n!3 = !{i64 0, i64 256}\n"
    jumps = "".join(f"declare preserve_nonecc i64 @{name}{types}\n" for name in ("next", MISS, *EXITS))
    return jumps + holes + ranges


def builder(units: Units, shapes: Sequence[Shape], key: int, name: str) -> StencilBuilder:
    """The stencil of a key, put together."""
    shape, variant = shapes[key & 0xFFFF], key >> 16 & 0xFF
    b = StencilBuilder(units, name, shape, key >> SEG_SHIFT & 7, key >> SCALE_SHIFT & 3)
    compose(b, shape, variant)
    return b


def stamp(units: Units, shapes: Sequence[Shape], keys: Iterable[int]) -> dict[int, Stencil | None]:
    """Stencils by key (shape, variant, segment, scale); None where the code can't be cut."""
    builders = {key: builder(units, shapes, key, f"s{k}") for k, key in enumerate(keys)}
    return {key: cut for key, (_, cut) in stamped(units, builders, TYPES).items()}


def stamped(units: Units, builders: Mapping[int, Built], types: str) -> dict[int, tuple[Built, Stencil | None]]:
    """What builders by key put together, compiled and cut; they are named s0, s1, ..., and are functions of `types`."""
    text, _, _ = module(units, list(builders.values()))
    cut_out = cut(compile_relocatable(text + _declarations(types)))
    return {key: (b, cut_out.get(b.name)) for key, b in builders.items()}


def cut(data: bytes) -> dict[str, Stencil | None]:
    """Take an object apart: functions named s0, s1, ... with their relocations; None for one that can't be a stencil."""
    file = ObjectFile(data)
    out: dict[str, Stencil | None] = {}
    for f in file.functions():
        if re.fullmatch(r"s\d+", f.name):
            mine = sorted(
                (at - f.value, name, kind, addend)
                for at, name, kind, addend in file.relocations(f.section)
                if f.value <= at < f.value + f.size
            )
            out[f.name] = _one(bytearray(file.code(f)), mine)
    return out


def _one(code: bytearray, relocations: list[tuple[int, str, int, int]]) -> Stencil | None:
    """A stencil of one function, None where it has other relocations than holes and ways out.

    A jump at its end falls away (to `next`, or to the pad that then stands there first).  LLVM may drop a way out that is
    never gone (JO behind a logic instruction): the pads are those up to the last one that is.
    """
    end = len(code)
    exits = max((EXITS.index(name) + 1 for _, name, _, _ in relocations if name in EXITS), default=0)
    last = relocations[-1][1] if relocations and relocations[-1][0] == end - 4 and code[end - 5] == 0xE9 else ""
    if last == "next" or last in EXITS[:exits]:
        end -= 5
        relocations = relocations[:-1]
    holes = []
    for at, name, kind, addend in relocations:
        if name == "next" and kind in (R_PC32, R_PLT32):
            struct.pack_into("<i", code, at, end - at - 4)
        elif name in (*EXITS, MISS) and kind in (R_PC32, R_PLT32):
            holes.append((at, KINDS_OF_HOLES.index(name), 4, addend))
        elif name.startswith("hole_") and kind in WIDTHS and (WIDTHS[kind] < 8 or 0 <= addend < 1 << 32):
            holes.append((at, HOLES.index(name[5:]), WIDTHS[kind], addend))
        else:
            return None
    marks = TURNED_MARK * (last == "fall")
    return Stencil(bytes(code[:end]), tuple(holes), exits, marks) if end <= MOST_BYTES else None
