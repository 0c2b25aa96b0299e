"""What the guests of earlier runs met, kept in the cache: forms of instructions, and the code that was used for them.

A warm start knows all forms from the start.  Of handlers and stencils it knows the names: what is wanted is linked with its
neighbours in the cache (`code.NEIGHBOURS`), and those of them that were used before are entered into the translator's tables
at once, so that translated code comes back once a batch, not once a handler.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import astuple
from typing import Any

from jitvm.engine.cache import Cache
from jitvm.engine.forms import Forms, Shape
from jitvm.engine.layout import GROUP_BIT

NAME = "forms"
SHAPE_BITS = 16
"""Of a key; those above say how the shape is put together."""


class Met:
    """Forms and keys as `cache` keeps them; shapes are numbered by `forms`."""

    def __init__(self, cache: Cache, forms: Forms) -> None:
        self._cache, self._forms = cache, forms
        self.known: dict[int, tuple[int, int]] = {}
        """(form word, shape number) by form key."""
        self._names: dict[int, str] = {}
        """Of handlers and stencils, by their keys."""
        self._not_linked: dict[str, list[int]] = {}
        """Keys by name, of those that this run has not linked."""
        self._new = False
        kept = cache.load(NAME)
        if kept:
            with contextlib.suppress(KeyError, TypeError, ValueError):
                self._restore(kept)

    def _restore(self, kept: dict[str, list[Any]]) -> None:
        numbers = [self._forms.number(_shape_from(fields)) for fields in kept["shapes"]]
        self.known = {int(key): (int(word), numbers[n]) for key, word, n in kept["forms"]}
        for n, rest, name in kept["used"]:
            key = numbers[n] | rest << SHAPE_BITS
            self._names[key] = name
            self._not_linked.setdefault(name, []).append(key)

    def learn(self, key: int, form: tuple[int, int]) -> None:
        """A form that no run met before."""
        self.known[key] = form
        self._new = True

    def names(self) -> list[tuple[int, str]]:
        """Handlers and stencils that were used, in this run or before: key and name."""
        return list(self._names.items())

    def use(self, names: Mapping[int, str]) -> None:
        """Handlers or stencils are used, by key (of groups nothing is kept)."""
        names = {key: name for key, name in names.items() if not key >> GROUP_BIT}
        self._new |= not names.keys() <= self._names.keys()
        self._names.update(names)
        for name in names.values():
            self._not_linked.pop(name, None)

    def linked(self, names: Iterable[str]) -> dict[int, str]:
        """Those of `names`, which were just linked, that runs used before, though nobody asked in this one."""
        return {key: name for name in names for key in self._not_linked.pop(name, ())}

    def keep(self) -> None:
        """Write down what is new."""
        if not self._new:
            return
        used = sorted({n for _, n in self.known.values()} | {key & (1 << SHAPE_BITS) - 1 for key in self._names})
        index = {n: k for k, n in enumerate(used)}
        self._cache.save(
            NAME,
            {
                "shapes": [astuple(self._forms.shapes[n]) for n in used],
                "forms": [[key, word, index[n]] for key, (word, n) in self.known.items()],
                "used": [[index[k & (1 << SHAPE_BITS) - 1], k >> SHAPE_BITS, name] for k, name in self._names.items()],
            },
        )
        self._new = False


def _shape_from(fields: list[object]) -> Shape:
    return Shape(*(tuple(f) if isinstance(f, list) else f for f in fields))  # type: ignore[arg-type]  # checked by use
