"""A handler's text: its operands, which the micro-op says, the guest's registers, calls of units, and how it is left."""

from __future__ import annotations

from collections.abc import Sequence

from jitvm.engine import layout as lay
from jitvm.engine.ir_text import FunctionText
from jitvm.engine.layout import at
from jitvm.engine.units import Units, symbol

SLOTS = {"d": lay.UOP_D, "s": lay.UOP_S, "b": lay.UOP_B, "i": lay.UOP_I}
FLAGS_BYTES = 16


class HandlerText(FunctionText):
    """What all parts of a handler need (see `builder.Builder` for what each method means).  `long`: of 64-bit code."""

    def __init__(self, units: Units, name: str, *, long: bool = False) -> None:
        super().__init__(name)
        self.units, self.long = units, long
        self.used: dict[str, None] = {}
        self.specials: dict[str, None] = {}
        self.budget = "%budget"
        """What is left behind the block: accesses that are served without an exit take their time off it."""
        self._published = False

    # ---- parameters ---------------------------------------------------------------------------------------------------
    def params(self, unit: str) -> Sequence[str]:
        code = self.units[unit].function.__code__
        return code.co_varnames[: code.co_argcount]

    def const(self, v: int) -> str:
        return str(v)

    def imm(self) -> str:
        return self.uop(lay.UOP_IMM, "i64")

    def imm2(self) -> str:
        return self.uop(lay.UOP_DISP, "i32")

    def disp(self) -> str:
        return self.uop(lay.UOP_DISP, "i32", signed=True)

    def scale(self) -> str:
        return self.uop(lay.UOP_SCALE, "i8")

    def segment(self) -> str:
        return self.new(f"lshr i64 {self.uop(lay.UOP_SEG, 'i8')}, 3")

    def number(self, slot: str) -> str:
        return self.new(f"lshr i64 {self.uop(SLOTS[slot], 'i8')}, 3")

    def slot_at(self, slot: str) -> str:
        """What slot d or s says."""
        return self.uop(SLOTS[slot], "i8")

    def next_rip(self) -> str:
        v = self.new(f"add i64 {self.uop(lay.UOP_EIP, 'i64')}, {self.uop(lay.UOP_LEN, 'i8')}")
        return v if self.long else self.new(f"and i64 {v}, 4294967295")

    def relative(self) -> str:
        return self.new(f"add i64 {self.next_rip()}, {self.disp()}")

    # ---- registers ----------------------------------------------------------------------------------------------------
    def _read(self, pointer: str, size: int) -> str:
        v = self.new(f"load i{8 * size}, ptr {pointer}")
        return v if size == 8 else self.new(f"zext i{8 * size} {v} to i64")

    def _write(self, pointer: str, size: int, v: str) -> None:
        if size == 4:
            v, size = self.new(f"and i64 {v}, 4294967295"), 8
        if size < 8:
            v = self.new(f"trunc i64 {v} to i{8 * size}")
        self.put(f"store i{8 * size} {v}, ptr {pointer}")

    def slot_reg(self, slot: str, size: int) -> str:
        return self._read(self.gep("%cpu", self.uop(SLOTS[slot], "i8")), size)

    def set_slot_reg(self, slot: str, size: int, v: str) -> None:
        self._write(self.gep("%cpu", self.uop(SLOTS[slot], "i8")), size, v)

    def gpr(self, at_: int, size: int) -> str:
        return self._read(self.gep("%cpu", at_), size)

    def set_gpr(self, at_: int, size: int, v: str) -> None:
        self._write(self.gep("%cpu", at_), size, v)

    def selector(self, number: str) -> str:
        where = self.new(f"add i64 {self.new(f'shl i64 {number}, 3')}, {at('sel')}")
        return self.new(f"load i64, ptr {self.gep('%cpu', where)}")

    def is_base(self, at_: int) -> str:
        same = self.new(f"icmp eq i64 {self.uop(lay.UOP_B, 'i8')}, {at_}")
        return self.new(f"zext i1 {same} to i64")

    # ---- calls --------------------------------------------------------------------------------------------------------
    def call(self, unit: str, args: Sequence[str], *, flags: str = "") -> str:
        self.used[unit] = None
        record = self.units[unit].record
        first = []
        if record == "f":
            first = ["ptr %flags" if flags == "new" else f"ptr {self.lazy()}"]
        elif record == "c":
            first = ["ptr %cpu"]
        return self.new(f"call i64 @{symbol(unit)}({', '.join([*first, *(f'i64 {a}' for a in args)])})")

    def lazy(self) -> str:
        """Pointer to the arithmetic flags."""
        return self.cpu("lazy")

    def copy_flags(self) -> None:
        lazy = self.lazy()
        self.put(f"call void @llvm.memcpy.p0.p0.i64(ptr align 8 %flags, ptr align 8 {lazy}, i64 {FLAGS_BYTES}, i1 0)")

    def commit_flags(self) -> None:
        lazy = self.lazy()
        self.put(f"call void @llvm.memcpy.p0.p0.i64(ptr align 8 {lazy}, ptr align 8 %flags, i64 {FLAGS_BYTES}, i1 0)")

    def second(self) -> str:
        return self.new(f"load i64, ptr {self.gep('%flags', 16)}")

    def publish(self) -> None:
        if self._published:
            return
        self._published = True
        self._publish()

    def _publish(self) -> None:
        self.set_word("rip", self.uop(lay.UOP_EIP, "i64"))
        self.set_word("next_rip", self.next_rip())
        self.set_word("left", self.new(f"add i64 {self.budget}, {self.uop(lay.UOP_REST, 'i16')}"))

    def left_behind(self) -> str:
        """The budget as it is behind out-of-line semantics that may access memory."""
        return self.new(f"sub i64 {self.word('left')}, {self.uop(lay.UOP_REST, 'i16')}")

    def _join_budget(self, fast: str, slow: str, left: str) -> None:
        """It is what it was on the way from block `fast`, `left` on the one from `slow`."""
        self.budget = self.new(f"phi i64 [ {self.budget}, %{fast} ], [ {left}, %{slow} ]")

    def check(self) -> None:
        go = self.label()
        self._leave_if(self.word("status"), go)
        self.place(go)

    def _leave_if(self, status: str, go: str) -> None:
        out = self.label()
        self.cond_branch(self.new(f"icmp eq i64 {status}, 0"), go, out, True)
        self.place(out)
        self.tail("h_finish", status)

    def finish(self, status: str, *, ends: bool) -> None:
        if ends:
            self.tail("h_finish", status)
            return
        go = self.label()
        self._leave_if(status, go)
        self.place(go)
        self.budget = self.left_behind()
        self.next()

    def segment_word(self, field: str, seg: str) -> str:
        """A word of the record that there is for each segment register."""
        where = self.new(f"add i64 {self.new(f'shl i64 {seg}, 3')}, {at(field)}")
        return self.new(f"load i64, ptr {self.gep('%cpu', where)}")

    # ---- how it is left -----------------------------------------------------------------------------------------------
    def go(self, handler: str, uop: str, budget: str) -> None:
        args = f"(ptr %cpu, ptr {uop}, i64 {budget})"
        self.put(f"ret i64 {self.new(f'musttail call preserve_nonecc i64 {handler}{args}')}")

    def tail(self, special: str, value: str) -> None:
        """To one of the special handlers; `value` is its third argument."""
        self.specials[special] = None
        self.go(f"@{special}", self.u, value)

    def next(self) -> None:
        u = self.gep(self.u, lay.UOP_SIZE)
        self.go(self.new(f"load ptr, ptr {u}"), u, self.budget)
