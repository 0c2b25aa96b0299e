"""A proof, for the LLVM text of a handler, a stencil or a region: where each of its loads and stores goes.

Every access must be one of these, else `prove` names it:

* a local variable (alloca), the whole access inside of it;
* the CPU record, at an offset whose least and greatest value lie inside of the record;
* the micro-op, the region's table, or what one of their pointers leads to (another micro-op): near its beginning;
* guest memory: a volatile access whose pointer is made from a TLB entry, on a way where that entry was compared with the
  page of the access's last byte (stores: an entry of the write kind); or from a page that such a comparison has found
  before (`%pageK`, `%hostK` of a region, and what was taken over from there for a loop), on a way where the access was found
  to lie within it; or a constant behind an address that was found so, for all bytes in between, too; or from what
  `memory.lock_host` has granted.

A fact holds in a block that is dominated by the edge of the conditional branch that says it.  Trusted, and not proved: what
units called do with their arguments (they are audited apart), and the values in TRUSTED.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import pytest

from jitvm.engine import layout as lay
from jitvm.engine import region_ir, stencil, stitch
from jitvm.engine.cache import Cache
from jitvm.engine.layout import CPU, at
from jitvm.engine.memory_text import KIND_BYTES
from jitvm.engine.stitch import HandlerBuilder
from jitvm.engine.units import Units
from jitvm.isa.state import TLB_ENTRIES, TLB_KINDS, TLB_PARTS, TLB_WORDS

PAGE = 4096
RECORD, TLB_END = int(CPU.itemsize), at("tlb") + 8 * TLB_WORDS
BLOCK_BYTES = (lay.BLOCK_MAX + 4) * lay.UOP_SIZE + 64
"""Bytes of a block's micro-ops with its link slots; a region's table is shorter."""
TABLE_BYTES = 1 << 14
TRUSTED = {"tlb_off": (0, TLB_PARTS * TLB_KINDS * TLB_ENTRIES * 16)}
"""Words of the record that the engine keeps within bounds: which part of the TLB is looked into."""
SIZES = {
    "i1": 1,
    "i8": 1,
    "i16": 2,
    "i32": 4,
    "i64": 8,
    "ptr": 8,
    "<2 x i64>": 16,
    "double": 8,
    "float": 4,
    "x86_fp80": 16,
}
ACCESS = re.compile(
    r"(?:(?P<to>%[\w.]+) = load (?P<lv>volatile )?(?P<lt><[^>]+>|\w+)|store (?P<sv>volatile )?(?P<st><[^>]+>|\w+) \S.*?),"
    r" ptr (?P<p>%[\w.]+|@[\w.]+|null)(?:,|$)"
)
SWAP = re.compile(r"%[\w.]+ = cmpxchg (volatile )?ptr (%[\w.]+), (i\d+) ")
DEFINED = re.compile(r"(%[\w.]+) = (.*)")
GEP = re.compile(r"getelementptr i8, ptr (%[\w.]+|@[\w.]+), i64 (\S+|ptrtoint \(ptr @\w+ to i64\))$")
WORD = r"%[\w.]+|-?\d+|ptrtoint \(ptr @\w+ to i64\)"
BINARY = re.compile(rf"(add|sub|and|or|shl|lshr) i64 ({WORD}), ({WORD})$")
BRANCH = re.compile(r"br i1 (%[\w.]+), label %([\w.]+), label %([\w.]+)")
JUMP = re.compile(r"br label %([\w.]+)")
CASES = re.compile(r"label %([\w.]+)")
PHI = re.compile(r"\[ (\S+), %([\w.]+) \]")
NAME = re.compile(r"define [^@]*@([\w.]+)\(")
MEMCPY = re.compile(r"call void @llvm\.memcpy\.\S+\(ptr align 8 (%[\w.]+), ptr align 8 (%[\w.]+), i64 (\d+), i1 0\)")
TOUCHES = re.compile(r"(%\S+ = )?((load|store|atomicrmw|cmpxchg)\b|.*call .*@llvm\.mem)")
REMEMBERED = re.compile(r"store (?:volatile )?i64 (\S+), ptr %((?:host|page)\w+)$")
Span = tuple[int, int]


@dataclass
class Block:
    """Lines of a basic block, and where it goes on: label, condition, whether that must be true."""

    lines: list[str] = field(default_factory=list)
    ways: list[tuple[str, str, bool]] = field(default_factory=list)


class Function:
    """One function's text."""

    def __init__(self, text: str) -> None:
        self.blocks: dict[str, Block] = {}
        self.defined: dict[str, tuple[str, str]] = {}
        self.remembering: dict[str, dict[str, list[str]]] = {}
        """What is stored as the host address, or the number, of a remembered page, by block."""
        here = "entry"
        for raw in text.splitlines()[1:]:
            line = raw.strip()
            if line == "}":
                break
            if line.endswith(":"):
                here = line[:-1]
                self.blocks.setdefault(here, Block())
                continue
            block = self.blocks.setdefault(here, Block())
            block.lines.append(line)
            if m := DEFINED.match(line):
                self.defined[m[1]] = m[2], here
            elif m := REMEMBERED.match(line):
                self.remembering.setdefault(m[2], {}).setdefault(here, []).append(m[1])
            if m := BRANCH.match(line):
                block.ways += [(m[2], m[1], True), (m[3], m[1], False)] if m[2] != m[3] else [(m[2], "", True)]
            elif m := JUMP.match(line):
                block.ways.append((m[1], "", True))
            elif line.startswith("switch"):
                block.ways += [(label, "", True) for label in dict.fromkeys(CASES.findall(line))]
        self.before: dict[str, list[str]] = {name: [] for name in self.blocks}
        for name, block in self.blocks.items():
            for to, _, _ in block.ways:
                self.before[to].append(name)
        self._dominators = self._find_dominators()
        self._facts: dict[str, dict[str, bool]] = {}
        self._kept: dict[tuple[str, bool], bool] = {}

    def _find_dominators(self) -> dict[str, set[str]]:
        found = {name: set(self.blocks) for name in self.blocks}
        found["entry"] = {"entry"}
        changed = True
        while changed:
            changed = False
            for name in self.blocks:
                if name == "entry" or not self.before[name]:
                    continue
                new = {name} | set.intersection(*(found[p] for p in self.before[name]))
                if new != found[name]:
                    found[name], changed = new, True
        return found

    def facts(self, block: str) -> dict[str, bool]:
        """Conditions that are known in a block, and their values."""
        if block not in self._facts:
            found: dict[str, bool] = {}
            for name in self._dominators[block]:
                if len(self.before[name]) == 1:
                    for to, condition, value in self.blocks[self.before[name][0]].ways:
                        if to == name and condition:
                            self._learn(found, condition, value)
            self._facts[block] = found
        return self._facts[block]

    def _learn(self, found: dict[str, bool], condition: str, value: bool) -> None:
        found[condition] = value
        text = self.text(condition)
        if value and text.startswith("and i1 "):
            for part in text[7:].split(", "):
                self._learn(found, part, True)

    def text(self, name: str) -> str:
        """What defines a value."""
        return self.defined.get(name, ("", ""))[0]

    def true(self, block: str) -> list[str]:
        """Texts of the conditions that hold in a block."""
        return [self.text(name) for name, value in self.facts(block).items() if value]

    # ---- values -------------------------------------------------------------------------------------------------------
    def binary(self, value: str, op: str) -> tuple[str, str] | None:
        """Operands of a value that is made by `op`."""
        m = BINARY.match(self.text(value))
        return (m[2], m[3]) if m and m[1] == op else None

    def span(self, value: str, depth: int = 0) -> Span | None:
        """Least and greatest value of a word, where they are known."""
        if re.fullmatch(r"-?\d+", value):
            return int(value), int(value)
        if m := re.match(r"ptrtoint \(ptr @hole_(\w+) to i64\)", value):
            return (0, 255) if len(m[1]) == 1 else (0, BLOCK_BYTES - 64) if m[1] in ("uop", "end") else None
        text = self.text(value)
        if m := re.match(r"zext i(\d+) ", text):
            return 0, (1 << int(m[1])) - 1
        if m := re.match(r"load i64, ptr (%[\w.]+)", text):
            return self._trusted(m[1])
        m = BINARY.match(text)
        if m is None or depth > 12:
            return None
        a, b = self.span(m[2], depth + 1), self.span(m[3], depth + 1)
        if m[1] == "and":
            masks = [s[0] for s in (a, b) if s is not None and s[0] == s[1] and s[0] >= 0]
            masks += [s[1] for s in (a, b) if s is not None and s[0] >= 0]
            return (0, min(masks)) if masks else None
        if m[1] == "lshr" and b is not None and b[0] == b[1]:
            return (a[0] >> b[0], a[1] >> b[0]) if a is not None and a[0] >= 0 else (0, (1 << 64 - b[0]) - 1)
        if a is None or b is None:
            return None
        if m[1] == "add":
            return a[0] + b[0], a[1] + b[1]
        if m[1] == "or" and a[0] >= 0 and b[0] >= 0:
            return max(a[0], b[0]), a[1] + b[1]
        if m[1] == "shl" and b[0] == b[1] and a[0] >= 0:
            return a[0] << b[0], a[1] << b[0]
        return None

    def _trusted(self, pointer: str) -> Span | None:
        for name, span in TRUSTED.items():
            if pointer == f"%c_{name}" or self.place(pointer) == ("%cpu", (at(name), at(name))):
                return span
        return None

    def place(self, pointer: str) -> tuple[str, Span] | None:
        """Base of a pointer and its least and greatest distance; the base has no offset of its own."""
        m = GEP.match(self.text(pointer))
        if m is None:
            return pointer, (0, 0)
        inner, distance = self.place(m[1]), self.span(m[2])
        if inner is None or distance is None:
            return None
        base, (low, high) = inner
        return base, (low + distance[0], high + distance[1])

    # ---- guest memory -------------------------------------------------------------------------------------------------
    def was_found(self, text: str) -> bool:
        """Whether a pointer is the micro-op that a unit between blocks has found."""
        m = re.match(r"inttoptr i64 (%[\w.]+) to ptr$", text)
        return bool(m and re.match(r"call i64 @u_run_\w+\(ptr %cpu\b", self.text(m[1])))

    def entry_of(self, addend: str) -> str | None:
        """The TLB entry from which an addend was loaded."""
        m = re.match(r"load i64, ptr (%[\w.]+)", self.text(addend))
        g = GEP.match(self.text(m[1])) if m else None
        return g[1] if g and g[2] == "8" else None

    def writes(self, entry: str) -> bool | None:
        """Whether a TLB entry is of the write kind; None: it is no entry."""
        place = self.place(entry)
        if place is None or place[0] != "%cpu" or place[1][1] + 16 > TLB_END:
            return None
        g = GEP.match(self.text(entry))
        offsets = {at("tlb"): False, at("tlb") + KIND_BYTES: True}
        return offsets.get(int(g[2])) if g and g[2].isdigit() else None

    def compared(self, block: str, entry: str, lin: str) -> int:
        """Bytes from `lin` on that a comparison of `entry` found to lie on its page; 0: none."""
        for text in self.true(block):
            m = re.match(r"icmp eq i64 (%[\w.]+), (%[\w.]+)$", text)
            if not m or self.text(m[1]) != f"load i64, ptr {entry}":
                continue
            mask = self.binary(m[2], "and")
            if mask is None:
                continue
            for size in (16, 8, 4, 2, 1):
                if mask == (lin, str(-PAGE | size - 1)):
                    return size  # aligned
            last = self.binary(mask[0], "add")
            if mask[1] == str(-PAGE) and last is not None and last[0] == lin and last[1].isdigit():
                return int(last[1]) + 1
        return 0

    def guest(self, pointer: str, block: str, size: int, write: bool) -> bool:
        """Whether a pointer leads to guest memory that was looked up, for an access of so many bytes."""
        text = self.text(pointer)
        if text.startswith("phi ptr"):
            all_ways = PHI.findall(text)
            ways = [(v, b) for v, b in all_ways if v != "null"]
            known = len(ways) == len(all_ways) or f"icmp ne ptr {pointer}, null" in self.true(block)
            return known and all(self.guest(v, b, size, write) for v, b in ways)
        m = re.match(r"inttoptr i64 (%[\w.]+) to ptr$", text)
        if m and re.match(r"call i64 @u_memory_lock_host\(", self.text(m[1])):
            return f"icmp ne ptr {pointer}, null" in self.true(block)
        parts = self.binary(m[1], "add") if m else None
        if parts is None:
            return False
        found = self.binary(parts[0], "add")
        if found is not None and parts[1].isdigit() and self.text(found[0]).startswith("phi i64"):  # of a group
            return self.on_shared_page(found, int(parts[1]) + size, write)
        if self.text(parts[0]).startswith("phi i64"):
            return self.on_shared_page(parts, size, write)
        if self.remembered(parts[0]) or self.binary(parts[0], "add"):
            return self.on_page(parts, block, size, write)
        entry = self.entry_of(parts[0])
        if entry is None or self.writes(entry) is None or (write and not self.writes(entry)):
            return False
        return self.compared(block, entry, parts[1]) >= size

    def on_shared_page(self, parts: tuple[str, str], size: int, write: bool) -> bool:
        """The same for a pointer made from a page that was looked up now or before."""
        bases, offsets = ({b: v for v, b in PHI.findall(self.text(part))} for part in parts)
        if set(bases) != set(offsets):
            return False
        return all(self.on_page((base, offsets[block]), block, size, write) for block, base in bases.items())

    def remembered(self, base: str) -> str:
        """The number of the remembered page whose host address a word is."""
        m = re.match(r"load (?:volatile )?i64, ptr %host(\w+)", self.text(base))
        return m[1] if m else ""

    def on_page(self, parts: tuple[str, str], block: str, size: int, write: bool) -> bool:
        """The same for a page's host address and the distance from there, where that is known in `block`."""
        base, offset = parts
        if k := self.remembered(base):
            return self.near(k, offset, block, size) and self.kept(k, write)
        parts_of = self.binary(base, "add")
        entry = self.entry_of(parts_of[0]) if parts_of else None
        page = self.binary(parts_of[1], "and") if parts_of else None
        inside = self.binary(offset, "and")
        if entry is None or page is None or inside != (page[0], str(PAGE - 1)) or page[1] != str(-PAGE):
            return False
        if self.writes(entry) is None or (write and not self.writes(entry)):
            return False
        return self.compared(block, entry, page[0]) >= size

    def near(self, k: str, within: str, block: str, size: int) -> bool:
        """Whether `within` was found to be the distance of an access inside of the page remembered as number k."""
        parts = self.binary(within, "add")
        if parts is None or not re.match(rf"load (?:volatile )?i64, ptr %page{k}$", self.text(parts[1])):
            return False
        for text in self.true(block):
            if (m := re.match(rf"icmp ule i64 {within}, (\d+)$", text)) and int(m[1]) <= PAGE - size:
                return True
            aligned = re.match(r"icmp eq i64 (%[\w.]+), 0$", text)
            if aligned and self.binary(aligned[1], "and") == (within, str(size - PAGE - 1)):
                return True
        return False

    def kept(self, k: str, write: bool) -> bool:
        """Whether what is remembered as page number k, if anything, was always looked up (for stores: in the write kind)."""
        if (k, write) not in self._kept:
            self._kept[k, write] = self._is_kept(k, write)
        return self._kept[k, write]

    def _is_kept(self, k: str, write: bool) -> bool:
        all_hosts, all_pages = (self.remembering.get(f"{what}{k}", {}) for what in ("host", "page"))
        for name in all_hosts.keys() | all_pages.keys():
            hosts, pages = all_hosts.get(name, []), all_pages.get(name, [])
            if len(hosts) != len(pages):
                return False
            for host, page in zip(hosts, pages, strict=True):
                if host == "0" and page == str(-(1 << 63)):
                    continue
                if other := self.remembered(host):
                    if self.text(page) != f"load i64, ptr %page{other}" or other == k or not self.kept(other, write):
                        return False
                    continue
                parts, negated = self.binary(host, "add"), self.binary(page, "sub")
                entry = self.entry_of(parts[0]) if parts else None
                if parts is None or entry is None or negated != ("0", parts[1]):
                    return False
                masked = self.binary(parts[1], "and")
                if masked is None or masked[1] != str(-PAGE) or not self.compared(name, entry, masked[0]):
                    return False
                if self.writes(entry) is None or (write and not self.writes(entry)):
                    return False
        return True

    # ---- the proof ----------------------------------------------------------------------------------------------------
    def wrong(self, line: str, block: str) -> str:
        """Why an access is not one that may be, "" when it may."""
        if m := MEMCPY.match(line):
            return self._unlike(m[1], block, int(m[3]), True, False) or self._unlike(
                m[2], block, int(m[3]), False, False
            )
        if m := SWAP.match(line):
            return self._unlike(m[2], block, SIZES[m[3]], True, bool(m[1]))
        m = ACCESS.match(line)
        if m is None:
            return "no access that is understood"
        size = SIZES.get((m["lt"] or m["st"]).strip(), 0)
        if not size:
            return "a type of unknown size"
        return self._unlike(m["p"], block, size, m["to"] is None, bool(m["lv"] or m["sv"]))

    def _unlike(self, pointer: str, block: str, size: int, write: bool, volatile: bool) -> str:
        """The same for a pointer and the access through it."""
        place = self.place(pointer)
        if place is None:
            return "" if volatile and self.guest(pointer, block, size, write) else "an offset without bounds"
        base, (low, high) = place
        text = self.text(base)
        if base == "%cpu":
            return "" if low >= 0 and high + size <= RECORD else f"outside of the record: {low}..{high}"
        if text.startswith("alloca"):
            room = re.match(r"alloca (?:\[(\d+) x i8\]|(<[^>]+>|\S+?))(?:,|$)", text)
            bytes_ = (int(room[1]) if room[1] else SIZES[room[2]]) if room else 0
            return "" if low >= 0 and high + size <= bytes_ else "outside of its variable"
        if base in ("%uop", "%table") or text.startswith("load ptr") or self.was_found(text):
            most = TABLE_BYTES if base == "%table" else BLOCK_BYTES
            if low < 0 or high + size > most:
                return f"far from its micro-op: {low}..{high}"
            if write and base == "%table":
                return "a store to the region's table"
            if write and base != "%uop":
                return "a store to another micro-op"
            return ""
        if volatile and self.guest(base, block, size, write) and (low, high) == (0, 0):
            return ""
        return f"a pointer from nowhere: {base} = {text or '?'}"


def functions(text: str) -> list[str]:
    """The functions in a text."""
    return re.findall(r"^define .*?^}", text, re.S | re.M)


@contextlib.contextmanager
def proving(*, anew: bool) -> Iterator[list[str]]:
    """Everything that the stitcher makes inside is proved, else AssertionError; the names of what was.

    `anew`: nothing is taken from the cache meanwhile, but for the texts of units.
    """
    proved: list[str] = []
    patch = pytest.MonkeyPatch()

    def module(units: Units, builders: Sequence[HandlerBuilder], extra: str = "") -> tuple[str, list[str], list[str]]:
        text, outside, specials = stitch_module(units, builders, extra)
        names = {b.name for b in builders}
        for body in functions(text):
            name = NAME.match(body)
            if name is not None and name[1] in names:
                wrong = prove(body)
                assert not wrong, f"{name[1]}:\n" + "\n".join(wrong)
                proved.append(name[1])
        return text, outside, specials

    stitch_module = stitch.module
    for owner in (stitch, stencil, region_ir):
        patch.setattr(owner, "module", module)
    if anew:
        patch.setattr(Cache, "find", lambda cache, name: None)
    try:
        yield proved
    finally:
        patch.undo()


def prove(text: str) -> list[str]:
    """Accesses of the functions in `text` that are not proved to go where they may."""
    found = []
    for body in functions(text):
        function = Function(body)
        for name, block in function.blocks.items():
            for line in block.lines:
                if TOUCHES.match(line) and (why := function.wrong(line, name)):
                    found.append(f"{name}: {line}: {why}")
    return found
