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
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from jitvm.engine.region import Node, Op, inner_loops
from jitvm.engine.region_flags import LazyFlags
from jitvm.engine.simd_forms import WIDE
from jitvm.engine.units import Units
from jitvm.isa.state import RSP, SS, ZERO

MOST_STREAMS = 16
"""Streams of a region that share their look-ups."""
LARGE = 40
"""Nodes of a region where values get scarce."""
LOOP_STREAMS = 4
"""Streams of an inner loop that have values for their variables within it."""
NO_PAGE = -(1 << 63)
"""No 32-bit address is within a page behind this one."""
STORING_KINDS = frozenset({"pop", "fpu_store", "fpu_put"})
STORING_UNITS = frozenset({"x87_move.stp_m80"})
"""Units that store by themselves, but where they are done in place."""
STACK_KINDS = frozenset({"push", "pop", "call", "calli", "ret", "leave"})
PAGE = 4096
Stream = tuple[int, ...]
T = TypeVar("T")
Ways = tuple[tuple[T, str], tuple[T, str]]
"""What was made on each of two ways, and the label of its end."""


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
    return 6 if len(nodes) < LARGE else 2


def loops_of(nodes: Sequence[Node]) -> dict[int, set[int]]:
    """Inner loops, the nodes of each by its head, that are entered by edges only."""
    found = inner_loops(nodes)
    for n, node in enumerate(nodes):
        for _, to in node.returns:
            if to in found and n not in found[to]:
                del found[to]
    return found


def streams_of(nodes: Iterable[Node], streams: dict[Stream, bool], n_values: int, *, values: bool) -> list[int]:
    """Numbers of the streams that have values within a loop."""
    uses = Counter(found for node in nodes for op in node.ops for found, _ in _accesses(op, values))
    numbers = {found: k for k, found in enumerate(streams)}
    wanted = [numbers[found] for found, _ in uses.most_common() if numbers.get(found, -1) >= n_values]
    return wanted[:LOOP_STREAMS]


class SharedLookups(LazyFlags):
    """The part of a region's builder that finds guest memory."""

    _node: Node
    _number: int
    """The node that is being put together, and its number."""

    def __init__(self, units: Units, name: str, *, long: bool = False) -> None:
        super().__init__(units, name, long=long)
        self.streams: dict[Stream, bool] = {}
        """Those that share their look-ups, and whether they are stored to."""
        self.apart = False
        """Nothing is shared here: the way is rarely taken."""
        self.n_values = 0
        """Streams with values for their variables."""
        self.loop_of: dict[int, int] = {}
        """The inner loop to which a node belongs, by its head."""
        self.loop_streams: dict[int, list[int]] = {}
        """Streams that have values within an inner loop."""

    # ---- accesses -----------------------------------------------------------------------------------------------------
    def _hit(self, seg: str, flat: bool, off: str, size: int, write: bool, *, aligned: bool = False) -> str:
        if not self._shares(seg):
            return super()._hit(seg, flat, off, size, write, aligned=aligned)
        ways = self._both_ways(seg, flat, off, size, write, lambda *address: address, aligned=aligned)
        return self._sum(*self._met(ways))

    def load(self, seg: str, flat: bool, off: str, size: int) -> str:
        if not self._only_read(seg):
            return super().load(seg, flat, off, size)
        return self._loaded("i64", seg, flat, off, size, lambda *address: self._guest_load(self._sum(*address), size))

    def load_wide(self, seg: str, flat: bool, off: str, odd: bool) -> str:
        if not self._only_read(seg):
            return super().load_wide(seg, flat, off, odd)
        return self._loaded(
            WIDE, seg, flat, off, 16, lambda *address: self._guest_load_wide(self._sum(*address)), aligned=not odd
        )

    def _shares(self, seg: str) -> bool:
        """Whether an access of this instruction through a segment register shares its look-up."""
        return not self.apart and stream(self.op, int(seg)) in self.streams

    def _only_read(self, seg: str) -> bool:
        """Whether a read of this instruction leaves alone what its stream remembers: each way has its own load then, for
        addresses that meet would take a register each.  Else they are what is remembered."""
        return self._shares(seg) and self.streams[stream(self.op, int(seg))]

    def _sum(self, base: str, offset: str) -> str:
        return self.new(f"inttoptr i64 {self.new(f'add i64 {base}, {offset}')} to ptr")

    def _met(self, ways: Ways[tuple[str, str]]) -> tuple[str, str]:
        """The two words of an address where both ways meet."""
        (near, a), (far, b) = ways
        base = self.new(f"phi i64 [ {near[0]}, %{a} ], [ {far[0]}, %{b} ]")
        return base, self.new(f"phi i64 [ {near[1]}, %{a} ], [ {far[1]}, %{b} ]")

    def _loaded(
        self, ty: str, seg: str, flat: bool, off: str, size: int, load: Callable[[str, str], str], *, aligned: bool = False
    ) -> str:
        """What `load` loads, on either way."""
        ways = self._both_ways(seg, flat, off, size, False, load, aligned=aligned)
        return self.new(f"phi {ty} " + ", ".join(f"[ {v}, %{label} ]" for v, label in ways))

    def _both_ways(
        self,
        seg: str,
        flat: bool,
        off: str,
        size: int,
        write: bool,
        use: Callable[[str, str], T],
        *,
        aligned: bool = False,
        missed: str = "",
    ) -> Ways[T]:
        """Find an operand on the page that was looked up last, or by the TLB: what `use` makes of each way's host address
        (two words to be added), and the label of this way, which lead together.  Else to label `missed`."""
        found = stream(self.op, int(seg))
        k, stored = list(self.streams).index(found), self.streams[found]
        near, far, looked_up, join = (self.label() for _ in range(4))
        places = self._places(k)
        kept, place = places[-1]
        lin, good = self._linear(seg, flat, off, size, write)
        within = self.new(f"add i64 {lin}, {self.new(f'load {kept}, ptr %page{place}')}")
        if aligned:
            same = self.new(f"icmp eq i64 {self.new(f'and i64 {within}, {size - PAGE - 1}')}, 0")
        else:
            same = self.new(f"icmp ule i64 {within}, {PAGE - size}")
        remembered = ""
        if self.long:  # where an address is any 64-bit word, no number stands for "none"
            remembered = self.new(f"load {kept}, ptr %host{place}")
            same = self._both(same, self.new(f"icmp ne i64 {remembered}, 0"))
        self.cond_branch(self._both(same, good), near, far, True)
        self.place(near)
        here = use(remembered or self.new(f"load {kept}, ptr %host{place}"), within)
        self.put(f"br label %{join}")
        self.place(far)
        hit, entry = self._entry(lin, size, write, aligned=aligned)
        self.cond_branch(self._both(hit, good), looked_up, missed or self.again(), True)
        self.place(looked_up)
        page = self.new(f"and i64 {lin}, {-PAGE}")
        host = self.new(f"add i64 {self.new(f'load i64, ptr {self.gep(entry, 8)}')}, {page}")
        if self.long:
            self.put(f"call void @llvm.assume(i1 {self.new(f'icmp ne i64 {host}, 0')})")
        if write or not stored:
            negated = self.new(f"sub i64 0, {page}")
            for kept, place in places:
                self.put(f"store {kept} {negated}, ptr %page{place}")
                self.put(f"store {kept} {host}, ptr %host{place}")
        there = use(host, self.new(f"and i64 {lin}, {PAGE - 1}"))
        if stored and not write:  # LLVM would make one load of both, and addresses meet
            self.put('fence syncscope("singlethread") seq_cst')
        self.put(f"br label %{join}")
        self.place(join)
        return (here, near), (there, looked_up)

    def plan_streams(self, nodes: Sequence[Node], *, values: bool) -> None:
        """Decide which accesses share their look-ups.  `values`: x87 registers are values."""
        self.streams, self.n_values = busiest(nodes, values=values), values_of(nodes)
        loops = loops_of(nodes)
        self.loop_of = {n: head for head, body in loops.items() for n in body}
        self.loop_streams = {
            head: streams_of([nodes[n] for n in body], self.streams, self.n_values, values=values)
            for head, body in loops.items()
        }

    # ---- where it is remembered ---------------------------------------------------------------------------------------
    def _places(self, k: int) -> list[tuple[str, str]]:
        """Variables of stream k that are to be kept up to date here, the one to be asked last: type and name."""
        if k < self.n_values:
            return [("i64", f"{k}")]
        loop = self.loop_of.get(self._number)
        here = [("i64", f"_loop{k}")] if loop is not None and k in self.loop_streams[loop] else []
        return [("volatile i64", f"{k}"), *here]

    def enter_loop(self, head: int) -> None:
        """Behind this edge lies a loop: its values are what memory has."""
        if self.loop_of.get(self._number) == head:
            return
        for k in self.loop_streams.get(head, ()):
            for what in ("page", "host"):
                self.put(f"store i64 {self.new(f'load i64, ptr %{what}{k}')}, ptr %{what}_loop{k}")

    def pages(self) -> list[str]:
        """Text that makes the local variables of all streams, empty."""
        lines = []
        names = [str(k) for k in range(len(self.streams))]
        names += [f"_loop{k}" for k in sorted({k for ks in self.loop_streams.values() for k in ks})]
        for name in names:
            lines += [f"  %{what}{name} = alloca i64" for what in ("page", "host")]
            lines += [f"  store i64 {NO_PAGE}, ptr %page{name}", f"  store i64 0, ptr %host{name}"]
        return lines
