"""Pinned stencils: the eight guest registers stay in host registers from instruction to instruction and from block to block.

A pinned stencil has the guest's registers 0 to 7 as arguments (`ARGUMENTS`), and is made for the register numbers of its
instance: they are part of its key.  The micro-op is no argument: where one is wanted, on the way out, its address is a hole.
`jitvm/engine/pin.py` strings pinned stencils together for blocks that are hot where there are no regions; from such a block
to others that are not pinned, and to handlers, leads `h_spill`, which stores the registers.

Flags that the block leaves behind are kept as operands: `aux` says in bits 8 to 15 what is to be made of `res` and `hi` of
the record's flags (a *kind*), and in bits 16 to 23 what then wrote all but CF, with operand `flags_top`.  `pin.settle` makes
flags of that: nobody but pinned code ever sees such a record, as all ways out of it settle.

Not modelled: registers 8 to 15 are in the record; string instructions, which work on the record's registers, have the
stencils that are not pinned.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from jitvm.engine import stencil
from jitvm.engine.compose import RCX_AT, compose
from jitvm.engine.forms import Shape
from jitvm.engine.layout import at
from jitvm.engine.specials import SpecialBuilder
from jitvm.engine.stencil import Stencil, StencilBuilder, stamped
from jitvm.engine.stencil_key import (
    DEFERRED_MARK,
    EAGER_BIT,
    PINNED_MARK,
    SCALE_SHIFT,
    SEG_SHIFT,
    SLOT_SHIFTS,
    is_pinned,
)
from jitvm.engine.stitch import INLINE_MODULE, HandlerBuilder
from jitvm.engine.units import Units
from jitvm.isa.flags import is_comparison
from jitvm.isa.state import ZERO
from jitvm.isa.table import AT_ONCE
from jitvm.isa.words import u64

PINNED = 8
ARGUMENTS = ("%g0", "%budget", "%g3", "%g7", "%g6", "%g2", "%g1", "%g4", "%g5")
"""Behind the record.  LLVM's preserve_none gives R12 to the record, then R13, R14, R15, RDI, RSI, RDX, RCX, R8, R9."""
SIGNATURE = f"(ptr noalias %cpu, {', '.join(f'i64 {name}' for name in ARGUMENTS)})"
TYPES = f"(ptr, {', '.join(['i64'] * len(ARGUMENTS))})"
SPECIALS = ("h_spill", "h_leap", "h_settle", "h_jump", "h_pin", "h_pin_pad")
"""Store the registers and go on in handler `out_to` with micro-op `out_u`; store them and go on at `rip`; make the flags and
go on at `out_to`; go on at `rip`, not pinned; a block that is to be pinned; a pinned pad that may be linked."""
KIND_OF = {"alu.sub": 0, "alu.add": 1, "alu.and_": 2, "alu.or_": 2, "alu.xor": 2, "alu.neg": 3}
"""Units whose flags can be made later, by kind; two bits of `aux` below it are the logarithm of the size."""
TOP_KIND_OF = {"alu.inc": 0, "alu.dec": 1}
LOGIC, TWO_OPERANDS = 2, (0, 1)
KIND_SHIFT, TOP_SHIFT, SIZE_BITS = 8, 16, 2
WITH_CARRY = (1, 3)
"""Pairs of condition codes that read CF."""


def possible(shape: Shape) -> bool:
    """Whether a shape can be a pinned stencil."""
    return shape.unit not in AT_ONCE and stencil.possible(shape)


def instance(key: int) -> str:
    """What of a stencil's key its handler's name does not say: segment, scale, and a pinned one's registers."""
    return f"{key >> SEG_SHIFT:x}" if is_pinned(key) else f"{key >> SEG_SHIFT & 31}"


def number_of(kind: int, size: int) -> int:
    """What `aux` says of a kind and an operand size; not 0."""
    return 1 + (kind << SIZE_BITS | size.bit_length() - 1)


class PinnedText(HandlerBuilder):
    """A function of a pinned stencil's type: the guest's registers are local variables that begin with its arguments."""

    def text(self) -> str:
        head = (
            f'define preserve_nonecc i64 @{self.name}{SIGNATURE} nounwind optsize "no-jump-tables"="true" {{\nentry:\n'
        )
        variables = "".join(f"  %r{k} = alloca i64\n  store i64 %g{k}, ptr %r{k}\n" for k in range(PINNED))
        body = "\n".join(self.lines)
        return f"{head}  %flags = alloca [24 x i8], align 8\n{variables}{body}\n}}\n"

    def go_pinned(self, to: str, *, registers: bool = True, first: str = "") -> None:
        """Jump to what has the same type; without `registers` to a handler, whose micro-op is `first`."""
        values = {"%budget": self.budget}
        for k in range(PINNED):
            values[f"%g{k}"] = self.new(f"load i64, ptr %r{k}") if registers else "poison"
        if first:
            values[ARGUMENTS[0]] = first
        args = ", ".join(f"i64 {values[name]}" for name in ARGUMENTS)
        self.put(f"ret i64 {self.new(f'musttail call preserve_nonecc i64 {to}(ptr %cpu, {args})')}")

    def go_special(self, name: str) -> None:
        """Jump to one of SPECIALS that has the same type."""
        self.go_pinned(self.new(f"load ptr, ptr {self.cpu(name)}"))


class PinnedBuilder(PinnedText, StencilBuilder):
    """The stencil builder with registers as local variables and their numbers as constants."""

    def __init__(self, units: Units, name: str, shape: Shape, key: int) -> None:
        StencilBuilder.__init__(self, units, name, shape, key >> SEG_SHIFT & 7, key >> SCALE_SHIFT & 3)
        self._offsets = {slot: key >> shift & 255 for slot, shift in SLOT_SHIFTS.items()}
        self._eager = bool(key >> EAGER_BIT & 1)
        self._fused = max((key >> 16 & 255) - 2, -1)
        self._last: tuple[str, Sequence[str], str] = "", (), ""
        self.deferred = False
        """Flags are left as operands."""

    # ---- operands ---------------------------------------------------------------------------------------------------
    def number(self, slot: str) -> str:
        return str(self._offsets[slot] >> 3)

    def slot_at(self, slot: str) -> str:
        return str(self._offsets[slot])

    def is_base(self, at_: int) -> str:
        return str(int(self._offsets["b"] == at_))

    def slot_reg(self, slot: str, size: int) -> str:
        return self.gpr(self._offsets[slot], size)

    def set_slot_reg(self, slot: str, size: int, v: str) -> None:
        self.set_gpr(self._offsets[slot], size, v)

    def gpr(self, at_: int, size: int) -> str:
        register, byte = at_ >> 3, at_ & 7
        if register == ZERO:
            return "0"
        if register >= PINNED:
            return super().gpr(at_, size)
        v = self.new(f"load i64, ptr %r{register}")
        if byte:
            v = self.new(f"lshr i64 {v}, {8 * byte}")
        return v if size == 8 else self.new(f"and i64 {v}, {(1 << 8 * size) - 1}")

    def set_gpr(self, at_: int, size: int, v: str) -> None:
        register, byte = at_ >> 3, at_ & 7
        if register >= PINNED:
            super().set_gpr(at_, size, v)
            return
        if size < 8:
            v = self.new(f"and i64 {v}, {(1 << 8 * size) - 1}")
        if size < 4:
            if byte:
                v = self.new(f"shl i64 {v}, {8 * byte}")
            kept = ~((1 << 8 * size) - 1 << 8 * byte)
            old = self.new(f"load i64, ptr %r{register}")
            v = self.new(f"or i64 {self.new(f'and i64 {old}, {kept}')}, {v}")
        self.put(f"store i64 {v}, ptr %r{register}")

    # ---- flags ------------------------------------------------------------------------------------------------------
    def call(self, unit: str, args: Sequence[str], *, flags: str = "") -> str:
        last = self._last[0]
        if unit == "flags.condition" and flags and last == "alu.sub" and is_comparison(u64(int(args[0]))):
            return super().call("flags.compared", [args[0], *self._last[1]])
        if unit.startswith(INLINE_MODULE):
            return self._count_down(unit, args)
        v = super().call(unit, args, flags=flags)
        if flags and unit != "flags.condition":
            self._last = unit, tuple(args), v
        return v

    def _count_down(self, unit: str, args: Sequence[str]) -> str:
        """A loop condition: it works on the record's (E)CX."""
        self.put(f"store i64 {self.gpr(RCX_AT, 8)}, ptr {self.gep('%cpu', RCX_AT)}")
        v = super().call(unit, args)
        self.set_gpr(RCX_AT, 8, self.new(f"load i64, ptr {self.gep('%cpu', RCX_AT)}"))
        return v

    def _later(self, unit: str) -> bool:
        """Whether the flags of a unit are made later."""
        if self._eager or (unit in TOP_KIND_OF and self._fused >> 1 in WITH_CARRY):
            return False
        return unit in KIND_OF or unit in TOP_KIND_OF

    def copy_flags(self) -> None:
        if not self._later(self._shape.unit):
            super().copy_flags()

    def commit_flags(self) -> None:
        unit, args, v = self._last
        if not self._later(unit):
            super().commit_flags()
            return
        self.deferred = True
        size = int(args[0])
        lazy = at("lazy")
        if unit in TOP_KIND_OF:
            self._keep(at("flags_top"), args[1], size)
            number = number_of(TOP_KIND_OF[unit], size)
            self.put(f"store i8 {number}, ptr {self.gep('%cpu', lazy + 8 + TOP_SHIFT // 8)}")
            return
        kind = KIND_OF[unit]
        self._keep(lazy, v if kind == LOGIC else args[1], size)
        if kind in TWO_OPERANDS:
            self._keep(lazy + 16, args[2], size)
        self.put(f"store i64 {number_of(kind, size) << KIND_SHIFT}, ptr {self.gep('%cpu', lazy + 8)}")

    def _keep(self, offset: int, v: str, size: int) -> None:
        """Store as many bytes as count of an operand: the register itself, where it is one."""
        w = v if size == 8 else self.new(f"trunc i64 {v} to i{8 * size}")
        self.put(f"store i{8 * size} {w}, ptr {self.gep('%cpu', offset)}")

    # ---- where to go --------------------------------------------------------------------------------------------------
    def text(self) -> str:
        self.missed()
        return PinnedText.text(self)

    def next(self) -> None:
        self.go_pinned("@next")

    def _follow(self, slot: int) -> None:
        self.go_pinned(self.exit_of(slot))

    def leave(self) -> None:
        """On in this instruction's handler."""
        self.go_pinned("@miss")

    def _jump(self, target: str, budget: str, note: str = "") -> None:
        """By the jump cache, which knows where pinned code is entered."""
        self.set_word("rip", target)
        entry = self.jump_entry(target)
        go, context, miss = self.label(), self.label(), self.label()
        same = self.new(f"icmp eq i64 {self.new(f'load i64, ptr {entry}')}, {target}")
        self.cond_branch(same, context, miss, True)
        self.place(context)
        ctx = self.new(f"load i64, ptr {self.gep(entry, 8)}")
        self.cond_branch(self.new(f"icmp eq i64 {ctx}, {self.word('ctx')}"), go, miss, True)
        self.place(miss)
        self.go_special("h_leap")
        self.place(go)
        self.go_pinned(self.new(f"load ptr, ptr {self.gep(entry, 24)}"))

    def indirect(self, target: str, *, noted: bool = False) -> None:
        self._jump(target, self.budget)


def build(units: Units, shapes: Sequence[Shape], key: int, name: str) -> PinnedBuilder:
    """The pinned stencil of a key, put together."""
    shape, variant = shapes[key & 0xFFFF], key >> 16 & 0xFF
    b = PinnedBuilder(units, name, shape, key)
    compose(b, shape, variant)
    return b


def normal(shapes: Sequence[Shape], key: int) -> int:
    """A key without the registers that its shape does not use."""
    if not is_pinned(key):
        return key
    shape = shapes[key & 0xFFFF]
    for slot, shift in SLOT_SHIFTS.items():
        used = slot in shape.slots or (slot == "b" and shape.mem) or (slot == "i" and "x" in shape.mem)
        if not used:
            key &= ~(255 << shift)
    return key


def stamp(units: Units, shapes: Sequence[Shape], keys: Iterable[int]) -> dict[int, Stencil | None]:
    """Pinned stencils by key; None where the code can't be cut."""
    builders = {key: build(units, shapes, key, f"s{k}") for k, key in enumerate(keys)}
    out: dict[int, Stencil | None] = {}
    for key, (b, cut) in stamped(units, builders, TYPES).items():
        out[key] = cut and replace(cut, marks=cut.marks | PINNED_MARK | DEFERRED_MARK * b.deferred)
    return out


# ---- specials -------------------------------------------------------------------------------------------------------
class _Out(PinnedText):
    """A way out of pinned code: registers to the record, flags made."""

    def spill(self) -> None:
        for k in range(PINNED):
            self.put(f"store i64 {self.new(f'load i64, ptr %r{k}')}, ptr {self.gep('%cpu', 8 * k)}")
        made, settle = self.label(), self.label()
        aux = self.new(f"load i64, ptr {self.gep('%cpu', at('lazy') + 8)}")
        self.cond_branch(self.new(f"icmp ult i64 {aux}, {1 << KIND_SHIFT}"), made, settle)
        self.place(settle)
        self.call("pin.settle", [])
        self.put(f"br label %{made}")
        self.place(made)


def special(units: Units, name: str) -> HandlerBuilder:
    """One of SPECIALS."""
    if name in ("h_spill", "h_leap"):
        b = _Out(units, name)
        b.spill()
        to = b.new(f"load ptr, ptr {b.cpu('out_to' if name == 'h_spill' else 'h_jump')}")
        b.go_pinned(to, registers=False, first=b.word("out_u"))
        return b
    if name == "h_settle":
        b = _Out(units, name)
        b.call("pin.settle", [])
        b.go_pinned(b.new(f"load ptr, ptr {b.cpu('out_to')}"))
        return b
    h = SpecialBuilder(units, name)
    if name == "h_jump":
        h._jump(h.word("rip"), "%budget")
    elif name == "h_pin_pad":
        h.call("pin.link_pad", [h.here()])
        h.enter("%uop", "%budget")
    else:
        h.give_code("pin.pin")
    return h
