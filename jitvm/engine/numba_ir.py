"""Numba as a front end: a plain Python function in, clean LLVM text out.  The only module that imports Numba."""

from __future__ import annotations

import re
import types
from typing import TYPE_CHECKING, Any

import llvmlite.binding as llvm
from numba import from_dtype, njit
from numba import types as nt

from jitvm.engine.backend import simplify
from jitvm.engine.layout import CPU, LAZY
from jitvm.engine.units import check, symbol, unit_name
from jitvm.errors import EngineError

if TYPE_CHECKING:
    from jitvm.engine.units import Unit

NEVER_CALLED = 4096
"""Numba's own engine wants an address for every symbol when it links; what it links there is never run."""


OPTIONS: dict[str, Any] = {
    "nogil": True,
    "error_model": "numpy",
    "no_cpython_wrapper": True,
    "no_cfunc_wrapper": True,
}


class NumbaFrontEnd:
    """Compiles units with all their callees external."""

    def __init__(self) -> None:
        self._records: dict[str, Any] = {"f": from_dtype(LAZY), "c": from_dtype(CPU)}
        self._known: set[str] = set()

    def _signature(self, record: str, n_words: int) -> Any:
        args = [self._records[record]] if record else []
        return nt.uint64(*args, *[nt.uint64] * n_words)

    def _external(self, name: str, record: str, n_words: int) -> Any:
        wanted = symbol(name)
        if wanted not in self._known:
            llvm.add_symbol(wanted, NEVER_CALLED)
            self._known.add(wanted)
        return nt.ExternalFunction(wanted, self._signature(record, n_words))

    def compile(self, unit: Unit, callees: dict[str, tuple[str, int]]) -> str:
        """LLVM text `define internal i64 @u_name(...)` of one unit."""
        function = unit.function
        names = dict(function.__globals__)
        for g in function.__code__.co_names:
            value = names.get(g)
            if isinstance(value, types.FunctionType):
                name = unit_name(value)
                names[g] = self._external(name, *callees[name])
        alone = types.FunctionType(function.__code__, names, function.__name__)
        signature = self._signature(unit.record, unit.n_words)
        try:
            dispatcher = njit(signature, **OPTIONS)(alone)
        except Exception as e:  # Numba raises many kinds; all mean that this function can't be compiled
            raise EngineError(f"Numba can't compile {function.__module__}.{unit.name}: {e}") from e
        text = dispatcher.inspect_llvm(signature.args)
        return _clean(unit, text, dispatcher.overloads[signature.args].fndesc.llvm_func_name)


def _definition(name: str, text: str) -> re.Match[str] | None:
    """The definition of a function whose name matches the pattern `name`."""
    return re.search(r"define[^\n]*@" + name + r"\(.*?\n}\n", text, re.S)


def _clean(unit: Unit, text: str, mangled: str) -> str:
    """Cut the function out of Numba's module, rename it, and put the plain calling convention around it."""
    found = _definition(f'"?{re.escape(mangled)}"?', text)
    if found is None:
        raise EngineError(f"Numba's module for {unit.name} lacks the function")
    own, inner = symbol(unit.name), f"n_{symbol(unit.name)}"
    body = found.group(0).replace(f'"{mangled}"', mangled).replace(mangled, inner)
    body = re.sub(r"^define [^@]*@", "define internal i32 @", body, count=1)
    body = re.sub(r"\)[^(){}\n]*\{\n", ") alwaysinline {\n", body, count=1)
    body = re.sub(r", !\w+(\.\w+)? !\d+", "", body)
    body = re.sub(r"(call [^\n]*\)) #\d+", r"\1", body)
    check(unit.name, body, unit.callees)
    params = ["ptr %c"] * bool(unit.record) + [f"i64 %a{k}" for k in range(unit.n_words)]
    wrapper = (
        f"define i64 @{own}({', '.join(params)}) {{\n  %r = alloca i64\n  %e = alloca ptr\n"
        f"  %s = call i32 @{inner}({', '.join(['ptr %r', 'ptr %e', *params])})\n"
        "  %v = load i64, ptr %r\n  ret i64 %v\n}\n"
    )
    declared = dict.fromkeys(re.findall(r"^declare [^\n]*@(?:u_|llvm)[^\n]*", text, re.M))
    declares = [re.sub(r" (local_unnamed_addr)?( #\d+)?$", "", d) for d in declared]
    module = simplify("\n".join([wrapper, body, *(re.sub(r" local_unnamed_addr.*$| #\d+$", "", d) for d in declares)]))
    found = _definition(own, module)
    if found is None:
        raise EngineError(f"unit {unit.name} vanished in simplification")
    out = re.sub(r"^define [^@]*@", "define internal i64 @", found.group(0), count=1)
    out = re.sub(r"\)[^(){}\n]*\{\n", ") alwaysinline {\n", out, count=1)
    out = re.sub(r", !\w+(\.\w+)? !\d+", "", out)
    out = re.sub(r"(call [^\n]*\)) #\d+", r"\1", out)
    return re.sub(r" *; preds = [^\n]*", "", out)
