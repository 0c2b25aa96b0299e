"""Which blocks make a region: from a hot block along the edges that were taken.

The region is the cycle through its first block: all blocks that lie on a way from it back to it.

A block belongs when it has machine code (it was executed often), is of the same context and does not run over its page's
end.  Other pages are known by the jumps that were seen to go there; a region remembers what pages it is made from.  Calls
are followed into the callee, a RET to the places behind the region's own calls, an indirect jump, and the RET of the
function that the region begins in, to where it went.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from jitvm.engine import layout as lay
from jitvm.engine.blocks import BLOCK_VALID, NO_BLOCK
from jitvm.engine.formbits import F_COUNT, F_KILLS, F_READS
from jitvm.engine.forms import Shape
from jitvm.engine.gate import GATE
from jitvm.engine.region import OUT, Node, Op
from jitvm.engine.region_x87 import ALL_MASKED
from jitvm.engine.stencil import KINDS
from jitvm.engine.translate import SKIPPED, is_breakpoint
from jitvm.isa.memory import is_code
from jitvm.isa.state import MODE_CODE64
from jitvm.isa.words import u64

if TYPE_CHECKING:
    from jitvm.engine.accel import VcpuEngine

HELD = KINDS | {"nop", "goto", "status", "checked", "fpu", "fpu_store", "fpu_put"}
"""Kinds of instruction that a region may hold."""
MOST_NODES, MOST_OPS, MOST_RETURNS, MOST_PAGES = 40, 250, 8, 8
LATER = 16
"""A block that belongs to another region asks again after so many times as many executions."""
JUMPS = frozenset({"jcc", "loop", "jmp", "jmpi", "call", "calli", "ret"})
PAGE_SHIFT, IN_PAGE = 12, 0xFFF


@dataclass(frozen=True)
class Grown:
    """A region to be made: its nodes, and the blocks (store index, address of the first micro-op) they stand for.

    `pages`: linear address, offset in guest memory and version of each page that they lie on.
    """

    nodes: tuple[Node, ...]
    blocks: tuple[tuple[int, int], ...]
    pages: tuple[tuple[int, int, int], ...]
    generation: int

    linear: int = 0
    """Linear address of its first block."""


def _word(address: int) -> int:
    return ctypes.c_uint64.from_address(address).value


class _Grower:
    def __init__(self, engine: VcpuEngine) -> None:
        self.engine, self.c, self.options = engine, engine.c, engine.options
        self.shapes = engine.accel.forms.shapes
        self.head = int(self.c.hot_block)
        self.rip = int(self.c.block_rip[self.head])
        self.ctx = int(self.c.block_ctx[self.head])
        self.long = bool(self.ctx & int(MODE_CODE64))
        self.base = 0 if self.long else int(self.c.base[1])
        self.pages = {self.linear(self.rip) >> PAGE_SHIFT: int(self.c.block_offset[self.head]) >> PAGE_SHIFT}
        """Pages of guest memory by linear page."""

    def linear(self, rip: int) -> int:
        """Linear address of an EIP."""
        return rip if self.long else (self.base + rip) & 0xFFFF_FFFF

    def holds(self, shape: Shape) -> bool:
        """Whether a region can hold such an instruction."""
        return shape.kind in HELD and not (shape.kind == "status" and shape.ends)

    def block_at(self, rip: int) -> int:
        """The hot block at an EIP, -1 for none."""
        c, linear = self.c, self.linear(rip)
        page = self.pages.get(linear >> PAGE_SHIFT)
        if page is None or self.is_break(rip):
            return -1
        offset = page << PAGE_SHIFT | linear & IN_PAGE
        b = self.engine.accel.known_block(self.engine.address, offset, rip, self.ctx)
        if b == int(NO_BLOCK) or not int(c.block_state[b]) & int(BLOCK_VALID) or int(c.block_bytes[b]) >> 32:
            return -1
        if not self.has_entry(b) or _word(int(c.block_uop[b])) == int(c.h_count):
            return -1
        return b

    def is_code(self, rip: int) -> bool:
        """Whether a call may go there."""
        with np.errstate(over="ignore"):
            return bool(is_code(self.c, u64(rip)))

    def is_break(self, rip: int) -> bool:
        """Whether somebody wants to stop there."""
        with np.errstate(over="ignore"):
            return bool(is_breakpoint(self.c, u64(self.linear(rip))))

    def has_entry(self, b: int) -> bool:
        """Whether the block begins with an entry record."""
        u = int(self.c.block_uop[b])
        return int(self.c.copy_drops) > int(self.c.block_state[b]) & 0x18 and _word(u + 16) != 0

    def describe(self, b: int, outermost: bool) -> tuple[Node, list[int], bool] | None:
        """A block as a node whose `taken` and `fall` are EIPs; where its call returns to; whether it ends in a RET.

        `outermost`: no call of the region led here, so that a RET goes where it was seen to go.
        """
        c = self.c
        n = self.engine.accel.describe(self.engine.address, b)
        if not n:
            return None
        ops: list[Op] = []
        stop, call_returns = -1, []
        u = int(c.block_uop[b])
        count = int(c.block_state[b]) >> 8
        rows = c.t[: n * lay.T_WORDS].reshape(n, lay.T_WORDS).tolist()
        last = self.shapes[rows[-1][1]]
        for k, row in enumerate(rows):
            form, shape_number, eip, d, s, base, index, seg, scale, disp, imm, following, _, variant, uop = row
            shape = self.shapes[shape_number]
            if uop == int(SKIPPED):
                continue
            beyond = shape.kind == "call" and not self.is_code(imm)
            if not self.holds(shape) or beyond:
                stop = uop + 1
                break
            if shape.kind != "nop":
                counted = bool(form & int(F_COUNT)) and not imm & 31
                flags = bool(form & int(F_READS)), bool(form & int(F_KILLS)) and not counted
                fields = (d, s, base, index, seg, scale, disp & 0xFFFF_FFFF, imm, eip, following, n - k, *flags)
                ops.append(Op(shape, variant, uop + 1, *fields))
        jumps = last.kind in JUMPS
        taken = fall = OUT
        if stop < 0 and last.kind not in ("jmpi", "calli", "ret"):
            taken = rows[-1][10] if jumps else rows[-1][11]
            fall = rows[-1][11] if last.kind in ("jcc", "loop") else OUT
        if last.kind in ("call", "calli") and stop < 0 and self.options.returns:
            call_returns.append(rows[-1][11])
        slot = u + lay.UOP_SIZE * count
        if not self.linked(slot, taken):
            taken = OUT
        if not self.linked(slot + 8, fall):
            fall = OUT
        rip = int(c.block_rip[b])
        node = Node(rip, n, count, tuple(ops), taken, fall, (), stop, jumps)
        if last.kind == "ret":
            seen = outermost and self.options.returns
        else:
            seen = last.kind in ("jmpi", "calli") and self.options.targets
        if seen and stop < 0:
            node = replace(node, returns=tuple((rip, OUT) for rip in self.noted(slot)))
        return node, call_returns, last.kind == "ret" and stop < 0

    def noted(self, slot: int) -> list[int]:
        """Where an indirect jump went to, as far as it remembers."""
        c, found = self.c, []
        for k in range(lay.N_NOTED):
            b = self.block_of(_word(slot + 8 * k))
            if b >= 0:
                found.append(int(c.block_rip[b]))
        return found

    def block_of(self, u: int) -> int:
        """The hot block whose entry record a noted address is, -1 for none; its page becomes known."""
        c = self.c
        if not int(c.uop_arena) <= u < int(c.uop_end):
            return -1
        b = _word(u + lay.UOP_DISP) & 0xFFFF_FFFF
        if b >= int(c.n_blocks) or int(c.block_uop[b]) != u or int(c.block_ctx[b]) != self.ctx:
            return -1
        rip = int(c.block_rip[b])
        if len(self.pages) < MOST_PAGES:
            self.pages.setdefault(self.linear(rip) >> PAGE_SHIFT, int(c.block_offset[b]) >> PAGE_SHIFT)
        return b if self.block_at(rip) == b else -1

    def linked(self, slot: int, rip: int) -> bool:
        """Whether the jump through a slot was made, to the block at `rip`."""
        if rip == OUT:
            return False
        u = _word(slot)
        if _word(u) == int(self.c.h_cross):
            u = _word(u + lay.UOP_IMM)
        b = self.block_of(u)
        return b >= 0 and int(self.c.block_rip[b]) == rip

    def run(self) -> Grown | None:
        nodes: list[Node] = []
        number: dict[int, int] = {self.rip: 0}
        order, returning, rets = [self.rip], [], []
        depth = {self.rip: 0}
        total = 0
        for rip in order:
            found = self.describe(self.block_at(rip), depth[rip] == 0)
            if found is None:
                return None
            node, call_returns, is_ret = found
            total += node.charge
            nodes.append(node)
            if is_ret:
                rets.append(len(nodes) - 1)
            returning += [r for r in call_returns if self.block_at(r) >= 0]
            if total < MOST_OPS:
                for to in (node.taken, node.fall, *(rip for rip, _ in node.returns), *call_returns):
                    if to != OUT and to not in number and len(order) < MOST_NODES and self.block_at(to) >= 0:
                        number[to] = len(order)
                        order.append(to)
                        depth[to] = depth[rip] + bool(call_returns and to not in call_returns)
        def inside(rip: int) -> int:
            return number.get(rip, OUT) if rip != OUT else OUT

        def known(rips: Iterable[int]) -> tuple[tuple[int, int], ...]:
            return tuple((r, number[r]) for r in dict.fromkeys(rips) if r in number)[:MOST_RETURNS]

        done = [
            replace(
                n,
                taken=inside(n.taken),
                fall=inside(n.fall),
                returns=known([*(r for r, _ in n.returns), *(returning if k in rets else ())]),
            )
            for k, n in enumerate(nodes)
        ]
        done, kept = _cycle(done)
        if not done or not done[0].ops:
            return None
        done[0] = replace(done[0], x87=self.x87(done))
        c = self.c
        index = [self.block_at(order[k]) for k in kept]
        used = dict.fromkeys(self.linear(int(c.block_rip[b])) >> PAGE_SHIFT for b in index)
        return Grown(
            tuple(done),
            tuple((b, int(c.block_uop[b])) for b in index),
            tuple((linear << PAGE_SHIFT, self.pages[linear] << PAGE_SHIFT, self.version(linear)) for linear in used),
            int(c.generation),
            self.linear(self.rip),
        )

    def x87(self, nodes: list[Node]) -> tuple[int, int, int] | None:
        """`Node.x87` of the first node."""
        if not any(op.shape.unit.startswith("x87") for node in nodes for op in node.ops):
            return None
        control = int(self.c.fcw)
        stack = int(self.c.fsw) >> 11 & 7, int(self.c.fpu_used)
        return (*stack, control) if control & ALL_MASKED == ALL_MASKED else None

    def version(self, linear: int) -> int:
        """How often code on a page was dropped."""
        return _word(int(self.c.page_version) + 8 * self.pages[linear])


def _closure(start: int, following: list[list[int]]) -> set[int]:
    """What can be reached from `start`, itself too."""
    found, work = {start}, [start]
    for n in work:
        new = [m for m in following[n] if m not in found]
        found.update(new)
        work += new
    return found


def _cycle(nodes: list[Node]) -> tuple[list[Node], list[int]]:
    """Only the nodes from which there is a way back to the first one, numbered anew; their old numbers."""
    ahead = _closure(0, [n.successors() for n in nodes])
    before: list[list[int]] = [[] for _ in nodes]
    for n in ahead:
        for m in nodes[n].successors():
            before[m].append(n)
    members = _closure(0, before) & ahead
    if not before[0]:
        return [], []
    kept = sorted(members)
    new = {n: k for k, n in enumerate(kept)}

    def renamed(n: int) -> int:
        return new.get(n, OUT)

    return [
        replace(
            nodes[n],
            taken=renamed(nodes[n].taken),
            fall=renamed(nodes[n].fall),
            returns=tuple((rip, new[m]) for rip, m in nodes[n].returns if m in new),
        )
        for n in kept
    ], kept


def grow(engine: VcpuEngine) -> Grown | None:
    """The region that begins with the block that asks (`hot_block`); None when there is no use in one."""
    return _Grower(engine).run()


def ask_later(engine: VcpuEngine, block: int) -> None:
    """Let a block that asked for a region be counted again, longer."""
    engine.accel.ask_again(engine.address, block, LATER * int(engine.c.region_hot))


def still_true(engine: VcpuEngine, grown: Grown) -> bool:
    """Whether the blocks that a region was made from are what they were."""
    c = engine.c
    return int(c.generation) == grown.generation and all(
        _word(int(c.page_version) + 8 * (offset >> PAGE_SHIFT)) == version for _, offset, version in grown.pages
    )


def table_of(engine: VcpuEngine, grown: Grown) -> np.ndarray:
    """The region's table (`TABLE_*` in jitvm/engine/layout.py); it finds itself true when it is first entered."""
    c = engine.c
    plain = int(c.block_code[grown.blocks[0][0]]) + int(GATE) + int(c.code_shift) & 0xFFFF_FFFF_FFFF_FFFF
    head = [0, plain, 0, len(grown.pages)]
    words = np.array([*head, *(u for _, u in grown.blocks), *(w for page in grown.pages for w in page)], np.uint64)
    assert len(head) * 8 == lay.TABLE_BLOCKS
    words[lay.TABLE_PAGES // 8] = int(words.ctypes.data) + lay.TABLE_BLOCKS + 8 * len(grown.blocks)
    return words


__all__ = ["Grown", "ask_later", "grow", "still_true", "table_of"]
