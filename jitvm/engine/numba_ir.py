"""Numba as a front end: a plain Python function in, clean LLVM text out.  The only module that imports Numba.

Numba is left behind lowering: it neither optimises a unit nor makes machine code of it, which it would throw away; what it
does for functions that units may not be (closures, literals as types, array expressions, calls that it inlines, object
mode) is left out of its pipeline.  A unit so takes half of `njit`'s time.

Source: Numba's documentation, "Customizing the Compiler" (CompilerBase, PassManager) and "Notes on Numba's architecture".
"""

from __future__ import annotations

import re
import types
from typing import TYPE_CHECKING, Any

from numba import from_dtype
from numba import types as nt
from numba.core.codegen import CPUCodeLibrary
from numba.core.compiler import CompilerBase, Flags, compile_extra
from numba.core.compiler_lock import global_compiler_lock
from numba.core.compiler_machinery import PassManager
from numba.core.registry import cpu_target
from numba.core.typed_passes import IRLegalization, NativeLowering, NopythonTypeInference, PreLowerStripPhis
from numba.core.untyped_passes import (
    DeadBranchPrune,
    FixupArgs,
    GenericRewrites,
    IRProcessing,
    ReconstructSSA,
    TranslateByteCode,
)

from jitvm.engine.backend import simplify
from jitvm.engine.layout import CPU, LAZY
from jitvm.engine.units import check, symbol, unit_name
from jitvm.errors import EngineError

if TYPE_CHECKING:
    from jitvm.engine.units import Unit

OPTIONS: dict[str, Any] = {
    "nopython": True,
    "nogil": True,
    "error_model": "numpy",
    "no_cpython_wrapper": True,
    "no_cfunc_wrapper": True,
    "_nrt": False,
}
METADATA = re.compile(r", !\w+(\.\w+)? !\d+")
PASSES = (
    TranslateByteCode, FixupArgs, IRProcessing, DeadBranchPrune, GenericRewrites, ReconstructSSA, NopythonTypeInference,
    PreLowerStripPhis, IRLegalization, NativeLowering,
)  # fmt: skip


class _Pipeline(CompilerBase):
    """From byte code to LLVM text."""

    def define_pipelines(self) -> list[PassManager]:
        passes = PassManager("unit")
        for one in PASSES:
            passes.add_pass(one, "")
        passes.finalize()
        return [passes]


class _Text(CPUCodeLibrary):
    """Where lowering leaves its module: nothing is done with it."""

    def __init__(self, name: str) -> None:
        super().__init__(cpu_target.target_context.codegen(), name)  # type: ignore[no-untyped-call]  # Numba has no types
        self.text = ""

    def add_ir_module(self, ir_module: Any) -> None:
        self.text = str(ir_module)


class NumbaFrontEnd:
    """Compiles units with all their callees external."""

    def __init__(self) -> None:
        self._records: dict[str, Any] = {"f": from_dtype(LAZY), "c": from_dtype(CPU)}
        flags: Any = Flags()
        cpu_target.options.parse_as_flags(flags, OPTIONS)
        flags.no_compile = True
        self._flags = flags

    def _signature(self, record: str, n_words: int) -> Any:
        args = [self._records[record]] if record else []
        return nt.uint64(*args, *[nt.uint64] * n_words)

    def compile(self, unit: Unit, callees: dict[str, tuple[str, int]]) -> str:
        """LLVM text `define internal i64 @u_name(...)` of one unit."""
        function = unit.function
        names = dict(function.__globals__)
        for g in function.__code__.co_names:
            value = names.get(g)
            if isinstance(value, types.FunctionType):
                name = unit_name(value)
                names[g] = nt.ExternalFunction(symbol(name), self._signature(*callees[name]))
        alone = types.FunctionType(function.__code__, names, function.__name__)
        signature = self._signature(unit.record, unit.n_words)
        contexts = cpu_target.typing_context, cpu_target.target_context
        types_of_all = signature.args, signature.return_type
        library = _Text(unit.name)
        try:
            with global_compiler_lock:
                made = compile_extra(*contexts, alone, *types_of_all, self._flags.copy(), {}, library, _Pipeline)
        except Exception as e:  # Numba raises many kinds; all mean that this function can't be compiled
            raise EngineError(f"Numba can't compile {function.__module__}.{unit.name}: {e}") from e
        return _clean(unit, library.text, made.fndesc.llvm_func_name)


def _definition(name: str, text: str) -> str | None:
    """The definition of a function."""
    found = re.search(rf'^define [^\n]*@"?{re.escape(name)}"?\(.*?\n}}\n', text, re.S | re.M)
    return found.group(0) if found else None


def _clean(unit: Unit, text: str, mangled: str) -> str:
    """Simplify Numba's module behind a function of the plain calling convention, and cut that out."""
    own, inner = symbol(unit.name), f"n_{symbol(unit.name)}"
    body = _definition(mangled, text)
    if body is None:
        raise EngineError(f"Numba's module for {unit.name} lacks the function")
    body = body.replace(f'@"{mangled}"', f"@{inner}")
    body = re.sub(r"^define [^@]*@", "define internal i32 @", body, count=1)
    body = METADATA.sub("", body)
    body = re.sub(r"\)[^(){}\n]*\n\{\n", ") alwaysinline {\n", body, count=1)
    params = ["ptr %c"] * bool(unit.record) + [f"i64 %a{k}" for k in range(unit.n_words)]
    wrapper = (
        f"define i64 @{own}({', '.join(params)}) {{\n  %r = alloca i64\n  %e = alloca ptr\n"
        f"  %s = call i32 @{inner}({', '.join(['ptr %r', 'ptr %e', *params])})\n"
        "  %v = load i64, ptr %r\n  ret i64 %v\n}\n"
    )
    declares = re.findall(r'^declare [^\n]*@"?(?:u_|llvm)[^\n]*', text, re.M)
    out = _definition(own, simplify("\n".join([wrapper, body, *declares])))
    if out is None:
        raise EngineError(f"unit {unit.name} vanished in simplification")
    out = re.sub(r"^define [^@]*@", "define internal i64 @", out, count=1)
    out = re.sub(r"\)[^(){}\n]*\{\n", ") alwaysinline {\n", out, count=1)
    out = METADATA.sub("", out)
    out = re.sub(r"(call [^\n]*\)) #\d+", r"\1", out)
    out = re.sub(r" *; preds = [^\n]*", "", out)
    check(unit.name, out, unit.callees)
    return out
