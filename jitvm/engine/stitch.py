"""The stitcher: `compose` told to LLVM.  Operands come from the micro-op at run time, which makes a *handler*.

A handler is `preserve_none i64 (ptr cpu, ptr uop, i64 budget)`; it reaches the next one by `musttail`.  `budget` is what
is left behind the current block, which was charged before it was entered.  Text is written directly: about 25 times
faster than through llvmlite.ir.

Guest memory: a TLB hit is done here; everything else calls the complete ways of `jitvm/isa/memory.py` out of line.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from jitvm.engine import layout as lay
from jitvm.engine.builder import Quick
from jitvm.engine.compose import compose, unmasked
from jitvm.engine.forms import Shape
from jitvm.engine.host_op import emit
from jitvm.engine.ir_text import TYPES, FunctionText
from jitvm.engine.layout import at
from jitvm.engine.simd_forms import WIDE, WORD, result_type
from jitvm.engine.units import Units, symbol
from jitvm.isa.memory import CANONICAL_HALF
from jitvm.isa.simd import MMX_EXPONENT, MXCSR_MASKS
from jitvm.isa.state import TLB_ENTRIES
from jitvm.isa.table import AT_ONCE, QUICK

KIND_BYTES = TLB_ENTRIES * 16
SLOTS = {"d": lay.UOP_D, "s": lay.UOP_S, "b": lay.UOP_B, "i": lay.UOP_I}
FLAGS_BYTES = 16
CS_NUMBER = 1
INLINE_MODULE = "branch."
"""Units on the CPU record that handlers get a copy of (they cannot leave); all others are called by symbol."""
WHOLE_UNITS = frozenset(AT_ONCE.values())
"""Units of which they get a copy with all that these call."""
INLINE_UNITS = WHOLE_UNITS | frozenset(QUICK.values()) | {"run.quiet"}
WEIGHTS = '!0 = !{!"branch_weights", i32 2000, i32 1}\n!1 = !{!"branch_weights", i32 1, i32 2000}'


class HandlerBuilder(FunctionText):
    """Writes one handler (see `builder.Builder` for what each method means).  `long`: of 64-bit code."""

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

    # ---- guest memory -------------------------------------------------------------------------------------------------
    def _lookup(
        self, seg: str, flat: bool, off: str, size: int, write: bool, *, aligned: bool = False
    ) -> tuple[str, str, str]:
        """(linear address, i1 hit, pointer to the TLB entry); `aligned`: an address that is no multiple of `size` misses."""
        lin, good = self._linear(seg, flat, off, size, write)
        hit, entry = self._entry(lin, size, write, aligned=aligned)
        return lin, self._both(hit, good), entry

    def _both(self, hit: str, good: str) -> str:
        """i1: a hit, and within the segment's limit (`good`, empty when there is nothing to check)."""
        return self.new(f"and i1 {hit}, {good}") if good else hit

    def _linear(self, seg: str, flat: bool, off: str, size: int, write: bool) -> tuple[str, str]:
        """Linear address, and i1: it is within the plain limit of the segment; empty where there is none."""
        if flat:
            return off, ""
        if self.long:
            return self.new(f"add i64 {self.segment_word('base', seg)}, {off}"), ""
        last = self.new(f"add i64 {off}, {size - 1}")
        good = self.new(f"icmp sle i64 {last}, {self.segment_word('write_limit' if write else 'read_limit', seg)}")
        lin = self.new(f"add i64 {self.segment_word('base', seg)}, {off}")
        return self.new(f"and i64 {lin}, 4294967295"), good

    def _entry(self, lin: str, size: int, write: bool, *, aligned: bool = False) -> tuple[str, str]:
        """i1: the TLB has the page, and pointer to the entry."""
        index = self.new(f"and i64 {self.new(f'lshr i64 {lin}, 8')}, {(TLB_ENTRIES - 1) * 16}")
        here = self.new(f"or i64 {index}, {self.word('tlb_off')}")  # no bit in common; of a sum LLVM makes two pointers
        entry = self.gep(self.gep("%cpu", here), at("tlb") + (KIND_BYTES if write else 0))
        if aligned:
            last_page = self.new(f"and i64 {lin}, {-4096 | size - 1}")
        else:
            last_page = self.new(f"and i64 {self.new(f'add i64 {lin}, {size - 1}')}, -4096")
        return self.new(f"icmp eq i64 {self.new(f'load i64, ptr {entry}')}, {last_page}"), entry

    def _host(self, lin: str, entry: str) -> str:
        addend = self.new(f"load i64, ptr {self.gep(entry, 8)}")
        return self.new(f"inttoptr i64 {self.new(f'add i64 {addend}, {lin}')} to ptr")

    def _guest_load(self, pointer: str, size: int) -> str:
        v = self.new(f"load volatile i{8 * size}, ptr {pointer}, align 1")
        return v if size == 8 else self.new(f"zext i{8 * size} {v} to i64")

    def _guest_store(self, pointer: str, size: int, v: str) -> None:
        w = v if size == 8 else self.new(f"trunc i64 {v} to i{8 * size}")
        self.put(f"store volatile i{8 * size} {w}, ptr {pointer}, align 1")

    def load(self, seg: str, flat: bool, off: str, size: int) -> str:
        return self._load("memory.load", seg, flat, off, size, False)[0]

    def load_rmw(self, seg: str, flat: bool, off: str, size: int) -> tuple[str, str]:
        return self._load("memory.load_rmw", seg, flat, off, size, True)

    def _load(self, slow: str, seg: str, flat: bool, off: str, size: int, write: bool) -> tuple[str, str]:
        fast, miss, ok, join = (self.label() for _ in range(4))
        lin, hit, entry = self._lookup(seg, flat, off, size, write)
        self.cond_branch(hit, fast, miss, True)
        self.place(fast)
        host = self._host(lin, entry)
        v = self._guest_load(host, size)
        self.put(f"br label %{join}")
        self.place(miss)
        self._publish()
        w = self.call(slow, [seg, off, str(size)])
        self._leave_if(self.word("status"), ok)
        self.place(ok)
        left, w = self.left_behind(), self._cut(w, size)
        self.put(f"br label %{join}")
        self.place(join)
        self._join_budget(fast, ok, left)
        value = self.new(f"phi i64 [ {v}, %{fast} ], [ {w}, %{ok} ]")
        return value, self.new(f"phi ptr [ {host}, %{fast} ], [ null, %{ok} ]")

    def _cut(self, v: str, size: int) -> str:
        """What a call gave, which has no more bytes: so that LLVM knows, where it meets what was loaded in place."""
        return v if size == 8 else self.new(f"and i64 {v}, {(1 << 8 * size) - 1}")

    def store_back(self, where: str, seg: str, off: str, size: int, v: str) -> None:
        fast, slow, join = (self.label() for _ in range(3))
        self.cond_branch(self.new(f"icmp ne ptr {where}, null"), fast, slow, True)
        self.place(fast)
        self._guest_store(where, size, v)
        self.put(f"br label %{join}")
        self.place(slow)
        self._slow_store(seg, off, size, v, fast, join)

    def load_locked(self, seg: str, flat: bool, off: str, size: int) -> tuple[str, str]:
        """What the TLB does not answer `memory.lock_host` is asked for; where that has no address either, others stand."""
        found, miss, allowed, given, fast, slow, ok, join = (self.label() for _ in range(8))
        lin, hit, entry = self._lookup(seg, flat, off, size, True, aligned=True)
        self.cond_branch(hit, found, miss, True)
        self.place(found)
        host = self._host(lin, entry)
        self.put(f"br label %{fast}")
        self.place(miss)
        self._publish()
        there = self.new(f"inttoptr i64 {self.call('memory.lock_host', [seg, off, str(size)])} to ptr")
        self._leave_if(self.word("status"), allowed)
        self.place(allowed)
        self.cond_branch(self.new(f"icmp ne ptr {there}, null"), given, slow)
        self.place(given)
        self.put(f"br label %{fast}")
        self.place(fast)
        where = self.new(f"phi ptr [ {host}, %{found} ], [ {there}, %{given} ]")
        v = self._guest_load(where, size)
        self.put(f"br label %{join}")
        self.place(slow)
        w = self.call("memory.load_rmw", [seg, off, str(size)])
        self._leave_if(self.word("status"), ok)
        self.place(ok)
        left = self.left_behind()
        self.put(f"br label %{join}")
        self.place(join)
        self._join_budget(fast, ok, left)
        value = self.new(f"phi i64 [ {v}, %{fast} ], [ {w}, %{ok} ]")
        return value, self.new(f"phi ptr [ {where}, %{fast} ], [ null, %{ok} ]")

    def store_locked(self, where: str, seg: str, off: str, size: int, old: str, v: str) -> None:
        fast, slow, lost, join = (self.label() for _ in range(4))
        self.cond_branch(self.new(f"icmp ne ptr {where}, null"), fast, slow, True)
        self.place(fast)
        self.cond_branch(self._guest_swap(where, size, old, v), join, lost, True)
        self.place(lost)
        self.go(self.new(f"load ptr, ptr {self.u}"), self.u, "%budget")
        self.place(slow)
        self._slow_store(seg, off, size, v, fast, join)

    def _guest_swap(self, pointer: str, size: int, old: str, v: str) -> str:
        """i1: memory was `old`, and is `v` now."""
        ty = f"i{8 * size}"
        words = [w if size == 8 else self.new(f"trunc i64 {w} to {ty}") for w in (old, v)]
        pair = f"ptr {pointer}, {ty} {words[0]}, {ty} {words[1]} seq_cst seq_cst, align {size}"
        return self.new(f"extractvalue {{ {ty}, i1 }} {self.new(f'cmpxchg volatile {pair}')}, 1")

    def _slow_store(self, seg: str, off: str, size: int, v: str, fast: str, join: str) -> None:
        status = self.call("memory.store", [seg, off, str(size), v])
        ok = self.label()
        self._leave_if(status, ok)
        self.place(ok)
        left = self.left_behind()
        self.put(f"br label %{join}")
        self.place(join)
        self._join_budget(fast, ok, left)

    def store(self, seg: str, flat: bool, off: str, size: int, v: str) -> None:
        fast, miss, join = (self.label() for _ in range(3))
        lin, hit, entry = self._lookup(seg, flat, off, size, True)
        self.cond_branch(hit, fast, miss, True)
        self.place(fast)
        self._guest_store(self._host(lin, entry), size, v)
        self.put(f"br label %{join}")
        self.place(miss)
        self._publish()
        self._slow_store(seg, off, size, v, fast, join)

    # ---- SIMD ---------------------------------------------------------------------------------------------------------
    def _file(self, field: str, slot: str) -> str:
        """Pointer to a register of a file of 16-byte ones."""
        twice = self.new(f"shl i64 {self.slot_at(slot)}, 1")
        return self.gep(self.gep("%cpu", twice), at(field))

    def slot_at(self, slot: str) -> str:
        """What slot d or s says."""
        return self.uop(SLOTS[slot], "i8")

    def _read_wide(self, pointer: str) -> str:
        return self.new(f"load {WIDE}, ptr {pointer}, align 8")

    def _write_wide(self, pointer: str, v: str) -> None:
        self.put(f"store {WIDE} {v}, ptr {pointer}, align 8")

    def wide_reg(self, slot: str) -> str:
        return self._read_wide(self._file("xmm", slot))

    def set_wide_reg(self, slot: str, v: str) -> None:
        self._write_wide(self._file("xmm", slot), v)

    def xmm0(self) -> str:
        return self._read_wide(self.cpu("xmm"))

    def set_xmm0(self, v: str) -> None:
        self._write_wide(self.cpu("xmm"), v)

    def mmx_reg(self, slot: str) -> str:
        return self.new(f"load i64, ptr {self._file('fpr', slot)}")

    def set_mmx_reg(self, slot: str, v: str) -> None:
        where = self._file("fpr", slot)
        self.put(f"store i64 {v}, ptr {where}")
        self.put(f"store i64 {int(MMX_EXPONENT)}, ptr {self.gep(where, 8)}")

    def mmx_check(self) -> None:
        pending, go = self.label(), self.label()
        found = self.call("simd.x87_pending", [self.word("fsw")])
        self.cond_branch(self.new(f"icmp eq i64 {found}, 0"), go, pending, True)
        self.place(pending)
        self._publish()
        self.tail("h_finish", self.call("simd.raise_pending", []))
        self.place(go)

    def mmx_state(self) -> None:
        self.set_word("fsw", self.call("simd.mmx_fsw", [self.word("fsw")]))
        self.set_word("fpu_used", "255")

    def wide(self, low: str, high: str) -> str:
        v = self.new(f"insertelement {WIDE} zeroinitializer, i64 {low}, i32 0")
        return self.new(f"insertelement {WIDE} {v}, i64 {high}, i32 1")

    def half(self, v: str, n: int) -> str:
        return self.new(f"extractelement {WIDE} {v}, i32 {n}")

    def host_op(self, shape: Shape, args: Sequence[str]) -> tuple[str | None, str | None]:
        result, flags = emit(self.new, shape, args)
        return result or None, flags or None

    def _all_masked(self) -> str:
        masks = self.new(f"and i64 {self.word('mxcsr')}, {int(MXCSR_MASKS)}")
        return self.new(f"icmp eq i64 {masks}, {int(MXCSR_MASKS)}")

    def guarded(self, shape: Shape, args: Sequence[str]) -> tuple[str | None, str | None]:
        fast, slow, join = (self.label() for _ in range(3))
        self.cond_branch(self._all_masked(), fast, slow, True)
        self.place(fast)
        one = self.host_op(shape, args)
        self.put(f"br label %{join}")
        self.place(slow)
        self._publish()
        other = unmasked(self, shape, args)
        here = self._here
        self.put(f"br label %{join}")
        self.place(join)
        merged: list[str | None] = []
        for v, w, kind in zip(one, other, (result_type(shape), WORD), strict=True):
            merged.append(None if v is None else self.new(f"phi {kind} [ {v}, %{fast} ], [ {w}, %{here} ]"))
        return merged[0], merged[1]

    def _wide_lookup(self, seg: str, flat: bool, off: str, odd: bool, write: bool) -> tuple[str, str, str]:
        return self._lookup(seg, flat, off, 16, write, aligned=not odd)

    def load_wide(self, seg: str, flat: bool, off: str, odd: bool) -> str:
        fast, miss, join = (self.label() for _ in range(3))
        lin, hit, entry = self._wide_lookup(seg, flat, off, odd, False)
        self.cond_branch(hit, fast, miss, True)
        self.place(fast)
        v = self._guest_load_wide(self._host(lin, entry))
        self.put(f"br label %{join}")
        self.place(miss)
        self._publish()
        self.call("simd.load_wide", [seg, off, str(int(not odd))])
        self.check()
        w, left = self._read_wide(self.cpu("wide")), self.left_behind()
        here = self._here
        self.put(f"br label %{join}")
        self.place(join)
        self._join_budget(fast, here, left)
        return self.new(f"phi {WIDE} [ {v}, %{fast} ], [ {w}, %{here} ]")

    def store_wide(self, seg: str, flat: bool, off: str, odd: bool, v: str) -> None:
        fast, miss, join = (self.label() for _ in range(3))
        lin, hit, entry = self._wide_lookup(seg, flat, off, odd, True)
        self.cond_branch(hit, fast, miss, True)
        self.place(fast)
        self._guest_store_wide(self._host(lin, entry), v)
        self.put(f"br label %{join}")
        self.place(miss)
        self._publish()
        self.call("simd.store_wide", [seg, off, str(int(not odd)), self.half(v, 0), self.half(v, 1)])
        self.check()
        left, here = self.left_behind(), self._here
        self.put(f"br label %{join}")
        self.place(join)
        self._join_budget(fast, here, left)

    def _guest_load_wide(self, pointer: str) -> str:
        return self.new(f"load volatile {WIDE}, ptr {pointer}, align 1")

    def _guest_store_wide(self, pointer: str, v: str) -> None:
        self.put(f"store volatile {WIDE} {v}, ptr {pointer}, align 1")

    # ---- where to go --------------------------------------------------------------------------------------------------
    def go(self, handler: str, uop: str, budget: str) -> None:
        args = f"(ptr %cpu, ptr {uop}, i64 {budget})"
        self.put(f"ret i64 {self.new(f'musttail call preserve_nonecc i64 {handler}{args}')}")

    def tail(self, special: str, value: str) -> None:
        """To one of the special handlers; `value` is its third argument."""
        self.specials[special] = None
        self.go(f"@{special}", self.u, value)

    def either(self, quickly: Callable[[], Quick], otherwise: Callable[[], None]) -> None:
        otherwise()

    def at_once(self, whole: Callable[[str], str], otherwise: Callable[[], None], *, ends: bool) -> None:
        usual, slowly = self.label(), self.label()
        n = whole(self.new(f"add i64 %budget, {self.uop(lay.UOP_REST, 'i16')}"))
        self.cond_branch(self.new(f"icmp ne i64 {n}, 0"), usual, slowly, True)
        self.place(usual)
        if ends:
            self._jump(self.next_rip(), self.new(f"add i64 {self.new(f'sub i64 %budget, {n}')}, 1"))
        else:
            self.next()
        self.place(slowly)
        otherwise()

    def next(self) -> None:
        u = self.gep(self.u, lay.UOP_SIZE)
        self.go(self.new(f"load ptr, ptr {u}"), u, self.budget)

    def enter(self, u: str, budget: str) -> None:
        """Charge the block at micro-op u and go there; out of budget or kicked: to h_out, which takes the charge back."""
        n = self.new(f"zext i16 {self.new(f'load i16, ptr {self.gep(u, lay.UOP_REST)}')} to i64")
        left = self.new(f"sub i64 {budget}, {n}")
        floor = self.new(f"load volatile i64, ptr {self.cpu('floor')}")
        go, out = self.label(), self.label()
        self.cond_branch(self.new(f"icmp slt i64 {left}, {floor}"), out, go, False)
        self.place(out)
        self.specials["h_out"] = None
        self.go("@h_out", u, left)
        self.place(go)
        self.go(self.new(f"load ptr, ptr {u}"), u, left)

    def _follow(self, slot: int) -> None:
        self.enter(self.new(f"load ptr, ptr {self.gep(self.u, slot)}"), self.budget)

    def check_target(self, target: str) -> None:
        bad, go = self.label(), self.label()
        self.cond_branch(self._is_no_code(target), bad, go, False)
        self.place(bad)
        self.tail("h_no_code", self.budget)
        self.place(go)

    def _is_no_code(self, target: str) -> str:
        """i1: `memory.is_code` says no."""
        if self.long:
            high = self.new(f"lshr i64 {self.new(f'add i64 {target}, {int(CANONICAL_HALF)}')}, 48")
            return self.new(f"icmp ne i64 {high}, 0")
        return self.new(f"icmp ugt i64 {target}, {self.segment_word('limit', str(CS_NUMBER))}")

    def check_direct(self) -> None:
        """Known when the block is translated: such a call is `h_limit` from the start."""

    def branch(self, taken: str) -> None:
        yes, no = self.label(), self.label()
        self.cond_branch(self.new(f"icmp ne i64 {taken}, 0"), yes, no)
        for label, slot in ((yes, lay.UOP_TAKEN), (no, lay.UOP_FALL)):
            self.place(label)
            self._follow(slot)

    def jump(self) -> None:
        self._follow(lay.UOP_TAKEN)

    def indirect(self, target: str, *, noted: bool = False) -> None:
        self._jump(target, self.budget, self._note(target) if noted else "")

    def _note(self, target: str) -> str:
        """Where an indirect jump remembers that it went to `target`."""
        mixed = self.new(f"xor i64 {self.new(f'lshr i64 {target}, 3')}, {self.new(f'lshr i64 {target}, 6')}")
        which = self.new(f"shl i64 {self.new(f'and i64 {mixed}, {lay.N_NOTED - 1}')}, 3")
        return self.gep(self.block_end(), which)

    def block_end(self) -> str:
        """Pointer behind the block's last micro-op."""
        return self.gep(self.u, lay.UOP_SIZE)

    def jump_entry(self, target: str) -> str:
        """Pointer to the jump cache's entry for a target."""
        mixed = self.new(f"xor i64 {target}, {self.new(f'lshr i64 {target}, 12')}")
        index = self.new(f"shl i64 {self.new(f'and i64 {mixed}, {lay.N_JUMP_CACHE - 1}')}, 5")
        return self.gep(self.gep("%cpu", index), at("jump_cache"))

    def _jump(self, target: str, budget: str, note: str = "") -> None:
        """By the jump cache; what is not there is looked up.  `note`: where its micro-op is remembered."""
        entry = self.jump_entry(target)
        same = self.new(f"icmp eq i64 {self.new(f'load i64, ptr {entry}')}, {target}")
        ctx = self.new(f"load i64, ptr {self.gep(entry, 8)}")
        same_ctx = self.new(f"icmp eq i64 {ctx}, {self.word('ctx')}")
        hit = self.new(f"and i1 {same}, {same_ctx}")
        go, miss = self.label(), self.label()
        self.cond_branch(hit, go, miss, True)
        self.place(miss)
        self.set_word("rip", target)
        self.tail("h_resume", budget)
        self.place(go)
        u = self.new(f"load ptr, ptr {self.gep(entry, 16)}")
        if note:
            self.put(f"store ptr {u}, ptr {note}")
        self.enter(u, budget)


def handler(units: Units, shapes: Sequence[Shape], key: int, name: str) -> HandlerBuilder:
    """The handler of a key: shape number and variant."""
    shape, variant = shapes[key & 0xFFFF], key >> 16
    b = HandlerBuilder(units, name, long=shape.long)
    compose(b, shape, dead=variant == 1, fused=variant - 2 if variant >= 2 else -1)
    return b


def module(units: Units, builders: Sequence[HandlerBuilder], extra: str = "") -> tuple[str, list[str], list[str]]:
    """Text of a module of handlers, the units it calls by symbol, and the special handlers that it jumps to."""
    used: dict[str, Any] = {}
    specials: dict[str, Any] = {}
    own = {b.name for b in builders}
    for b in builders:
        used |= b.used
        specials |= b.specials
    if extra:
        specials["h_resume"] = None
    inline = [u for u in used if units[u].record != "c" or u.startswith(INLINE_MODULE) or u in INLINE_UNITS]
    inline = list(dict.fromkeys(one for u in inline for one in (units.whole(u) if u in WHOLE_UNITS else [u])))
    text, outside = units.closure(inline)
    outside = list(dict.fromkeys([*outside, *(u for u in used if u not in inline)]))
    declares = [units[u].declaration for u in outside if f"@{symbol(u)}(" not in text]
    wanted = [s for s in specials if s not in own]
    declares += [f"declare preserve_nonecc i64 @{s}{TYPES}" for s in wanted]
    bodies = [b.text() for b in builders]
    return "\n".join([text, *declares, *bodies, extra, WEIGHTS, ""]), outside, wanted
