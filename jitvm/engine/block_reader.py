"""A vCPU's blocks as regions are grown from them: what the block store says, and a block's instructions as a plan has them.

A region is looked for in some thousand steps while the guest waits, so words of the record are read directly, and a block
is described once, until code on its page is dropped.
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
        *("block_uop", "block_rip", "block_ctx", "block_offset", "block_state", "block_bytes", "block_code"),
        *("n_blocks", "uop_arena", "uop_end", "copy_drops", "h_count", "h_cross", "page_version", "t"),
        *("n_breakpoints", "code_breaks", "range_on", "generation"),
    )
}
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
    """Reads the blocks of `engine`; describes them while its code stands still."""

    def __init__(self, engine: VcpuEngine) -> None:
        self._words, self._address, self._c, self._accel = engine.words, engine.address, engine.c, engine.accel
        self._shapes = engine.accel.forms.shapes
        self._described: dict[int, tuple[tuple[int, ...], Described]] = {}

    def word(self, field: str, index: int = 0) -> int:
        """A word of the record."""
        return self._words[_AT[field] + index]

    def version(self, page: int) -> int:
        """How often code on a page of guest memory was dropped."""
        return word_at(self.word("page_version") + WORD * page)

    def find(self, offset: int, rip: int, ctx: int) -> int:
        """The block that begins at an offset in guest memory when it has machine code and ends on its page; else -1."""
        b = self._accel.known_block(self._address, offset, rip, ctx)
        if b == NOBODY or not self.word("block_state", b) & VALID or self.word("block_bytes", b) >> 32:
            return -1
        if not self.has_entry(b) or word_at(self.word("block_uop", b)) == self.word("h_count"):
            return -1
        return b

    def has_entry(self, b: int) -> bool:
        """Whether the block begins with an entry record."""
        if self.word("copy_drops") <= self.word("block_state", b) & DROPS:
            return False
        return word_at(self.word("block_uop", b) + lay.UOP_IMM) != 0

    def entry_of(self, u: int) -> int:
        """The block whose entry record lies at `u`, -1: none does."""
        if not self.word("uop_arena") <= u < self.word("uop_end"):
            return -1
        b = word_at(u + lay.UOP_DISP) & 0xFFFF_FFFF
        return b if b < self.word("n_blocks") and self.word("block_uop", b) == u else -1

    def led_to(self, slot: int) -> int:
        """The block to which the jump through a link slot was made, -1: none yet.

        A slot that no link was ever put into, as those of an indirect jump which has gone nowhere, leads nowhere.
        """
        u = word_at(slot)
        if not self.word("uop_arena") <= u < self.word("uop_end"):
            return -1
        if word_at(u) == self.word("h_cross"):
            u = word_at(u + lay.UOP_IMM)
        return self.entry_of(u)

    def is_break(self, rip: int, linear: int) -> bool:
        """Whether somebody wants to stop there."""
        if not self.word("n_breakpoints") | self.word("code_breaks") | self.word("range_on"):
            return False
        with np.errstate(over="ignore"):
            return bool(is_breakpoint(self._c, u64(linear)))

    def describe(self, b: int) -> Described | None:
        """A block, decoded again; None when that is not possible."""
        page = self.word("block_offset", b) >> PAGE_SHIFT
        key = self.word("generation"), self.word("block_uop", b), self.word("block_state", b), self.version(page)
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
        slots = self.word("block_state", b) >> 8
        return Described(n, slots, tuple(ops), stop, jumps, kind, taken, fall, following, stop < 0 and last.ends)


__all__ = ["JUMPS", "PAGE_SHIFT", "BlockReader", "Described", "word_at"]
