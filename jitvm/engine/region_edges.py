"""A region's ways from block to block, out of it, and what of the budget is used up on them.

An edge that leads out goes through the block's link slot, as the block's own last micro-op does.  What each block is charged
comes off the budget once a way (`region.owed`); whether it holds is asked where `region.heads` says.
"""

from __future__ import annotations

from collections.abc import Sequence

from jitvm.engine import layout as lay
from jitvm.engine.ir_text import signed
from jitvm.engine.region import OUT, Node, heads, longest, owed
from jitvm.engine.region_x87 import X87Values
from jitvm.engine.units import Units
from jitvm.isa.state import RSP


class RegionEdges(X87Values):
    """The part of a region's builder that deals with where it goes."""

    def __init__(self, units: Units, name: str, nodes: Sequence[Node]) -> None:
        super().__init__(units, name, nodes)
        self._word, self._word_size = ("i64", 8) if self.long else ("i32", 4)
        """A guest register's local variable: LLVM's type, and bytes."""
        self.nodes, self.op = nodes, nodes[0].ops[0]
        self._number, self._node = 0, nodes[0]
        self.counting = False
        """Instructions are counted (`stat_region_insns`)."""
        self.asking = heads(nodes)
        self.need = longest(nodes, self.asking)
        self.owed = owed(nodes, self.asking)
        self._misses: dict[str, int] = {}
        self._before: dict[str, tuple[str, str]] = {}
        """What variables were before an indirect jump: type and value by place."""
        self._indirect = self._enters = self._leaves = self._resumes = False

    # ---- where to go --------------------------------------------------------------------------------------------------
    def _block(self, n: int) -> str:
        """Address of a node's first micro-op."""
        return self.new(f"load ptr, ptr {self.gep('%table', lay.TABLE_BLOCKS + 8 * n)}")

    def next(self) -> None:
        """The next instruction's text follows."""

    def _left(self, more: int = 0) -> str:
        """The budget with all charged that is entered, and so many instructions more."""
        left, less = self.new("load i64, ptr %left"), self.owed[self._number] + more
        return self.new(f"sub i64 {left}, {less}") if less else left

    def _set_left(self, v: str) -> None:
        self.put(f"store i64 {self.new(f'add i64 {v}, {self.owed[self._number]}')}, ptr %left")

    def _pay(self, more: int = 0) -> None:
        """Take off the budget what is charged: whoever comes here from elsewhere may have another sum."""
        self.put(f"store i64 {self._left(more)}, ptr %left")

    def _edge(self, to: int, slot: int) -> None:
        if to == OUT or self.owed[to] == self.nodes[to].charge:
            self._pay()
        if to != OUT:
            self.enter_loop(to)
            self.put(f"br label %E{to}")
            return
        where = self.gep(self._block(self._number), lay.UOP_SIZE * self._node.slots + slot - lay.UOP_TAKEN)
        self.put(f"store ptr {self.new(f'load ptr, ptr {where}')}, ptr %to")
        self._enters = True
        self.put("br label %enter")

    def branch(self, taken: str) -> None:
        yes, no = self.label(), self.label()
        self.cond_branch(self.new(f"icmp ne i64 {taken}, 0"), yes, no)
        for label, to, slot in ((yes, self._node.taken, lay.UOP_TAKEN), (no, self._node.fall, lay.UOP_FALL)):
            self.place(label)
            self._edge(to, slot)

    def jump(self) -> None:
        if self._node.ends and self._node.taken == OUT:  # such a block has no links
            self.indirect(self.next_rip())
        else:
            self._edge(self._node.taken, lay.UOP_TAKEN)

    def check_target(self, target: str) -> None:
        """Done by `indirect`, which comes next: where the region goes on is code, for the limit is part of its context."""
        places = ("%left",) if self.op.shape.kind == "jmpi" else ("%left", f"%r{RSP}")
        for place in places:
            ty = "i64" if place == "%left" else self._word
            self._before[place] = ty, self.new(f"load {ty}, ptr {place}")

    def indirect(self, target: str, *, noted: bool = False) -> None:
        self._pay()
        if self._node.returns:
            other = self.label()
            cases = " ".join(f"i64 {signed(rip, 64)}, label %E{n}" for rip, n in self._node.returns)
            self.put(f"switch i64 {target}, label %{other} [ {cases} ]")
            self.place(other)
        if self._before:
            undo, go = self.label(), self.label()
            self.cond_branch(self._is_no_code(target), undo, go, False)
            self.place(undo)
            for place, (ty, v) in self._before.items():
                self.put(f"store {ty} {v}, ptr {place}")
            self._before.clear()
            self.put(f"br label %{self.again()}")
            self.place(go)
        self.put(f"store i64 {target}, ptr %target")
        self._indirect = True
        self.put("br label %indirect")

    # ---- memory: a hit, or the handler --------------------------------------------------------------------------------
    def again(self) -> str:
        """The label that leaves for this instruction's handler; its text follows behind the block."""
        label = f"again{self._number}_{self.op.uop}"
        self._misses[label] = self.op.uop
        return label

    def _leave_at(self, uop: int) -> None:
        """Leave for a micro-op of this node's block."""
        self._pay(self._node.tail)
        u = self.gep(self._block(self._number), lay.UOP_SIZE * uop)
        self.put(f"store ptr {u}, ptr %to")
        self._leaves = True
        self.put("br label %leave")

    # ---- where others come in --------------------------------------------------------------------------------------------
    def _count(self, n: int | str) -> None:
        """Where that is wanted, count so many instructions: those of a node that is entered, further iterations."""
        if self.counting:
            self.set_word("stat_region_insns", self.new(f"add i64 {self.word('stat_region_insns')}, {n}"))

    def _short(self, left: str, go: str, out: str) -> None:
        """To `out` when `left` is below what may be used up."""
        self.cond_branch(self.new(f"icmp slt i64 {left}, {self.floor()}"), out, go, False)

    def _place_edge(self, n: int) -> None:
        """Where a node is entered from others; a head asks for all up to the next question."""
        self.place(f"E{n}")
        if n in self.asking:
            left = self.new("load i64, ptr %left")
            self._short(self.new(f"sub i64 {left}, {self.need[n]}"), f"C{n}", f"S{n}")
            self.place(f"S{n}")
            self.put(f"store ptr {self._block(n)}, ptr %to")
            self._enters = True
            self.put("br label %enter")
            self.place(f"C{n}")
        self._count(self.nodes[n].charge)
        self.put(f"br label %B{n}")
