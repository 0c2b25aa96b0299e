"""Regions: hot blocks joined along their edges in one LLVM function: the plan of one.

A `Node` is a block, an `Op` one of its instructions with everything that the stitcher must know of it: a plan says all
that a region's code is made from, and names no address.  `jitvm/engine/region_ir.py` makes the code.

Counting is exact: each block is charged where it is entered.  Whether the budget holds is asked once a loop: at the head of
each cycle (`heads`), for the longest way to the next such question (`longest`).

The code is entered through the entry record of its first block, whose `imm` points to the region's table (TABLE_*).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jitvm.engine.forms import Shape

OUT = -1
"""In place of a node's number: the edge leads out of the region."""

MODES = ("eager_flags", "count", "apart")
"""Ways of making a region that are not the usual: flags are made at once; instructions are counted (`stat_region_insns`);
each access looks into the TLB."""


@dataclass(frozen=True)
class Op:
    """One instruction: what the micro-op says of it, and which micro-op of its block that is (`uop`).

    `reads`: what it does depends on arithmetic flags; `kills`: it writes all six.
    """

    shape: Shape
    variant: int
    uop: int
    d: int
    s: int
    b: int
    i: int
    seg: int
    scale: int
    disp: int
    imm: int
    eip: int
    next: int
    rest: int
    reads: bool
    kills: bool


@dataclass(frozen=True)
class Node:
    """One block: `charge` instructions; `slots`: the micro-op's number at which its link slots lie.

    `taken`, `fall`: nodes that the jump leads to, or OUT.  `returns`: (EIP, node) that an indirect jump may find.
    `stop`: the micro-op at which the region is left for good, before an instruction that it can't hold; -1: none.
    `jumps`: its last instruction is a jump; else it goes on in `taken`.  `x87`: how the stack stood when the region was
    grown (TOP, registers in use, control word); of the first node, where there are x87 instructions and all is masked.
    """

    rip: int
    charge: int
    slots: int
    ops: tuple[Op, ...]
    taken: int = OUT
    fall: int = OUT
    returns: tuple[tuple[int, int], ...] = ()
    stop: int = -1
    jumps: bool = True
    x87: tuple[int, int, int] | None = None

    @property
    def ends(self) -> bool:
        """Its last instruction is one that ends a block and is no jump: another block follows when it comes back with OK."""
        return self.stop < 0 and bool(self.ops) and self.ops[-1].shape.ends

    def successors(self) -> list[int]:
        """Nodes that may follow."""
        return [n for n in (self.taken, self.fall, *(n for _, n in self.returns)) if n != OUT]


def heads(nodes: Sequence[Node]) -> set[int]:
    """Nodes where the budget is asked for: the region's entry, the targets of all back edges, and what follows a repeated
    string instruction, which takes more of it than is charged."""
    found, state = {0}, [0] * len(nodes)
    for node in nodes:
        if node.ends:
            found.update(node.successors())
    stack = [(0, iter(nodes[0].successors()))]
    state[0] = 1
    while stack:
        n, rest = stack[-1]
        following = next(rest, None)
        if following is None:
            state[n] = 2
            stack.pop()
        elif state[following] == 1:
            found.add(following)
        elif state[following] == 0:
            state[following] = 1
            stack.append((following, iter(nodes[following].successors())))
    return found


def longest(nodes: Sequence[Node], asking: set[int]) -> list[int]:
    """Instructions that may be charged from the entry of each node to the next that asks."""
    need: list[int] = [0] * len(nodes)

    def of(n: int) -> int:
        if not need[n]:
            need[n] = nodes[n].charge + max((of(m) for m in nodes[n].successors() if m not in asking), default=0)
        return need[n]

    return [of(n) for n in range(len(nodes))]
