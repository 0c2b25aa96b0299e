"""A vCPU's blocks as regions are grown from them: what the block store says, and a block's instructions as a plan has them.

A region is looked for in some thousand steps while the guest waits, and most looks find none, so words of the record and of
the micro-ops are read directly, and a block is described once, until code on its page is dropped.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from jitvm.engine import layout as lay
from jitvm.engine.blocks import BLOCK_DROPS, BLOCK_VALID, NO_BLOCK
from jitvm.engine.formbits import F_COUNT, F_KILLS, F_READS
from jitvm.engine.forms import Shape
from jitvm.engine.region import OUT, Op
from jitvm.engine.stencil import KINDS
from jitvm.engine.translate import SKIPPED, is_breakpoint
from jitvm.isa.memory import is_code
from jitvm.isa.table import GOES_ON
from jitvm.isa.words import u64

if TYPE_CHECKING:
    from jitvm.engine.accel import VcpuEngine

HELD = KINDS | {"nop", "goto", "status", "checked", "fpu", "fpu_store", "fpu_put"}
"""Kinds of instruction that a region may hold."""
JUMPS = frozenset({"jcc", "loop", "jmp", "jmpi", "call", "calli", "ret"})
PAGE_SHIFT = 12
WORD = 8
_AT = {
    name: lay.at(name) // WORD
    for name in (
        *("n_blocks", "copy_drops", "h_count", "h_cross", "t"),
        *("n_breakpoints", "code_breaks", "range_on", "generation"),
    )
}
N_BLOCKS, CROSS = _AT["n_blocks"], _AT["h_cross"]
IMM, DISP = lay.UOP_IMM // WORD, lay.UOP_DISP // WORD
VALID, DROPS, NOBODY, NO_UOP = int(BLOCK_VALID), int(BLOCK_DROPS), int(NO_BLOCK), int(SKIPPED)
COUNTED, READS, KILLS = int(F_COUNT), int(F_READS), int(F_KILLS)


def word_at(address: int) -> int:
    """A word of this process's memory."""
    return ctypes.c_uint64.from_address(address).value


@dataclass(frozen=True, slots=True)
class Described:
    """A block: what a `Node` says of it, and where it leads, as RIPs (OUT: nowhere that is known).

    `kind`: of its last instruction, "" when the region stops before it.  `following`: RIP behind the last instruction.
    `ends`: it is one behind which the next block is looked up.
    """

    charge: int
    slots: int
    ops: tuple[Op, ...]
    stop: int
    jumps: bool
    kind: str
    taken: int
    fall: int
    following: int
    ends: bool


class BlockReader:
    """Reads the blocks of `engine`; describes them while its code stands still.

    `uop`, `rip`, `ctx`, `offset`, `state`: the block store's columns, a word a block.
    """

    def __init__(self, engine: VcpuEngine) -> None:
        self._words, self._address, self._c, self._accel = engine.words, engine.address, engine.c, engine.accel
        self._shapes = engine.accel.forms.shapes
        self._described: dict[int, tuple[tuple[int, ...], Described]] = {}
        self.uop, self.rip, self.ctx = self._column("uop"), self._column("rip"), self._column("ctx")
        self.offset, self.state, self._bytes = self._column("offset"), self._column("state"), self._column("bytes")
        self._versions = engine.page_tables["page_version"].data
        self._arena, self._arena_at = engine.uops, int(engine.c.uop_arena)
        self._arena_end = int(engine.c.uop_end) - lay.UOP_SIZE

    def _column(self, name: str) -> memoryview:
        at = lay.at(f"block_{name}") // WORD
        return self._words[at : at + lay.N_BLOCKS]

    def word(self, field: str, index: int = 0) -> int:
        """A word of the record."""
        return self._words[_AT[field] + index]

    def version(self, page: int) -> int:
        """How often code on a page of guest memory was dropped."""
        return self._versions[page]

    def find(self, offset: int, rip: int, ctx: int) -> int:
        """The block that begins at an offset in guest memory when a region may hold it; else -1."""
        b = self._accel.known_block(self._address, offset, rip, ctx)
        return b if b != NOBODY and self.is_ready(b) else -1

    def is_ready(self, b: int) -> bool:
        """Whether there is such a block, with machine code, that ends on its page."""
        if not self.state[b] & VALID or self._bytes[b] >> 32 or not self.has_entry(b):
            return False
        return self._arena[self.uop[b] - self._arena_at >> 3] != self.word("h_count")

    def has_entry(self, b: int) -> bool:
        """Whether the block begins with an entry record."""
        if self.word("copy_drops") <= self.state[b] & DROPS:
            return False
        return self._arena[(self.uop[b] - self._arena_at >> 3) + IMM] != 0

    def entry_of(self, u: int) -> int:
        """The block whose entry record lies at `u`, -1: none does."""
        if not self._arena_at <= u <= self._arena_end:
            return -1
        b = self._arena[(u - self._arena_at >> 3) + DISP] & 0xFFFF_FFFF
        return b if b < self._words[N_BLOCKS] and self.uop[b] == u else -1

    def noted(self, b: int, slots: int) -> list[int]:
        """The blocks to which the jump at the end of block b, an indirect one, went, as far as it remembers."""
        k = (self.uop[b] + lay.UOP_SIZE * slots - self._arena_at) >> 3
        return [n for u in self._arena[k : k + lay.N_NOTED] if (n := self.entry_of(u)) >= 0]

    def led_to(self, b: int, slots: int, way: int) -> int:
        """The block to which the jump at the end of block b was made, by its link `way` (0: taken, 1: fall); -1: none yet.

        A slot that no link was ever put into, as those of an indirect jump which has gone nowhere, leads nowhere.
        """
        u = self._arena[(self.uop[b] + lay.UOP_SIZE * slots - self._arena_at >> 3) + way]
        if not self._arena_at <= u <= self._arena_end:
            return -1
        k = u - self._arena_at >> 3
        if self._arena[k] == self._words[CROSS]:
            u = self._arena[k + IMM]
        return self.entry_of(u)

    def is_break(self, rip: int, linear: int) -> bool:
        """Whether somebody wants to stop there."""
        if not self.word("n_breakpoints") | self.word("code_breaks") | self.word("range_on"):
            return False
        with np.errstate(over="ignore"):
            return bool(is_breakpoint(self._c, u64(linear)))

    def describe(self, b: int) -> Described | None:
        """A block, decoded again; None when that is not possible."""
        page = self.offset[b] >> PAGE_SHIFT
        key = self.word("generation"), self.uop[b], self.state[b], self.version(page)
        kept = self._described.get(b)
        if kept is not None and kept[0] == key:
            return kept[1]
        n = self._accel.describe(self._address, b)
        if not n:
            return None
        found = self._read(b, n)
        self._described[b] = key, found
        return found

    def holds(self, shape: Shape) -> bool:
        """Whether a region can hold such an instruction."""
        return shape.kind in HELD and (not shape.ends or shape.unit in GOES_ON)

    def _may_call(self, rip: int) -> bool:
        """Whether a direct call may go there."""
        with np.errstate(over="ignore"):
            return bool(is_code(self._c, u64(rip)))

    def _read(self, b: int, n: int) -> Described:
        """Block b of n instructions, which are in `t`."""
        ops: list[Op] = []
        stop = -1
        at = _AT["t"]
        rows = [self._words[k : k + lay.T_WORDS].tolist() for k in range(at, at + n * lay.T_WORDS, lay.T_WORDS)]
        last = self._shapes[rows[-1][1]]
        for k, row in enumerate(rows):
            form, number, eip, d, s, base, index, seg, scale, disp, imm, following, _, variant, uop = row
            shape = self._shapes[number]
            if uop == NO_UOP:
                continue
            if not self.holds(shape) or (shape.kind == "call" and not self._may_call(imm)):
                stop = uop + 1
                break
            if shape.kind != "nop":
                counted = bool(form & COUNTED) and not imm & 31
                flags = bool(form & READS), bool(form & KILLS) and not counted
                fields = (d, s, base, index, seg, scale, disp & 0xFFFF_FFFF, imm, eip, following, n - k, *flags)
                ops.append(Op(shape, variant, uop + 1, *fields))
        target, following = rows[-1][10], rows[-1][11]
        jumps = last.kind in JUMPS
        kind = last.kind if stop < 0 else ""
        taken = fall = OUT
        if stop < 0 and kind not in ("jmpi", "calli", "ret"):
            taken = target if jumps else following
            fall = following if kind in ("jcc", "loop") else OUT
        slots = self.state[b] >> 8
        return Described(n, slots, tuple(ops), stop, jumps, kind, taken, fall, following, stop < 0 and last.ends)


__all__ = ["JUMPS", "PAGE_SHIFT", "BlockReader", "Described", "word_at"]
