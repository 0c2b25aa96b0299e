"""Units: each semantic or engine function compiled by Numba on its own, as LLVM text.

A unit is named `module.function` and becomes `i64 @u_module_function(ptr record, i64, ...)`.  Calls between units are left
as declared symbols: Numba sees every callee as an `ExternalFunction`, so that each function is typed and lowered once,
whatever calls it.  Small units are inlined where they are used, large ones are compiled once and linked by symbol
(`Unit.inline`).

Texts are kept on disk, keyed by the function's own code, the constants it reads, its callees' signatures, the record's
layout, Numba's version and what this package tells Numba to do; a warm start therefore does not import Numba.

`check` refuses IR that calls anything but units and LLVM intrinsics: no exceptions, no allocation, no GIL.
"""

from __future__ import annotations

import hashlib
import importlib
import re
import time
import types
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from jitvm.engine.installed import installed_version
from jitvm.engine.layout import CPU, LAZY
from jitvm.engine.primitives import PRIMITIVES
from jitvm.errors import EngineError

INLINE_LIMIT = 20
"""A unit on the CPU record of at most this many LLVM instructions is inlined into its callers; value units always are."""
BULKY = frozenset({"host_x87.run"})
"""Primitives of so much code that a unit which calls one is compiled once."""

ISA_MODULES = (
    "words flags state registers watch shared tlb paging_entry paging_long paging debug catch apic_page served outside "
    "memory mode segment verify tss task_segments task tss_long far vme idt events_long events iret alu shift muldiv bits "
    "bmi bcd "
    "branch string_loops string string_once stringio io apic control smm_save smm "
    "system syscall machine_check msr cpuid stack misc address simd fxsave reset x87 x87_move x87_arith x87_env xsave"
).split()
ENGINE_MODULES = (
    "formbits decode outside_code host_code gate pin_gate blocks translate hot gather paste copy pin run"
).split()
FRONT_END = Path(__file__).with_name("numba_ir.py")
"""What makes the texts: it is not imported where the cache has them all."""
HOST = "jitvm.isa.host"
NATIVE_EARS = {"code_written": "blocks.code_written", "translations_changed": "blocks.translations_changed"}
"""Functions of `isa/host.py` whose native bodies are engine units; all others are primitives."""


def symbol(name: str) -> str:
    """The LLVM symbol of a unit."""
    return f"u_{name.replace('.', '_')}"


def unit_name(function: Callable[..., Any]) -> str:
    """`module.function`, for the engine's own where it gives `isa/host.py` a native body."""
    if function.__module__ == HOST and function.__name__ in NATIVE_EARS:
        return NATIVE_EARS[function.__name__]
    return f"{function.__module__.rpartition('.')[2]}.{function.__name__}"


def compilable(function: Callable[..., Any]) -> bool:
    """Whether a function of a unit module is a unit: no annotations but plain words, no starred arguments."""
    return not function.__code__.co_flags & 0x0C and not function.__annotations__


@dataclass
class Unit:
    """One function: its record parameter ("f", "c" or none), number of words, callees, and its text once compiled."""

    name: str
    function: Callable[..., Any]
    record: str
    n_words: int
    callees: tuple[str, ...]
    constants: tuple[tuple[str, object], ...]
    text: str = ""
    n_instructions: int = 0
    inline: bool = field(default=False)

    @property
    def declaration(self) -> str:
        """`declare` line of the unit's symbol."""
        args = ["ptr"] * bool(self.record) + ["i64"] * self.n_words
        return f"declare i64 @{symbol(self.name)}({', '.join(args)})"


class Units:
    """All units by name; compiles on demand through `cache` (a mapping of key to text that may persist)."""

    def __init__(self, cache: Any = None) -> None:
        self.functions: dict[str, Callable[..., Any]] = {}
        self.units: dict[str, Unit] = {}
        self._cache: Any = {} if cache is None else cache
        self._numba: Any = None
        self.compiled = 0
        self.on_progress: Callable[[str], None] | None = None
        self.on_compiled: Callable[[str, float, int], None] = lambda name, start, size: None
        """Told of a unit that was compiled: its name, when that began, bytes of text."""
        for package, names in (("jitvm.isa", ISA_MODULES), ("jitvm.engine", ENGINE_MODULES)):
            for name in names:
                self._collect(importlib.import_module(f"{package}.{name}"))
        layout = f"{CPU.descr}{CPU.itemsize}{LAZY.descr}"
        salt = hashlib.sha256(f"{layout}{installed_version('numba')}{installed_version('llvmlite')}".encode())
        salt.update(FRONT_END.read_bytes())
        self._salt = salt.hexdigest()

    def _collect(self, module: types.ModuleType) -> None:
        for value in vars(module).values():
            if isinstance(value, types.FunctionType) and value.__module__ == module.__name__ and compilable(value):
                self.functions[unit_name(value)] = value

    def __getitem__(self, name: str) -> Unit:
        """The unit's description (its text may not be there yet)."""
        unit = self.units.get(name)
        if unit is None:
            function = self.functions.get(name)
            if function is None:
                raise EngineError(f"no unit is called {name}")
            unit = self.units[name] = self._describe(name, function)
        return unit

    def _describe(self, name: str, function: Callable[..., Any]) -> Unit:
        code = function.__code__
        params = code.co_varnames[: code.co_argcount]
        record = params[0] if params and params[0] in ("f", "c") else ""
        callees, constants = [], []
        for g in code.co_names:
            value = function.__globals__.get(g)
            if isinstance(value, types.FunctionType):
                callees.append(unit_name(value))
            elif isinstance(value, np.generic | int):
                constants.append((g, repr(value)))
        return Unit(name, function, record, len(params) - bool(record), tuple(callees), tuple(constants))

    def key(self, name: str) -> str:
        """What a unit's text is kept by: all that it depends on."""
        unit = self[name]
        code = unit.function.__code__
        signatures = [(n, *self._signature(n)) for n in unit.callees]
        body = (code.co_code, repr(code.co_consts), code.co_names, code.co_varnames)
        what = (self._salt, unit.name, body, unit.constants, signatures)
        return hashlib.sha256(repr(what).encode()).hexdigest()

    def _signature(self, name: str) -> tuple[str, int]:
        if name in PRIMITIVES:
            head = PRIMITIVES[name].partition("{")[0]
            return "c" if "ptr %c" in head else "", head.count("i64 %")
        unit = self[name]
        return unit.record, unit.n_words

    def text(self, name: str) -> str:
        """LLVM text of one unit: `define internal i64 @u_name(...)`, without its callees."""
        if name in PRIMITIVES:
            return PRIMITIVES[name]
        unit = self[name]
        if not unit.text:
            key = self.key(name)
            found = self._cache.get(key)
            if found is None:
                if self.on_progress:
                    self.on_progress(name)
                start = time.perf_counter()
                found = self._compile(unit)
                self.on_compiled(name, start, len(found))
                self._cache[key] = found
                self.compiled += 1
            unit.text = found
            unit.n_instructions = sum(1 for line in found.splitlines() if line.startswith("  "))
            unit.inline = unit.record != "c" or unit.n_instructions <= INLINE_LIMIT
            unit.inline = unit.inline and BULKY.isdisjoint(unit.callees)
        return unit.text

    def _compile(self, unit: Unit) -> str:
        if self._numba is None:
            from jitvm.engine.numba_ir import NumbaFrontEnd

            self._numba = NumbaFrontEnd()
        return str(self._numba.compile(unit, {n: self._signature(n) for n in unit.callees}))

    def below(self, roots: Iterable[str]) -> list[str]:
        """`roots` and all that they need, in about the order in which `closure` comes by; nothing is compiled."""
        found: dict[str, None] = {}
        work = list(roots)
        while work:
            name = work.pop()
            if name not in found and name not in PRIMITIVES:
                found[name] = None
                work += self[name].callees
        return list(found)

    def is_inline(self, name: str) -> bool:
        """Whether callers get a copy of the unit."""
        if name in PRIMITIVES:
            return True
        self.text(name)
        return self.units[name].inline

    def whole(self, name: str) -> list[str]:
        """A unit and all that it calls."""
        found = {name: None}
        for one in found.copy():
            for callee in self[one].callees:
                found |= dict.fromkeys(self.whole(callee) if callee not in PRIMITIVES else ())
        return list(found)

    def closure(self, roots: Iterable[str]) -> tuple[str, list[str]]:
        """Texts of `roots` and of every inline unit that they need; names of the units they call by symbol."""
        texts: dict[str, str] = {}
        outside: dict[str, None] = {}
        work = list(dict.fromkeys(roots))
        wanted = set(work)
        while work:
            name = work.pop()
            if name in texts:
                continue
            if name in wanted or self.is_inline(name):
                texts[name] = self.text(name)
                if name not in PRIMITIVES:
                    work += self[name].callees
            else:
                outside[name] = None
        names = [n for n in outside if n not in texts]
        lines = [self[n].declaration for n in names]
        return "\n".join([*texts.values(), *lines, DECLARATIONS]), names


DECLARATIONS = "declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)\ndeclare void @llvm.assume(i1)"
CALL = re.compile(r"(?:^|\s)(?:call|invoke|callbr)\s")
CALLED = re.compile(r'\scall\s(?:range\([^()]*\)|[^@(\n])*@"?([\w.$]+)')


def check(name: str, text: str, callees: Iterable[str]) -> None:
    """Refuse a unit whose text calls anything but its callees and intrinsics."""
    allowed = {symbol(c) for c in callees}
    for line in text.splitlines():
        if CALL.search(line) is None:
            continue
        called = CALLED.search(line)
        if called is None:
            raise EngineError(f"unit {name} calls what has no name: {line.strip()}")
        if called[1] not in allowed and not called[1].startswith("llvm."):
            raise EngineError(f"unit {name} calls {called[1]}: only units and LLVM intrinsics may be called")
