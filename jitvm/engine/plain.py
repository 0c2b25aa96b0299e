"""The plain engine: the same semantics, called as Python functions, one instruction at a time.

Slow, and the reference of the tests: nothing here is compiled, cached or chained.  It shares decoding, composition and
the end of an instruction (`jitvm/engine/run.py`) with the other engines.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np

from jitvm.engine import run
from jitvm.engine.builder import Quick
from jitvm.engine.compose import compose, unmasked
from jitvm.engine.decode import (
    T_B,
    T_D,
    T_DISP,
    T_I,
    T_IMM,
    T_NEXT,
    T_S,
    T_SCALE,
    T_SEG,
    T_SHAPE,
    TOO_LONG,
    TRUNCATED,
    UNKNOWN,
    add_form,
)
from jitvm.engine.forms import Forms, Shape
from jitvm.engine.host_op import host_op
from jitvm.engine.simd_forms import WIDE, has_flags, result_type
from jitvm.engine.translate import decode_at, is_breakpoint, stops_here
from jitvm.isa.debug import code_break, give_up
from jitvm.isa.host import peek, poke, set_mxcsr
from jitvm.isa.memory import code_linear, fetch_host, is_code, load, load_rmw, store
from jitvm.isa.registers import set_reg
from jitvm.isa.simd import MMX_EXPONENT, load_wide, mmx_fsw, raise_pending, store_wide, x87_pending
from jitvm.isa.state import EXIT, GP, MODE_TF, OK, RCX, fault
from jitvm.isa.tlb import KINDS, PART_SLOTS, PARTS, WRITE
from jitvm.isa.words import ONES, W0, W1, W3, W12, cut, sext, u64

WORDS_OF = {"d": T_D, "s": T_S, "b": T_B, "i": T_I}


@cache
def unit_function(name: str) -> Callable[..., Any]:
    """The Python function of a unit of the isa package."""
    module, _, function = name.partition(".")
    return getattr(importlib.import_module(f"jitvm.isa.{module}"), function)  # type: ignore[no-any-return]  # found by name


class _Leave(Exception):
    """Unwinds `compose` when an instruction can't be completed; never seen outside this module."""


class _Flags:
    """The copy of the lazy flags that operations write."""

    __slots__ = ("aux", "hi", "res")

    def __init__(self, lazy: Any) -> None:
        self.res, self.aux, self.hi = lazy.res, lazy.aux, W0


class PlainBuilder:
    """Does at once what `compose` tells; see `builder.Builder`."""

    def __init__(self, c: Any) -> None:
        self.c = c
        self.flags = _Flags(c.lazy)
        self.count = c.gpr[RCX]
        """rCX before a LOOP, which a target beyond the limit undoes."""

    def word(self, at: Any) -> Any:
        return self.c.t[at]

    def params(self, unit: str) -> Sequence[str]:
        code = unit_function(unit).__code__
        return code.co_varnames[: code.co_argcount]

    def const(self, v: int) -> Any:
        return u64(v)

    def imm(self) -> Any:
        return self.word(T_IMM)

    def imm2(self) -> Any:
        return self.word(T_DISP)

    def disp(self) -> Any:
        return sext(u64(4), self.word(T_DISP))

    def scale(self) -> Any:
        return self.word(T_SCALE)

    def segment(self) -> Any:
        return self.word(T_SEG) >> W3

    def number(self, slot: str) -> Any:
        return self.word(WORDS_OF[slot]) >> W3

    def next_rip(self) -> Any:
        return self.c.next_rip

    def relative(self) -> Any:
        return self.c.next_rip + self.disp()

    def slot_reg(self, slot: str, size: int) -> Any:
        return self.gpr(int(self.word(WORDS_OF[slot])), size)

    def set_slot_reg(self, slot: str, size: int, v: Any) -> None:
        self.set_gpr(int(self.word(WORDS_OF[slot])), size, v)

    def gpr(self, at: int, size: int) -> Any:
        return cut(u64(size), self.c.gpr[at >> 3] >> u64(8 * (at & 7)))

    def set_gpr(self, at: int, size: int, v: Any) -> None:
        if at & 7:
            high = u64(0xFF00)
            self.c.gpr[at >> 3] = (self.c.gpr[at >> 3] & ~high) | ((v & u64(0xFF)) << u64(8))
        else:
            set_reg(self.c, at >> 3, u64(size), v)

    def selector(self, number: Any) -> Any:
        return self.c.sel[number]

    def is_base(self, at: int) -> Any:
        return u64(int(self.word(T_B)) == at)

    def call(self, unit: str, args: Sequence[Any], *, flags: str = "") -> Any:
        function = unit_function(unit)
        code = function.__code__
        first = code.co_varnames[:1]
        if first == ("f",):
            return function(self.flags if flags == "new" else self.c.lazy, *args)
        if first == ("c",):
            return function(self.c, *args)
        return function(*args)

    def copy_flags(self) -> None:
        self.flags = _Flags(self.c.lazy)

    def commit_flags(self) -> None:
        self.c.lazy.res, self.c.lazy.aux = self.flags.res, self.flags.aux

    def second(self) -> Any:
        return self.flags.hi

    def publish(self) -> None:
        """Always true here."""

    def check(self) -> None:
        if self.c.status != OK:
            raise _Leave

    def load(self, seg: Any, flat: bool, off: Any, size: int) -> Any:
        v = load(self.c, seg, off, u64(size))
        self.check()
        return v

    def load_rmw(self, seg: Any, flat: bool, off: Any, size: int) -> tuple[Any, Any]:
        v = load_rmw(self.c, seg, off, u64(size))
        self.check()
        return v, None

    def store_back(self, where: Any, seg: Any, off: Any, size: int, v: Any) -> None:
        self.store(seg, False, off, size, v)

    def load_locked(self, seg: Any, flat: bool, off: Any, size: int) -> tuple[Any, Any]:
        """At once by nature: no other thread runs meanwhile."""
        return self.load_rmw(seg, flat, off, size)

    def store_locked(self, where: Any, seg: Any, off: Any, size: int, old: Any, v: Any) -> None:
        self.store_back(where, seg, off, size, v)

    def store(self, seg: Any, flat: bool, off: Any, size: int, v: Any) -> None:
        store(self.c, seg, off, u64(size), cut(u64(size), v))
        self.check()

    # ---- SIMD: wide values are numbers of 128 bits ----------------------------------------------------------------------
    def wide_reg(self, slot: str) -> int:
        return self._wide_at(int(self.word(WORDS_OF[slot])) >> 3)

    def set_wide_reg(self, slot: str, v: int) -> None:
        self._set_wide_at(int(self.word(WORDS_OF[slot])) >> 3, v)

    def _wide_at(self, n: int) -> int:
        return self.wide(self.c.xmm[2 * n], self.c.xmm[2 * n + 1])

    def _set_wide_at(self, n: int, v: int) -> None:
        self.c.xmm[2 * n], self.c.xmm[2 * n + 1] = self.half(v, 0), self.half(v, 1)

    def xmm0(self) -> int:
        return self._wide_at(0)

    def set_xmm0(self, v: int) -> None:
        self._set_wide_at(0, v)

    def mmx_reg(self, slot: str) -> Any:
        return self.c.fpr[2 * (int(self.word(WORDS_OF[slot])) >> 3)]

    def set_mmx_reg(self, slot: str, v: Any) -> None:
        n = 2 * (int(self.word(WORDS_OF[slot])) >> 3)
        self.c.fpr[n], self.c.fpr[n + 1] = u64(v), MMX_EXPONENT

    def mmx_check(self) -> None:
        if x87_pending(self.c.fsw) != W0:
            raise_pending(self.c)
            raise _Leave

    def mmx_state(self) -> None:
        self.c.fsw, self.c.fpu_used = mmx_fsw(self.c.fsw), u64(0xFF)

    def wide(self, low: Any, high: Any) -> int:
        return int(low) | int(high) << 64

    def half(self, v: int, n: int) -> Any:
        return u64(v >> 64 * n & (1 << 64) - 1)

    def load_wide(self, seg: Any, flat: bool, off: Any, odd: bool) -> int:
        load_wide(self.c, seg, off, u64(not odd))
        self.check()
        return self.wide(self.c.wide[0], self.c.wide[1])

    def store_wide(self, seg: Any, flat: bool, off: Any, odd: bool, v: int) -> None:
        store_wide(self.c, seg, off, u64(not odd), self.half(v, 0), self.half(v, 1))
        self.check()

    def host_op(self, shape: Shape, args: Sequence[Any]) -> tuple[Any, Any]:
        result, flags = host_op(shape)([int(a) for a in args])
        kind = result_type(shape)
        return (result if kind == WIDE else u64(result) if kind else None), u64(flags) if has_flags(shape) else None

    def guarded(self, shape: Shape, args: Sequence[Any]) -> tuple[Any, Any]:
        return unmasked(self, shape, args)

    def finish(self, status: Any, *, ends: bool) -> None:
        self.c.status = status

    def either(self, quickly: Callable[[], Quick], otherwise: Callable[[], None]) -> None:
        otherwise()

    def at_once(self, whole: Callable[[Any], Any], otherwise: Callable[[], None], *, ends: bool) -> None:
        otherwise()

    def next(self) -> None:
        self.c.status = OK

    def check_target(self, target: Any) -> None:
        if is_code(self.c, target) == W0:
            self.c.gpr[RCX] = self.count
            fault(self.c, GP, W0)
            raise _Leave

    def check_direct(self) -> None:
        self.check_target(self.word(T_IMM))

    def branch(self, taken: Any) -> None:
        if taken != W0:
            self.check_direct()
            self.c.next_rip = self.word(T_IMM)

    def jump(self) -> None:
        self.check_direct()
        self.c.next_rip = self.word(T_IMM)

    def indirect(self, target: Any, *, noted: bool = False) -> None:
        self.c.next_rip = target


class PlainEngine:
    """Runs a CPU record in plain Python; `forms` may be shared."""

    def __init__(self, c: Any, forms: Forms | None = None) -> None:
        self.c, self.forms = c, forms or Forms()

    def run(self, budget: int) -> int:
        """Run at most `budget` instructions: a WHY_* code, as `VcpuEngine.run`."""
        c = self.c
        with np.errstate(over="ignore"):
            c.horizon = c.horizon - u64(c.left) + u64(budget)
            c.left = budget
            c.status = OK
            c.io_pos = W0
            set_mxcsr(c.mxcsr)
            while True:
                if run.settle(c) == W0:
                    return int(c.why)
                way = run.between(c)
                if way == W0:
                    return int(c.why)
                if way != W1:
                    continue
                shape = self._fetch()
                if shape is not None and c.n_hits != W0:
                    run.stops_between(c)
                    shape = None
                if shape is None:
                    if c.status == EXIT:
                        give_up(c)
                    continue
                with contextlib.suppress(_Leave):
                    compose(PlainBuilder(c), shape)
                run.complete(c, c.status)

    def _fetch(self) -> Shape | None:
        """Decode the instruction at rip; None with c.status set when there is none."""
        c = self.c
        rip = c.rip
        if is_code(c, rip) == W0:
            fault(c, GP, W0)
            return None
        lin = code_linear(c, rip)
        if is_breakpoint(c, lin) != W0 and (stops_here(c, lin) != W0 or code_break(c, lin) != OK):
            return None
        host = fetch_host(c, lin)
        if c.status != OK:
            return None
        if host != W0:
            self._watch(host)
        length = decode_at(c, host, rip, lin, W0)
        while length == UNKNOWN:
            key = int(c.bad_key)
            data = ctypes.string_at(int(c.bad_host), min(int(c.bad_size), 16))
            word, shape = self.forms.for_cpu(self.forms.describe(data, int(c.mode), key), c.features)
            add_form(c, u64(key), u64(word), u64(shape))
            length = decode_at(c, host, rip, lin, W0)
        if length == TRUNCATED:
            return None
        if length == TOO_LONG or is_code(c, rip + length - W1) == W0:
            fault(c, GP, W0)
            return None
        if c.second_host != W0:
            self._watch(c.second_host)
        if c.mode & MODE_TF != W0:
            c.step_armed = u64(1)
        c.next_rip = c.t[T_NEXT]
        return self.forms.shapes[int(c.t[T_SHAPE])]

    def _watch(self, host: Any) -> None:
        """Mark the page as code: a string instruction that stores to it is fetched again after each element."""
        c = self.c
        page = (host - c.ram) >> W12
        if peek(c.code_pages + page, W1) == W0:
            poke(c.code_pages + page, W1, W1)
            entries = c.tlb[: int(PART_SLOTS * PARTS)].reshape(int(PARTS), int(KINDS), -1, 2)[:, int(WRITE)]
            tag, addend = entries[..., 0], entries[..., 1]
            tag[(tag != ONES) & (tag + addend == c.ram + (page << W12))] = ONES  # as `blocks.unmap_writes`, at once
