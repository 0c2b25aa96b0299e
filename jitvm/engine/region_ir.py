"""The code of a region: the third product of the stitcher, with constants for operands.

Guest registers and lazy flags are local variables of the function (LLVM makes values of them); what the region touches is
loaded at its entry and stored where it leaves.  An edge that leads out goes through the block's link slot, as the block's
own last micro-op does.  A miss stores the registers and jumps to the handler of the same instruction, with its exact state.
Out-of-line semantics are called with everything stored, and loaded again behind them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from jitvm.engine import layout as lay
from jitvm.engine.builder import Quick
from jitvm.engine.compose import RCX_AT, compose
from jitvm.engine.handler_text import FLAGS_BYTES
from jitvm.engine.ir_text import SIGNATURE, signed
from jitvm.engine.layout import at
from jitvm.engine.region import MODES, Node
from jitvm.engine.region_edges import RegionEdges
from jitvm.engine.region_flags import SETTLE
from jitvm.engine.simd_forms import WIDE
from jitvm.engine.stitch import INLINE_MODULE, module
from jitvm.engine.units import Units
from jitvm.isa.state import ZERO
from jitvm.isa.table import COMPARISONS, NAMED, READ_ZF, TOUCHED
from jitvm.isa.x87_table import X87_TOUCHED

NO_TABLES = '"no-jump-tables"="true"'
WRITE_BACK, RELOAD, RELOAD_WORDS = "@WRITE_BACK@", "@RELOAD@", "@RELOAD_WORDS@"
"""Lines that `text` replaces when it is known which registers the region uses."""
KNOWN_TOUCHED = TOUCHED | X87_TOUCHED
VARIABLES = {"c": "i64", "x": WIDE}
"""LLVM's type of a local variable that is no general register, by the first letter of its name."""
CONTEXT = ("ctx", "tlb_off")
"""Words of the record on which it depends what the region's blocks are, and what its look-ups may find."""
NO_MEMORY = "muldiv."
"""Out-of-line units that access no memory, and so take no time off the budget."""
INVARIANT = ("tlb_off", "ctx", "mxcsr")
"""Words of the record that only out-of-line semantics change."""


class RegionBuilder(RegionEdges):
    """The handler builder with constants for operands, local variables for registers, and edges for links."""

    def __init__(self, units: Units, name: str, nodes: Sequence[Node], modes: Sequence[str] = ()) -> None:
        super().__init__(units, name, nodes)
        self.eager_flags, self.counting, apart, single = (mode in modes for mode in MODES)
        if not apart:
            self.plan_streams(nodes, values=bool(self.stacks))
        if not (apart or single or self.stacks):
            self.plan_groups()
        self._invariants: dict[str, int] = {}
        self._written: set[int] = set()
        self._touched: set[int] = set()
        self._wide_written: set[int] = set()
        self._wide_touched: set[int] = set()
        self._next_uop = 0

    # ---- operands -----------------------------------------------------------------------------------------------------
    def imm(self) -> str:
        return str(signed(self.op.imm, 64))

    def imm2(self) -> str:
        return str(self.op.disp & 0xFFFF_FFFF)

    def disp(self) -> str:
        return str(signed(self.op.disp, 32))

    def scale(self) -> str:
        return str(self.op.scale)

    def segment(self) -> str:
        return str(self.op.seg >> 3)

    def number(self, slot: str) -> str:
        return str(getattr(self.op, slot) >> 3)

    def next_rip(self) -> str:
        return str(signed(self.op.next, 64))

    def slot_at(self, slot: str) -> str:
        return str(getattr(self.op, slot))

    def relative(self) -> str:
        return str(signed(self.op.next + signed(self.op.disp, 32), 64))

    def is_base(self, at_: int) -> str:
        return str(int(self.op.b == at_))

    # ---- registers ----------------------------------------------------------------------------------------------------
    def gpr(self, at_: int, size: int) -> str:
        register, byte = at_ >> 3, at_ & 7
        if register == ZERO:
            return "0"
        self._touched.add(register)
        ty = self._word
        v = self.new(f"load {ty}, ptr %r{register}")
        if byte:
            v = self.new(f"lshr {ty} {v}, {8 * byte}")
        if size < self._word_size:
            v = self.new(f"and {ty} {v}, {(1 << 8 * size) - 1}")
        return v if self.long else self.new(f"zext i32 {v} to i64")

    def set_gpr(self, at_: int, size: int, v: str) -> None:
        register, byte = at_ >> 3, at_ & 7
        self._touched.add(register)
        self._written.add(register)
        ty = self._word
        if not self.long:
            v = self.new(f"trunc i64 {v} to i32")
        if size < self._word_size:
            v = self.new(f"and {ty} {v}, {(1 << 8 * size) - 1}")
        if size < 4:
            if byte:
                v = self.new(f"shl {ty} {v}, {8 * byte}")
            kept = ~((1 << 8 * size) - 1 << 8 * byte)
            old = self.new(f"load {ty}, ptr %r{register}")
            v = self.new(f"or {ty} {self.new(f'and {ty} {old}, {kept}')}, {v}")
        self.put(f"store {ty} {v}, ptr %r{register}")

    def slot_reg(self, slot: str, size: int) -> str:
        return self.gpr(getattr(self.op, slot), size)

    def set_slot_reg(self, slot: str, size: int, v: str) -> None:
        self.set_gpr(getattr(self.op, slot), size, v)

    # ---- XMM registers: local variables, too ----------------------------------------------------------------------------
    def _wide_at(self, n: int) -> str:
        self._wide_touched.add(n)
        return f"%x{n}"

    def wide_reg(self, slot: str) -> str:
        return self.new(f"load {WIDE}, ptr {self._wide_at(getattr(self.op, slot) >> 3)}")

    def set_wide_reg(self, slot: str, v: str) -> None:
        self._set_wide(getattr(self.op, slot) >> 3, v)

    def _set_wide(self, n: int, v: str) -> None:
        self._wide_written.add(n)
        self.put(f"store {WIDE} {v}, ptr {self._wide_at(n)}")

    def xmm0(self) -> str:
        return self.new(f"load {WIDE}, ptr {self._wide_at(0)}")

    def set_xmm0(self, v: str) -> None:
        self._set_wide(0, v)

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
        if unit.startswith(INLINE_MODULE):
            return self._count_down(unit, args)
        if unit == "segment.load_quickly":
            return self._load_quickly(unit, args)
        return super().call(unit, args, flags=flags)

    def _load_quickly(self, unit: str, args: Sequence[str]) -> str:
        """A segment register may have another selector and base behind it."""
        done = super().call(unit, args)
        for field in ("sel", "base"):
            name, offset = f"{field}{args[0]}", at(field) + 8 * int(args[0])
            self._invariants[name] = offset
            v = self.new(f"load i64, ptr {self.gep('%cpu', offset)}")
            self.put(f"store i64 {v}, ptr %c_{name}")
        return done

    def either(self, quickly: Callable[[], Quick], otherwise: Callable[[], None]) -> None:
        """Both ways are here: in protected mode it is never the quick one."""
        usual, slowly, join = self.label(), self.label(), self.label()
        done, commit = quickly()
        self.cond_branch(self.new(f"icmp ne i64 {done}, 0"), usual, slowly, True)
        self.place(usual)
        commit()
        self.put(f"br label %{join}")
        self.place(slowly)
        otherwise()
        self.put(f"br label %{join}")
        self.place(join)

    def at_once(self, whole: Callable[[str], str], otherwise: Callable[[], None], *, ends: bool) -> None:
        """Both ways are here: the whole is not always within a page."""
        slowly, usual, join = self.label(), self.label(), self.label()
        compares = COMPARISONS.get(self.op.shape.unit)
        registers = compares or self._registers() or ()
        self._store_registers(registers)
        left = self._left()
        n = whole(self.new(f"add i64 {left}, {self.op.rest}"))
        self._reload_registers(registers)
        self.cond_branch(self.new(f"icmp ne i64 {n}, 0"), usual, slowly, True)
        self.place(usual)
        if ends:
            more = self.new(f"sub i64 {n}, 1")
            self._set_left(self.new(f"sub i64 {left}, {more}"))
            self._count(more)
        if compares:
            with self.flags_kept():
                self.flags_in_record()
        self.put(f"br label %{join}")
        self.place(slowly)
        otherwise()
        self.put(f"br label %{join}")
        self.place(join)

    def _count_down(self, unit: str, args: Sequence[str]) -> str:
        """A loop condition: it works on the record's (E)CX, and some on its flags."""
        register, place = RCX_AT >> 3, self.gep("%cpu", RCX_AT)
        self._touched.add(register)
        self._written.add(register)
        self.put(f"store i64 {self.gpr(RCX_AT, self._word_size)}, ptr {place}")
        if unit in READ_ZF:
            self.settle_flags()
            self.lines.append(self._memcpy("%plazy", "%lazy"))
        v = super().call(unit, args)
        self.put(f"store {self._word} {self.new(f'load {self._word}, ptr {place}')}, ptr %r{register}")
        return v

    def flags_in_record(self) -> None:
        """The flags are those that the record has."""
        self.lines += self._lazy_of_record()
        self.forget_recipes()

    def write_back(self) -> None:
        """Store what the region changed."""
        self.settle_flags()
        self.put(WRITE_BACK)

    def _registers(self) -> tuple[int, ...] | None:
        """What the out-of-line unit of this instruction reads and writes of registers and flags; None: anything."""
        shape = self.op.shape
        found = KNOWN_TOUCHED.get(shape.unit)
        if found == NAMED:
            return (getattr(self.op, shape.slots[shape.ops.index("r")]) >> 3,)
        return found

    def publish(self) -> None:
        registers = self._registers()
        if registers is None:
            self.write_back()
        else:
            self._store_registers(registers)
        self.set_word("rip", str(signed(self.op.eip, 64)))
        self.set_word("next_rip", self.next_rip())
        self.set_word("left", self._left(-self.op.rest))

    def _store_registers(self, registers: Sequence[int]) -> None:
        """What a unit reads goes to the record."""
        for r in registers:
            self.put(f"store i64 {self.gpr(8 * r, self._word_size)}, ptr {self.gep('%cpu', 8 * r)}")

    def _reload_registers(self, registers: Sequence[int]) -> None:
        """What a unit wrote comes from there."""
        for r in registers:
            v = self.new(f"load {self._word}, ptr {self.gep('%cpu', 8 * r)}")
            self.put(f"store {self._word} {v}, ptr %r{r}")

    def left_behind(self) -> str:
        return self.new(f"sub i64 {super().word('left')}, {self.op.rest}")

    def check(self) -> None:
        go = self.label()
        self._leave_from_unit(super().word("status"), go)
        self.place(go)

    def _leave_from_unit(self, status: str, go: str) -> None:
        """To `h_finish` unless the status is OK, where not all was stored before the unit was called."""
        if self._registers() is None:
            self._leave_if(status, go)
            return
        out = self.label()
        self.cond_branch(self.new(f"icmp eq i64 {status}, 0"), go, out, True)
        self.place(out)
        with self.flags_kept():
            self.write_back()
        self.tail("h_finish", status)

    def finish(self, status: str, *, ends: bool) -> None:
        """Behind out-of-line semantics: what they may have changed is loaded again, and the code may be another."""
        go, same, changed = self.label(), self.label(), self.label()
        registers = self._registers()
        if registers is None:
            self._leave_if(status, go)
            self.place(go)
            self.put(RELOAD)
        else:
            self._reload_registers(registers)
            self._leave_from_unit(status, go)
            self.place(go)
            self.put(RELOAD_WORDS)
        untimed = self._reload_left()
        if registers is None:
            self.flags_settled()
            if self.stacks:
                self.x87_stands(self.stack, changed)
        wanted = self.new(f"load i64, ptr {self.gep('%table', lay.TABLE_EPOCH)}")
        true = self.new(f"icmp eq i64 {self.word('epoch')}, {wanted}")
        true = self._both(true, self._in_context() if ends else untimed)
        self.cond_branch(true, same, changed, True)
        self.place(changed)
        if ends:
            self.put(f"store i64 {self.next_rip()}, ptr %target")
            self._resumes = True
            self._pay()
            self.put("br label %resume")
        else:
            self._leave_at(self._next_uop)
        self.place(same)

    def _reload_left(self) -> str:
        """Iterations of a repeated string instruction, and the time of accesses that were served, came off it.

        i1: nothing did, so that what follows in the region is still within the budget; empty where nothing can.
        """
        if self.op.shape.unit.startswith(NO_MEMORY):
            return ""
        before, now = self._left(), self.left_behind()
        self._set_left(now)
        return self.new(f"icmp eq i64 {before}, {now}")

    def _in_context(self) -> str:
        """i1: the next instruction may follow at once, and is the one that was translated."""
        quiet = self.new(f"icmp ne i64 {self.call('run.quiet', [])}, 0")
        for name in CONTEXT:
            quiet = self._both(quiet, self.new(f"icmp eq i64 {self.word(name)}, %first_{name}"))
        return quiet

    # ---- the whole ----------------------------------------------------------------------------------------------------
    def build(self) -> None:
        """All nodes, then the ways out."""
        first = self.nodes[0]
        self._count(first.charge)
        self.put(f"store i64 {self.new(f'add i64 %budget, {first.charge + first.tail}')}, ptr %left")
        if self.stacks:
            self.x87_stands(self.stacks[0], "unlike")
        more = self.need[0] - first.charge - first.tail
        if more:
            self._short(self.new(f"sub i64 %budget, {more}"), "B0", "short")
            self.place("short")
            self._leave_at(first.ops[0].uop)
        else:
            self.put("br label %B0")
        if self.stacks:
            self.place("unlike")
            self._leave_at(first.ops[0].uop)
        for n, node in enumerate(self.nodes):
            self._number, self._node = n, node
            self._place_edge(n)
            self.place(f"B{n}")
            self._body()
        for label, used, way in (
            ("leave", self._leaves, self._way_leave),
            ("enter", self._enters, self._way_enter),
            ("indirect", self._indirect, self._way_indirect),
            ("resume", self._resumes, self._way_resume),
        ):
            if used:
                self.place(label)
                self.forget_flags()
                self.write_back()
                way()

    def _body(self) -> None:
        self.forget_flags()
        if self.stacks:
            self.stack = self.stacks[self._number]
        self.instructions()
        for label, uop in self._misses.items():
            self.place(label)
            self._leave_at(uop)
        self._misses.clear()

    def _instruction(self, at: int) -> None:
        node = self._node
        self.op, self._at = node.ops[at], at
        behind = node.ops[at + 1] if at + 1 < len(node.ops) else node.cut
        self._next_uop = behind.uop if behind else max(node.stop, self.op.uop + 1)
        if not (self.stacks and self.x87_op(self.op, node.ops[at + 1 :])):
            compose(self, self.op.shape, self.op.variant)

    def node_end(self) -> None:
        if self._node.stop >= 0:
            self._leave_at(self._node.stop)
        elif not self._node.jumps:
            self.jump()

    def _write_back(self) -> list[str]:
        """Text that stores what the region changed."""
        lines = []
        for register in sorted(self._written):
            v = self.fresh()
            lines.append(f"  {v} = load {self._word}, ptr %r{register}")
            if not self.long:
                v, narrow = self.fresh(), v
                lines.append(f"  {v} = zext i32 {narrow} to i64")
            lines.append(f"  store i64 {v}, ptr %pr{register}")
        for n in sorted(self._wide_written):
            v = self.fresh()
            lines += [f"  {v} = load {WIDE}, ptr %x{n}", f"  store {WIDE} {v}, ptr %px{n}, align 8"]
        return [*lines, self._memcpy("%plazy", "%lazy"), *self.x87_store()]

    def _load_all(self) -> list[str]:
        """Text that loads what the region uses."""
        lines = []
        for register in sorted(self._touched):
            v = self.fresh()
            lines += [f"  {v} = load {self._word}, ptr %pr{register}", f"  store {self._word} {v}, ptr %r{register}"]
        for n in sorted(self._wide_touched):
            v = self.fresh()
            lines += [f"  {v} = load {WIDE}, ptr %px{n}, align 8", f"  store {WIDE} {v}, ptr %x{n}"]
        return [*lines, *self._load_words(), *self._lazy_of_record(), *self.made(), *self.x87_load()]

    def _lazy_of_record(self) -> list[str]:
        """Text that gets the flags from the record."""
        return [self._memcpy("%lazy", "%plazy"), *self.narrowed()]

    def _load_words(self) -> list[str]:
        """Text that loads the record's words that only out-of-line semantics change."""
        lines = []
        for name in self._invariants:
            v = self.fresh()
            lines += [f"  {v} = load i64, ptr %pc_{name}", f"  store i64 {v}, ptr %c_{name}"]
        return lines

    def _memcpy(self, to: str, source: str) -> str:
        return f"  call void @llvm.memcpy.p0.p0.i64(ptr align 8 {to}, ptr align 8 {source}, i64 {FLAGS_BYTES}, i1 0)"

    def text(self) -> str:
        """The function: its head, and the body with what is stored and loaded now known."""
        lines = [f"define preserve_nonecc i64 @{self.name}{SIGNATURE} nounwind {NO_TABLES} {{", "entry:"]
        lines += [f"  %{name} = alloca [24 x i8], align 8" for name in ("flags", "lazy")]
        lines += [f"  %{name} = alloca {ty}" for name, ty in (("left", "i64"), ("target", "i64"), ("to", "ptr"))]
        lines += ["  %base = alloca i32", "  %top = alloca i32", *self.pages(), *self.x87_places()]
        lines += [f"  %{name} = alloca {self._word}" for name in ("base0", "base1", "top0")]
        places = {f"r{r}": 8 * r for r in sorted(self._touched)}
        places |= {f"c_{name}": offset for name, offset in self._invariants.items()}
        places |= {f"x{n}": at("xmm") + 16 * n for n in sorted(self._wide_touched)}
        for name, offset in places.items():
            lines.append(f"  %{name} = alloca {self._word if name[0] == 'r' else VARIABLES[name[0]]}")
            lines.append(f"  %p{name} = getelementptr i8, ptr %cpu, i64 {offset}")
        lines.append(f"  %plazy = getelementptr i8, ptr %cpu, i64 {at('lazy')}")
        lines += [f"  %ptable = getelementptr i8, ptr %uop, i64 {lay.UOP_IMM}", "  %table = load ptr, ptr %ptable"]
        lines += [f"  %pepoch = getelementptr i8, ptr %cpu, i64 {at('epoch')}", "  %epoch = load i64, ptr %pepoch"]
        lines += ["  %wanted = load i64, ptr %table", "  %same = icmp eq i64 %epoch, %wanted"]
        lines += ["  br i1 %same, label %start, label %old, !prof !0", "old:"]
        lines += [f"  %pstale = getelementptr i8, ptr %cpu, i64 {at('h_retry')}", "  %stale = load ptr, ptr %pstale"]
        lines += ["  %gone = musttail call preserve_nonecc i64 %stale(ptr %cpu, ptr %uop, i64 %budget)"]
        lines += ["  ret i64 %gone", "start:", "  store i64 %budget, ptr %left", *self._load_all()]
        for name in CONTEXT:
            lines += [f"  %pfirst_{name} = getelementptr i8, ptr %cpu, i64 {at(name)}"]
            lines += [f"  %first_{name} = load i64, ptr %pfirst_{name}"]
        for line in self.lines:
            if line == "  " + SETTLE:
                lines += self.settled()
            elif line == "  " + WRITE_BACK:
                lines += self._write_back()
            elif line == "  " + RELOAD:
                lines += self._load_all()
            elif line == "  " + RELOAD_WORDS:
                lines += self._load_words()
            else:
                lines.append(line)
        return "\n".join([*lines, "}", ""])

    def _way_leave(self) -> None:
        u = self.new("load ptr, ptr %to")
        self.go(self.new(f"load ptr, ptr {u}"), u, self.new("load i64, ptr %left"))

    def _way_enter(self) -> None:
        self.enter(self.new("load ptr, ptr %to"), self.new("load i64, ptr %left"))

    def _way_resume(self) -> None:
        self.set_word("rip", self.new("load i64, ptr %target"))
        self.tail("h_resume", self.new("load i64, ptr %left"))

    def _way_indirect(self) -> None:
        self._jump(self.new("load i64, ptr %target"), self.new("load i64, ptr %left"))


def region_text(units: Units, name: str, nodes: Sequence[Node], modes: Sequence[str] = ()) -> tuple[str, list[str]]:
    """A module with one region, and the units that it calls by symbol.  `modes`: some of MODES."""
    b = RegionBuilder(units, name, nodes, modes)
    b.build()
    text, outside, _ = module(units, [b])
    return text, outside
