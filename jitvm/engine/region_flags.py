"""Flags of a region: not made until somebody asks.

Local variables hold what the flags are to be made from: `base`, the number of the last unit that wrote all six (0: they are
made, in %lazy), with its operands `base0`, `base1`; and `top`, a unit behind it that kept CF, with its operand.  In a loop
these are values that are there anyway, so that a compare and its branch are what they are on the host.  Who reads flags
settles them first: at once where the writer is known, by a switch over the region's kinds elsewhere (ways out, mostly).
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
        return super().call(unit, args, flags=flags)

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
            self._remember("base", recipe)
            self._remember("top", None)
            self._known = (recipe, None)
        elif recipe.unit in TOPS:
            self._remember("top", recipe)
            self._known = (self._known[0], recipe)
        else:
            super().commit_flags()
            self.forget_recipes()

    def forget_recipes(self) -> None:
        """The flags are in %lazy, whatever they were to be made from."""
        self._remember("base", None)
        self._remember("top", None)
        self._known = SETTLED

    def _remember(self, place: str, recipe: Recipe | None) -> None:
        """Remember in the local variables of `place` what the flags are to be made from; None: they are made."""
        if recipe is None:
            self.put(f"store i32 0, ptr %{place}")
            return
        kinds = BASES if place == "base" else TOPS
        number = self._kinds.setdefault((recipe.unit, recipe.args[0]), len(self._kinds) + 1)
        self.put(f"store i32 {number}, ptr %{place}")
        for k in range(kinds[recipe.unit]):
            self.put(f"store i64 {recipe.args[k + 1]}, ptr %{place}{k}")

    def settle_flags(self) -> None:
        """Make the flags from what they are made of."""
        if self._known == SETTLED:
            return
        self.put(SETTLE)
        self._known = SETTLED

    def settled(self) -> list[str]:
        """Text that makes the flags: the base by its kind, then what keeps some flags of it."""
        lines = []
        for place, units in (("base", BASES), ("top", TOPS)):
            kinds = {key: number for key, number in self._kinds.items() if key[0] in units}
            if not kinds:
                continue
            v, done = self.fresh(), self.label()
            labels = {key: self.label() for key in kinds}
            cases = " ".join(f"i32 {kinds[key]}, label %{labels[key]}" for key in kinds)
            lines += [f"  {v} = load i32, ptr %{place}", f"  switch i32 {v}, label %{done} [ {cases} ]"]
            for (unit, size), label in labels.items():
                lines.append(f"{label}:")
                args = [f"i64 {size}"]
                for k in range(units[unit]):
                    w = self.fresh()
                    lines.append(f"  {w} = load i64, ptr %{place}{k}")
                    args.append(f"i64 {w}")
                lines.append(f"  {self.fresh()} = call i64 @{symbol(unit)}(ptr %lazy, {', '.join(args)})")
                lines.append(f"  br label %{done}")
            lines += [f"{done}:", f"  store i32 0, ptr %{place}"]
        return lines
