"""Which cases of a test `make test` runs: so many that each value of each of its parameters is met.

A test of three engines, two modes and forty programs has 240 cases.  Forty of them meet every program, both modes and all
engines, and these make the fast set; the other combinations are marked `slow`, and run in `make test-all` and in CI.  A
test with one parameter keeps all of its cases, and a run without `-m` has them all.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import pytest

Value = tuple[int, ...]
"""A value of a parameter, by the identities of its objects; names that are parametrized together are one parameter."""


def chosen(cases: Sequence[Sequence[Value]]) -> set[int]:
    """The numbers of cases that meet all values: each time the one with most new values, and least of what was there."""
    missing = {(n, value) for case in cases for n, value in enumerate(case)}
    used: Counter[tuple[int, Value]] = Counter()
    left, out = list(range(len(cases))), set()

    def worth(number: int) -> tuple[int, int, int]:
        values = list(enumerate(cases[number]))
        return len(missing.intersection(values)), -sum(used[value] for value in values), -number

    while missing:
        best = max(left, key=worth)
        left.remove(best)
        out.add(best)
        missing.difference_update(enumerate(cases[best]))
        used.update(enumerate(cases[best]))
    return out


def values_of(item: pytest.Function) -> list[Value]:
    """A case's value of each parameter, in an order that all cases of the test share."""
    params = dict(item.callspec.params)
    together = [mark.args[0] for mark in item.iter_markers("parametrize")]
    names = [each.replace(",", " ").split() if isinstance(each, str) else list(each) for each in together]
    out = [tuple(id(params.pop(name)) for name in group) for group in names]
    return out + [(id(params[name]),) for name in sorted(params)]  # what fixtures are parametrized with


def mark_the_others(items: Iterable[pytest.Item]) -> None:
    """Mark as slow what is not chosen; a case that is slow by itself meets nothing for the others."""
    tests: defaultdict[tuple[str, str], list[pytest.Function]] = defaultdict(list)
    for item in items:
        if isinstance(item, pytest.Function) and hasattr(item, "callspec") and item.get_closest_marker("slow") is None:
            tests[str(item.path), item.originalname].append(item)
    for cases in tests.values():
        fast = chosen([values_of(item) for item in cases])
        for n, item in enumerate(cases):
            if n not in fast:
                item.add_marker(pytest.mark.slow)


def share(values: Iterable[Any], fast: int) -> list[Any]:
    """A sweep's values (a tuple: of several names), for `parametrize`: the first ones are fast, the others are slow."""
    sets = [value if isinstance(value, tuple) else (value,) for value in values]
    return [pytest.param(*each, marks=pytest.mark.slow if n >= fast else ()) for n, each in enumerate(sets)]
