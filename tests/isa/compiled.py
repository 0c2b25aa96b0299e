"""Semantic functions run twice: as plain Python and compiled by Numba, one by one as the engine compiles its units.

A function is rebuilt with its callees replaced by their compiled forms; the signature says `u64` for every parameter but
the records.  What `jitvm/isa/host.py` computes gets plain 64-bit forms here.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np

from jitvm.isa import host
from jitvm.isa.flags import get_flags, put_flags
from jitvm.isa.state import ARCHITECTURAL, LAZY
from jitvm.isa.words import u64

CPU = np.dtype(ARCHITECTURAL)
RECORDS = {"f": numba.from_dtype(LAZY), "c": numba.from_dtype(CPU)}
Function = Callable[..., Any]
njit: Callable[..., Callable[[Function], Function]] = numba.njit
"""Its stub does not know `no_cfunc_wrapper`."""


def parameters(function: Function) -> tuple[str, ...]:
    """The parameter names, which are the contract with the stitcher."""
    code = function.__code__
    return code.co_varnames[: code.co_argcount]


def record(dtype: np.dtype[Any]) -> Any:
    """A fresh record, all 0."""
    return np.zeros(1, dtype).view(np.recarray)[0]


def mul_high(a: np.uint64, b: np.uint64) -> np.uint64:
    half, low = u64(32), u64(0xFFFF_FFFF)
    middle = (a >> half) * (b & low) + (((a & low) * (b & low)) >> half)
    other = (a & low) * (b >> half) + (middle & low)
    return (a >> half) * (b >> half) + (middle >> half) + (other >> half)


def smul_high(a: np.uint64, b: np.uint64) -> np.uint64:
    top = u64(63)
    return mul_high(a, b) - (a >> top) * b - (b >> top) * a


def div_wide(hi: np.uint64, lo: np.uint64, d: np.uint64) -> np.uint64:
    one, top = u64(1), u64(63)
    n = u64(0)
    while n < u64(64):
        carry = hi >> top
        hi = (hi << one) | (lo >> top)
        lo = lo << one
        if carry != u64(0) or hi >= d:
            hi = hi - d
            lo = lo | one
        n = n + one
    return lo


NATIVE: dict[Function, Function] = {host.mul_high: mul_high, host.smul_high: smul_high, host.div_wide: div_wide}


@functools.cache
def compiled(function: Function) -> Function:
    """`function`, compiled alone for its one signature; callable from Python with records and `u64` numbers."""
    source = NATIVE.get(function, function)
    assert isinstance(source, types.FunctionType)
    scope = {name: source.__globals__[name] for name in source.__code__.co_names if name in source.__globals__}
    for name, value in scope.items():
        if isinstance(value, types.FunctionType):
            scope[name] = compiled(value)
    rebuilt = types.FunctionType(source.__code__, scope | {"__name__": __name__}, source.__name__)
    signature = numba.uint64(*(RECORDS.get(name, numba.uint64) for name in parameters(source)))
    return njit(signature, error_model="numpy", nogil=True, no_cfunc_wrapper=True)(rebuilt)


@dataclass(frozen=True)
class Outcome:
    """Value (0 when the function is called for its effect), flags at their places in EFLAGS, and second result."""

    value: int
    flags: int
    hi: int


def run(function: Function, *words: int, lazy: tuple[int, int] = (0, 0)) -> Outcome:
    """Call value semantics on `words` and the flags `lazy` (result and carry word); both ways give the same."""
    arguments = [u64(word) for word in words]
    first = parameters(function)[:1] == ("f",)
    outcomes = []
    for callee in (function, compiled(function)):
        f = record(LAZY)
        f.res, f.aux = lazy
        with np.errstate(over="ignore"):
            value = callee(f, *arguments) if first else callee(*arguments)
        outcomes.append((int(value), f.tobytes()))
        assert callee is not function or isinstance(value, u64), f"{function.__name__} returns {type(value)}"
    assert outcomes[0] == outcomes[1], f"{function.__name__}{words}: plain and compiled differ: {outcomes}"
    return Outcome(int(value), int(compiled(get_flags)(f)), int(f.hi))


def run_on_cpu(function: Function, *words: int, registers: dict[int, int], flags: int) -> tuple[int, Any]:
    """Call a function of the CPU record; its value and the record after it; both ways give the same."""
    outcomes = []
    for callee in (function, compiled(function)):
        c = record(CPU)
        for number, value in registers.items():
            c.gpr[number] = value
        compiled(put_flags)(c.lazy, u64(flags))
        with np.errstate(over="ignore"):
            value = int(callee(c, *(u64(word) for word in words)))
        outcomes.append((value, c.tobytes()))
    assert outcomes[0] == outcomes[1], f"{function.__name__}{words}: plain and compiled differ"
    return value, c
