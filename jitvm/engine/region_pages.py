"""A region's look-ups in the TLB, shared between accesses that mostly stay on a page.

The memory operands of a region are sorted into *streams*: those with the same segment and registers in their address, all
accesses to the stack, absolute ones on the same page.  The busiest streams have two local variables each, the linear
address of the page that was looked up last, negated, and its host address: an access asks whether it is on that page, and
only else the TLB.

LLVM makes values of the variables of some (`values_of`), which is best in a small loop.  The others stay in memory (their
accesses are volatile): where a hundred blocks join, values are moved from register to register at the edges, and push the
guest's registers out.

It is safe because nothing within a region makes a TLB entry untrue: what does (a flush, a page that gets translated code,
a watch) happens elsewhere, or in out-of-line semantics behind which `epoch` is compared, and the variables are empty where a
region is entered.  A stream that is stored to remembers pages that may be written; such a page may also be read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from jitvm.engine.region import Node, Op
from jitvm.engine.region_flags import LazyFlags
from jitvm.isa.state import RSP, SS, ZERO

MOST_STREAMS = 16
"""Streams of a region that share their look-ups."""
LARGE = 40
"""Nodes of a region where values get scarce."""
NO_PAGE = -(1 << 63)
"""No 32-bit address is within a page behind this one."""
STORING_KINDS = frozenset({"pop", "fpu_store", "fpu_put"})
STORING_UNITS = frozenset({"x87_move.stp_m80"})
"""Units that store by themselves, but where they are done in place."""
STACK_KINDS = frozenset({"push", "pop", "call", "calli", "ret", "leave"})
PAGE = 4096
Stream = tuple[int, ...]


def stream(op: Op, seg: int) -> Stream:
    """The stream of an access of `op` through segment register `seg`."""
    if seg == SS and op.shape.kind in STACK_KINDS:
        return (seg, int(RSP) * 8, int(ZERO) * 8)
    if op.shape.mem[:1] == "p":
        return (seg, (op.next + (op.disp ^ 1 << 31) - (1 << 31)) // PAGE)
    if op.shape.mem[:1] == "o":
        return (seg, op.imm // PAGE)
    if op.b == op.i == int(ZERO) * 8:
        return (seg, op.disp // PAGE)
    return (seg, op.b, op.i)


def _accesses(op: Op, values: bool) -> Iterable[tuple[Stream, bool]]:
    """The streams of an instruction that is put together in place, and whether it stores to them."""
    shape = op.shape
    if shape.kind in STACK_KINDS:
        yield stream(op, int(SS)), shape.kind in ("push", "call", "calli")
    if shape.mem:
        in_place = values and shape.unit in STORING_UNITS
        to_memory = shape.dst == "0" and shape.ops[0] == "m"
        yield stream(op, op.seg >> 3), shape.kind in STORING_KINDS or in_place or to_memory


def busiest(nodes: Sequence[Node], *, values: bool = False) -> dict[Stream, bool]:
    """The streams that share their look-ups, and which of them are stored to.

    `values`: x87 registers are values, and their units done in place.
    """
    uses: Counter[Stream] = Counter()
    stored: set[Stream] = set()
    for node in nodes:
        for op in node.ops:
            for found, stores in _accesses(op, values):
                uses[found] += 1
                stored |= {found} if stores else set()
    return {found: found in stored for found, _ in uses.most_common(MOST_STREAMS)}


def values_of(nodes: Sequence[Node]) -> int:
    """How many streams have values for their variables; each keeps two host registers busy."""
    return 6 if len(nodes) < LARGE else 1


class SharedLookups(LazyFlags):
    """The part of a region's builder that finds guest memory."""

    streams: dict[Stream, bool]
    n_values: int
    """Streams with values for their variables."""

    def _hit(self, seg: str, flat: bool, off: str, size: int, write: bool, *, aligned: bool = False) -> str:
        found = stream(self.op, int(seg))
        if found not in self.streams:
            return super()._hit(seg, flat, off, size, write, aligned=aligned)
        k, stored = list(self.streams).index(found), self.streams[found]
        near, far, looked_up, join = (self.label() for _ in range(4))
        kept = "i64" if k < self.n_values else "volatile i64"
        lin, good = self._linear(seg, flat, off, size, write)
        within = self.new(f"add i64 {lin}, {self.new(f'load {kept}, ptr %page{k}')}")
        if aligned:
            same = self.new(f"icmp eq i64 {self.new(f'and i64 {within}, {size - PAGE - 1}')}, 0")
        else:
            same = self.new(f"icmp ule i64 {within}, {PAGE - size}")
        if self.long:  # where an address is any 64-bit word, no number stands for "none"
            same = self._both(same, self.new(f"icmp ne i64 {self.new(f'load {kept}, ptr %host{k}')}, 0"))
        self.cond_branch(self._both(same, good), near, far, True)
        self.place(near)
        here = self.new(f"load {kept}, ptr %host{k}")
        self.put(f"br label %{join}")
        self.place(far)
        hit, entry = self._entry(lin, size, write, aligned=aligned)
        self.cond_branch(self._both(hit, good), looked_up, self.again(), True)
        self.place(looked_up)
        page = self.new(f"and i64 {lin}, {-PAGE}")
        there = self.new(f"add i64 {self.new(f'load i64, ptr {self.gep(entry, 8)}')}, {page}")
        if write or not stored:
            self.put(f"store {kept} {self.new(f'sub i64 0, {page}')}, ptr %page{k}")
            self.put(f"store {kept} {there}, ptr %host{k}")
        inside = self.new(f"and i64 {lin}, {PAGE - 1}")
        self.put(f"br label %{join}")
        self.place(join)
        base = self.new(f"phi i64 [ {here}, %{near} ], [ {there}, %{looked_up} ]")
        offset = self.new(f"phi i64 [ {within}, %{near} ], [ {inside}, %{looked_up} ]")
        return self.new(f"inttoptr i64 {self.new(f'add i64 {base}, {offset}')} to ptr")

    def pages(self) -> list[str]:
        """Text that makes the local variables of all streams, empty."""
        lines = []
        for k in range(len(self.streams)):
            lines += [f"  %{name}{k} = alloca i64" for name in ("page", "host")]
            lines += [f"  store i64 {NO_PAGE}, ptr %page{k}", f"  store i64 0, ptr %host{k}"]
        return lines
