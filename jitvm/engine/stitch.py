"""The stitcher: `compose` told to LLVM.  Operands come from the micro-op at run time, which makes a *handler*.

A handler is `preserve_none i64 (ptr cpu, ptr uop, i64 budget)`; it reaches the next one by `musttail`.  `budget` is what
is left behind the current block, which was charged before it was entered.  Text is written directly: about 25 times
faster than through llvmlite.ir.

`HandlerText` and `MemoryText` (`jitvm/engine/handler_text.py`, `memory_text.py`) write what comes before: operands and
registers, calls, guest memory.  Here are XMM registers, where an instruction goes on, and the module around handlers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from jitvm.engine import layout as lay
from jitvm.engine.builder import Quick
from jitvm.engine.compose import compose, unmasked
from jitvm.engine.forms import Shape
from jitvm.engine.host_op import emit
from jitvm.engine.ir_text import TYPES
from jitvm.engine.layout import at
from jitvm.engine.memory_text import MemoryText
from jitvm.engine.simd_forms import WORD, result_type
from jitvm.engine.units import Units, symbol
from jitvm.isa.memory import CANONICAL_HALF
from jitvm.isa.simd import MMX_EXPONENT, MXCSR_MASKS
from jitvm.isa.table import AT_ONCE, QUICK

CS_NUMBER = 1
INLINE_MODULE = "branch."
"""Units on the CPU record that handlers get a copy of (they cannot leave); all others are called by symbol."""
WHOLE_UNITS = frozenset(AT_ONCE.values())
"""Units of which they get a copy with all that these call."""
INLINE_UNITS = WHOLE_UNITS | frozenset(QUICK.values()) | {"run.quiet"}
WEIGHTS = '!0 = !{!"branch_weights", i32 2000, i32 1}\n!1 = !{!"branch_weights", i32 1, i32 2000}'


class HandlerBuilder(MemoryText):
    """Writes one handler: of an instruction or, by `specials`, of what happens between them."""

    # ---- SIMD ---------------------------------------------------------------------------------------------------------
    def _file(self, field: str, slot: str) -> str:
        """Pointer to a register of a file of 16-byte ones."""
        twice = self.new(f"shl i64 {self.slot_at(slot)}, 1")
        return self.gep(self.gep("%cpu", twice), at(field))

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

    # ---- where to go --------------------------------------------------------------------------------------------------
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
    compose(b, shape, variant)
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
