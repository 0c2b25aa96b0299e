"""The plan of a region without its code: where the budget is asked for, and loops with several copies of their body."""

from __future__ import annotations

import random

import pytest

from jitvm.engine.forms import GOTO
from jitvm.engine.region import COPIES, OUT, UNROLLED, Node, Op, heads, inner_loops, longest, unrolled

OP = Op(GOTO, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, reads=False, kills=False)


def node(n: int, *to: int, charge: int = 1) -> Node:
    """Node n with as many instructions as it charges; `to`: taken, fall and what an indirect jump may find."""
    taken, fall, *others = (*to, OUT, OUT)[: max(len(to), 2)]
    return Node(n, charge, 0, (OP,) * charge, taken, fall, tuple((k, k) for k in others))


def ways(nodes: list[Node], start: int, asking: set[int], most: int) -> int:
    """Instructions of the longest way from a node to the next that asks, tried out; more than `most`: there is no end."""
    best = 0
    for m in nodes[start].successors():
        if m not in asking and most > 0:
            best = max(best, ways(nodes, m, asking, most - nodes[start].charge))
    return nodes[start].charge + best


def random_nodes(seed: int) -> list[Node]:
    """Nodes that can all be reached from the first."""
    r = random.Random(seed)
    n = r.randrange(1, 9)
    edges = [[r.choice([OUT, *range(n)]) for _ in range(r.choice([1, 2, 2, 2, 4]))] for _ in range(n)]
    for k in range(1, n):
        edges[r.randrange(k)].append(k)
    return [node(k, *to, charge=r.randrange(1, 5)) for k, to in enumerate(edges)]


@pytest.mark.parametrize("seed", range(200))
def test_each_way_comes_to_a_question(seed: int) -> None:
    nodes = random_nodes(seed)
    asking = heads(nodes)
    total = sum(n.charge for n in nodes)
    need = longest(nodes, asking)
    assert need == [ways(nodes, n, asking, total) for n in range(len(nodes))]
    assert max(need) <= total


def test_one_question_is_enough_for_a_nest_through_one_node() -> None:
    """Outer loop 0-1-2, inner loop 1-2 that each round of the outer one goes through: node 0 need not ask."""
    assert heads([node(0, 1), node(1, 2), node(2, 1, 0)]) == {1}


def walk(nodes: list[Node], choices: list[int]) -> list[int]:
    """RIPs that are met on a way: at each node one of its edges is taken, until one leads out."""
    at, found = 0, []
    for choice in choices:
        here = nodes[at]
        found.append(here.rip)
        edges = [here.taken, here.fall, *(n for _, n in here.returns)]
        at = edges[choice % len(edges)]
        if at == OUT:
            break
    return found


@pytest.mark.parametrize("seed", range(200))
def test_copies_lead_where_the_loop_did(seed: int) -> None:
    nodes = random_nodes(seed)
    plan = unrolled(nodes)
    assert [n for n, _ in plan[: len(nodes)]] == list(range(len(nodes)))
    assert all(copy.rip == nodes[n].rip and copy.ops == nodes[n].ops for n, copy in plan)
    r = random.Random(seed)
    for _ in range(20):
        choices = [r.randrange(12) for _ in range(60)]
        assert walk([copy for _, copy in plan], choices) == walk(nodes, choices)


def test_small_inner_loops_have_copies() -> None:
    nodes = [node(0, 1), node(1, 1, 2, charge=4), node(2, 0, charge=3)]
    assert inner_loops(nodes) == {1: {1}}
    plan = unrolled(nodes)
    assert [n for n, _ in plan] == [0, 1, 2] + [1] * (COPIES - 1)
    assert [copy.taken for n, copy in plan if n == 1] == [3, 4, 5, 1]
    assert longest([copy for _, copy in plan], heads([copy for _, copy in plan]))[1] == 4 * COPIES + 3 + 1
    assert unrolled([node(0, 0, charge=UNROLLED)]) == [(0, node(0, 0, charge=UNROLLED))]
