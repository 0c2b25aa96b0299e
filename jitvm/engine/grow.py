"""Which blocks make a region: from a hot block along the edges that were taken.

The region is the cycle through its first block: all blocks that lie on a way from it back to it.

A block belongs when it has machine code (it was executed often), is of the same context and does not run over its page's
end.  Other pages are known by the jumps that were seen to go there; a region remembers what pages it is made from.  Calls
are followed into the callee, a RET to the places behind the region's own calls, an indirect jump, and the RET of the
function that the region begins in, to where it went.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from jitvm.engine import layout as lay
from jitvm.engine.block_reader import PAGE_SHIFT, Described
from jitvm.engine.gate import GATE
from jitvm.engine.region import OUT, Node, joined, unrolled
from jitvm.engine.region_x87 import ALL_MASKED
from jitvm.engine.returns import Step, return_places
from jitvm.isa.state import MODE_CODE64

if TYPE_CHECKING:
    from jitvm.engine.accel import VcpuEngine

MOST_NODES, MOST_OPS, MOST_RETURNS, MOST_PAGES = 120, 600, 16, 8
"""Of a region.  What is compiled is 1.5 ms an instruction, however they are cut into regions; of a program that does not fit
into one, more is compiled, as each of its hot blocks begins a region of its own, and they lead out into each other."""
LATER = 16
"""A block that belongs to another region asks again after so many times as many executions."""
IN_PAGE = 0xFFF


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


@dataclass(slots=True)
class _Found:
    """A block that was met: its description, and the RIPs of the blocks to which it was seen to lead (OUT: to none)."""

    block: int
    described: Described
    taken: int
    fall: int
    seen: list[int]
    """Where its indirect jump went."""
    behind: int
    """Where its call returns to."""

    def successors(self) -> list[int]:
        """RIPs that may follow, and the one behind a call."""
        return [rip for rip in (self.taken, self.fall, *self.seen, self.behind) if rip != OUT]

    def step(self) -> Step:
        """What is asked of it to find where a RET goes."""
        kind = self.described.kind
        calls = {"call": (self.taken,), "calli": tuple(self.seen)}.get(kind, ())
        following = () if kind == "ret" else (self.taken, self.fall, *self.seen)
        return Step(following, calls, self.behind, kind == "ret")


class _Grower:
    def __init__(self, engine: VcpuEngine) -> None:
        self.engine, self.c, self.options = engine, engine.c, engine.options
        self.blocks = engine.regions.blocks
        self.head = int(self.c.hot_block)
        self.rip, self.ctx = self.blocks.rip[self.head], self.blocks.ctx[self.head]
        self.long = bool(self.ctx & int(MODE_CODE64))
        self.base = 0 if self.long else int(self.c.base[1])
        self.pages = {self.linear(self.rip) >> PAGE_SHIFT: self.blocks.offset[self.head] >> PAGE_SHIFT}
        """Pages of guest memory by linear page."""
        self.at: dict[int, int] = {}
        """Blocks that were found, by their RIP."""

    def linear(self, rip: int) -> int:
        """Linear address of an EIP."""
        return rip if self.long else (self.base + rip) & 0xFFFF_FFFF

    def block_at(self, rip: int) -> int:
        """The hot block at an EIP, -1 for none."""
        found = self.at.get(rip)
        if found is not None:
            return found
        linear = self.linear(rip)
        page = self.pages.get(linear >> PAGE_SHIFT)
        if page is None or self.blocks.is_break(rip, linear):
            return -1
        b = self.blocks.find(page << PAGE_SHIFT | linear & IN_PAGE, rip, self.ctx)
        if b >= 0:
            self.at[rip] = b
        return b

    def meet(self, rip: int, outermost: bool) -> _Found | None:
        """The block at an EIP, and where it leads.

        `outermost`: no call of the region led here, so that a RET goes where it was seen to go.
        """
        b = self.block_at(rip)
        d = self.blocks.describe(b) if b >= 0 else None  # the one that asked may lie on two pages, or be gone by now
        if d is None:
            return None
        taken = fall = OUT
        if self.block_at(d.taken) >= 0 if d.ends else self.linked(b, d.slots, 0, d.taken):
            taken = d.taken
        if self.linked(b, d.slots, 1, d.fall):
            fall = d.fall
        behind = d.following if d.kind in ("call", "calli") and self.options.returns else OUT
        seen: list[int] = []
        if (d.kind == "ret" and outermost and self.options.returns) or (
            d.kind in ("jmpi", "calli") and self.options.targets
        ):
            seen = [self.blocks.rip[to] for to in self.blocks.noted(b, d.slots) if self.is_near(to)]
        return _Found(b, d, taken, fall, seen, behind)

    def is_near(self, b: int) -> bool:
        """Whether a block that a jump went to may belong to the region; its page becomes known."""
        blocks = self.blocks
        if blocks.ctx[b] != self.ctx:
            return False
        rip = blocks.rip[b]
        if rip in self.at:
            return self.at[rip] == b
        linear, page = self.linear(rip), blocks.offset[b] >> PAGE_SHIFT
        if len(self.pages) < MOST_PAGES:
            self.pages.setdefault(linear >> PAGE_SHIFT, page)
        return self.block_at(rip) == b

    def linked(self, b: int, slots: int, way: int, rip: int) -> bool:
        """Whether a block's jump was made, by one of its links, to the block at `rip`."""
        if rip == OUT:
            return False
        to = self.blocks.led_to(b, slots, way)
        return to >= 0 and self.blocks.rip[to] == rip and self.is_near(to)

    def run(self) -> Grown | None:
        met: list[_Found] = []
        number = {self.rip: 0}
        order = [self.rip]
        depth = {self.rip: 0}
        total = 0
        for rip in order:
            found = self.meet(rip, depth[rip] == 0)
            if found is None:
                return None
            met.append(found)
            total += found.described.charge
            if total < MOST_OPS:
                for to in found.successors():
                    if to not in number and len(order) < MOST_NODES and self.block_at(to) >= 0:
                        number[to] = len(order)
                        order.append(to)
                        depth[to] = depth[rip] + (found.behind not in (OUT, to))

        places = return_places({rip: found.step() for rip, found in zip(order, met, strict=True)})
        for rip, found in zip(order, met, strict=True):
            wanted = dict.fromkeys([*found.seen, *places.get(rip, ())])
            found.seen = [r for r in wanted if r in number][:MOST_RETURNS]
        edges = [[number[to] for to in (f.taken, f.fall, *f.seen) if to in number] for f in met]
        kept = _cycle(edges)
        if not kept or not met[0].described.ops:
            return None
        new = {order[k]: n for n, k in enumerate(kept)}
        whole = [self.node(order[k], met[k], new) for k in kept]
        if self.options.joins:
            whole = joined(whole)
        plan = unrolled(whole) if self.options.copies else list(enumerate(whole))
        nodes = [node for _, node in plan]
        nodes[0] = replace(nodes[0], x87=self.x87(nodes))
        members = [met[kept[n]].block for n, _ in plan]
        used = dict.fromkeys(self.linear(order[k]) >> PAGE_SHIFT for k in kept)
        pages = {linear: self.pages[linear] for linear in used}
        return Grown(
            tuple(nodes),
            tuple((b, self.blocks.uop[b]) for b in members),
            tuple((linear << PAGE_SHIFT, page << PAGE_SHIFT, self.blocks.version(page)) for linear, page in pages.items()),
            self.blocks.word("generation"),
            self.linear(self.rip),
        )

    @staticmethod
    def node(rip: int, found: _Found, number: dict[int, int]) -> Node:
        """A block as a node; `number`: of the nodes by their RIP."""
        d = found.described
        taken, fall = number.get(found.taken, OUT), number.get(found.fall, OUT)
        returns = tuple((to, number[to]) for to in found.seen if to in number)
        return Node(rip, d.charge, d.slots, d.ops, taken, fall, returns, d.stop, d.jumps)

    def x87(self, nodes: list[Node]) -> tuple[int, int, int] | None:
        """`Node.x87` of the first node."""
        if not any(op.shape.unit.startswith("x87") for node in nodes for op in node.ops):
            return None
        control = int(self.c.fcw)
        stack = int(self.c.fsw) >> 11 & 7, int(self.c.fpu_used)
        return (*stack, control) if control & ALL_MASKED == ALL_MASKED else None


def _closure(start: int, following: list[list[int]]) -> set[int]:
    """What can be reached from `start`, itself too."""
    found, work = {start}, [start]
    for n in work:
        new = [m for m in following[n] if m not in found]
        found.update(new)
        work += new
    return found


def _cycle(following: list[list[int]]) -> list[int]:
    """The nodes that lie on a way from node 0 back to it, in order; none when there is no such way."""
    ahead = _closure(0, following)
    before: list[list[int]] = [[] for _ in following]
    for n in ahead:
        for m in following[n]:
            before[m].append(n)
    return sorted(_closure(0, before) & ahead) if before[0] else []


def grow(engine: VcpuEngine) -> Grown | None:
    """The region that begins with the block that asks (`hot_block`); None when there is no use in one."""
    return _Grower(engine).run()


def ask_later(engine: VcpuEngine, block: int) -> None:
    """Let a block that asked for a region be counted again, longer."""
    engine.accel.ask_again(engine.address, block, LATER * int(engine.c.region_hot))


def still_true(engine: VcpuEngine, grown: Grown) -> bool:
    """Whether the blocks that a region was made from are what they were."""
    blocks = engine.regions.blocks
    return blocks.word("generation") == grown.generation and all(
        blocks.version(offset >> PAGE_SHIFT) == version for _, offset, version in grown.pages
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
