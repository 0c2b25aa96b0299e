"""The code of the process: units and handlers by symbol, from the cache or compiled now.

Symbols: `u_...` a unit, `h_...` a special handler, `i_<hash>` an instruction's handler, named by its shape and variant so
that the name means the same in every run.
"""

from __future__ import annotations

import ctypes
import hashlib
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from jitvm.engine import entry, group, pinned, specials, stitch
from jitvm.engine.backend import Linker, compile_object, compile_quickly, host_key
from jitvm.engine.beside import helped
from jitvm.engine.cache import Cache
from jitvm.engine.compiler import Made
from jitvm.engine.dispatch import shorten
from jitvm.engine.forms import Shape
from jitvm.engine.installed import installed_version
from jitvm.engine.layout import CPU
from jitvm.engine.objects import ObjectFile
from jitvm.engine.observer import Observer
from jitvm.engine.pack import Entry, Kept
from jitvm.engine.region import Node
from jitvm.engine.region_ir import region_text
from jitvm.engine.units import Units, symbol

RUN_UNITS = (
    "run.finish",
    "run.next_block",
    "run.next_short",
    "run.stale_block",
    "run.link_block",
    "copy.promote",
    "hot.note_hot",
    "hot.recheck",
    "gate.link_pad",
    "memory.load",
    "memory.load_rmw",
    "memory.store",
)
"""Units that every run needs."""
LEVEL_RUNTIME, LEVEL_HANDLER = 2, 2
NEIGHBOURS = 64
"""Cached objects that are linked with one that is wanted: linking one alone takes ten times as long."""


def source_epoch() -> str:
    """Hash of everything that compiled code is made from.

    Of the record's layout as it was loaded, too: the files may have changed since (an update under a running process).
    """
    digest = hashlib.sha256(f"{CPU.descr}".encode())
    engine = Path(__file__).parent
    for folder in (engine.parent / "isa", engine):
        for path in sorted(folder.glob("*.py")):
            digest.update(path.name.encode() + path.read_bytes())
    versions = [installed_version(package) for package in ("numba", "llvmlite", "iced_x86")]
    digest.update(f"{versions} {host_key()}".encode())
    return digest.hexdigest()[:24]


LINKED_TOGETHER = frozenset({"runtime", "handlers"})
TIERS = ("units", "runtime", "handlers", "stencils", "regions")
"""Kinds of code that are counted apart: Numba's texts, what is called out of line and between blocks, and the tiers."""


@dataclass
class Tally:
    """How many functions of a kind were compiled, how many came from the cache, their bytes, and the seconds it took.

    Bytes are of object files that were linked (of text for units, of copied code for stencils).
    """

    compiled: int = 0
    from_cache: int = 0
    bytes: int = 0
    seconds: float = 0.0


def tier_of(name: str) -> str:
    """The kind of a symbol."""
    if "." in name:
        return "stencils"
    return {"i": "handlers", "r": "regions"}.get(name[:1] if name[1:2] == "_" else "", "runtime")


def handler_symbol(shape: Shape, variant: int) -> str:
    """Stable name of a handler."""
    return "i_" + hashlib.sha256(f"{shape.symbol} {variant}".encode()).hexdigest()[:24]


def shape_text(shape: Shape, variant: int) -> str:
    """What a handler does, for people: its unit, its operands, and how it is put together."""
    operands = ",".join(f"{op}{8 * size}" for op, size in zip(shape.ops, shape.sizes, strict=False) if op)
    flags = ["", " (dead flags)", f" (fused, condition {variant - 2})"][min(variant, 2)]
    return f"{shape.unit or shape.kind} {operands}".strip() + flags


def handler_name(shapes: Sequence[Shape], key: int) -> str:
    """Stable name of the handler of a key, which may be a group's."""
    parts = group.members(key)
    if len(parts) == 1:
        return handler_symbol(shapes[key & 0xFFFF], key >> 16)
    text = " ".join(f"{shapes[part & 0xFFFF].symbol} {part >> 16}" for part in parts)
    return "i_" + hashlib.sha256(text.encode()).hexdigest()[:24]


def handler_text(shapes: Sequence[Shape], key: int) -> str:
    """What the handler of a key does, for people."""
    return ", ".join(shape_text(shapes[part & 0xFFFF], part >> 16) for part in group.members(key) if part)


def region_symbol(nodes: Sequence[Node], modes: Sequence[str] = ()) -> str:
    """Stable name of a region: it says all that its text is made from."""
    return "r_" + hashlib.sha256("\n".join((*(node.text for node in nodes), *modes)).encode()).hexdigest()[:24]


def compile_region(units: Units, nodes: Sequence[Node], modes: Sequence[str] = ()) -> Made:
    """Compile a region."""
    start = time.perf_counter()
    name = region_symbol(nodes, modes)
    text, outside = region_text(units, name, nodes, modes)
    code = compile_quickly(text, name)
    return Made((name,), code, tuple(symbol(n) for n in outside), time.perf_counter() - start, start)


class Code:
    """All native code of a process.  `on_progress(what)` is called before each piece of compilation."""

    def __init__(self, units: Units, cache: Cache) -> None:
        self.units, self.cache = units, cache
        self.linker = Linker()
        self.address: dict[str, int] = {}
        self.news: list[str] = []
        """Symbols that were linked, and stencils that were kept, since the accelerator looked (`Accelerator._use`)."""
        self.wanted: dict[str, None] = {}
        """Symbols in the order in which they were first wanted."""
        self.tallies = {tier: Tally() for tier in TIERS}
        self.observers: list[Observer] = []
        units.on_compiled = self._unit_compiled
        self.on_progress: Callable[[str], None] = lambda what: None

    # ---- loading ------------------------------------------------------------------------------------------------------
    def _load(self, name: str) -> bool:
        """Link the cached object that has a symbol, and its neighbours; False when there is none."""
        while name not in self.address:
            found = self.cache.find(name)
            if found is None:
                return False
            self._load_with_neighbours(found)
        return True

    def _load_with_neighbours(self, place: Entry) -> None:
        """Link what an entry has, with its neighbours; one that is damaged or lacks something is not found again."""
        first, *others = self.cache.read([place, *self.cache.following(place, NEIGHBOURS)])
        if first is None:
            return
        if not all(i in self.address or self._obtain(i) for i in first.imports):
            self.cache.drop(place)
            return
        together = [first]
        here = set(first.exports)
        for one in others:
            if one is None or tier_of(one.exports[0]) not in LINKED_TOGETHER or here & set(one.exports):
                continue
            if any(n in self.address for n in one.exports) or not all(i in self.address or i in here for i in one.imports):
                continue
            together.append(one)
            here.update(one.exports)
        self._link(together)
        for one in together:
            self.tallies[tier_of(one.exports[0])].from_cache += len(one.exports)

    def _obtain(self, name: str) -> bool:
        """A symbol that a cached batch needs: from the cache, or compile it."""
        if self._load(name):
            return True
        unit = next((n for n in self.units.functions if symbol(n) == name), None)
        if unit is not None:
            self.ensure_units([unit])
        elif name in specials.SPECIALS:
            self.ensure_specials()
        return name in self.address

    def _link(self, objects: Sequence[Kept]) -> None:
        """Link objects; what they need from elsewhere is linked already.

        What is linked already stays where it is, as others lead there: several processes may leave the same symbols.
        """
        fresh = [name for one in objects for name in one.exports if name not in self.address]
        here = {name for one in objects for name in one.exports}
        imports = {i: self.address[i] for one in objects for i in one.imports if i not in here}
        if not fresh:
            return
        found = self.linker.link([one.code for one in objects], fresh, imports)
        self.address.update(found)
        self.news += fresh
        for one in objects:
            self.tallies[tier_of(one.exports[0])].bytes += len(one.code)
            for observer in self.observers:
                functions = ObjectFile(one.code).functions()
                observer.linked([(f.name, found[f.name], f.size) for f in functions if f.name in found])

    def _unit_compiled(self, name: str, start: float, size: int) -> None:
        self.tallies["units"].bytes += size
        self.note("units", [name], start, size)

    def note(self, tier: str, names: Sequence[str], start: float, size: int, seconds: float | None = None) -> None:
        """Something was compiled, from `start` on: just now, unless the seconds that it took are given."""
        seconds = time.perf_counter() - start if seconds is None else seconds
        self.tallies[tier].compiled += len(names)
        self.tallies[tier].seconds += seconds
        for observer in self.observers:
            observer.compiled(tier, names, start, seconds, size)

    def _build(self, text: str, exports: list[str], imports: list[str], level: int) -> None:
        """Compile a module, keep it, link it."""
        start = time.perf_counter()
        code = shorten(compile_object(text, level))
        self._link([Kept(tuple(exports), tuple(imports), code)])
        self.cache.write_object(code, exports, imports)
        self.note(tier_of(exports[0]), exports, start, len(code))

    # ---- units --------------------------------------------------------------------------------------------------------
    def ensure_units(self, names: Iterable[str]) -> None:
        """Make units callable by symbol, with all that they call."""
        self.wanted.update(dict.fromkeys(map(symbol, names := list(names))))
        missing = [n for n in dict.fromkeys(names) if symbol(n) not in self.address and not self._load(symbol(n))]
        if not missing:
            return
        self.on_progress(missing[0])
        roots = list(missing)
        while True:
            text, outside = self.units.closure(roots)
            more = [n for n in outside if symbol(n) not in self.address and not self._load(symbol(n))]
            if not more:
                break
            roots += more
        for n in roots:
            text = _export(text, symbol(n))
        self._build(text, [symbol(n) for n in roots], [symbol(n) for n in outside], LEVEL_RUNTIME)

    def ensure_specials(self) -> None:
        """The special handlers and `enter`."""
        self.wanted["enter"] = None
        if "enter" in self.address or self._load("enter"):
            return
        with helped(self.units, self.cache, RUN_UNITS):
            self.ensure_units(RUN_UNITS)
        builders = [specials.special(self.units, n) for n in specials.SPECIALS]
        text, outside, _ = stitch.module(self.units, builders, entry.TEXT)
        self.ensure_units(outside)
        self._build(text, [*specials.SPECIALS, *entry.EXPORTS], [symbol(n) for n in outside], LEVEL_HANDLER)

    def ensure_pinned(self) -> None:
        """What leads out of pinned code."""
        self.wanted[pinned.SPECIALS[0]] = None
        if pinned.SPECIALS[0] in self.address or self._load(pinned.SPECIALS[0]):
            return
        builders = [pinned.special(self.units, n) for n in pinned.SPECIALS]
        text, outside, others = stitch.module(self.units, builders)
        self.ensure_units(outside)
        self._build(text, [*pinned.SPECIALS], [*(symbol(n) for n in outside), *others], LEVEL_HANDLER)

    # ---- handlers -----------------------------------------------------------------------------------------------------
    def handlers(self, shapes: Sequence[Shape], keys: Sequence[int]) -> dict[int, str]:
        """Link handlers, stamped in one batch where they are not on disk; their names by key."""
        names = {key: handler_name(shapes, key) for key in keys}
        self.wanted.update(dict.fromkeys(names.values()))
        for observer in self.observers:
            for key, name in names.items():
                observer.described(name, handler_text(shapes, key))
        missing = {key: n for key, n in names.items() if n not in self.address and not self._load(n)}
        if missing:
            self.on_progress(f"{len(missing)} handlers")
            builders = [group.build(self.units, shapes, key, n) for key, n in missing.items()]
            text, outside, others = stitch.module(self.units, builders)
            self.ensure_units(outside)
            self._build(text, list(missing.values()), [*(symbol(n) for n in outside), *others], LEVEL_HANDLER)
        return names

    def find_region(self, nodes: Sequence[Node], modes: Sequence[str] = ()) -> Made | None:
        """A region that is linked (without its code), or that the cache has."""
        name = region_symbol(nodes, modes)
        if name in self.address:
            return Made((name,), b"", (), 0.0)
        self.wanted[name] = None
        while (place := self.cache.find(name)) is not None:
            (kept,) = self.cache.read([place])
            if kept is not None:
                self.tallies["regions"].from_cache += 1
                return Made((name,), kept.code, kept.imports, 0.0)
        return None

    def region(self, nodes: Sequence[Node], modes: Sequence[str] = ()) -> Made:
        """A region, compiled now and kept."""
        made = compile_region(self.units, nodes, modes)
        made = made.kept(self.cache)
        self.remember(made)
        return made

    def remember(self, made: Made) -> None:
        """A region was compiled: where the cache has it, and what it took."""
        self.note("regions", [made.name], made.start, len(made.code), made.seconds)
        if made.entry is not None:
            self.cache.add(made.entry)

    def link_region(self, made: Made) -> int:
        """Address of a region that was compiled."""
        if made.name not in self.address:
            for wanted in made.imports:
                if wanted not in self.address:
                    self._obtain(wanted)
            self._link([Kept(made.exports, made.imports, made.code)])
        return self.address[made.name]

    def unlink(self, name: str) -> None:
        """Free a region's code (`Linker.unlink`)."""
        del self.address[name]
        self.linker.unlink(name)

    def function(self, unit: str, n_words: int, *, short: bool = False) -> Callable[..., int]:
        """A unit on the CPU record as a ctypes function: address of the record, then words.

        `short`: it takes less time than other threads would to get the interpreter, which is not let go of.
        """
        self.ensure_units([unit])
        kind = ctypes.PYFUNCTYPE if short else ctypes.CFUNCTYPE
        prototype = kind(ctypes.c_uint64, ctypes.c_void_p, *[ctypes.c_uint64] * n_words)
        return prototype(self.address[symbol(unit)])


def _export(text: str, name: str) -> str:
    """Let a unit be seen from outside, compiled once."""
    head = f"define internal i64 @{name}("
    start = text.index(head)
    end = text.index("\n", start)
    line = text[start:end].replace(head, f"define i64 @{name}(", 1).replace(") alwaysinline {", ") noinline nounwind {")
    return text[:start] + line + text[end:]
