"""The fast set leaves out combinations of values, and no value (`tests/fast_set.py`)."""

from __future__ import annotations

from itertools import product

import pytest

from tests.fast_set import chosen


@pytest.mark.parametrize("sizes", [(3, 2, 40), (4,), (2, 2), (5, 1, 5)])
def test_each_value_is_met(sizes: tuple[int, ...]) -> None:
    cases = [[(value,) for value in values] for values in product(*map(range, sizes))]
    fast = chosen(cases)
    assert len(fast) == max(sizes)
    for n, size in enumerate(sizes):
        met = [cases[number][n][0] for number in fast]
        assert sorted(set(met)) == list(range(size))
        assert max(map(met.count, met)) <= -(-max(sizes) // size) + 1, "values take turns"


SUITE = """
import pytest

@pytest.mark.parametrize("engine", ["plain", "handlers", "regions"])
@pytest.mark.parametrize(("a", "b"), [(1, 2), (1, 3), pytest.param(2, 2, marks=pytest.mark.slow)])
def test_product(engine, a, b): pass

@pytest.mark.parametrize("n", range(9))
def test_list(n): pass

@pytest.fixture(params=["x", "y"])
def made(request): return request.param

@pytest.mark.parametrize("n", [0, 1])
def test_with_a_fixture(made, n): pass
"""


def test_combinations_are_slow_and_only_they(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        "from tests.fast_set import mark_the_others\ndef pytest_collection_modifyitems(items): mark_the_others(items)\n"
        "def pytest_configure(config): config.addinivalue_line('markers', 'slow: left out')\n"
    )
    pytester.makepyfile(SUITE)
    pytester.runpytest("-m", "not slow").assert_outcomes(passed=3 + 9 + 2, deselected=6 + 2)
    pytester.runpytest().assert_outcomes(passed=9 + 9 + 4)
