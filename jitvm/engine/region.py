"""Regions: hot blocks joined along their edges in one LLVM function, guest registers and flags in SSA.

The third product of the stitcher: operands are constants here.  Guest registers and lazy flags are local variables of the
function (LLVM makes values of them); what the region touches is loaded at its entry and stored where it leaves.

A region has no slow path.  What misses (TLB, limit, code page, watchpoint) stores the registers and jumps to the handler
of the same instruction, with exactly its state; an edge that leads out goes through the block's link slot, as the block's
own last micro-op does.  Counting is exact: each block is charged where it is entered.  Whether the budget holds is asked
once a loop: at the head of each cycle, for the longest way to the next such question.

A region has a handler's signature and is entered through the entry record of its first block.  It holds no address: the
entry record's `imm` points to its table (`T_*`), which the installer fills.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jitvm.engine import layout as lay
from jitvm.engine.compose import RCX_AT, compose
from jitvm.engine.formbits import VARIANT_DEAD, VARIANT_FUSED
from jitvm.engine.forms import Shape
from jitvm.engine.layout import at
from jitvm.engine.stitch import FLAGS_BYTES, INLINE_MODULE, SIGNATURE, HandlerBuilder, module
from jitvm.engine.units import Units
from jitvm.isa.state import ZERO

TABLE_VERSION_AT, TABLE_VERSION, TABLE_BLOCKS = 0, 8, 16
"""The region's table: host address of its page's version, the version it was made for, then a word a block: the address
of its first micro-op."""
NO_TABLES = '"no-jump-tables"="true"'
OUT = -1
"""In place of a node's number: the edge leads out of the region."""
WRITE_BACK, RELOAD = "@WRITE_BACK@", "@RELOAD@"
"""Lines that `text` replaces when it is known which registers the region uses."""
INVARIANT = ("tlb_off", "ctx")
"""Words of the record that nothing in a region changes."""


@dataclass(frozen=True)
class Op:
    """One instruction: what the micro-op says of it, and which micro-op of its block that is (`uop`)."""

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


@dataclass(frozen=True)
class Node:
    """One block: `charge` instructions; `slots`: the micro-op's number at which its link slots lie.

    `taken`, `fall`: nodes that the jump leads to, or OUT.  `returns`: (EIP, node) that an indirect jump may find.
    `stop`: the micro-op at which the region is left for good, before an instruction that it can't hold; -1: none.
    `jumps`: its last instruction is a jump; else it goes on in `taken`.
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

    def successors(self) -> list[int]:
        """Nodes that may follow."""
        return [n for n in (self.taken, self.fall, *(n for _, n in self.returns)) if n != OUT]


def heads(nodes: Sequence[Node]) -> set[int]:
    """Nodes where the budget is asked for: the region's entry and the targets of all back edges."""
    found, state = {0}, [0] * len(nodes)
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


class RegionBuilder(HandlerBuilder):
    """The handler builder with constants for operands, local variables for registers, and edges for links."""

    def __init__(self, units: Units, name: str, nodes: Sequence[Node]) -> None:
        super().__init__(units, name)
        self.nodes = nodes
        self.asking = heads(nodes)
        self.need = longest(nodes, self.asking)
        self._invariants: dict[str, int] = {}
        self._written: set[int] = set()
        self._touched: set[int] = set()
        self._node = nodes[0]
        self._number = 0
        self._op = nodes[0].ops[0]
        self._misses: dict[str, int] = {}
        self._next_uop = 0
        self._indirect = self._enters = self._leaves = False

    # ---- operands -----------------------------------------------------------------------------------------------------
    def imm(self) -> str:
        return str(_signed(self._op.imm, 64))

    def imm2(self) -> str:
        return str(self._op.disp & 0xFFFF_FFFF)

    def disp(self) -> str:
        return str(_signed(self._op.disp, 32))

    def scale(self) -> str:
        return str(self._op.scale)

    def segment(self) -> str:
        return str(self._op.seg >> 3)

    def number(self, slot: str) -> str:
        return str(getattr(self._op, slot) >> 3)

    def next_rip(self) -> str:
        return str(self._op.next)

    def is_base(self, at_: int) -> str:
        return str(int(self._op.b == at_))

    # ---- registers ----------------------------------------------------------------------------------------------------
    def gpr(self, at_: int, size: int) -> str:
        register, byte = at_ >> 3, at_ & 7
        if register == ZERO:
            return "0"
        self._touched.add(register)
        v = self.new(f"load i64, ptr %r{register}")
        if byte:
            v = self.new(f"lshr i64 {v}, {8 * byte}")
        return v if size == 8 else self.new(f"and i64 {v}, {(1 << 8 * size) - 1}")

    def set_gpr(self, at_: int, size: int, v: str) -> None:
        register, byte = at_ >> 3, at_ & 7
        self._touched.add(register)
        self._written.add(register)
        if size < 8:
            v = self.new(f"and i64 {v}, {(1 << 8 * size) - 1}")
        if byte:
            v = self.new(f"shl i64 {v}, {8 * byte}")
        if size < 4:
            kept = ~(((1 << 8 * size) - 1) << 8 * byte)
            old = self.new(f"and i64 {self.new(f'load i64, ptr %r{register}')}, {kept}")
            v = self.new(f"or i64 {old}, {v}")
        self.put(f"store i64 {v}, ptr %r{register}")

    def slot_reg(self, slot: str, size: int) -> str:
        return self.gpr(getattr(self._op, slot), size)

    def set_slot_reg(self, slot: str, size: int, v: str) -> None:
        self.set_gpr(getattr(self._op, slot), size, v)

    # ---- the record ---------------------------------------------------------------------------------------------------
    def _at_entry(self, name: str, offset: int) -> str:
        """A word of the record that only out-of-line semantics change: loaded once, and again behind them."""
        self._invariants[name] = offset
        return self.new(f"load i64, ptr %c_{name}")

    def word(self, field: str) -> str:
        return self._at_entry(field, at(field)) if field in INVARIANT else super().word(field)

    def segment_word(self, field: str, seg: str) -> str:
        return self._at_entry(f"{field}{seg}", at(field) + 8 * int(seg))

    # ---- calls --------------------------------------------------------------------------------------------------------
    def call(self, unit: str, args: Sequence[str], *, flags: str = "") -> str:
        if not unit.startswith(INLINE_MODULE):
            return super().call(unit, args, flags=flags)
        self.put(WRITE_BACK)
        self._touched.add(RCX_AT >> 3)
        self._written.add(RCX_AT >> 3)
        v = super().call(unit, args)
        place = self.gep("%cpu", RCX_AT)
        self.put(f"store i64 {self.new(f'load i64, ptr {place}')}, ptr %r{RCX_AT >> 3}")
        return v

    def publish(self) -> None:
        self.put(WRITE_BACK)
        self.set_word("rip", str(self._op.eip))
        self.set_word("next_rip", str(self._op.next))
        self.set_word("left", self.new(f"add i64 {self.new('load i64, ptr %left')}, {self._op.rest}"))

    def check(self) -> None:
        go = self.label()
        self._leave_if(super().word("status"), go)
        self.place(go)

    def finish(self, status: str, *, ends: bool) -> None:
        """Behind out-of-line semantics: everything may have changed, the code too."""
        go, same, changed = self.label(), self.label(), self.label()
        self._leave_if(status, go)
        self.place(go)
        self.put(RELOAD)
        at_, wanted = self.new("load ptr, ptr %table"), self.new(f"load i64, ptr {self.gep('%table', TABLE_VERSION)}")
        self.cond_branch(self.new(f"icmp eq i64 {self.new(f'load i64, ptr {at_}')}, {wanted}"), same, changed, True)
        self.place(changed)
        self._leave_at(self._next_uop)
        self.place(same)

    def lazy(self) -> str:
        return "%lazy"

    # ---- memory: a hit, or the handler --------------------------------------------------------------------------------
    def _again(self) -> str:
        """The label that leaves for this instruction's handler; its text follows behind the block."""
        label = f"again{self._number}_{self._op.uop}"
        self._misses[label] = self._op.uop
        return label

    def _leave_at(self, uop: int) -> None:
        """Leave for a micro-op of this node."""
        u = self.gep(self._block(self._number), lay.UOP_SIZE * uop)
        self.put(f"store ptr {u}, ptr %to")
        self._leaves = True
        self.put("br label %leave")

    def _load(self, slow: str, seg: str, flat: bool, off: str, size: int, write: bool) -> tuple[str, str]:
        hit_label = self.label()
        lin, hit, entry = self._lookup(seg, flat, off, size, write)
        self.cond_branch(hit, hit_label, self._again(), True)
        self.place(hit_label)
        host = self._host(lin, entry)
        return self._guest_load(host, size), host

    def store_back(self, where: str, seg: str, off: str, size: int, v: str) -> None:
        self._guest_store(where, size, v)

    def store(self, seg: str, flat: bool, off: str, size: int, v: str) -> None:
        go = self.label()
        lin, hit, entry = self._lookup(seg, flat, off, size, True)
        self.cond_branch(hit, go, self._again(), True)
        self.place(go)
        self._guest_store(self._host(lin, entry), size, v)

    def check_target(self, target: str) -> None:
        go = self.label()
        limit = self._at_entry("limit1", at("limit") + 8)
        self.cond_branch(self.new(f"icmp ugt i64 {target}, {limit}"), self._again(), go, False)
        self.place(go)

    # ---- where to go --------------------------------------------------------------------------------------------------
    def _block(self, n: int) -> str:
        """Address of a node's first micro-op."""
        return self.new(f"load ptr, ptr {self.gep('%table', TABLE_BLOCKS + 8 * n)}")

    def next(self) -> None:
        """The next instruction's text follows."""

    def _edge(self, to: int, slot: int) -> None:
        if to != OUT:
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
        self._edge(self._node.taken, lay.UOP_TAKEN)

    def indirect(self, target: str) -> None:
        for rip, n in self._node.returns:
            other = self.label()
            self.cond_branch(self.new(f"icmp eq i64 {target}, {rip}"), f"E{n}", other, True)
            self.place(other)
        self.put(f"store i64 {target}, ptr %target")
        self._indirect = True
        self.put("br label %indirect")

    def tail(self, special: str, value: str) -> None:
        self.go(self.new(f"load ptr, ptr {self.cpu(special)}"), "%uop", value)

    def enter(self, u: str, budget: str) -> None:
        n = self.new(f"zext i16 {self.new(f'load i16, ptr {self.gep(u, lay.UOP_REST)}')} to i64")
        left = self.new(f"sub i64 {budget}, {n}")
        go, out = self.label(), self.label()
        self.cond_branch(self.new(f"icmp slt i64 {left}, {self._floor()}"), out, go, False)
        self.place(out)
        self.go(self.new(f"load ptr, ptr {self.cpu('h_out')}"), u, budget)
        self.place(go)
        self.go(self.new(f"load ptr, ptr {u}"), u, left)

    def _floor(self) -> str:
        return self.new(f"load volatile i64, ptr {self.cpu('floor')}")

    # ---- the whole ----------------------------------------------------------------------------------------------------
    def build(self) -> None:
        """All nodes, then the ways out."""
        first = self.nodes[0]
        more = self.need[0] - first.charge
        if more:
            self._short(self.new(f"sub i64 %budget, {more}"), "B0", "short")
            self.place("short")
            self._leave_at(first.ops[0].uop)
        else:
            self.put("br label %B0")
        for n, node in enumerate(self.nodes):
            self._number, self._node = n, node
            self._place_edge(n)
            self.place(f"B{n}")
            self._body()
        for label, used, way in (
            ("leave", self._leaves, self._way_leave),
            ("enter", self._enters, self._way_enter),
            ("indirect", self._indirect, self._way_indirect),
        ):
            if used:
                self.place(label)
                self.put(WRITE_BACK)
                way()

    def _short(self, left: str, go: str, out: str) -> None:
        """To `out` when `left` is below what may be used up."""
        self.cond_branch(self.new(f"icmp slt i64 {left}, {self._floor()}"), out, go, False)

    def _place_edge(self, n: int) -> None:
        """Where a node is entered from others: charge it; a head asks for all up to the next question."""
        self.place(f"E{n}")
        left = self.new("load i64, ptr %left")
        if n in self.asking:
            self._short(self.new(f"sub i64 {left}, {self.need[n]}"), f"C{n}", f"S{n}")
            self.place(f"S{n}")
            self.put(f"store ptr {self._block(n)}, ptr %to")
            self._enters = True
            self.put("br label %enter")
            self.place(f"C{n}")
        self.put(f"store i64 {self.new(f'sub i64 {left}, {self.nodes[n].charge}')}, ptr %left")
        self.put(f"br label %B{n}")

    def _body(self) -> None:
        node = self._node
        for k, op in enumerate(node.ops):
            self._op = op
            self._next_uop = node.ops[k + 1].uop if k + 1 < len(node.ops) else max(node.stop, op.uop + 1)
            fused = op.variant - int(VARIANT_FUSED) if op.variant >= VARIANT_FUSED else -1
            compose(self, op.shape, dead=op.variant == VARIANT_DEAD, fused=fused)
        if node.stop >= 0:
            self._leave_at(node.stop)
        elif not node.jumps:
            self.jump()
        for label, uop in self._misses.items():
            self.place(label)
            self._leave_at(uop)
        self._misses.clear()

    def _write_back(self) -> list[str]:
        """Text that stores what the region changed."""
        lines = []
        for register in sorted(self._written):
            v = self._name()
            lines += [f"  {v} = load i64, ptr %r{register}", f"  store i64 {v}, ptr %pr{register}"]
        return [*lines, self._memcpy("%plazy", "%lazy")]

    def _load_all(self) -> list[str]:
        """Text that loads what the region uses."""
        lines = []
        for register in sorted(self._touched):
            v = self._name()
            lines += [f"  {v} = load i64, ptr %pr{register}", f"  store i64 {v}, ptr %r{register}"]
        for name in self._invariants:
            v = self._name()
            lines += [f"  {v} = load i64, ptr %pc_{name}", f"  store i64 {v}, ptr %c_{name}"]
        return [*lines, self._memcpy("%lazy", "%plazy")]

    def _name(self) -> str:
        self._n += 1
        return f"%v{self._n}"

    def _memcpy(self, to: str, source: str) -> str:
        return f"  call void @llvm.memcpy.p0.p0.i64(ptr align 8 {to}, ptr align 8 {source}, i64 {FLAGS_BYTES}, i1 0)"

    def text(self) -> str:
        """The function: its head, and the body with what is stored and loaded now known."""
        lines = [f"define preserve_nonecc i64 @{self.name}{SIGNATURE} nounwind {NO_TABLES} {{", "entry:"]
        lines += [f"  %{name} = alloca [24 x i8], align 8" for name in ("flags", "lazy")]
        lines += [f"  %{name} = alloca {ty}" for name, ty in (("left", "i64"), ("target", "i64"), ("to", "ptr"))]
        places = {f"r{r}": 8 * r for r in sorted(self._touched)}
        places |= {f"c_{name}": offset for name, offset in self._invariants.items()}
        for name, offset in places.items():
            lines += [f"  %{name} = alloca i64", f"  %p{name} = getelementptr i8, ptr %cpu, i64 {offset}"]
        lines.append(f"  %plazy = getelementptr i8, ptr %cpu, i64 {at('lazy')}")
        lines += [f"  %ptable = getelementptr i8, ptr %uop, i64 {lay.UOP_IMM}", "  %table = load ptr, ptr %ptable"]
        lines += ["  %version_at = load ptr, ptr %table", "  %version = load i64, ptr %version_at"]
        lines += [f"  %pwanted = getelementptr i8, ptr %table, i64 {TABLE_VERSION}", "  %wanted = load i64, ptr %pwanted"]
        lines += ["  %same = icmp eq i64 %version, %wanted", "  br i1 %same, label %start, label %old, !prof !0", "old:"]
        lines += [f"  %pstale = getelementptr i8, ptr %cpu, i64 {at('h_retry')}", "  %stale = load ptr, ptr %pstale"]
        lines += ["  %gone = musttail call preserve_nonecc i64 %stale(ptr %cpu, ptr %uop, i64 %budget)"]
        lines += ["  ret i64 %gone", "start:", "  store i64 %budget, ptr %left", *self._load_all()]
        for line in self.lines:
            if line == "  " + WRITE_BACK:
                lines += self._write_back()
            elif line == "  " + RELOAD:
                lines += self._load_all()
            else:
                lines.append(line)
        return "\n".join([*lines, "}", ""])

    def _way_leave(self) -> None:
        u = self.new("load ptr, ptr %to")
        self.go(self.new(f"load ptr, ptr {u}"), u, self.new("load i64, ptr %left"))

    def _way_enter(self) -> None:
        self.enter(self.new("load ptr, ptr %to"), self.new("load i64, ptr %left"))

    def _way_indirect(self) -> None:
        self._jump(self.new("load i64, ptr %target"), self.new("load i64, ptr %left"))


def _signed(v: int, bits: int) -> int:
    v &= (1 << bits) - 1
    return v - (v >> bits - 1 << bits)


def region_text(units: Units, name: str, nodes: Sequence[Node]) -> tuple[str, list[str]]:
    """A module with one region, and the units that it calls by symbol."""
    b = RegionBuilder(units, name, nodes)
    b.build()
    text, outside, _ = module(units, [b])
    return text, outside
