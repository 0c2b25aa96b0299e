"""Regions: hot blocks joined along their edges in one LLVM function: the plan of one.

A `Node` is a block, an `Op` one of its instructions with everything that the stitcher must know of it: a plan says all
that a region's code is made from, and names no address.  `jitvm/engine/region_ir.py` makes the code.

Counting is exact: each block is charged where it is entered.  Whether the budget holds is asked once a loop: at the head of
each cycle (`heads`) and at the region's entry, for the longest way to the next such question (`longest`).

The code is entered through the entry record of its first block, whose `imm` points to the region's table (TABLE_*).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from jitvm.engine.forms import Shape

OUT = -1
"""In place of a node's number: the edge leads out of the region."""

COPIES, UNROLLED = 4, 32
"""Copies of a small loop's body, at most, and instructions of all copies."""

MODES = ("eager_flags", "count", "apart", "single")
"""Ways of making a region that are not the usual: flags are made at once; instructions are counted (`stat_region_insns`);
each access looks into the TLB; each looks for itself, though others of its block lie close to it."""


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

    @property
    def text(self) -> str:
        """All of it, for names."""
        own = self.variant, self.uop, self.d, self.s, self.b, self.i, self.seg, self.scale, self.disp, self.imm
        return f"{self.shape.symbol} {own} {self.eip} {self.next} {self.rest} {self.reads} {self.kills}"


@dataclass(frozen=True)
class Node:
    """One block: `charge` instructions; `slots`: the micro-op's number at which its link slots lie.

    `taken`, `fall`: nodes that the jump leads to, or OUT.  `returns`: (EIP, node) that an indirect jump may find.
    `stop`: the micro-op at which the region is left for good, before an instruction that it can't hold; -1: none.
    `jumps`: its last instruction is a jump; else it goes on in `taken`.  `x87`: how the stack stood when the region was
    grown (TOP, registers in use, control word); of the first node, where there are x87 instructions and all is masked.
    `cut`: the first instruction of its block that is not here, because the node that `taken` names goes on with it.
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
    cut: Op | None = None

    @property
    def text(self) -> str:
        """All of it, for names."""
        own = self.rip, self.charge, self.slots, self.taken, self.fall, self.returns, self.stop, self.jumps, self.x87
        return "\n".join((f"{own} {self.cut.text if self.cut else ''}", *(op.text for op in self.ops)))

    @property
    def tail(self) -> int:
        """Instructions of its block that the node which goes on is charged for; who leaves for the block takes them off."""
        return self.cut.rest if self.cut else 0

    @property
    def ends(self) -> bool:
        """Its last instruction is one that ends a block and is no jump: another block follows when it comes back with OK."""
        return self.stop < 0 and bool(self.ops) and self.ops[-1].shape.ends

    def successors(self) -> list[int]:
        """Nodes that may follow."""
        return [n for n in (self.taken, self.fall, *(n for _, n in self.returns)) if n != OUT]


def joined(nodes: Sequence[Node]) -> list[Node]:
    """The nodes without what they hold twice: a block that runs into the beginning of another one ends there.

    Blocks begin where jumps went, so the way into a loop is a block with a whole round of it.  Joined, loops are what they
    were for the guest's compiler, each with one head, and what lies in two blocks is compiled once.
    """
    at_rip = {node.rip: n for n, node in enumerate(nodes)}
    result = list(nodes)
    for n in sorted(range(len(nodes)), key=lambda n: -len(nodes[n].ops)):
        node = result[n]
        for k, op in enumerate(node.ops):
            m = at_rip.get(op.eip, n) if k else n
            if m == n or not _same(node.ops[k:], nodes[m].ops) or (node.stop < 0) != (nodes[m].stop < 0):
                continue
            other, returns = result[m], dict(result[m].returns) | dict(node.returns)
            taken, fall = max(other.taken, node.taken), max(other.fall, node.fall)
            result[m] = replace(other, taken=taken, fall=fall, returns=tuple(returns.items()))
            ops = tuple(replace(before, rest=before.rest - op.rest) for before in node.ops[:k])
            result[n] = Node(node.rip, node.charge - op.rest, node.slots, ops, taken=m, jumps=False, x87=node.x87, cut=op)
            break
    return result


def _same(some: Sequence[Op], others: Sequence[Op]) -> bool:
    """Whether two blocks' instructions are the same."""
    return len(some) == len(others) and all(replace(a, uop=b.uop) == b for a, b in zip(some, others, strict=True))


def back_edges(following: Sequence[Sequence[int]]) -> list[tuple[int, int]]:
    """The edges by which a walk from node 0 comes back to where it is; `following`: the nodes behind each."""
    found: list[tuple[int, int]] = []
    state = [0] * len(following)
    stack = [(0, iter(following[0]))]
    state[0] = 1
    while stack:
        n, rest = stack[-1]
        to = next(rest, None)
        if to is None:
            state[n] = 2
            stack.pop()
        elif state[to] == 1:
            found.append((n, to))
        elif state[to] == 0:
            state[to] = 1
            stack.append((to, iter(following[to])))
    return found


def heads(nodes: Sequence[Node]) -> set[int]:
    """Nodes where the budget is asked for when they are entered from others: one at least in each cycle, and none that can
    be spared; and what follows a repeated string instruction, which takes more of it than is charged."""
    following = [node.successors() for node in nodes]
    always = {to for node in nodes if node.ends for to in node.successors()}
    found = always.union(to for _, to in back_edges(following))
    for spared in sorted(found - always):
        fewer = found - {spared}
        if not _has_cycle([[m for m in to if m not in fewer] for to in following]):
            found = fewer
    return found


def _has_cycle(following: Sequence[Sequence[int]]) -> bool:
    """Whether a walk can come back to where it was."""
    before = Counter(m for to in following for m in to)
    ready = [n for n in range(len(following)) if not before[n]]
    for n in ready:
        for m in following[n]:
            before[m] -= 1
            if not before[m]:
                ready.append(m)
    return len(ready) < len(following)


def longest(nodes: Sequence[Node], asking: set[int]) -> list[int]:
    """Instructions that may be charged from the entry of each node to the next that asks."""
    need = [0] * len(nodes)
    for start in range(len(nodes)):
        work = [start]
        while work:
            following = [m for m in nodes[work[-1]].successors() if m not in asking]
            unknown = [m for m in following if not need[m]]
            if unknown:
                work += unknown
            else:
                n = work.pop()
                need[n] = nodes[n].charge + max((nodes[n].tail, *(need[m] for m in following)))
    return need


def owed(nodes: Sequence[Node], asking: set[int]) -> list[int]:
    """Instructions that are charged within each node, and still to be taken off the budget there.

    All of a way that nothing else leads into, since the last question: they are taken off where it ends or is left.
    """
    before: list[set[int]] = [set() for _ in nodes]
    for n, node in enumerate(nodes):
        for m in node.successors():
            before[m].add(n)
    alone = {n for n, others in enumerate(before) if len(others) == 1 and n and n not in asking}
    alone -= {m for node in nodes for _, m in node.returns}
    found = [0 if n in alone else node.charge for n, node in enumerate(nodes)]
    for start in range(len(nodes)):
        way = [start]
        while not found[way[-1]]:
            way += before[way[-1]]
        for n, ahead in zip(way[-2::-1], way[:0:-1], strict=True):
            found[n] = found[ahead] + nodes[n].charge
    return found


def inner_loops(nodes: Sequence[Node]) -> dict[int, set[int]]:
    """The loops that hold no other one: the nodes of each by its head, where all others are entered."""
    following = [node.successors() for node in nodes]
    before: list[list[int]] = [[] for _ in nodes]
    for n, to in enumerate(following):
        for m in to:
            before[m].append(n)
    found: dict[int, set[int]] = {}
    for end, head in back_edges(following):
        body, work = found.setdefault(head, {head}), [end]
        while work:
            n = work.pop()
            if n not in body:
                body.add(n)
                work += before[n]
    return {
        head: body
        for head, body in found.items()
        if (head == 0 or 0 not in body) and not any(other in body for other in found if other != head)
    }


def unrolled(nodes: Sequence[Node]) -> list[tuple[int, Node]]:
    """The nodes of a region, small loops several times over, each with the number of the node that it is a copy of.

    The budget is asked for once a round; what leads into a loop goes to the first of the copies.
    """
    result = list(enumerate(nodes))
    taken: set[int] = set()
    for head, body in inner_loops(nodes).items():
        times = min(COPIES, UNROLLED // max(sum(len(nodes[n].ops) for n in body), 1))
        if times < 2 or body & taken or any(nodes[n].ends for n in body):
            continue
        taken |= body
        order = sorted(body)
        copies = [{n: n for n in order}]
        for _ in range(1, times):
            first = len(result) + len(order) * (len(copies) - 1)
            copies.append({n: first + k for k, n in enumerate(order)})
        more: list[tuple[int, Node]] = []
        for k, here in enumerate(copies):
            ahead = here | {head: copies[(k + 1) % times][head]}
            for n in order:
                node = _led(nodes[n], ahead)
                if k:
                    more.append((n, node))
                else:
                    result[n] = n, node
        result += more
    return result


def _led(node: Node, ahead: Mapping[int, int]) -> Node:
    """A node that leads to others instead of some."""
    returns = tuple((rip, ahead.get(n, n)) for rip, n in node.returns)
    return replace(node, taken=ahead.get(node.taken, node.taken), fall=ahead.get(node.fall, node.fall), returns=returns)
