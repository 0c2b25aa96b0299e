"""How an instruction is put together: operand reads, address, operation, write-back, status, what comes next.

One description for all engines.  `compose` drives a *builder*: the IR builder writes LLVM text for what it is told, the
plain builder does it at once.  Values are opaque here (SSA names there, numbers here).  Nothing in this module knows what
an operation means; that is in `jitvm/isa/`.

Order of an instruction, so that leaving in the middle restarts it: all reads and all checks, the operation on a copy of
the flags, the store, and only then flags and registers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from jitvm.engine.builder import Builder, Quick, Value
from jitvm.engine.formbits import VARIANT_DEAD, VARIANT_FUSED
from jitvm.engine.forms import Shape
from jitvm.engine.simd_forms import reads_destination
from jitvm.isa.simd import ACROSS, BLENDS, COMPARES, DOTS, FLOAT, SCALED, STRINGS, SUMS, multiplied
from jitvm.isa.table import AT_ONCE, CHECKED_BY, QUICK

RSP_AT, RBP_AT, RCX_AT, RBX_AT, RDX_AT, RAX_AT = 4 * 8, 5 * 8, 1 * 8, 3 * 8, 2 * 8, 0
AH_AT = 1
SS_NUMBER = 2


def _nothing() -> None:
    """What else changes."""


def compose(b: Builder, shape: Shape, variant: int = 0) -> None:
    """Put one instruction together; `variant`: one of `formbits`' VARIANT_*, plus the condition of a Jcc behind it."""
    fused = variant - int(VARIANT_FUSED) if variant >= VARIANT_FUSED else -1
    _Composer(b, shape, variant == VARIANT_DEAD, fused).run()


def unmasked(b: Builder, s: Shape, args: Sequence[Value]) -> tuple[Value, Value]:
    """An operation when MXCSR does not mask all exceptions: it is done with clean flags, which are then looked at."""
    if s.unit in DOTS:
        return dot_product(b, s, args)
    b.call("simd.begin_unmasked", [])
    results = b.host_op(s, args)
    seen = b.call("simd.ask_tiny", [])
    b.host_op(s, args)
    tiny = b.call("simd.ask_exact", [])
    b.host_op(s, in_range(b, s, args))
    b.call("simd.settle", [seen, tiny])
    b.check()
    return results


def dot_product(b: Builder, s: Shape, args: Sequence[Value]) -> tuple[Value, Value]:
    """Products and their sums by steps, of which the first with an unmasked exception is the last."""
    product, sums = DOTS[s.unit]
    words = [b.const(word) for word in multiplied(4 if s.unit == "dpps" else 8, s.imm)]
    factors = [b.wide(*(b.call("simd.chosen", [b.half(v, k), words[k]]) for k in range(2))) for v in args]
    total, _ = unmasked(b, replace(s, unit=product, imm=-1), factors)
    for add, exchange in sums:
        if exchange == "halves":
            other = b.wide(b.half(total, 1), b.half(total, 0))
        else:
            other = b.wide(*(b.call(f"simd.{exchange}", [b.half(total, k)]) for k in range(2)))
        total, _ = unmasked(b, replace(s, unit=add, imm=-1), [total, other])
    return b.host_op(s, args)


def in_range(b: Builder, s: Shape, args: Sequence[Value]) -> Sequence[Value]:
    """Operands of which no result overflows or is tiny, and which is exact when that of `args` is."""
    lane = b.const(4 if s.unit[-1] == "s" and s.unit[-2:] in ("ps", "ss") and not s.unit.startswith("cvt") else 8)
    halves = [(b.half(v, 0), b.half(v, 1)) for v in args] if s.unit in SCALED | SUMS | ACROSS else []
    if s.unit in SCALED | SUMS:
        others = list(halves) if s.unit.startswith("cvt") else halves[::-1]
    elif s.unit[-2:] == "ps":
        others = [tuple(b.call("simd.neighbours", [v]) for v in pair) for pair in halves]
    else:
        others = [(high, low) for low, high in halves]
    unit = "simd.scaled" if s.unit in SCALED else "simd.halved"
    return [
        b.wide(*(b.call(unit, [lane, v, other]) for v, other in zip(pair, partner, strict=True)))
        for pair, partner in zip(halves, others, strict=True)
    ] or args


def effective_address(b: Builder, shape: Shape) -> Value:
    """Offset of the memory operand."""
    return _Composer(b, shape, False, -1).address()


class _Composer:
    def __init__(self, b: Builder, shape: Shape, dead: bool, fused: int) -> None:
        self.b, self.s, self.dead, self.fused = b, shape, dead, fused
        self.off: Value = None
        self.where: Any = None

    def run(self) -> None:
        kind = self.s.kind
        getattr(self, "value_kind" if kind == "value" else kind)()

    # ---- operands -----------------------------------------------------------------------------------------------------
    def address(self, popped: int = 0) -> Value:
        """Offset of the memory operand; `popped`: bytes that a POP has taken off an (E)SP base."""
        if self.off is not None:
            return self.off
        b, s = self.b, self.s
        asize = b.const(s.asize)
        if s.mem[0] == "t":
            args = [asize, b.gpr(RBX_AT, s.asize), b.gpr(RAX_AT, 1)]
            self.off = b.call("address.xlat_address", args)
            return self.off
        if s.mem[0] == "o":
            self.off = b.imm()
            return self.off
        index = scale = disp = b.const(0)
        if s.mem[0] == "p":
            base = b.relative()
        else:
            base, disp = b.slot_reg("b", s.asize), b.disp()
        if s.mem[0] == "x":
            index, scale = b.slot_reg("i", s.asize), b.scale()
        if popped and s.mem[0] != "p":
            more = b.call("address.popped", [b.is_base(RSP_AT), b.const(popped)])
            base = b.call("address.above", [b.const(8), base, more])
        if s.mem[-1] == "k":
            bit = b.call("bits.bit_offset", [b.const(s.size), self.value(1)])
            base = b.call("address.above", [b.const(8), base, bit])
        self.off = b.call("address.effective", [asize, base, index, scale, disp])
        return self.off

    def value(self, k: int) -> Value:
        """Operand k, zero-extended."""
        b, s = self.b, self.s
        kind = s.ops[k]
        if kind in ("i", "w"):
            return b.imm()
        if kind == "1":
            return b.const(1)
        if kind == "s":
            return b.selector(b.number(s.slots[k]) if s.slots[k] else b.const(s.imm))
        if kind == "m":
            if self.where is not None:
                return self.where[0]
            return b.load(b.segment(), s.flat, self.address(), s.sizes[k])
        if s.slots[k] == "-":
            return b.gpr(RCX_AT, 1)
        return b.slot_reg(s.slots[k], s.sizes[k])

    def argument(self, name: str) -> Value:
        """What a unit's parameter of this name is given."""
        b, s = self.b, self.s
        if name in ("a", "b", "d"):
            return self._operand(name)
        if name == "reg":
            k = next((k for k, op in enumerate(s.ops) if op in ("n", "s", "x", "y")), -1)
            if k < 0:
                k = s.ops.index("r")
            return b.number(s.slots[k]) if s.slots[k] else b.const(s.imm)
        if name == "rm":
            return b.number(s.slots[-1] if s.ops[-1] in ("x", "y") else s.slots[s.ops.index("r")])
        if name == "imm":
            return b.imm() if s.imm < 0 else b.const(s.imm)
        simple = {"size": s.size, "asize": s.asize, "ssize": s.ssize, "rep": s.rep, "cc": s.cc}
        if name in simple:
            return b.const(simple[name])
        if name == "bsize":
            return b.const(s.sizes[1])
        if name == "acc":
            return b.gpr(RAX_AT, s.size)
        if name == "rdx":
            return b.gpr(RDX_AT, s.size)
        if name == "seg":
            return b.segment()
        if name == "off":
            return self.address()
        if name == "imm2":
            return b.imm2()
        raise KeyError(f"unit {s.unit} wants {name}")

    def _operand(self, name: str) -> Value:
        s = self.s
        k = "abd".index(name)
        if not s.ops:
            return self.b.gpr(AH_AT, 1)
        if s.ops[0] in ("s", "n") and name == "a":
            k = 1
        if len(s.ops) == 3 and s.unit == "muldiv.imul":
            k += 1
        return self.value(min(k, len(s.ops) - 1))

    def arguments(self, unit: str = "") -> list[Value]:
        return [self.argument(name) for name in self.b.params(unit or self.s.unit) if name not in ("f", "c")]

    def put(self, place: str, v: Value) -> None:
        """Write a result to its place."""
        b, s = self.b, self.s
        if place == "acc":
            b.set_gpr(RAX_AT, s.size, v)
        elif place == "ah":
            b.set_gpr(AH_AT, 1, v)
        elif place == "high":
            if s.size == 1:
                b.set_gpr(AH_AT, 1, v)
            else:
                b.set_gpr(RDX_AT, s.size, v)
        elif place:
            k = int(place)
            b.set_slot_reg(s.slots[k], s.sizes[k], v)

    # ---- kinds --------------------------------------------------------------------------------------------------------
    def value_kind(self) -> None:
        """result = unit(operands)."""
        b, s = self.b, self.s
        names = b.params(s.unit)
        to_memory = s.dst == "0" and s.ops[0] == "m"
        reads = "a" in names
        if to_memory and reads:
            load = b.load_locked if s.locked else b.load_rmw
            self.where = load(b.segment(), s.flat, self.address(), s.sizes[0])
        args = self.arguments()
        writes = bool(names) and names[0] == "f"
        if writes:
            b.copy_flags()
        v = b.call(s.unit, args, flags="new" if writes else "")
        if to_memory:
            if self.where is not None and s.locked:
                old, place = self.where
                b.store_locked(place, b.segment(), self.address(), s.sizes[0], old, v)
            elif self.where is not None:
                b.store_back(self.where[1], b.segment(), self.address(), s.sizes[0], v)
            else:
                b.store(b.segment(), s.flat, self.address(), s.sizes[0], v)
        if writes and not self.dead:
            b.commit_flags()
        if s.hi:
            self.put(s.hi, b.second())
        if s.dst and not to_memory:
            self.put(s.dst, v)
        self.after_flags()

    def after_flags(self) -> None:
        """To the next instruction, or where the Jcc leads that is fused with this one."""
        b = self.b
        if self.fused >= 0:
            b.branch(b.call("flags.condition", [b.const(self.fused)], flags="new"))
        else:
            b.next()

    def checked(self) -> None:
        """A value unit that may fault before it does anything."""
        b = self.b
        b.publish()
        b.call(CHECKED_BY[self.s.unit], [])
        b.check()
        self.value_kind()

    def status(self) -> None:
        """Out-of-line semantics."""
        if self.s.unit in AT_ONCE:
            self.b.at_once(self.whole, self.out_of_line, ends=self.s.ends)
        elif self.s.unit in QUICK:
            self.b.either(self.load_quickly, self.out_of_line)
        else:
            self.out_of_line()

    def out_of_line(self) -> None:
        b, s = self.b, self.s
        if s.unit in CHECKED_BY:
            b.publish()
            b.call(CHECKED_BY[s.unit], [])
            b.check()
        args = self.arguments()
        b.publish()
        b.finish(b.call(s.unit, args), ends=s.ends)

    def whole(self, left: Value) -> Value:
        """A string instruction as a whole."""
        unit = AT_ONCE[self.s.unit]
        names = [name for name in self.b.params(unit) if name != "c"]
        return self.b.call(unit, [left if name == "left" else self.argument(name) for name in names])

    def load_quickly(self) -> Quick:
        """A segment register in real mode from a register, from memory or from the stack."""
        b, s = self.b, self.s
        if s.unit == "segment.load_segment":
            reg, a, commit = self.argument("reg"), self.value(1), _nothing
        elif s.unit == "segment.pop_segment":
            a, sp = self.pop_value(read=2)
            reg, commit = self.argument("reg"), partial(b.set_gpr, RSP_AT, s.ssize, sp)
        else:
            off, memory = self.address(), s.ops.index("m")
            v = b.load(b.segment(), s.flat, off, s.size)
            a = b.load(b.segment(), s.flat, b.call("address.above", [b.const(s.asize), off, b.const(s.size)]), 2)
            reg, commit = b.const(s.imm), partial(b.set_slot_reg, s.slots[1 - memory], s.size, v)
        return b.call(QUICK[s.unit], [reg, a]), commit

    # ---- SIMD ---------------------------------------------------------------------------------------------------------
    def simd_value(self, k: int) -> Value:
        """Operand k as an operation takes it: wide for XMM, else a word."""
        b, s = self.b, self.s
        if s.ops[k] == "x":
            return b.wide_reg(s.slots[k])
        if s.ops[k] == "y":
            return b.mmx_reg(s.slots[k])
        if s.ops[k] == "m" and s.sizes[k] == 16:
            return b.load_wide(b.segment(), s.flat, self.address(), s.odd)
        v = self.value(k)
        return b.wide(v, b.const(0)) if s.ops[k] == "m" and s.host[k] == "x" else v

    def put_simd(self, v: Value) -> None:
        """Write operand 0."""
        b, s = self.b, self.s
        if s.ops[0] == "m" and s.sizes[0] == 16:
            b.store_wide(b.segment(), s.flat, self.address(), s.odd, v)
        elif s.ops[0] == "m":
            b.store(b.segment(), s.flat, self.address(), s.sizes[0], v)
        if "y" in s.ops:
            b.mmx_state()
        if s.ops[0] == "x":
            b.set_wide_reg(s.slots[0], v)
        elif s.ops[0] == "y":
            b.set_mmx_reg(s.slots[0], v)
        elif s.ops[0] == "r":
            b.set_slot_reg(s.slots[0], s.sizes[0], v)

    def move(self) -> None:
        """Operand 0 = operand 1, or one half of it; what an XMM register does not get is 0."""
        b, s = self.b, self.s
        if "y" in s.ops:
            b.mmx_check()
        v = self.simd_value(1)
        from_wide, to_wide = s.host[1] == "x", s.host[0] == "x"
        if s.unit in ("low", "high") and to_wide:
            old = b.wide_reg(s.slots[0])
            v = b.wide(v, b.half(old, 1)) if s.unit == "low" else b.wide(b.half(old, 0), v)
        elif from_wide and s.sizes[0] < 16:
            v = b.half(v, 1 if s.unit == "high" else 0)
        elif to_wide and not from_wide:
            v = b.wide(v, b.const(0))
        elif to_wide and s.unit == "quad":
            v = b.wide(b.half(v, 0), b.const(0))
        self.put_simd(v)
        b.next()

    def host(self) -> None:
        """Operand 0 = operation(operands)."""
        b, s = self.b, self.s
        if "y" in s.ops:
            b.mmx_check()
        args = [self.simd_value(k) for k in range(0 if reads_destination(s) else 1, len(s.host))]
        if s.unit in BLENDS:
            args.append(b.xmm0())
        if s.unit.startswith("pcmpestr"):
            n = 8 if s.unit.endswith("64") else 4
            args += [b.gpr(RAX_AT, n), b.gpr(RDX_AT, n)]
        result, flags = b.guarded(s, args) if s.unit in FLOAT else b.host_op(s, args)
        if flags is not None:
            b.copy_flags()
            b.call("simd.compare_flags" if s.unit in COMPARES else "simd.host_flags", [flags], flags="new")
            if not self.dead:
                b.commit_flags()
        if s.unit in STRINGS and "strm" in s.unit:
            b.set_xmm0(result)
        elif s.unit in STRINGS:
            b.set_gpr(RCX_AT, 4, result)
        elif result is not None:
            self.put_simd(result)
        self.after_flags()

    # ---- x87 ----------------------------------------------------------------------------------------------------------
    def ready(self) -> None:
        """What an instruction that waits begins with, before it looks at its operands."""
        b = self.b
        b.publish()
        b.call("x87.ready", [])
        b.check()

    def fpu(self) -> None:
        """Out-of-line semantics of an x87 instruction that waits."""
        b, s = self.b, self.s
        self.ready()
        b.finish(b.call(s.unit, self.arguments()), ends=s.ends)

    def fpu_put(self) -> None:
        """Store what the unit gives."""
        b, s = self.b, self.s
        b.publish()
        v = b.call(s.unit, self.arguments())
        b.check()
        b.store(b.segment(), s.flat, self.address(), s.sizes[0], v)
        b.next()

    def fpu_store(self) -> None:
        """Store what the unit gives; the unit `dst` ends the instruction."""
        b, s = self.b, self.s
        self.ready()
        v = b.call(s.unit, self.arguments())
        b.check()
        b.store(b.segment(), s.flat, self.address(), s.sizes[0], v)
        b.finish(b.call(s.dst, self.arguments(s.dst)), ends=False)

    def nop(self) -> None:
        self.b.next()

    def goto(self) -> None:
        self.b.jump()

    def jcc(self) -> None:
        b = self.b
        b.branch(b.call("flags.condition", [b.const(self.s.cc)]))

    def loop(self) -> None:
        b = self.b
        b.branch(b.call(self.s.unit, [b.const(self.s.asize)]))

    def jmp(self) -> None:
        self.b.jump()

    def target(self, v: Value) -> Value:
        """EIP that an indirect near transfer goes to, checked."""
        target = self.b.call("address.near", [self.b.const(self.s.size), v])
        self.b.check_target(target)
        return target

    def jmpi(self) -> None:
        self.b.indirect(self.target(self.value(0)), noted=True)

    # ---- stack --------------------------------------------------------------------------------------------------------
    def sp(self) -> Value:
        return self.b.gpr(RSP_AT, self.s.ssize)

    def push_value(self, v: Value, width: int = 0) -> None:
        """Push `v`; `width`: bytes stored when they are fewer than the slot."""
        self.b.set_gpr(RSP_AT, self.s.ssize, self.stored(v, width))

    def stored(self, v: Value, width: int = 0) -> Value:
        """The stack pointer behind a push, which is done but for that."""
        b, s = self.b, self.s
        sp = b.call("address.below", [b.const(s.ssize), self.sp(), b.const(s.size)])
        b.store(b.const(SS_NUMBER), s.stack_flat, sp, width or s.size, v)
        return sp

    def pop_value(self, extra: Value = None, *, read: int = 0) -> tuple[Value, Value]:
        """The value on the stack, of which only `read` bytes are read, and the stack pointer behind it (not committed)."""
        b, s = self.b, self.s
        old = self.sp()
        v = b.load(b.const(SS_NUMBER), s.stack_flat, old, read or s.size)
        sp = b.call("address.above", [b.const(s.ssize), old, b.const(s.size)])
        if extra is not None:
            sp = b.call("address.above", [b.const(s.ssize), sp, extra])
        return v, sp

    def push(self) -> None:
        v = self.value(0)
        self.push_value(v, 2 if self.s.ops[0] == "s" and self.s.size < 8 else 0)
        self.b.next()

    def pop(self) -> None:
        b, s = self.b, self.s
        v, sp = self.pop_value()
        if s.ops[0] == "m":
            b.store(b.segment(), s.flat, self.address(popped=s.size), s.sizes[0], v)
            b.set_gpr(RSP_AT, s.ssize, sp)
        else:
            b.set_gpr(RSP_AT, s.ssize, sp)
            b.set_slot_reg(s.slots[0], s.sizes[0], v)
        b.next()

    def leave(self) -> None:
        b, s = self.b, self.s
        frame = b.gpr(RBP_AT, s.ssize)
        v = b.load(b.const(SS_NUMBER), s.stack_flat, frame, s.size)
        b.set_gpr(RSP_AT, s.ssize, b.call("address.above", [b.const(s.ssize), frame, b.const(s.size)]))
        b.set_gpr(RBP_AT, s.size, v)
        b.next()

    def call(self) -> None:
        self.b.check_direct()
        self.push_value(self.b.next_rip())
        self.b.jump()

    def calli(self) -> None:
        b, s = self.b, self.s
        target = b.call("address.near", [b.const(s.size), self.value(0)])
        sp = self.stored(b.next_rip())
        b.check_target(target)  # behind the store: a stack that refuses it goes first (measured on silicon)
        b.set_gpr(RSP_AT, s.ssize, sp)
        b.indirect(target, noted=True)

    def ret(self) -> None:
        b, s = self.b, self.s
        v, sp = self.pop_value(b.imm() if s.ops else None)
        target = self.target(v)
        b.set_gpr(RSP_AT, s.ssize, sp)
        b.indirect(target, noted=True)
