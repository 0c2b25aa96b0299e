"""Flags of a region: not made until somebody asks.

Local variables hold what the flags are to be made from: `base`, the number of the last unit that wrote all six, with two
words `base0`, `base1` (0: they are made, and these are the record's two words of flags); and `top`, a unit behind it that
kept CF, with its word.  The words are values that are there anyway, in a loop, so that a compare and its branch are what
they are on the host: the operands of a compare, but the result of what writes one, which a register holds from there on, and
from which the first operand can be told (`KEPT`).  They are as wide as a register's variable, so that LLVM finds them equal.
A word that nobody will ask for is poison, so that nothing keeps its old value.

Who reads flags settles them first, to %lazy, which holds them then until another instruction writes some: at once where the
writer is known, by a switch over the region's kinds elsewhere (ways out, mostly).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from jitvm.engine.fast_path import FastPathBuilder
from jitvm.engine.formbits import VARIANT_DEAD, VARIANT_FUSED
from jitvm.engine.region import Op
from jitvm.engine.units import Units, symbol
from jitvm.isa.flags import is_comparison
from jitvm.isa.words import u64

SETTLE = "@SETTLE@"
"""A line that `settled` replaces when all kinds are known."""
BASES = {"alu.add": 2, "alu.sub": 2, "alu.and_": 2, "alu.or_": 2, "alu.xor": 2, "alu.neg": 1}
"""Units that write all six flags from so many operands behind the size: their flags are made when they are wanted."""
TOPS = {"alu.inc": 1, "alu.dec": 1}
"""Units that keep CF of what was before."""
LOGIC = frozenset({"alu.and_", "alu.or_", "alu.xor"})
"""Units whose flags are those of the result's AND with itself."""
KEPT = {"alu.add": "sub i64 {r}, {b}", "alu.sub": "add i64 {r}, {b}", "alu.neg": "sub i64 0, {r}"}
KEPT |= {"alu.inc": "sub i64 {r}, 1", "alu.dec": "add i64 {r}, 1"}
"""How the first operand is told from the result and the second operand, but for its size."""
BY_RESULT = " by result"
"""Behind a unit's name in a recipe whose first word is the result."""
WORDS = {"base": 2, "top": 1}
"""Words of what flags are made from."""
WITH_CARRY = (1, 3)
"""Pairs of condition codes that read CF."""


@dataclass(frozen=True)
class Recipe:
    """What flags are made from: a unit and its words, the operand size first."""

    unit: str
    args: tuple[str, ...]


Known = tuple[Recipe | None, Recipe | None]
SETTLED: Known = (None, None)
UNKNOWN: Known = (None, Recipe("", ()))
"""What is known of the flags where a node begins."""


class LazyFlags(FastPathBuilder):
    """The part of a region's builder that deals with flags; `op` is the instruction that is being put together."""

    op: Op
    eager_flags = False
    """An experiment: flags are made where they are written."""

    def __init__(self, units: Units, name: str, *, long: bool = False) -> None:
        super().__init__(units, name, long=long)
        self._kinds: dict[tuple[str, str], int] = {}
        """Numbers of the (unit, size) pairs that flags may be made from."""
        self._last = Recipe("", ())
        self._result = ""
        """Of the last unit that wrote flags."""
        self._known = SETTLED

    def lazy(self) -> str:
        return "%lazy"

    def forget_flags(self) -> None:
        """What follows may be reached from elsewhere."""
        self._known = SETTLED if self.eager_flags else UNKNOWN

    def flags_settled(self) -> None:
        """What follows finds the flags in %lazy."""
        self._known = SETTLED

    @contextlib.contextmanager
    def flags_kept(self) -> Iterator[None]:
        """What is done to flags inside is done on another way than what follows."""
        known = self._known
        yield
        self._known = known

    def call(self, unit: str, args: Sequence[str], *, flags: str = "") -> str:
        if unit == "flags.condition":
            return self._condition(args, flags)
        if flags:
            self._last = Recipe(unit, tuple(args))
        elif self.units[unit].record == "f":
            self.settle_flags()
        v = super().call(unit, args, flags=flags)
        if flags:
            self._result = v
        return v

    def _condition(self, args: Sequence[str], flags: str) -> str:
        """A condition code: of the operation fused with its Jcc (`flags` new), or of the flags as they stand."""
        cc = int(args[0])
        base, top = self._known
        recipe = self._last if flags else top or base
        if recipe is None or not recipe.unit:
            self.settle_flags()
            return super().call("flags.condition", args)
        if recipe.unit == "alu.sub" and is_comparison(u64(cc)):
            return super().call("flags.compared", [args[0], *recipe.args])
        if not flags:
            if recipe.unit in TOPS and cc >> 1 in WITH_CARRY:
                self.settle_flags()
                return super().call("flags.condition", args)
            super().call(recipe.unit, recipe.args, flags="new")
        return super().call("flags.condition", args, flags="new")

    def copy_flags(self) -> None:
        op = self.op
        if self.eager_flags:
            super().copy_flags()
            return
        if not op.reads and (op.kills or op.variant == VARIANT_DEAD):
            return
        if op.shape.unit in TOPS and self._cc() >> 1 not in WITH_CARRY:
            return  # CF is kept by the recipe
        self.settle_flags()
        super().copy_flags()

    def _cc(self) -> int:
        """Condition of the Jcc that is fused with this instruction, or 0."""
        return max(self.op.variant - int(VARIANT_FUSED), 0)

    def commit_flags(self) -> None:
        recipe = self._last
        if self.eager_flags:
            super().commit_flags()
        elif recipe.unit in BASES:
            self._remember("base", self._kept(recipe))
            self._remember("top", None)
            self._known = (recipe, None)
        elif recipe.unit in TOPS:
            self._remember("top", self._kept(recipe))
            self._known = (self._known[0], recipe)
        else:
            super().commit_flags()
            self.forget_recipes()

    def _kept(self, recipe: Recipe) -> Recipe:
        """The same flags, made from what will be there anyway."""
        size, *operands = recipe.args
        if recipe.unit in LOGIC:
            self.used["alu.and_"] = None
            return Recipe("alu.and_", (size, self._result))
        if recipe.unit == "alu.sub" and not self.op.shape.dst:  # CMP
            return recipe
        return Recipe(recipe.unit + BY_RESULT, (size, self._result, *operands[1:]))

    def forget_recipes(self) -> None:
        """The flags are in %lazy, whatever they were to be made from."""
        self.lines += self.made()
        self._known = SETTLED

    def made(self) -> list[str]:
        """Text that remembers flags that %lazy holds."""
        lines = [f"  store i32 0, ptr %{place}" for place in ("base", "top")] + self._put_word("poison", "%top0")
        for k in range(2):
            p, v = self.fresh(), self.fresh()
            lines += [f"  {p} = getelementptr i8, ptr %lazy, i64 {8 * k}", f"  {v} = load i64, ptr {p}"]
            lines += self._put_word(v, f"%base{k}")
        return lines

    def _put_word(self, v: str, place: str) -> list[str]:
        """Text that puts a word where flags are made from."""
        if self.long:
            return [f"  store i64 {v}, ptr {place}"]
        narrow = self.fresh()
        return [f"  {narrow} = trunc i64 {v} to i32", f"  store i32 {narrow}, ptr {place}"]

    def _get_word(self, place: str, how: str = "zext") -> tuple[str, list[str]]:
        """A word from there, and the text that gets it."""
        v, narrow = self.fresh(), self.fresh()
        if self.long:
            return v, [f"  {v} = load i64, ptr {place}"]
        return v, [f"  {narrow} = load i32, ptr {place}", f"  {v} = {how} i32 {narrow} to i64"]

    def narrowed(self) -> list[str]:
        """Text behind a load of %lazy from the record: 64-bit code may have left a wide result.  The low 32 bits of this one
        tell the same flags."""
        if self.long:
            return []
        v, other, some, mark, low, sign, high, both, all_ = (self.fresh() for _ in range(9))
        return [
            f"  {v} = load i64, ptr %lazy",
            f"  {other} = icmp ne i64 {v}, 0",
            f"  {some} = zext i1 {other} to i64",
            f"  {mark} = shl i64 {some}, 8",
            f"  {low} = and i64 {v}, 255",
            f"  {sign} = ashr i64 {v}, 63",
            f"  {high} = shl i64 {sign}, 31",
            f"  {both} = or i64 {mark}, {low}",
            f"  {all_} = or i64 {both}, {high}",
            f"  store i64 {all_}, ptr %lazy",
        ]

    def _remember(self, place: str, recipe: Recipe | None) -> None:
        """Remember in the local variables of `place` what the flags are to be made from; None: nothing that they keep."""
        number, words = 0, []
        if recipe is not None:
            size, *words = recipe.args
            number = self._kinds.setdefault((recipe.unit, size), len(self._kinds) + 1)
        self.put(f"store i32 {number}, ptr %{place}")
        for k in range(WORDS[place]):
            self.lines += self._put_word(words[k] if k < len(words) else "poison", f"%{place}{k}")

    def settle_flags(self) -> None:
        """Make the flags from what they are made of."""
        if self._known == SETTLED:
            return
        self.put(SETTLE)
        self._known = SETTLED

    def settled(self) -> list[str]:
        """Text that makes the flags: the base by its kind, then what keeps some flags of it."""
        lines = []
        for place, others in (("base", BASES), ("top", TOPS)):
            kinds = {key: number for key, number in self._kinds.items() if key[0].removesuffix(BY_RESULT) in others}
            v, made, done = self.fresh(), self.label(), self.label()
            labels = {key: self.label() for key in kinds}
            cases = " ".join(f"i32 {kinds[key]}, label %{labels[key]}" for key in kinds)
            lines += [f"  {v} = load i32, ptr %{place}", f"  switch i32 {v}, label %{made} [ {cases} ]"]
            for key, label in labels.items():
                lines += [f"{label}:", *self._make(place, *key), f"  br label %{done}"]
            lines.append(f"{made}:")
            for k in range(2 if place == "base" else 0):
                p, (w, got) = self.fresh(), self._get_word(f"%base{k}", "zext" if k else "sext")
                lines += [*got, f"  {p} = getelementptr i8, ptr %lazy, i64 {8 * k}", f"  store i64 {w}, ptr {p}"]
            lines += [f"  br label %{done}", f"{done}:"]
        return [*lines, *self.made()]

    def _make(self, place: str, unit: str, size: str) -> list[str]:
        """Text that makes the flags of a kind from the words of `place`."""
        lines, name = [], unit.removesuffix(BY_RESULT)
        words = []
        for k in range((BASES | TOPS)[name] if name != "alu.and_" else 1):
            w, got = self._get_word(f"%{place}{k}")
            words.append(w)
            lines += got
        if name == "alu.and_":
            words *= 2
        elif name != unit:
            a, cut = self.fresh(), self.fresh()
            lines += [f"  {a} = {KEPT[name].format(r=words[0], b=words[-1])}"]
            lines += [f"  {cut} = and i64 {a}, {(1 << 8 * int(size)) - 1 if size != '8' else -1}"]
            words[0] = cut
        args = ", ".join([f"i64 {size}", *(f"i64 {w}" for w in words)])
        return [*lines, f"  {self.fresh()} = call i64 @{symbol(name)}(ptr %lazy, {args})"]
