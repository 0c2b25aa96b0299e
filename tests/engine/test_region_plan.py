"""The plan of a region without its code: where the budget is asked for, loops with several copies of their body, and where
a RET may go."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from jitvm.bare import accelerator
from jitvm.engine.forms import GOTO
from jitvm.engine.region import COPIES, OUT, UNROLLED, Node, Op, heads, inner_loops, joined, longest, owed, unrolled
from jitvm.engine.region_groups import groups_of
from jitvm.engine.region_ir import region_text
from jitvm.engine.region_pages import busiest
from jitvm.engine.returns import Step, return_places
from jitvm.engine.stitch import HandlerBuilder
from tests.engine.golden import ran

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


def call(to: int, behind: int) -> Step:
    return Step((), (to,), behind)


RET = Step((), ends=True)


def test_a_ret_goes_behind_the_calls_of_its_function() -> None:
    """Two functions, at 20 and 30, called from two places each; the one at 20 calls the other."""
    steps = {1: call(20, 2), 2: call(30, 3), 3: call(20, 4), 4: Step((1,))}
    steps |= {20: Step((21, 22)), 21: call(30, 22), 22: RET, 30: Step((30, 31)), 31: RET}
    assert return_places(steps) == {22: [2, 4], 31: [3, 22]}


def test_a_function_that_is_jumped_to_returns_for_the_one_that_jumps() -> None:
    steps = {1: call(20, 2), 2: call(30, 1), 20: Step((30,)), 30: RET}
    assert return_places(steps) == {30: [2, 1]}


def test_a_call_through_a_pointer_is_one_of_each_function_that_was_seen() -> None:
    steps = {1: Step((), (20, 30), 2), 2: Step((1,)), 20: RET, 30: Step((31,)), 31: RET}
    assert return_places(steps) == {20: [2], 31: [2]}


def test_a_recursive_function_returns_to_itself_and_outside() -> None:
    steps = {1: call(20, 1), 20: Step((21, 23)), 21: call(20, 22), 22: call(20, 23), 23: RET}
    assert return_places(steps) == {23: [1, 22, 23]}


def test_a_ret_that_no_call_is_known_for_may_go_behind_any() -> None:
    """An indirect jump that was never seen to go there, and a call whose return is not in the region."""
    steps = {1: call(20, 2), 2: call(30, 99), 20: RET, 30: RET, 40: RET}
    assert return_places(steps) == {20: [2], 30: [2], 40: [2]}


def program(seed: int) -> list[Node]:
    """The blocks of a random program, one instruction to an address: each begins at 0 or where a jump went."""
    r = random.Random(seed)
    n = r.randrange(4, 24)
    jumps = {at: r.randrange(n) for at in range(n) if r.random() < 0.3} | {n - 1: r.randrange(n)}
    always = {n - 1, *(at for at in jumps if r.random() < 0.2)}
    starts = [0]
    blocks: list[tuple[int, int]] = []
    for start in starts:
        end = next(at for at in range(start, n) if at in jumps)
        blocks.append((start, end))
        starts += sorted({jumps[end], jumps[end] if end in always else end + 1}.difference(starts))
    number = {start: k for k, (start, _) in enumerate(blocks)}
    nodes = []
    for start, end in blocks:
        ops = tuple(replace(OP, eip=at, uop=at - start + 1, rest=end + 1 - at) for at in range(start, end + 1))
        fall = OUT if end in always else number[end + 1]
        nodes.append(Node(start, end + 1 - start, 0, ops, number[jumps[end]], fall))
    return nodes


def run_of(nodes: list[Node], choices: list[int], most: int) -> list[int]:
    """Addresses of the instructions that are met when these choices are taken at the jumps; what is charged is checked."""
    at, left = 0, list(choices)
    found: list[int] = []
    while len(found) < most:
        here = nodes[at]
        assert here.charge == len(here.ops) and [op.rest for op in here.ops] == list(range(here.charge, 0, -1))
        found += [op.eip for op in here.ops]
        at = here.fall if here.fall != OUT and left.pop() else here.taken
    return found[:most]


@pytest.mark.parametrize("seed", range(200))
def test_joined_nodes_do_the_same_and_hold_nothing_twice(seed: int) -> None:
    nodes = program(seed)
    plan = joined(nodes)
    held = [op.eip for node in plan for op in node.ops]
    assert len(held) == len(set(held))
    for node, before in zip(plan, nodes, strict=True):
        assert (node.rip, node.charge + node.tail) == (before.rip, before.charge)
        assert not node.cut or node.cut == before.ops[node.charge]
    r = random.Random(seed)
    for _ in range(20):
        choices = [r.randrange(2) for _ in range(100)]
        assert run_of(plan, choices, 100) == run_of(nodes, choices, 100)


def test_whoever_leaves_a_cut_block_has_room_for_all_of_it() -> None:
    """Node 0 has one instruction and three that node 1 goes on with: it asks for four, though node 1 asks again."""
    cut = Node(0, 1, 0, (OP,), 1, jumps=False, cut=replace(OP, rest=3))
    assert longest([cut, node(1, 1, charge=3)], {1}) == [4, 3]


@pytest.mark.parametrize("seed", range(200))
def test_what_is_owed_is_what_was_charged_since_the_last_place_that_others_lead_to(seed: int) -> None:
    nodes = random_nodes(seed)
    asking = heads(nodes)
    found = owed(nodes, asking)
    for m, here in enumerate(nodes):
        ways_in = [n for n, node in enumerate(nodes) if m in node.successors()]
        by_switch = any(k == m for node in nodes for _, k in node.returns)
        joins = m == 0 or m in asking or by_switch or len(ways_in) > 1
        assert found[m] == here.charge + (0 if joins else found[ways_in[0]])


# ---- accesses close together --------------------------------------------------------------------------------------------
def grouped(source: str) -> list[dict[int, int]]:
    """The groups of the first block of a loop: offsets by instruction."""
    one = ran(source, 32).grown.nodes[0]
    params = HandlerBuilder(accelerator().units, "").params
    return [dict(group.offsets) for group in groups_of(one, params, busiest([one]))]


@pytest.mark.parametrize(
    ("code", "wanted"),
    [
        ("mov eax, [esi]; add eax, [esi + 8]; mov [esi - 4], eax", [{0: 4, 1: 12, 2: 0}]),
        ("push eax; push ebx; pop eax; pop ebx", [{0: 4, 1: 0, 2: 0, 3: 4}]),
        ("mov eax, [esi]; add esi, 4; inc dword ptr [esi]; sub esi, 4", [{0: 0, 2: 4}]),
        ("mov eax, [esi]; lea edi, [esi + 8]; mov ebx, edi; mov [ebx], al", [{0: 0, 3: 8}]),
        ("mov eax, [esi]; mov si, 5; mov ebx, [esi + 4]", []),  # another address
        ("mov eax, [esi]; mov eax, [edi]", []),
        ("mov eax, [esi]; mov eax, [esi + 600]", []),  # too far
        ("mov eax, [esi + edx * 4]; mov ebx, [esi + edx * 4 + 4]; mov bx, [esi + edx * 2]", [{0: 0, 1: 4}]),
        ("mov eax, [esi]; xchg ebx, esi; mov eax, [ebx + 4]", []),  # which of both is which is not followed
        ("xor eax, eax; cdq; mov ebx, [edx + esi]; mul ebx; mov ebx, [edx + esi]", []),  # a second result
        ("push ebp; mov ebp, esp; sub esp, 8; mov [ebp - 4], eax; leave", [{0: 4, 3: 0, 4: 4}]),
        ("mov eax, [esi]; rdtsc; mov ebx, [esi + 4]", []),  # out of line: anything may have changed
    ],
)
def test_groups(code: str, wanted: list[dict[int, int]]) -> None:
    assert grouped("1: " + code.replace("; ", "\n") + "\n dec ecx\n jnz 1b") == wanted


@pytest.mark.parametrize(("place", "texts"), [("[esi]", 1), ("[esi + 4]", 2)])
def test_accesses_at_one_place_need_no_second_text(place: str, texts: int) -> None:
    nodes = ran(f"1: mov [esi], eax\n add ebx, {place}\n imul edx, edx, 77\n dec ecx\n jnz 1b", 32).grown.nodes
    text, _ = region_text(accelerator().units, "r_test", nodes)
    assert text.count("call i64 @u_muldiv_imul") == texts * len(nodes)
